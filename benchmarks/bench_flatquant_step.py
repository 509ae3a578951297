"""A calibration step of FlatQuant at SmolLM2-135M's block sizes (W4A4KV4, 4 x 128 tokens), against the same recipe
written down plainly: every P built as a dense matrix, weights multiplied with it, quantisers of elementwise operations.
Ours as a long calibration runs: the passes of the quantisers compiled (`compile`); and as where there is no compiler.

Both train from the same start; the note says how far their losses are apart over the steps of `CURVE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import Measurement, compare
from linmap.compress.architecture import block_paths
from linmap.compress.flatquant.attention import TrainedCacheTransform
from linmap.compress.flatquant.block import StudentBlock
from linmap.compress.flatquant.blockwise import backward, start_student
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.linear import CalibratedLinear
from linmap.compress.flatquant.passes import compiled_passes
from linmap.compress.flatquant.teacher import embedded, teacher_outputs
from linmap.compress.flatquant.transforms import Pair, SiteTransform, SVDFactor

BAR = 3.0
CURVE = 8
BATCH, LENGTH = 4, 128
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 1,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def run() -> list[Measurement]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    block = model.model.layers[0]
    for weight in block.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    _, (arguments,) = embedded(model, torch.randint(0, 64, (BATCH, LENGTH)), "model.layers")
    x = torch.randn(BATCH, LENGTH, SIZES["hidden_size"])
    x[..., 5] *= 20  # an outlier channel
    config = FlatQuantConfig(k_bits=4, v_bits=4, n_samples=BATCH, sequence_length=LENGTH)
    y, channels = teacher_outputs(block, block_paths(block), x, arguments, BATCH)

    def stepper(student: StudentBlock, compiled: bool = False) -> Callable[[], float]:
        optimizer = torch.optim.AdamW(student.parameter_groups(), fused=True)

        def step() -> float:
            optimizer.zero_grad()
            with compiled_passes(compiled):
                loss = backward(student, x, y, arguments)
            optimizer.step()
            return loss

        return step

    def measured(name: str, compiled: bool) -> Measurement:
        ours = stepper(start_student(block, config, 0, channels), compiled)
        theirs = stepper(plain(start_student(block, config, 0, channels)))
        curves = torch.tensor([[ours(), theirs()] for _ in range(CURVE)])
        apart = float((curves[:, 0] / curves[:, 1] - 1).abs().max())
        note = f"losses {curves[0, 0]:.3g} to {curves[-1, 0]:.3g} in {CURVE} steps, at most {apart:.1e} apart"
        return compare(name, ours, "dense P, plain operations", theirs, bar=BAR if compiled else None, note=note)

    return [measured("one step of a block", True), measured("one step of a block, nothing compiled", False)]


# -- the peer ----------------------------------------------------------------------------------------------------------


def plain(student: StudentBlock) -> StudentBlock:
    """The same student, computed in the straightforward way."""
    for module in list(student.modules()):
        for kind, replacement in KINDS.items():
            if type(module) is kind:
                module.__class__ = replacement
    student.refresh()
    return student


def plain_cayley(raw: Tensor) -> Tensor:
    A = raw.tril() - raw.tril().mT
    identity = torch.eye(len(raw))
    return torch.linalg.solve(identity - A / 2, identity + A / 2)


class PlainFactor(SVDFactor):
    def forward(self) -> Pair:
        U, V = plain_cayley(self.left), plain_cayley(self.right)
        return Pair(U @ torch.diag(self.diagonal) @ V.mT, U @ torch.diag(1 / self.diagonal) @ V.mT)


class PlainSite(SiteTransform):
    P: Tensor
    P_inv_T: Tensor

    def refresh(self) -> None:
        super().refresh()
        P, P_inv_T = self.pairs[0]
        for pair in self.pairs[1:]:
            P, P_inv_T = torch.kron(P, pair.P), torch.kron(P_inv_T, pair.P_inv_T)
        if len(P) < self.n:  # the other factor of the attention's output is P_v
            P, P_inv_T = (torch.kron(M, torch.eye(self.n // len(M))) for M in (P, P_inv_T))
        self.P, self.P_inv_T = P, P_inv_T

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.scale is None else x * self.scale) @ self.P

    def weight(self, W: Tensor) -> Tensor:
        return (W if self.scale is None else W / self.scale) @ self.P_inv_T


class PlainLinear(CalibratedLinear):
    def forward(self, x: Tensor) -> Tensor:
        if self.transforms_input and self.site is not None:
            x = self.site(x)
        x = plain_quantize(x, True, self.input_max, self.input_min)
        site, W = cast(PlainSite, self.site), self.linear.weight
        if self.values is not None and not self.is_value:
            W = W @ torch.kron(site.pairs[0].P_inv_T, self.values.pairs[0].P_inv_T)
        else:
            W = site.weight(W)
        high = torch.sigmoid(cast(Tensor, self.weight_max)) * W.amax(-1, keepdim=True)
        low = torch.sigmoid(cast(Tensor, self.weight_min)) * W.amin(-1, keepdim=True)
        W = torch.maximum(torch.minimum(W, high), low)
        if self.values is not None and self.is_value:
            P = self.values.pairs[0].P
            W = torch.kron(torch.eye(len(W) // len(P)), P).mT @ W
        return F.linear(x, plain_quantize(W, True))


class PlainCache(TrainedCacheTransform):
    def quantizer(self, name: str) -> Any:
        if self.bits[name] == 16:
            return lambda x: x
        logits = getattr(self, f"{name}_max"), getattr(self, f"{name}_min")
        return lambda x: plain_quantize(x, self.symmetric[name], *logits)


def plain_quantize(
    x: Tensor, symmetric: bool, max_logit: Tensor | None = None, min_logit: Tensor | None = None
) -> Tensor:
    """Four bits, rounding straight through."""
    high, low = x.amax(-1, keepdim=True).clamp(min=0), x.amin(-1, keepdim=True).clamp(max=0)
    if max_logit is not None and min_logit is not None:
        high, low = high * torch.sigmoid(max_logit), low * torch.sigmoid(min_logit)
    if symmetric:
        scale = torch.maximum(high, -low) / 7
        codes = torch.clamp(rounded(x / scale), -8, 7)
        return codes * scale
    scale = (high - low) / 15
    zero = torch.round(-low / scale)
    codes = torch.clamp(rounded(x / scale) + zero, 0, 15)
    return (codes - zero) * scale


def rounded(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    SVDFactor: PlainFactor,
    SiteTransform: PlainSite,
    CalibratedLinear: PlainLinear,
    TrainedCacheTransform: PlainCache,
}
