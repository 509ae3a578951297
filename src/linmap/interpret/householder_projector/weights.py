"""The weight that a layer applies now, also under weight or spectral normalisation, and hooks that a swap keeps."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from linmap.errors import ArgumentError, ArgumentTypeError

COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)
"""Hooks before the forward that set the weight."""
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def applied_weight(layer: nn.Module) -> Tensor | None:
    """The weight that the layer's next forward uses; None where it has none.

    `torch.nn.utils.weight_norm`, `spectral_norm` and pruning compute it in a hook, so that the attribute may be of
    an earlier state.

    Raises
    ------
    ValueError
        If a lazy layer has no weight yet, or the weight lies on the meta device.
    TypeError
        If the layer wraps others, as an adapter does: its weight is not the map that it applies.
    """
    if parts := wrapped(layer):
        raise ArgumentTypeError(
            f"{type(layer).__name__} wraps other layers ({', '.join(parts[:3])}), so that its weight is not all that "
            "it applies; merge them into one layer first."
        )
    weight: Any = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if is_lazy(weight):
        raise ArgumentError(f"{type(layer).__name__} has no weight yet; run the model once.")
    if weight.is_meta:
        raise ArgumentError(f"the weight of {type(layer).__name__} is on the meta device; give it values first.")
    for hook in layer._forward_pre_hooks.values():
        match hook:
            case WeightNorm(name="weight"):
                return hook.compute_weight(layer)
            case SpectralNorm(name="weight"):
                return hook.compute_weight(layer, do_power_iteration=False)
            case BasePruningMethod(_tensor_name="weight"):
                return hook.apply_mask(layer)
    return weight


def wrapped(layer: nn.Module) -> list[str]:
    """Names of the layers within a layer, parametrizations left out."""
    return [name for name, _ in layer.named_children() if name != "parametrizations"]


def keep_hooks(old: nn.Module, new: nn.Module) -> None:
    """Let the user's hooks act on the layer that replaces another; handles still remove them.

    Hooks that compute the old layer's weight have nothing to do in the new one.
    """
    for name in HOOKS:
        setattr(new, name, getattr(old, name))
    if any(isinstance(hook, COMPUTING) for hook in old._forward_pre_hooks.values()):
        new._forward_pre_hooks = old._forward_pre_hooks.copy()
        _drop_computing(new)


def settle_(layer: nn.Module) -> None:
    """Make the weight that a layer applies its own parameter, which nothing computes anew."""
    weight = applied_weight(layer)
    if weight is None:
        return
    values = {"weight": weight.detach().clone()}
    if parametrize.is_parametrized(layer):  # PyTorch's removal would also break the layer that this is a copy of
        values |= {
            name: getattr(layer, name).detach().clone()
            for name in cast(nn.ModuleDict, layer.parametrizations)
            if name != "weight"
        }
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer.parametrizations
    _drop_computing(layer)
    for name, value in values.items():
        setattr(layer, name, nn.Parameter(value))


def _drop_computing(layer: nn.Module) -> None:
    for key, hook in list(layer._forward_pre_hooks.items()):
        if isinstance(hook, COMPUTING):
            del layer._forward_pre_hooks[key]
