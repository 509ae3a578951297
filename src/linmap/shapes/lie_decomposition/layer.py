"""What the three convolutions share: a kernel that a network gives at continuous coordinates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from linmap.errors import ArgumentTypeError, check_count
from linmap.geometry.groups import GroupSamples, PolarGroup
from linmap.shapes.lie_decomposition.checks import at_least_float32, check_choice, check_group
from linmap.shapes.lie_decomposition.coordinates import Mask, mask_kind
from linmap.shapes.lie_decomposition.siren import Siren

Kernels = tuple[Tensor, ...]


class LieLayer(nn.Module):
    """A convolution whose kernel is `kernel_net` at transformed coordinates.

    In evaluation mode without gradients, the kernels of a `Siren` are kept and used again as long as samples, weights
    and settings are the same.

    Attributes
    ----------
    kernel_net
        Any module from coordinates (..., 2 [+ group coordinates]) to (..., out_channels * in_channels) values, that of
        output channel o and input channel i at o * in_channels + i.
    bias
        (out_channels,), or None.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        group: PolarGroup,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        mask: Mask,
        padding: int,
        bias: bool,
        features: int,
        fan: float,
        hidden: int,
        w0: float,
        generator: Generator | None,
    ) -> None:
        super().__init__()
        self.group = check_group(group)
        self.in_channels = check_count("in_channels", in_channels)
        self.out_channels = check_count("out_channels", out_channels)
        self.kernel_size = check_count("kernel_size", kernel_size)
        self.padding = check_count("padding", padding, 0)
        check_choice("mask", mask, Mask)
        self.mask: Mask = mask
        self.kernel_net: nn.Module = Siren(
            features, out_channels * in_channels, hidden, w0=w0, fan=fan, generator=generator
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._kept: tuple[list, Kernels] | None = None

    @property
    def mask_kind(self) -> Mask:
        """What `mask` means for the group."""
        return mask_kind(self.mask, self.group)

    def _values(self, coordinates: Tensor, net: nn.Module | None = None) -> Tensor:
        """`kernel_net` at coordinates, in the type of its weights, never in half precision."""
        net = self.kernel_net if net is None else net
        weights = dict(net.named_parameters())
        first = next(iter(weights.values()), coordinates)
        x = coordinates.to(at_least_float32(first).dtype)
        with torch.autocast(coordinates.device.type, enabled=False):
            if x.dtype == first.dtype:
                return net(x)
            return functional_call(net, {name: at_least_float32(weight) for name, weight in weights.items()}, (x,))

    def _pairs(self, values: Tensor) -> Tensor:
        """(..., out * in) values as (..., out, in)."""
        wanted = self.out_channels * self.in_channels
        if values.shape[-1] != wanted:
            raise ArgumentTypeError(
                f"kernel_net gives {values.shape[-1]} values at a place; the layer needs out_channels * in_channels "
                f"= {wanted}."
            )
        return values.unflatten(-1, (self.out_channels, self.in_channels))

    def _with_bias(self, y: Tensor) -> Tensor:
        if self.bias is None:
            return y
        return y + self.bias.to(y.dtype).view(-1, *[1] * (y.ndim - 2))

    # -- kept kernels --------------------------------------------------------------------------------------------------

    def _settings(self) -> list:
        """What a kernel depends on besides tensors."""
        return [self.group, self.mask, self.kernel_size]

    def _kernels(self, build: Callable[[], Kernels], *samples: GroupSamples) -> Kernels:
        """`build()`, or what it gave before."""
        nets = [module for module in self.modules() if isinstance(module, Siren)]
        plain = all(_is_plain(child) for child in self.children())
        if self.training or torch.is_grad_enabled() or not plain:
            self._kept = None
            return build()
        state = [*self._settings(), *((net, net.w0) for net in nets)]
        state += [tensor for net in nets for tensor in net.parameters()]
        state += [tensor for s in samples for tensor in (s.g, s.g_inv, s.weight)]
        if self._kept is None or not _same(self._kept[0], state):
            self._kept = [t.detach().clone() if isinstance(t, Tensor) else t for t in state], build()
        return self._kept[1]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": None}

    def extra_repr(self) -> str:
        return (
            f"{self.group!r}, {self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"mask={self.mask!r}, padding={self.padding}, bias={self.bias is not None}"
        )


def fan_in(in_channels: int, kernel_size: int = 1) -> int:
    """The number of values that a convolution sums for each sample."""
    return check_count("in_channels", in_channels) * check_count("kernel_size", kernel_size) ** 2


def _is_plain(net: nn.Module) -> bool:
    """Whether a network is a function of its inputs, `w0` and parameters alone: a `Siren` without additions."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    return type(net) is Siren and all(type(layer) is nn.Linear for layer in net.layers) and not hooked


def _same(kept: list, state: list) -> bool:
    """Whether two lists hold the same objects, and tensors of the same values."""
    return len(kept) == len(state) and all(
        a.dtype == b.dtype and a.device == b.device and a.shape == b.shape and torch.equal(a, b)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
        for a, b in zip(kept, state, strict=True)
    )
