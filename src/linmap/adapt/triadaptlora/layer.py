"""The adapter of one weight, and the layers that carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.adapt.layer import AdapterLayer, AdditiveAdapter
from linmap.adapt.triadaptlora.delta import Scaling, scaling_factor, triadapt_delta
from linmap.adapt.triadaptlora.pieces import AppendedPieces
from linmap.adapt.tuner import AdapterTuner
from linmap.adapt.weights import acts_on_features, sizes
from linmap.errors import ArgumentError
from linmap.maps import TriangularPair
from linmap.maps.triangular_pair import Core, Init

GrowInit = Literal["zero_b", "paper"]
Storage = Literal["prealloc", "append"]
LEAST_ROOM = 8
INIT_OF: dict[GrowInit, Init] = {"zero_b": "zero", "paper": "normal"}


class TriAdaptAdapter(AdditiveAdapter):
    """dW = s B (L + U) A, of a rank that grows in training.

    Attributes
    ----------
    map
        Its A, B, lower and upper.
    limit
        The highest rank that it may have.
    grown
        Whether its rank is another than at the start: part of its state then, and not of its configuration.
    grow_init, init_c, alpha, scaling, reference_rank
        As in `TriAdaptLoraConfig`.
    """

    map: TriangularPair | AppendedPieces

    def __init__(
        self,
        n_out: int,
        n_in: int,
        *,
        rank: int,
        limit: int,
        room: int,
        alpha: float,
        dropout: float,
        scaling: Scaling,
        reference_rank: int,
        grow_init: GrowInit,
        init_c: Core,
        storage: Storage,
    ) -> None:
        super().__init__()
        if storage == "prealloc":
            self.map = TriangularPair(n_in, n_out, rank, max_rank=max(room, rank), core=init_c)
        else:
            self.map = AppendedPieces(n_in, n_out, rank, core=init_c)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.first_rank = rank
        self.limit, self.alpha, self.reference_rank = limit, alpha, reference_rank
        self.scaling: Scaling = scaling
        self.grow_init: GrowInit = grow_init
        self.init_c: Core = init_c

    @property
    def rank(self) -> int:
        return self.map.rank

    @property
    def grown(self) -> bool:
        return self.rank != self.first_rank

    @property
    def scale(self) -> float:
        return scaling_factor(self.alpha, self.rank, self.scaling, self.reference_rank)

    def delta_weight(self) -> Float[Tensor, "n_out n_in"]:
        map = self.map
        return triadapt_delta(
            map.A,
            map.B,
            map.lower,
            map.upper,
            self.alpha,
            map.rank,
            scaling=self.scaling,
            reference_rank=self.reference_rank,
        )

    def delta(self, x: Tensor) -> Tensor:
        """s ((drop(x) A^T) C^T) B^T, in this order; the scale goes to the smallest factor."""
        C = self.map.padded_core() * self.scale
        return F.linear(F.linear(F.linear(self.dropout(x), self.map.A), C), self.map.B)

    def grow(self, rank: int, generator: torch.Generator | None = None) -> None:
        self.map.grow(rank, init=INIT_OF[self.grow_init], core=self.init_c, generator=generator)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, limit={self.limit}, alpha={self.alpha}, scaling={self.scaling!r}"


class TriAdaptLayer(AdapterLayer):
    """What the layers of TriAdaptLoRA share; the options are the fields of `TriAdaptLoraConfig` of the same names."""

    adapters_name = "linmap_triadaptlora_adapters"

    def make_adapter(
        self,
        *,
        reference_rank: int = 8,
        init_rank: int = 1,
        alpha: float = 16,
        dropout: float = 0.0,
        r_max: int | None = None,
        scaling: Scaling = "fixed",
        grow_init: GrowInit = "zero_b",
        init_c: Core = "normal",
        storage: Storage = "prealloc",
        grows: bool = True,
    ) -> TriAdaptAdapter:
        """A new adapter; without `grows` it keeps no room for more rank."""
        check_options(reference_rank, init_rank, alpha, dropout, r_max, scaling, grow_init, init_c, storage)
        n_out, n_in = sizes(self.base_layer)
        if dropout and not acts_on_features(self.base_layer):
            raise ArgumentError(
                f"dropout={dropout} has no meaning on a {type(self.base_layer).__name__}, whose weight is adapted; set "
                "it to 0, or leave such layers out of target_modules."
            )
        limit = min(n_in, n_out) if r_max is None else min(n_in, n_out, r_max)
        if init_rank > limit:
            raise ArgumentError(
                f"the rank {init_rank} is above {limit}, the highest that a weight of shape {(n_out, n_in)} can have "
                f"with r_max={r_max}; lower init_rank or this layer's entry of rank_pattern, or leave the layer out."
            )
        room = limit if r_max is not None else min(limit, max(2 * reference_rank, LEAST_ROOM))
        return TriAdaptAdapter(
            n_out, n_in, rank=init_rank, limit=limit, room=room if grows else init_rank, alpha=alpha, dropout=dropout,
            scaling=scaling, reference_rank=reference_rank, grow_init=grow_init, init_c=init_c, storage=storage,
        )  # fmt: skip


class TriAdaptLinear(TriAdaptLayer):
    """A linear layer (`nn.Linear` or Transformers' `Conv1D`) with TriAdaptLoRA; it never reads the weight."""


class TriAdaptConv2d(TriAdaptLayer):
    """A convolution whose kernels, flattened into a matrix, have TriAdaptLoRA."""


def check_options(
    reference_rank: int,
    init_rank: int,
    alpha: float,
    dropout: float,
    r_max: int | None,
    scaling: str,
    grow_init: str,
    init_c: str,
    storage: str,
) -> None:
    """Raise `ValueError` at the first option that is out of its range."""
    for name, value in (("reference_rank", reference_rank), ("init_rank", init_rank), ("r_max", r_max)):
        if value is None and name == "r_max":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArgumentError(f"{name}={value!r} must be a positive integer.")
    if r_max is not None and init_rank > r_max:
        raise ArgumentError(f"init_rank={init_rank} is above r_max={r_max}; lower the one or raise the other.")
    if not alpha > 0:
        raise ArgumentError(f"alpha={alpha!r} must be positive.")
    if not 0 <= dropout < 1:
        raise ArgumentError(f"dropout={dropout!r} must be a probability below 1.")
    choices = {
        "scaling": (scaling, ("fixed", "rank")),
        "grow_init": (grow_init, ("zero_b", "paper")),
        "init_c": (init_c, ("normal", "identity")),
        "storage": (storage, ("prealloc", "append")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ArgumentError(f"{name}={value!r} must be {' or '.join(map(repr, allowed))}.")


def triadapt_layers(model: nn.Module, adapter_name: str | None = None) -> dict[str, TriAdaptLayer]:
    """The layers of TriAdaptLoRA in a model, by their path in the pretrained model, ordered by it.

    Parameters
    ----------
    model
        A `PeftModel`, one of its wrappers (DDP, `torch.compile`), or any module with such layers in it.
    adapter_name
        Only layers that have this adapter.
    """
    tuner = next((module for module in model.modules() if isinstance(module, AdapterTuner)), None)
    root = getattr(model, "module", model) if tuner is None else tuner.model  # DDP's wrapper is left out
    found = {
        name.replace("_orig_mod.", ""): module  # of torch.compile
        for name, module in root.named_modules()
        if isinstance(module, TriAdaptLayer) and (adapter_name is None or adapter_name in module.adapters)
    }
    return dict(sorted(found.items()))


def triadapt_orthogonality(model: nn.Module) -> Float[Tensor, ""]:
    """The mean over the active adapters' A and B of ||A A^T - I||_F and ||B^T B - I||_F, on the pieces in use.

    To be added to the loss with the configuration's `orth_reg_weight`.

    Raises
    ------
    ValueError
        If no layer of the model has an active TriAdaptLoRA adapter.
    """
    terms = []
    for layer in triadapt_layers(model).values():
        for name in layer.active_adapters:
            if name in layer.adapters:
                map: Any = layer.adapters[name].map
                A, B = map.A[: map.rank], map.B[:, : map.rank]
                identity = torch.eye(map.rank, dtype=A.dtype, device=A.device)
                terms += [torch.linalg.matrix_norm(A @ A.mT - identity), torch.linalg.matrix_norm(B.mT @ B - identity)]
    if not terms:
        raise ArgumentError(
            "the model has no active TriAdaptLoRA adapter; make one by peft.get_peft_model(model, "
            "TriAdaptLoraConfig(...)), or activate it by set_adapter."
        )
    return torch.stack(terms).mean()


def used_parameters(model: nn.Module, weights: Sequence[nn.Parameter]) -> int:
    """Trained parameters, less the room that growing adapters keep and have not used."""
    total = sum(parameter.numel() for parameter in weights)
    for module in model.modules():
        if isinstance(module, TriangularPair):
            R = module.rank
            used = R * (module.in_features + module.out_features) + R * (R + 1)
            total += used - sum(parameter.numel() for parameter in module.parameters())
    return total
