"""OLinear for inference: `fold(model)` multiplies adjacent linear maps out.

N: variates, B: batch, T: input steps, P: forecast steps, D and F: widths. Variates come first, so that mixing them is
one matrix product over the whole batch.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.sequence.olinear.model import Block, OLinear
from linmap.sequence.olinear.orthotrans import check_window


def fold(model: OLinear) -> FoldedOLinear:
    """The same forecasts in evaluation mode from a light module; later training does not reach it.

    Raises
    ------
    ValueError
        If the bases differ by variate (`model.foldable` is False): then there is no map to share.
    """
    if not model.foldable:
        raise ArgumentError("a model with one basis per variate cannot be folded: its variates share no map.")
    return FoldedOLinear(model)


class VariateLinear(nn.Module):
    """One weight for all variates, and a bias for each: (N, B, in) -> (N, B, out)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, "N out"], dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(dtype).contiguous())
        self.register_buffer("bias", bias[:, None].to(dtype).contiguous())

    def forward(self, h: Float[Tensor, "N B in"]) -> Float[Tensor, "N B out"]:
        return F.linear(h, self.weight).add_(self.bias)


class FoldedBlock(nn.Module):
    """A block in evaluation mode: A [h W_v^T + b_v] W_o^T + b_o = A h (W_o W_v)^T + (A 1) (W_o b_v)^T + b_o."""

    A: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        mixing, dtype = block.mixing, block.linear1.weight.dtype
        A, W_v, W_o = (M.double() for M in (mixing.matrix(), mixing.value.weight, mixing.output.weight))
        bias = A.sum(1, keepdim=True) * (W_o @ mixing.value.bias.double()) + mixing.output.bias.double()
        self.register_buffer("A", A.to(dtype))
        self.mix = VariateLinear(W_o @ W_v, bias, dtype)
        parts = (block.norm1, block.linear1, block.linear2, block.norm2)
        self.norm1, self.linear1, self.linear2, self.norm2 = copy.deepcopy(parts)

    def forward(self, h: Float[Tensor, "N B D"]) -> Float[Tensor, "N B D"]:
        mixed = (self.A @ h.flatten(1)).view_as(h)
        h = self.norm1(self.mix(mixed).add_(h))
        return self.norm2(self.linear2(F.gelu(self.linear1(h))).add_(h))


class FoldedOLinear(nn.Module):
    """The forecasts of an `OLinear` in evaluation mode, without its d-fold expansion; weights are copies, not trained.

    Encoder: phi, Q_in, delta1 and the first layer become one T -> D map with a bias per variate. Decoder: the layer
    back to d P coefficients, Q_out, delta2 and the head's first layer become one D -> F map with a bias per variate.
    Blocks: the value and output projections become one matrix, and A is computed once. Products are in float64.
    """

    @torch.no_grad()
    def __init__(self, model: OLinear) -> None:
        super().__init__()
        E, T, P, N = model.embed, model.seq_len, model.pred_len, model.n_variates
        double = {name: tensor.double() for name, tensor in model.state_dict().items()}
        W_DET = double["encoder.weight"].unflatten(1, (E, T))
        W_FPE = double["head1.weight"].unflatten(1, (P, E))
        phi = double.get("phi", W_DET.new_ones(1))
        delta1, delta2 = double.get("delta1", W_DET.new_zeros(N, T)), double.get("delta2", W_DET.new_zeros(N, P))
        W_FK = torch.einsum("fpe,kp->fek", W_FPE, double["Q_out"]).flatten(1)  # K = (E, P), as the decoder writes them

        dtype = model.encoder.weight.dtype
        self.seq_len, self.n_variates = T, N
        self.revin, self.norm, self.head2 = copy.deepcopy((model.revin, model.norm, model.head2))
        self.encoder = VariateLinear(
            torch.einsum("e,det->dt", phi, W_DET) @ double["Q_in"],
            delta1 @ W_DET.sum(1).mT + double["encoder.bias"],
            dtype,
        )
        self.blocks = nn.ModuleList(FoldedBlock(cast(Block, block)) for block in model.blocks)
        self.decoder = VariateLinear(
            W_FK @ double["decoder.weight"],
            delta2 @ W_FPE.sum(2).mT + W_FK @ double["decoder.bias"] + double["head1.bias"],
            dtype,
        )
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        """Forecast windows, as `OLinear.forward`."""
        check_window(x, self.seq_len, self.n_variates)
        x_BTN, statistics = self.revin.normalise(x)
        h_NBD = self.encoder(x_BTN.permute(2, 0, 1))
        for block in self.blocks:
            h_NBD = block(h_NBD)
        y_NBP = self.head2(F.gelu(self.decoder(self.norm(h_NBD))))
        return self.revin.denormalise(y_NBP.permute(1, 2, 0), statistics)
