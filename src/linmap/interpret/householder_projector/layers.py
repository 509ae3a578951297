"""Swapping the layers of a generator for projectors, by name, and reading all directions off it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.interpret.householder_projector.arguments import check_finite, check_floating
from linmap.interpret.householder_projector.first_layer import ProjectedFirstLayer, is_first_layer
from linmap.interpret.householder_projector.isometry import numerical_rank
from linmap.interpret.householder_projector.projector import HouseholderProjector, Reflectors
from linmap.interpret.householder_projector.weights import applied_weight, keep_hooks, wrapped

Choice = Sequence[str] | Callable[[str, nn.Module], bool]


def project_layers(
    model: nn.Module,
    layers: Choice,
    rank: int = 10,
    *,
    gain: float | Literal["match"] = "match",
    n_reflectors: Reflectors = "rank",
    w_samples: Float[Tensor, "S i"] | None = None,
) -> dict[str, HouseholderProjector]:
    """Replace layers of a model, in place, by projectors that start at the nearest scaled isometry.

    Three kinds of layer can be replaced: `nn.Linear`; `nn.Conv2d` of kernel 1 x 1, stride 1, without padding and with
    one group, by a projector on axis 1; and `nn.ConvTranspose2d` of stride 1 without padding, dilation and groups, by a
    `ProjectedFirstLayer`, which refuses an input that is not 1 x 1 when it runs. A layer that the model holds in
    several places is replaced in all of them.

    Parameters
    ----------
    model
        The generator.
    layers
        Dotted names, or a predicate `(name, module) -> bool`.
    rank, gain, n_reflectors
        As in `HouseholderProjector.from_weight`.
    w_samples
        (S, i) latent codes as they come to the layers: warns where they span fewer than `rank` dimensions.

    Returns
    -------
    dict
        The new modules by name, in the order of `model.named_modules()`.

    Raises
    ------
    ValueError
        If a name is not there, a layer is of another kind, nothing is chosen, or a layer's rank is too large (the layer
        is named). No layer is replaced then.

    Warns
    -----
    UserWarning
        If `w_samples` span fewer than `rank` dimensions.
    """
    chosen = _chosen(model, layers)
    new = {name: _projector(name, module, rank, gain, n_reflectors) for name, module in chosen.items()}
    if w_samples is not None:
        _check_latent(w_samples, rank, {name: layer.in_features for name, layer in new.items()})
    for name, module in chosen.items():
        keep_hooks(module, new[name])
    by_module = {id(module): new[name] for name, module in chosen.items()}
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if id(child) in by_module:
                setattr(parent, child_name, by_module[id(child)])
    return new


def _chosen(model: nn.Module, layers: Any) -> dict[str, nn.Module]:
    """The layers by name, in the model's order, each module once."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be an nn.Module, got {type(model).__name__}.")
    if isinstance(layers, str):
        raise ArgumentTypeError(
            f"layers must be a sequence of names or a predicate, got {layers!r}; write [{layers!r}]."
        )
    there = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    if callable(layers):
        wanted = [name for name, module in there.items() if layers(name, module)]
    else:
        if not isinstance(layers, Iterable):
            raise ArgumentTypeError(f"layers must be a sequence of names or a predicate, got {layers!r}.")
        wanted = list(layers)
        if missing := [name for name in wanted if name not in there]:
            raise ArgumentError(f"there is no layer {missing[0]!r} in the model; it has {_names(there)}.")
    if not wanted:
        raise ArgumentError(f"layers chooses nothing in the model, which has {_names(there)}.")
    found: dict[str, nn.Module] = {}
    for name, module in there.items():
        if name in wanted and not any(module is other for other in found.values()):
            found[name] = module
    return found


def _names(there: dict[str, nn.Module]) -> str:
    usable = [name for name, module in there.items() if _kind(module) is not None]
    return f"layers that can be replaced: {', '.join(usable[:8])}" if usable else "no layer that can be replaced"


def _kind(module: nn.Module) -> Literal["linear", "pointwise", "first"] | None:
    """Which of the kinds that can be replaced a layer is.

    A subclass with a forward of its own, as of equalised learning rates, applies another map than its weight.
    """
    if _own_forward(module):
        return None
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d) and set(module.kernel_size) | set(module.stride) == {1} and module.groups == 1:
        unpadded = module.padding in ("valid", "same") or not any(map(int, module.padding))
        return "pointwise" if unpadded else None
    return "first" if is_first_layer(module) else None


def _own_forward(module: nn.Module) -> bool:
    kind = next((kind for kind in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d) if isinstance(module, kind)), None)
    return kind is not None and ("forward" in vars(module) or type(module).forward is not kind.forward)


def layer_matrix(module: nn.Module) -> Float[Tensor, "o i"] | None:
    """The matrix of a layer that is linear in its input's features; None for another."""
    kind, weight = _kind(module), applied_weight(module)
    if weight is None:
        return None
    match kind:
        case "pointwise":
            return weight.flatten(1)
        case "first":
            return weight.flatten(1).mT
    return weight if weight.ndim == 2 else None


@torch.no_grad()
def restrict_(module: nn.Module, directions: Float[Tensor, "k i"]) -> None:
    """Let a layer that can be replaced read nothing of its input but the span of orthonormal directions, in place."""
    span = directions.mT @ directions
    match _kind(module), module:
        case "pointwise", nn.Conv2d():
            module.weight.copy_((module.weight.flatten(1) @ span)[..., None, None])
        case "first", nn.ConvTranspose2d():
            module.weight.copy_((span @ module.weight.flatten(1)).reshape(module.weight.shape))
        case "linear", nn.Linear():
            module.weight.copy_(module.weight @ span)


def _projector(
    name: str, module: nn.Module, rank: int, gain: float | Literal["match"], n_reflectors: Reflectors
) -> HouseholderProjector:
    options: dict[str, Any] = {"gain": gain, "n_reflectors": n_reflectors}
    try:
        match _kind(module), module:
            case "linear", _:
                return HouseholderProjector.from_linear(module, rank, **options)
            case "pointwise", nn.Conv2d():
                bias = None if module.bias is None else module.bias.detach()
                weight = _weight(module).flatten(1)
                return HouseholderProjector._started(weight, rank, bias, gain, n_reflectors, dim=1).train(
                    module.training
                )
            case "first", nn.ConvTranspose2d():
                return ProjectedFirstLayer.from_convolution(module, rank, name=name, **options)
    except (ArgumentError, ArgumentTypeError) as error:
        raise type(error)(f"layer {name!r}: {error}") from None
    raise ArgumentError(f"layer {name!r} is a {type(module).__name__} and cannot be replaced; {_offer(module)}.")


def _weight(module: nn.Module) -> Tensor:
    weight = applied_weight(module)
    assert weight is not None
    return weight.detach()


def _offer(module: nn.Module) -> str:
    if isinstance(module, HouseholderProjector):
        return "it is a projector already"
    if _own_forward(module):
        return (
            "it has a forward of its own, so that its weight need not be the map that it applies; put "
            "HouseholderProjector.from_linear(layer, rank, scale=...) there, scale being its factor on the weight"
        )
    if isinstance(getattr(module, "weight", None), Tensor) and (parts := wrapped(module)):
        return f"it wraps other layers ({', '.join(parts[:3])}), as an adapter does; merge them into one layer first"
    if isinstance(module, nn.ConvTranspose2d):
        return f"of transposed convolutions, only those of stride 1 without padding are, on 1x1 inputs; got {module}"
    if isinstance(module, nn.modules.conv._ConvNd):
        return f"of convolutions, only those of kernel 1x1, stride 1, no padding and one group are; got {module}"
    return "nn.Linear, 1x1 nn.Conv2d and the first nn.ConvTranspose2d of a generator are"


def _check_latent(w_samples: Tensor, rank: int, inputs: Mapping[str, int]) -> None:
    check_floating("w_samples", w_samples, 2, "(S, i)")
    check_finite("w_samples", w_samples)
    if len(w_samples) == 0 or w_samples.shape[1] not in inputs.values():
        name, features = next(iter(inputs.items()))
        raise ArgumentError(
            f"w_samples must hold codes as they come to the layers, (S, {features}) for layer {name!r}, got shape "
            f"{tuple(w_samples.shape)}."
        )
    centred = w_samples.detach().double()
    S = torch.linalg.svdvals(centred - centred.mean(0))
    found = numerical_rank(S, tuple(w_samples.shape), w_samples.dtype)
    if found < rank:
        warnings.warn(
            f"the latent codes w_samples span {found} dimensions, rank={rank} asked; directions outside of them change "
            "nothing that the generator draws.",
            stacklevel=3,
        )


def named_directions(model: nn.Module) -> dict[str, Float[Tensor, "k i"]]:
    """The directions of all projectors in a model, by the name of the layer; detached.

    Raises
    ------
    ValueError
        If the model has none.
    """
    found = {
        name: module.directions.detach()
        for name, module in model.named_modules()
        if isinstance(module, HouseholderProjector)
    }
    if not found:
        raise ArgumentError("the model has no HouseholderProjector; swap layers with project_layers first.")
    return found
