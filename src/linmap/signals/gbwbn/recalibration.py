"""Statistics of the layers from data, with all parameters frozen: after training, or for a new domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.signals.gbwbn.layer import GBWBatchNorm


@torch.no_grad()
def recalibrate(
    module: nn.Module,
    loader: Iterable[Any],
    forward: Callable[[nn.Module, Any], object] | None = None,
    mean_iter: int | None = None,
) -> nn.Module:
    """Recompute the running statistics of all `GBWBatchNorm` layers of a module.

    In training, running statistics follow a metric that moves; here each layer gets the mean and the variance of all
    that reaches it, once with the final parameters, first layer first. The module ends in evaluation mode.

    Parameters
    ----------
    module
        A network with `GBWBatchNorm` layers.
    loader
        Batches, the same in every pass; one pass is made for each layer.
    forward
        `forward(module, batch)`; by default `module(batch)`, or `module(batch[0])` where a batch is a tuple or list.
    mean_iter
        Steps towards each mean; those of the layer by default.

    Returns
    -------
    nn.Module
        The module.

    Raises
    ------
    ValueError
        If the module has no such layer, or the loader is empty.
    """
    forward = forward or _forward
    layers = [layer for layer in module.modules() if isinstance(layer, GBWBatchNorm)]
    if not layers:
        raise ArgumentError(f"{type(module).__name__} has no GBWBatchNorm layer to recalibrate.")
    module.eval()
    seen: dict[GBWBatchNorm, list[tuple[Tensor, Tensor | None]]] = {}

    def remember(layer: nn.Module, arguments: Any, named: dict[str, Tensor]) -> None:
        assert isinstance(layer, GBWBatchNorm)
        domains = arguments[1] if len(arguments) > 1 else named.get("domains")
        seen.setdefault(layer, []).append((arguments[0], domains))

    for _ in layers:  # the inputs of a layer are right once those before it are done
        done = set(seen)
        hooks = [layer.register_forward_pre_hook(remember, with_kwargs=True) for layer in layers if layer not in done]
        try:
            for batch in loader:
                forward(module, batch)
        finally:
            for hook in hooks:
                hook.remove()
        fresh = [layer for layer in seen if layer not in done]
        if not fresh:
            raise ArgumentError("the loader is empty, or a GBWBatchNorm layer of the module was not called.")
        first = fresh[0]
        matrices, domains = zip(*seen[first], strict=True)
        first.estimate(torch.cat(matrices), None if domains[0] is None else torch.cat(domains), mean_iter)
        for layer in fresh[1:]:
            del seen[layer]
        seen[first] = []
    return module


def _forward(module: nn.Module, batch: Any) -> object:
    return module(batch[0] if isinstance(batch, tuple | list) else batch)
