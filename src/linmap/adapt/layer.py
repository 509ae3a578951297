"""What the adapters of this room share: an adapter on one weight, and the layer that holds several of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from linmap.adapt.kept import Kept, checksum, content_of, has_values
from linmap.adapt.weights import (
    acts_on_features,
    call_with_changed_weight,
    check_mergeable,
    check_weight_can_change,
    device_of,
    holds_numbers,
    io_sizes,
    is_plain_linear,
    matrix_of,
    sizes,
    weight_from,
)
from linmap.errors import ArgumentError, ArgumentTypeError

Layer = Callable[[Tensor], Tensor]


def keeps_weight(module: nn.Module, x: Tensor) -> bool:
    """Whether W' is kept for the next call: where nothing is trained, and comparing what it was made from pays.

    It does not for a single token, nor on accelerators, which would have to be waited for.
    """
    frozen = not (module.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
    return frozen and x.device.type == "cpu" and x.shape[:-1].numel() > 1 and has_values(x)


class Adapter(nn.Module):
    """A trainable change of one weight matrix W (out, in): W' = `weight(W)`.

    A method writes `weight`, and `output` where it knows a way to the activations that never builds W'.
    """

    reads_weight = True  # whether there is no `output`

    def weight(self, W: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
        """W', in the dtype of W, differentiable in the adapter and in W."""
        raise NotImplementedError

    def unmerged(self, W: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
        """W from W' by algebra, in the dtype of W'; ValueError where that is ill-conditioned."""
        raise NotImplementedError

    def needs_weight(self, x: Tensor) -> bool:
        """Whether `output` is not the way to go for these activations."""
        return True

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        """x W'^T + b from what `layer` computes, x W^T + b; W is never read."""
        raise NotImplementedError

    def linear(self, x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
        """x W'^T + b where W is at hand."""
        if self.needs_weight(x):
            return F.linear(x, self.weight(W).to(x.dtype), bias)
        return self.output(x, partial(F.linear, weight=W, bias=bias))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class AdditiveAdapter(Adapter):
    """An adapter whose change does not depend on W: W' = W + `delta_weight()`."""

    reads_weight = False

    def delta_weight(self) -> Float[Tensor, "n_out n_in"]:
        raise NotImplementedError

    def delta(self, x: Tensor) -> Tensor:
        """x delta_weight()^T, the cheap way."""
        raise NotImplementedError

    def weight(self, W: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
        return W + self.delta_weight().to(W.dtype)

    def unmerged(self, W: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
        return W - self.delta_weight().to(W.dtype)

    def needs_weight(self, x: Tensor) -> bool:
        return False

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        y = layer(x)
        return (y + self.delta(x.to(self.dtype))).to(y.dtype)


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A frozen layer and its adapters by name; a PEFT tuner layer that also stands alone.

    Active adapters act in the order in which they were activated: the first on W, the second on what the first made of
    it. Additive ones commute, others do not.

    Parameters
    ----------
    base_layer
        The layer to adapt; its weight stays as it is.
    settings, options
        Settings of the adapter, in the order or by the names of `make_adapter`.
    adapter_name
        Name of the first adapter.

    Attributes
    ----------
    path
        Where the layer is in its model, for messages.
    """

    base_layer: Any  # a module with a weight
    adapters_name: ClassVar[str]  # begins with the method's prefix, by which PEFT finds what to save
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, *settings: Any, adapter_name: str = "default", **options: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        setattr(self, self.adapters_name, nn.ModuleDict())
        self.path = type(base_layer).__name__
        self._n_in = sizes(base_layer)[1] if acts_on_features(base_layer) else None
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = [adapter_name]
        self._base: Tensor | None = None  # the weight before the merge
        self._merged_state: list[int] = []
        self._cache: Kept | None = None
        base_layer.requires_grad_(False)
        self.add_adapter(adapter_name, *settings, **options)

    def __init_subclass__(cls) -> None:
        if "adapters_name" in vars(cls):
            cls.adapter_layer_names = (cls.adapters_name,)

    @property
    def adapters(self) -> Any:
        """The adapters by name, an `nn.ModuleDict` of `Adapter`."""
        return getattr(self, self.adapters_name)

    def get_base_layer(self) -> Any:
        return super().get_base_layer()

    def make_adapter(self, *settings: Any, **options: Any) -> Adapter:
        """A new adapter for the base layer, on the CPU."""
        raise NotImplementedError

    def add_adapter(self, adapter_name: str, *settings: Any, inference_mode: bool = False, **options: Any) -> None:
        """Make an adapter and put it beside the others; it is trained only if it is active.

        It lives on the base layer's device, in float32 where the base is in half precision.
        """
        try:
            adapter = self.make_adapter(*settings, **options)
            if adapter.reads_weight or isinstance(self.base_layer, nn.Conv2d):
                check_weight_can_change(self.base_layer)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{self.path}: {error}") from None
        self.adapters[adapter_name] = adapter
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        base = self.get_base_layer().weight
        adapter = self.adapters[adapter_name]
        if not any(tensor.is_meta for tensor in adapter.parameters()):
            dtype = torch.promote_types(base.dtype, torch.float32) if holds_numbers(base) else torch.float32
            adapter.to(device or device_of(self.get_base_layer()), dtype)

    # -- forward -------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        if adapter_names is not None and not self._disable_adapters:
            return self._by_rows(x, adapter_names, *args, **kwargs)
        if self._disable_adapters or self.merged_adapters:
            if self._disable_adapters and self.merged_adapters:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        return self._with_adapters(x, self._active(), *args, **kwargs)

    def _by_rows(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Each row of the batch with the adapter that its name says; a name without an adapter here is the base."""
        if self.merged_adapters:
            raise ArgumentError(
                f"{self.path}: adapter_names cannot be given while {', '.join(self.merged_adapters)} is merged; "
                "unmerge_adapter() first."
            )
        if len(x) != len(adapter_names):
            raise ArgumentError(
                f"{self.path}: adapter_names must have a name for each row, got {len(adapter_names)} names for "
                f"{len(x)} rows."
            )
        rows = {name: [i for i, other in enumerate(adapter_names) if other == name] for name in adapter_names}
        adapters: dict[str, Any] = self.adapters._modules
        parts = [
            self._with_adapters(x[rows[name]], [adapters[name]] if name in adapters else [], *args, **kwargs)
            for name in rows
        ]
        place = torch.tensor([i for name in rows for i in rows[name]], device=x.device)
        return torch.cat(parts)[place.argsort()]

    def _with_adapters(self, x: Tensor, active: list[Adapter], *args: Any, **kwargs: Any) -> Tensor:
        if not active:
            return self.base_layer(x, *args, **kwargs)
        if self._n_in is not None and x.shape[-1] != self._n_in:
            raise ArgumentError(
                f"{self.path}: x must have {self._n_in} features on its last dimension, got shape {tuple(x.shape)}."
            )
        return self.adapted(x, active)

    def adapted(self, x: Tensor, active: list[Adapter]) -> Tensor:
        """The base layer's output with these adapters on its weight, in this order."""
        base = self.base_layer
        if not keeps_weight(self, x):
            self._cache = None
            if is_plain_linear(base) and (len(active) == 1 or any(adapter.needs_weight(x) for adapter in active)):
                W = self._changed(matrix_of(base), active[:-1])
                return active[-1].linear(x, W, base.bias)
        if self._n_in is not None and not self._needs_weight(x, active):
            return self._through_activations(x, active)
        return call_with_changed_weight(base, partial(self._changed_or_kept, active=active), x)

    def _needs_weight(self, x: Tensor, active: list[Adapter]) -> bool:
        if not is_plain_linear(self.base_layer):  # its codes and hooks have products of their own
            return any(adapter.reads_weight for adapter in active)
        return any(adapter.needs_weight(x) for adapter in active)

    def _through_activations(self, x: Tensor, active: list[Adapter]) -> Tensor:
        layer: Layer = self.base_layer
        for adapter in active:
            layer = partial(adapter.output, layer=layer)
        return layer(x)

    def adapted_matrix(self, active: list[Adapter]) -> Float[Tensor, "n_out n_in"]:
        """W' of these adapters; kept in evaluation until something that it was made from changes."""
        return self._changed_or_kept(matrix_of(self.base_layer), active)

    def _changed_or_kept(self, W: Tensor, active: list[Adapter]) -> Float[Tensor, "n_out n_in"]:
        made_from = [W, *(t for adapter in active for t in (*adapter.parameters(), *adapter.buffers()))]
        if not (keeps_weight(self, W) and all(map(has_values, made_from))):
            return self._changed(W, active)
        content, kept = content_of(*made_from), self._cache
        if kept is None or not kept.is_of(active, content):
            self._cache = kept = Kept(tuple(active), self._changed(W, active), content)
        return kept.weight  # never read from the layer again, where another thread may have put its own

    def _changed(self, W: Tensor, adapters: Sequence[Adapter]) -> Float[Tensor, "n_out n_in"]:
        """W after these adapters, in this order."""
        for adapter in adapters:
            W = adapter.weight(W)
        return W

    def delete_adapter(self, adapter_name: str) -> None:
        self._cache = None
        super().delete_adapter(adapter_name)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which need no kept weight."""
        return vars(self) | {"_cache": None}

    def _active(self) -> list[Adapter]:
        adapters: dict[str, Any] = self.adapters._modules
        return [adapters[name] for name in self.active_adapters if name in adapters]

    # -- merge and unmerge ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def merge(
        self, safe_merge: bool = False, adapter_names: list[str] | None = None, *, keep_base: bool = True
    ) -> None:
        """Put the adapters into the base weight, computed in float32 at least.

        Parameters
        ----------
        safe_merge
            PEFT's option. The merge is always computed beside the weight and checked to be finite.
        adapter_names
            Which, and in which order; the active ones when None.
        keep_base
            Keep the weight of before in CPU memory, from which `unmerge` restores it bit for bit. False saves that
            memory, and `unmerge` then works by algebra, to rounding.

        Raises
        ------
        ValueError
            If the merged weight would not be finite; nothing is changed then.
        TypeError
            If the weight is quantised, offloaded, or computed from other tensors.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.adapters]
        if not names:
            return
        self._cache = None
        self.check_mergeable()
        base = self.get_base_layer()
        original = base.weight.data if self._base is None else self._base.to(base.weight.device)
        earlier = [] if self._base is None else self.merged_adapters  # without the base, what is merged stays merged
        W = matrix_of(base, original).to(torch.promote_types(original.dtype, torch.float32))
        for name in [*earlier, *names]:
            W = self.adapters[name].weight(W)
            if not bool(torch.isfinite(W).all()):
                raise ArgumentError(
                    f"{self.path}: merging adapter {name!r} would give NaN or infinite weights, so nothing was merged; "
                    "its training has diverged, or the base weight is not finite."
                )
        merged = weight_from(base, W).to(original.dtype).contiguous()
        if not bool(torch.isfinite(merged).all()):
            raise ArgumentError(
                f"{self.path}: merging gives weights of up to {float(W.abs().max()):.3g}, which {original.dtype} does "
                "not hold, so nothing was merged; merge into a base of another number format."
            )
        if self._base is None and keep_base and not self.merged_adapters:
            self._base = original.cpu()
        base.weight.data = merged
        self.merged_adapters.extend(names)
        self._merged_state = self._checksums()

    def check_mergeable(self) -> None:
        """Raise TypeError where nothing can be merged into the base layer's weight."""
        try:
            check_mergeable(self.get_base_layer())
        except TypeError as error:
            raise ArgumentTypeError(f"{self.path}: {error}") from None

    def _checksums(self) -> list[int]:
        """Of the weight and of what is merged into it: versions do not count what a fused optimiser writes."""
        merged = (self.adapters[name] for name in self.merged_adapters)
        return [checksum(t) for t in (self.get_base_layer().weight, *(p for a in merged for p in a.parameters()))]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Casts of the model, which change a merged weight but lose nothing of the merge: `unmerge` goes on to work."""
        before, base = self.get_base_layer().weight, self.get_base_layer()
        dtype, intact = before.dtype, self.merged and self._merged_state[:1] == [checksum(before)]
        super()._apply(fn, recurse)
        if intact and base.weight.dtype != dtype and not base.weight.is_meta:
            self._base = None if self._base is None else self._base.to(base.weight.dtype)
            self._merged_state = self._checksums()
        return self

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take all merged adapters out of the base weight again.

        Raises
        ------
        ValueError
            If the merged weight was changed since (the change would be lost), or, without the kept weight, if an
            adapter was changed since or its algebra is ill-conditioned.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        base = self.get_base_layer()
        merged = [self.adapters[name] for name in self.merged_adapters]
        now = self._checksums()
        if now[:1] != self._merged_state[:1]:
            raise ArgumentError(
                f"{self.path}: the merged weight was changed since the merge, and unmerging would lose that change; "
                "keep it with merge_and_unload(), or load the weights of before."
            )
        if self._base is not None:
            original = self._base.to(base.weight.device)
        else:
            if now != self._merged_state:
                raise ArgumentError(
                    f"{self.path}: an adapter was changed since it was merged without keep_base, so that it cannot be "
                    "taken out of the weight; put its values of the merge back first."
                )
            W = matrix_of(base).double()
            for name, adapter in zip(reversed(self.merged_adapters), reversed(merged), strict=True):
                try:
                    W = adapter.unmerged(W)
                except ValueError as error:
                    raise ArgumentError(f"{self.path}: adapter {name!r} cannot be unmerged: {error}") from None
            original = weight_from(base, W).to(base.weight.dtype).contiguous()
        base.weight.data = original
        self._base, self._merged_state = None, []
        self.merged_adapters.clear()

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """W' - W of one adapter on the weight of before any merge, in the layout of the base weight.

        Raises
        ------
        ValueError
            If W is needed for it and was not kept at a merge.
        """
        base, adapter = self.get_base_layer(), self.adapters[adapter_name]
        if isinstance(adapter, AdditiveAdapter):
            delta = adapter.delta_weight()
            quantised = not holds_numbers(base.weight)  # a linear layer then, whose weight has a shape of its own
            return delta if quantised else weight_from(base, delta.to(base.weight.dtype))
        if self.merged and self._base is None:
            raise ArgumentError(
                f"{self.path}: the change by adapter {adapter_name!r} depends on the weight of before the merge, which "
                "was not kept; unmerge first, or merge with keep_base=True."
            )
        W = matrix_of(base, None if self._base is None else self._base.to(base.weight.device))
        return weight_from(base, adapter.weight(W) - W)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether PEFT's conversion to LoRA knows this kind of layer; it takes linear ones only."""
        return acts_on_features(self.get_base_layer())

    # -- what LoRA's layers tell of themselves -------------------------------------------------------------------------

    @property
    def in_features(self) -> int:
        """Size of the input of the base layer: features, channels, or the tokens of an embedding."""
        return io_sizes(self.get_base_layer())[0]

    @property
    def out_features(self) -> int:
        """Size of the output of the base layer: features, channels, or the dimensions of an embedding."""
        return io_sizes(self.get_base_layer())[1]
