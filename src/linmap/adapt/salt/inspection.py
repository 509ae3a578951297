"""What a model's SALT adapters amount to: their penalty, and the singular values of the adapted weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.adapt.salt.layer import SaltAdapter, SaltLayer
from linmap.errors import ArgumentError


def salt_regularization(
    model: nn.Module, reduction: Literal["sum", "mean", "none"] = "sum"
) -> Float[Tensor, "*adapters"]:
    """||diag(alpha S_k + beta - S_k)||_F + ||X Y||_F over the active SALT adapters of a model, to be added to a loss.

    Parameters
    ----------
    model
        A model with SALT layers, or one such layer.
    reduction
        "sum" or "mean" over the adapters, or "none" for a value each, in the order of `named_modules`.

    Raises
    ------
    ValueError
        If the model has no active SALT adapter, or the reduction is unknown.
    """
    if reduction not in ("sum", "mean", "none"):
        raise ArgumentError(f"reduction must be 'sum', 'mean' or 'none', got {reduction!r}.")
    penalties = torch.stack([adapter.penalty() for _, layer in _layers(model) for adapter in _active(layer)])
    return penalties if reduction == "none" else getattr(penalties, reduction)()


@torch.no_grad()
def salt_spectrum(model: nn.Module) -> dict[str, tuple[Float[Tensor, "*groups q"], Float[Tensor, "*groups q"]]]:
    """(S, S_new) of each adapted layer by its name: the singular values of its frozen and of its adapted weight.

    Both largest first; S_new is with all active adapters. The layers of a grouped convolution have a row a group.

    Raises
    ------
    ValueError
        If the model has no active SALT adapter.
    """
    spectra = {}
    for name, layer in _layers(model):
        first, *others = _active(layer)
        spectral = first.spectral
        W = spectral.U * spectral.S.unsqueeze(-2) @ spectral.Vt
        for adapter in (first, *others):
            W = W + adapter.delta_weight().view(W.shape)
        spectra[name] = (spectral.S.clone(), torch.linalg.svdvals(W))
    return spectra


def _layers(model: nn.Module) -> Iterator[tuple[str, SaltLayer]]:
    """The layers that have an active adapter."""
    found = False
    for name, module in model.named_modules():
        if isinstance(module, SaltLayer) and _active(module):
            found = True
            yield name, module
    if not found:
        raise ArgumentError(
            f"this {type(model).__name__} has no active SALT adapter; make one by peft.get_peft_model(model, "
            "SaltConfig(...)) or SaltLinear(layer)."
        )


def _active(layer: SaltLayer) -> list[SaltAdapter]:
    adapters = (layer.adapters[name] for name in layer.active_adapters if name in layer.adapters)
    return [adapter for adapter in adapters if isinstance(adapter, SaltAdapter)]
