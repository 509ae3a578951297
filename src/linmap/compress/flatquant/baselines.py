"""What FlatQuant is compared with: other transforms before the same quantisers, and QuaRot's rotation of the residual.

QuaRot (Ashkboos et al., 2024) multiplies the residual stream by one random Hadamard matrix Q. RMSNorm without its gain
commutes with Q, so the gains go into the linear layers behind, and Q into the weights around the stream: nothing is
computed online for it. What is (before the down projection, across the heads, on keys and queries) is
`FlatQuantConfig(transform="quarot")`.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from linmap.compress.architecture import BlockPaths, block_paths, decoder_blocks
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.transforms import transformed
from linmap.maps.hadamard import hadamard_factors

Model = TypeVar("Model", bound=nn.Module)
PROBE = 16  # tokens by which a rotated model is compared with what it was
TOLERANCE = 1e-3  # of its logits, relative to the largest

SETTINGS: Mapping[str, Mapping[str, int]] = {
    "W4A4": {"w_bits": 4, "a_bits": 4},
    "W4A4KV4": {"w_bits": 4, "a_bits": 4, "k_bits": 4, "v_bits": 4},
    "W4A16": {"w_bits": 4, "a_bits": 16},
}
"""Bits by name."""


@dataclass(frozen=True)
class Baseline:
    """A row of the comparison: the options of its `FlatQuantConfig`, and whether the model is rotated first."""

    name: str
    note: str
    options: Mapping[str, Any]
    rotates: bool = False
    kind: Literal["system", "baseline", "ablation"] = "baseline"

    def config(self, setting: str, **options: Any) -> FlatQuantConfig:
        """Its configuration at the bits of one of `SETTINGS`; further options are of the calibration."""
        return FlatQuantConfig(**{**options, **SETTINGS[setting], **self.options})


def _plain(transform: str, scale: bool = False, **options: Any) -> dict[str, Any]:
    return {"transform": transform, "scale": scale, "clip": False, "epochs": 0, "distil_steps": 0, **options}


BASELINES: Mapping[str, Baseline] = {
    "flatquant-gptq": Baseline(
        "FlatQuant GPTQ", "weights rounded by GPTQ", {"weights": "gptq", "distil_steps": 0}, kind="system"
    ),
    "flatquant-rtn": Baseline(
        "FlatQuant RTN", "weights rounded to nearest", {"weights": "rtn", "distil_steps": 0}, kind="system"
    ),
    "flatquant-distilled": Baseline(
        "FlatQuant distilled", "all blocks trained together on the logits", {"weights": "rtn"}, kind="system"
    ),
    "c-hadamard-gptq": Baseline(
        "c + Hadamard GPTQ, clipped",
        "FlatQuant's scales and clipping as they start, not trained",
        {**_plain("hadamard", True, alpha=0.3, weights="gptq"), "clip": True},
        kind="ablation",
    ),
    "c-hadamard": Baseline("c + Hadamard RTN", "scales, alpha 0.3, not trained", _plain("hadamard", True, alpha=0.3)),
    "hadamard-gptq": Baseline("Hadamard GPTQ", "a Hadamard matrix at each place", _plain("hadamard", weights="gptq")),
    "hadamard": Baseline("Hadamard RTN", "a Hadamard matrix at each place", _plain("hadamard")),
    "random": Baseline("random Kronecker", "FlatQuant's orthogonal start, not trained", _plain("flat")),
    "quarot-gptq": Baseline("QuaRot GPTQ", "rotated residual", _plain("quarot", weights="gptq"), rotates=True),
    "quarot": Baseline("QuaRot RTN", "rotated residual", _plain("quarot"), rotates=True),
    "smoothquant": Baseline("SmoothQuant", "scales of channels, alpha 0.5", _plain("none", True, alpha=0.5)),
    "gptq": Baseline("GPTQ", "no transform", _plain("none", weights="gptq")),
    "rtn": Baseline("RTN", "no transform", _plain("none")),
}
"""All rows, the system first."""


# -- QuaRot ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomHadamard:
    """Q = D H: random signs, then the orthonormal Hadamard factors of the size."""

    signs: Tensor
    factors: list[Tensor] = field(default_factory=list)

    @classmethod
    def draw(cls, n: int, generator: torch.Generator) -> RandomHadamard:
        signs = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
        return cls(signs, [H.double() for H in hadamard_factors(n)])

    def __call__(self, x: Tensor) -> Tensor:
        """x Q for the rows of x, in float64."""
        device = x.device
        return transformed(x.double() * self.signs.to(device), [H.to(device) for H in self.factors])


@torch.no_grad()
def rotated(model: Model, seed: int = 0, module_map: dict[str, str] | None = None) -> Model:
    """Rotate the residual stream of a decoder by a random Hadamard matrix; its logits stay the same.

    The gains of the norms become 1 and go into the layers that read the stream; an output head that was tied to the
    embedding gets a weight of its own. The model is changed in place.

    Parameters
    ----------
    model
        A decoder whose blocks add to a residual stream that RMSNorms read, as Llama, Mistral and Qwen do.
    seed
        Of the signs.
    module_map
        Of models that are not known (see `linmap.compress.architecture`).

    Raises
    ------
    TypeError
        If the model's function would not stay the same, because a norm takes means or stands behind a block's layers,
        as Gemma's do; the model given is of no more use.

    References
    ----------
    Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", NeurIPS 2024, section 4.
    """
    path, blocks = decoder_blocks(model, module_map)
    embedding, head = _untied(model)
    ids = torch.arange(PROBE, device=embedding.weight.device)[None] % embedding.num_embeddings
    before = cast(Any, model)(input_ids=ids, use_cache=False).logits
    Q = RandomHadamard.draw(embedding.embedding_dim, torch.Generator().manual_seed(seed))
    _set(embedding.weight, Q(embedding.weight))
    for block in blocks:
        _rotate_block(block, block_paths(block, module_map), Q)
    final = _final_norm(model.get_submodule(path.rpartition(".")[0]), embedding.embedding_dim)
    _set(head.weight, Q(head.weight.double() * _taken_gain(final)))
    after = cast(Any, model)(input_ids=ids, use_cache=False).logits
    if not bool((after - before).abs().max() <= TOLERANCE * before.abs().max()):
        raise _no_rotation(model)
    return model


def _rotate_block(block: nn.Module, paths: BlockPaths, Q: RandomHadamard) -> None:
    """W diag(g) Q where the stream is read, Q^T W where it is written."""
    for path, parts in ((paths.attention_norm, ("q", "k", "v")), (paths.mlp_norm, ("gate", "up"))):
        if path is None:
            raise _no_rotation(block)
        gain = _taken_gain(block.get_submodule(path))
        for part in parts:
            W = cast(nn.Linear, block.get_submodule(getattr(paths, part))).weight
            _set(W, Q(W.double() * gain))
    for part in ("o", "down"):
        linear = cast(nn.Linear, block.get_submodule(getattr(paths, part)))
        _set(linear.weight, Q(linear.weight.mT).mT)
        if linear.bias is not None:
            _set(linear.bias, Q(linear.bias))


def _taken_gain(norm: nn.Module) -> Tensor:
    """The gain of a norm (its weight, or 1 + its weight), which becomes 1."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, nn.Parameter) or getattr(norm, "bias", None) is not None:
        raise _no_rotation(norm)
    bare: Any = copy.deepcopy(norm)
    bare.weight.data.zero_()
    offset = bare(torch.ones_like(weight)).mean().round()  # 0, or the 1 of 1 + weight
    gain = (weight + offset).double()
    _set(weight, torch.ones_like(weight) - offset)
    return gain


def _untied(model: nn.Module) -> tuple[nn.Embedding, nn.Linear]:
    """The embedding and the output head, each with its own weight."""
    decoder = cast(Any, model)
    embedding, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise _no_rotation(model)
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        decoder.config.tie_word_embeddings = False
        decoder.tie_weights()  # notes that nothing is tied
    return embedding, head


def _final_norm(decoder: nn.Module, n: int) -> nn.Module:
    """The norm between the last block and the head: the only part beside the blocks with one number a channel."""
    found = [m for m in decoder.children() if isinstance(w := getattr(m, "weight", None), Tensor) and w.shape == (n,)]
    if len(found) != 1:
        raise _no_rotation(decoder)
    return found[0]


def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value.to(parameter.dtype))


def _no_rotation(module: nn.Module) -> TypeError:
    return TypeError(
        f"the residual stream cannot be rotated: {type(module).__name__} does not commute with a "
        "rotation; QuaRot needs blocks that read the stream through RMSNorms only and add to it at once."
    )


# -- torchao -----------------------------------------------------------------------------------------------------------


def torchao_schemes() -> dict[str, Any]:
    """Configurations of torchao for its `quantize_`, by name; none without a GPU, or where it is not installed."""
    if not torch.cuda.is_available() or importlib.util.find_spec("torchao") is None:
        return {}
    quantization: Any = importlib.import_module("torchao.quantization")
    return {
        "torchao int4 weights, groups of 128": quantization.Int4WeightOnlyConfig(group_size=128),
        "torchao int8 activations, int4 weights": quantization.Int8DynamicActivationInt4WeightConfig(group_size=32),
    }
