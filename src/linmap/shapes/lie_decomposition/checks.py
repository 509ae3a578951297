"""What arguments of the layers must be."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.geometry.groups import GroupSamples, PolarGroup


def check_group(group: PolarGroup) -> PolarGroup:
    """That a group acts on the plane.

    Raises
    ------
    TypeError
        If it is no `PolarGroup`.
    ValueError
        If its n is not 2.
    """
    if not isinstance(group, PolarGroup):
        raise ArgumentTypeError(f"group must be a PolarGroup such as SLn(2), got {group!r}.")
    if group.n != 2:
        raise ArgumentError(f"group must act on the plane, n = 2; {group.name} has n = {group.n}.")
    return group


def check_choice(name: str, value: str, choices: Any) -> str:
    """That a word is one of those of a `Literal`."""
    if value not in get_args(choices):
        raise ArgumentError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}.")
    return value


def check_samples(name: str, samples: GroupSamples, group: PolarGroup) -> None:
    """That samples are elements of a group.

    Raises
    ------
    TypeError
        If they are no `GroupSamples`.
    ValueError
        If one lies outside of the group.
    """
    if not isinstance(samples, GroupSamples):
        raise ArgumentTypeError(f"{name} must be GroupSamples, got {type(samples).__name__}; see HaarSampler.sample.")
    if samples.g.shape[-1] != group.n:
        raise ArgumentError(f"{name} must be of {group.name}, got matrices of shape {tuple(samples.g.shape)}.")
    inside = group.belongs(samples.g)
    if not bool(inside.all()):
        index = int((~inside).nonzero()[0])
        raise ArgumentError(f"{name}.g[{index}] = {samples.g[index].tolist()} is not in {group.name}.")


def check_image(x: Tensor, in_channels: int, kernel_size: int, padding: int) -> None:
    """That x are images (batch, in_channels, height, width) no smaller than the kernel."""
    _check_floating(x)
    if x.ndim != 4:
        raise ArgumentError(f"x must be images (batch, channels, height, width), got shape {tuple(x.shape)}.")
    _check_sizes(x, in_channels, kernel_size, padding)


def check_features(x: Tensor, in_channels: int, N: int, kernel_size: int, padding: int) -> None:
    """That x are features (batch, in_channels, N, height, width) no smaller than the kernel."""
    check_rank(x)
    _check_sizes(x, in_channels, kernel_size, padding)
    if x.shape[2] != N:
        raise ArgumentError(
            f"x has {x.shape[2]} group samples (its axis 2), and samples_in has {N}; pass the samples that x lives on."
        )


def check_rank(x: Tensor) -> None:
    """That x are features (batch, channels, N, height, width)."""
    _check_floating(x)
    if x.ndim != 5:
        raise ArgumentError(
            f"x must be features (batch, channels, N, height, width), got shape {tuple(x.shape)}; LieLift2d makes them "
            "from images."
        )


def _check_floating(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"x must be a tensor, got {type(x).__name__}.")
    if not x.is_floating_point():
        raise ArgumentTypeError(
            f"x must be floating point, got {x.dtype}; scale images to [0, 1] with x.float() / 255."
        )


def _check_sizes(x: Tensor, in_channels: int, kernel_size: int, padding: int) -> None:
    if x.shape[1] != in_channels:
        raise ArgumentError(f"x has {x.shape[1]} channels (its axis 1), and the layer has in_channels={in_channels}.")
    height, width = x.shape[-2:]
    if min(height, width) + 2 * padding < kernel_size:
        raise ArgumentError(
            f"x has images of {height} x {width} with padding={padding}, smaller than kernel_size={kernel_size}."
        )


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
