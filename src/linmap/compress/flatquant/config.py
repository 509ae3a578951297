"""`FlatQuantConfig`: what is quantised to how many bits, by which transforms, and how they are calibrated."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin

from linmap.compress.flatquant.quantizer import BITS
from linmap.compress.registration import METHOD
from linmap.data.schema import check_fields
from linmap.errors import ArgumentError

SITES = ("attention", "output", "value", "cache", "mlp", "down")
"""P_a, P_o, P_v, P_h, P_ug and P_d of section 3 of the paper."""


@dataclass(kw_only=True)
class FlatQuantConfig(QuantizationConfigMixin):
    """Bits, transforms and calibration of FlatQuant: what is asked for.

    Parameters
    ----------
    w_bits
        Bits of the weights of the seven linear layers of a block: 2 to 8, or 16 for none.
    a_bits
        Bits of the inputs of these layers.
    q_bits
        Bits of the queries, with a scale for each token and head, as the keys and values.
    k_bits
        Bits of the keys in the cache; 4 is common, together with 4 for the values.
    v_bits
        Bits of the values in the cache.
    head_bits
        Bits of the vocabulary head: 8 with a scale for each token of the vocabulary, its inputs as they are, or 16 for
        none. An embedding that is tied to the head is stored in the same 8 bits.
    w_symmetric, a_symmetric, q_symmetric, k_symmetric, v_symmetric
        Symmetric codes, without a zero point.
    weights
        rtn rounds each transformed weight to its nearest code; gptq lets later weights make up for the error of earlier
        ones, by the inputs that they meet.
    group_size
        Columns of a weight that share a scale, with gptq; a whole row when left out.
    transform
        "flat" learns the matrices; "hadamard" takes orthonormal Hadamard matrices at the places of linear layers and
        the cache; "quarot" those of QuaRot, for a model that `linmap.compress.flatquant.rotated` has prepared; "none":
        no matrices.
    parametrization
        Of a learnt matrix: svd (U diag(s) V^T), exponential (the same with s = exp(t), never zero) or inverse (any
        matrix, inverted in float64).
    scale
        Scales of the channels in front of the matrices.
    alpha
        Where the scales of the channels start: max|W|^(1 - alpha) / max|x|^alpha of a channel.
    clip
        Learnt clipping of weights, inputs, keys and values.
    clip_start
        Where the clipping of weights and inputs starts: search looks for the shares of their ranges that round them
        best, and gains more than anything else in a short calibration; wide is the paper's .982 for all.
    factors
        Sizes of the Kronecker factors by place ("attention", "mlp", "down"); the balanced pair where left out.
    n_samples
        Random pieces of the text that the transforms are calibrated on, the windows.
    sequence_length
        Tokens of a window.
    batch_size
        Windows of a step.
    epochs
        Passes over the windows for each block; 0 leaves the transforms as they start.
    lr
        Learning rate of matrices and scales.
    clip_lr
        Learning rate of the clipping.
    warmup_steps
        Steps in which the learning rates rise linearly from a hundredth.
    distil_steps
        Steps in which all blocks are then trained together, weights and all, to give the original's distribution of the
        next token; 200 take half an hour for 135 million parameters on two cores, and gain most; 0: not at all.
    distil_length
        Tokens of the one window of such a step.
    distil_lr
        Its learning rate of matrices, scales and gains of norms.
    distil_clip_lr
        Its learning rate of the clipping.
    distil_weight_lr
        Its learning rate of the weights; 0: they stay.
    blocks
        Numbers of the decoder blocks to quantise; None: all.
    module_map
        Where a block keeps its parts, for models that are not known (see `linmap.compress.architecture`).
    compile
        Compile what the training does on a CPU, which makes a step a third shorter after some seconds; chosen by the
        length of the training when left out. Needs a C++ compiler.
    seed
        Of every random draw.

    Raises
    ------
    ValueError
        If a value is not one of those above.

    References
    ----------
    Sun et al., "FlatQuant: Flatness Matters for LLM Quantization", ICML 2025.
    """

    quant_method: str = METHOD  # pyright: ignore[reportIncompatibleVariableOverride]
    w_bits: int = 4
    a_bits: int = 4
    q_bits: int = 16
    k_bits: int = 16
    v_bits: int = 16
    head_bits: int = 16
    w_symmetric: bool = True
    a_symmetric: bool = True
    q_symmetric: bool = True
    k_symmetric: bool = False
    v_symmetric: bool = False
    weights: Literal["rtn", "gptq"] = "rtn"
    group_size: int | None = None
    transform: Literal["flat", "hadamard", "quarot", "none"] = "flat"
    parametrization: Literal["svd", "exponential", "inverse"] = "svd"
    scale: bool = True
    alpha: float = 0.3
    clip: bool = True
    clip_start: Literal["search", "wide"] = "search"
    factors: dict[str, tuple[int, ...]] | None = None
    n_samples: int = 128
    sequence_length: int = 2048
    batch_size: int = 4
    epochs: int = 15
    lr: float = 5e-3
    clip_lr: float = 5e-2
    warmup_steps: int = 0
    distil_steps: int = 0
    distil_length: int = 512
    distil_lr: float = 1e-3
    distil_clip_lr: float = 1e-2
    distil_weight_lr: float = 3e-5
    blocks: list[int] | None = None
    module_map: dict[str, str] | None = None
    compile: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("w_bits", "a_bits", "q_bits", "k_bits", "v_bits"):
            bits = getattr(self, name)
            if type(bits) is not int or bits not in BITS:
                raise ArgumentError(f"{name}={bits!r} is none of {', '.join(map(str, BITS))} (16: not quantised).")
        if type(self.head_bits) is not int or self.head_bits not in (8, 16):
            raise ArgumentError(f"head_bits={self.head_bits!r} is neither 8 nor 16 (not quantised).")
        for name, allowed in (
            ("weights", ("rtn", "gptq")),
            ("transform", ("flat", "hadamard", "quarot", "none")),
            ("parametrization", ("svd", "exponential", "inverse")),
            ("clip_start", ("search", "wide")),
        ):
            if getattr(self, name) not in allowed:
                raise ArgumentError(f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}.")
        check_fields(self)
        if self.group_size is not None and self.weights != "gptq":
            raise ArgumentError(f"group_size={self.group_size} works with weights='gptq' only; leave it out.")
        for name in ("n_samples", "sequence_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.epochs < 0:
            raise ArgumentError(f"epochs={self.epochs} must be at least 0.")
        if self.distil_steps < 0 or self.distil_length < 2:
            raise ArgumentError(
                f"distil_steps={self.distil_steps} must be at least 0, and distil_length={self.distil_length} at least "
                "2."
            )
        for name in ("distil_lr", "distil_clip_lr", "distil_weight_lr"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ArgumentError(f"{name}={getattr(self, name)} must be at least 0 and finite.")
        if self.n_samples < self.batch_size:
            raise ArgumentError(
                f"n_samples={self.n_samples} is less than batch_size={self.batch_size}, so that no step could be "
                "taken; make the second at most the first."
            )
        unknown = set(self.factors or ()) - {"attention", "mlp", "down"}
        if unknown:
            raise ArgumentError(f"factors has {', '.join(sorted(unknown))}; the places are attention, mlp and down.")
        if self.blocks is not None:
            self.blocks = sorted(set(self.blocks))
        self.factors = {site: tuple(n) for site, n in self.factors.items()} if self.factors else None

    @property
    def quantises_linears(self) -> bool:
        return self.w_bits < 16 or self.a_bits < 16

    @property
    def quantises_cache(self) -> bool:
        return min(self.q_bits, self.k_bits, self.v_bits) < 16

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "linmap_format": 1}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        others = {"linmap_format"} | FOUND - {field.name for field in fields(cls)}
        known = {name: value for name, value in config_dict.items() if name not in others}
        for name in known.keys() & {"online_scales", "left_out"}:  # JSON has lists
            known[name] = tuple(known[name])
        for name in ("factors", "readers"):
            if known.get(name):
                known[name] = {site: tuple(values) for site, values in known[name].items()}
        return super().from_dict(known, return_unused_kwargs=return_unused_kwargs, **kwargs)


@dataclass(kw_only=True)
class ProvenConfig(FlatQuantConfig):
    """What was asked, and what was found for one model before its calibration began; saved with the quantised model.

    Parameters
    ----------
    online_scales
        Places whose scale stays in front of the matrices, because the module before cannot take it.
    readers
        Further linear layers of a block, by what they read beside the seven: "attention" and "mlp" (the inputs of these
        modules) or "value" (the values). They keep their format, and take part in the transforms.
    left_out
        ("value",) where more than an average lies between the values and the output projection (a norm, a gate), so
        that P_v does not pass; the output projection then has a matrix of its whole input.
    """

    online_scales: tuple[str, ...] = ()
    readers: dict[str, tuple[str, ...]] | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.online_scales, self.left_out = tuple(self.online_scales), tuple(self.left_out)
        self.readers = {site: tuple(paths) for site, paths in self.readers.items()} if self.readers else None

    @classmethod
    def of(cls, config: FlatQuantConfig) -> ProvenConfig:
        """The config itself if it is proven, else one of which nothing was found."""
        if isinstance(config, ProvenConfig):
            return config
        return cls(**{field.name: copy.deepcopy(getattr(config, field.name)) for field in fields(config)})


FOUND = {field.name for field in fields(ProvenConfig)} - {field.name for field in fields(FlatQuantConfig)}
"""What a saved model says beside what was asked."""
