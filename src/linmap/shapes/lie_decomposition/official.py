"""Weights of the authors' modules, by the names that these have there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar, cast

from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.shapes.lie_decomposition.layer import LieLayer
from linmap.shapes.lie_decomposition.network import LieResNet
from linmap.shapes.lie_decomposition.siren import Siren

Module = TypeVar("Module", bound=nn.Module)
HEAD = {"fc.0.": "head.0.", "fc.1.": "head.1.", "fc.4.": "head.4."}
PARTS = {"lift": "stem.0.", "conv1": "blocks.0.conv1.", "conv2": "blocks.0.conv2.", "conv3": "blocks.4."}


def load_official(module: Module, state: Mapping[str, Tensor]) -> Module:
    """Load the weights of the authors' SIREN, layer or network (github.com/mirceamironenco/rgenn).

    Their sine layers end in `.linear`, the last layer is `final_linear`; what is no weight (samples, grids, bases,
    frequencies) is left out. Frequencies other than the module's are refused.

    Parameters
    ----------
    module
        A `Siren`, `LieLift2d`, `LieConv2d`, `LieProject2d` or `LieResNet` of the same sizes; layers and networks with
        angle="radians".
    state
        Their state_dict; a prefix `model.`, of the wrapper that draws samples, is taken off.

    Returns
    -------
    Module
        The module itself.

    Raises
    ------
    ValueError
        If a weight is missing, has another shape, or has no place in the module.
    TypeError
        If the module is of another kind.
    """
    state = {re.sub(r"^model\.", "", name): tensor for name, tensor in state.items()}
    names = _names(module)
    wanted = module.state_dict()
    missing = [theirs for theirs in names if theirs not in state]
    if missing:
        raise ArgumentError(f"state lacks {missing[0]!r}; it has {', '.join(sorted(state)[:5]) or 'nothing'}, ...")
    strange = [name for name in state if name not in names and name.endswith((".weight", "bias"))]
    if strange:
        raise ArgumentError(f"state has {strange[0]!r}, which has no place in this {type(module).__name__}.")
    for theirs, ours in names.items():
        if state[theirs].shape != wanted[ours].shape:
            raise ArgumentError(
                f"state[{theirs!r}] has shape {tuple(state[theirs].shape)}, and {ours} has "
                f"{tuple(wanted[ours].shape)}; sizes, or the angle ('radians' there), differ."
            )
    _check_frequencies(module, state)
    module.load_state_dict({ours: state[theirs] for theirs, ours in names.items()}, strict=False)
    return module


def _names(module: nn.Module) -> dict[str, str]:
    """Our names by theirs."""
    if isinstance(module, Siren):
        return _siren_names(module)
    if isinstance(module, LieLayer):
        return _layer_names(module)
    if isinstance(module, LieResNet):
        names = {}
        for part, theirs in PARTS.items():
            layer = cast(LieLayer, getattr(module, part))
            names |= {theirs + a: f"{part}.{b}" for a, b in _layer_names(layer).items()}
        heads = {ours: theirs for theirs, ours in HEAD.items()}
        for name in module.head.state_dict():
            index, kind = name.split(".")
            names[heads[f"head.{index}."] + kind] = f"head.{name}"
        return names
    raise ArgumentTypeError(
        f"module must be a Siren, LieLift2d, LieConv2d, LieProject2d or LieResNet, got {type(module).__name__}."
    )


def _layer_names(layer: LieLayer) -> dict[str, str]:
    if not isinstance(layer.kernel_net, Siren) or getattr(layer, "separable", False):
        raise ArgumentTypeError("module must have the kernel network that it was made with, and not be separable.")
    names = {"inr." + a: f"kernel_net.{b}" for a, b in _siren_names(layer.kernel_net).items()}
    return names | ({} if layer.bias is None else {"bias": "bias"})


def _siren_names(siren: Siren) -> dict[str, str]:
    last = len(siren.layers) - 1
    return {
        (f"final_linear.{kind}" if i == last else f"kernel_net.net.{i}.linear.{kind}"): f"layers.{i}.{kind}"
        for i in range(last + 1)
        for kind in ("weight", "bias")
    }


def _check_frequencies(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """That the frequencies of the sines, which the authors keep as tensors, are those of the module."""
    sirens = [siren for siren in module.modules() if isinstance(siren, Siren)]
    for name, value in state.items():
        if name.endswith("act_layer.a") and any(abs(float(value) - siren.w0) > 1e-6 for siren in sirens):
            raise ArgumentError(
                f"state has the frequency {float(value):g} ({name}), and the module w0={sirens[0].w0:g}."
            )
