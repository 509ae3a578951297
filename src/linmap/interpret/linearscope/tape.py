"""The tape: the affine map that a network became for one input, as a flat list of frozen operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Layers = Mapping[tuple[str, str], int]
"""The values that go into a layer, (path, "start"), and come out of it, (path, "end"), in its first call."""


@dataclass(frozen=True)
class Frozen:
    """The affine form of one operation on x0: probes -> linear(*probes) + offset."""

    inputs: tuple[Tensor, ...]
    """The tensors of x0's pass whose probes `linear` takes."""
    linear: Callable[..., Tensor]
    offset: Tensor | None = None
    mark: str | None = None
    """"gate" (went through a sigmoid last) or "norm" (is a norm): what a later product or division freezes."""
    unit: bool = False
    """Whether x0 took a decision here (a mask, an index, a gate, statistics)."""


@dataclass(frozen=True)
class Place:
    """Where an operation stands: its name, the path of the module that called it, file and line."""

    operation: str
    module: str
    line: str

    @property
    def name(self) -> str:
        """The operation without overload and in-place underscore."""
        return self.operation.split(".")[0].removesuffix("_")

    def __str__(self) -> str:
        return f"{self.operation} in {self.module or 'the model'} ({self.line})"


@dataclass(frozen=True)
class Step:
    """One frozen operation on numbered values."""

    inputs: tuple[int, ...]
    output: int
    linear: Callable[..., Tensor]
    offset: Tensor | None
    unit: bool
    place: Place
    arguments: tuple[Any, ...]
    """The operation's arguments with shapes in place of tensors."""
    shape: torch.Size
    """Of the output on x0."""
    mixing: Tensor | None = None
    """The probabilities (..., to, from) by which an attention mixes values here."""

    def __call__(self, probes: tuple[Tensor, ...], affine: bool) -> Tensor:
        value = self.linear(*probes)
        return value if self.offset is None or not affine else value + self.offset

    def added(self, gradient: Tensor) -> float:
        """What the offset adds to an output with this gradient; nothing where it is 0, as at masked scores of -inf."""
        if self.offset is None:
            return 0.0
        return float(torch.where(gradient == 0, torch.zeros_like(gradient), gradient * self.offset).sum())


@dataclass(frozen=True)
class Tape:
    """y = F x + r as steps from value `start` to value `end`, each value written once."""

    steps: tuple[Step, ...]
    start: int
    end: int
    release: tuple[tuple[int, ...], ...] = field(repr=False)
    """Per step, the values that no later step reads."""
    layers: Layers = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, steps: Sequence[Step], start: int, end: int, layers: Layers | None = None) -> Tape:
        """Keep only the steps that `end` depends on."""
        needed, live = {end}, []
        for step in reversed(steps):
            if step.output in needed:
                live.append(step)
                needed.update(step.inputs)
        live.reverse()
        seen, release = {end}, []
        for step in reversed(live):
            last = tuple(dict.fromkeys(value for value in step.inputs if value not in seen))
            seen.update(last)
            release.append(last)
        return cls(tuple(live), start, end, tuple(reversed(release)), layers or {})

    def replay(self, probe: Tensor, affine: bool, keep: Mapping[int, list[Tensor]] | None = None) -> Tensor:
        """F probe, plus r if `affine`; the probe has the shape of x0. Outputs of the steps in `keep` are collected."""
        values = {self.start: probe}
        for step, last in zip(self.steps, self.release, strict=True):
            values[step.output] = step(tuple(values[i] for i in step.inputs), affine)
            if keep is not None and step.output in keep:
                keep[step.output].append(values[step.output])
            for value in last:
                del values[value]
        return values[self.end]

    def replay_batch(self, probes: Tensor, affine: bool) -> Tensor:
        """`replay` on every probe of shape (batch, *shape of x0), in groups that share each step's decisions.

        On a CPU a group's largest tensor stays below 8 MiB: larger ones leave the caches, and from 32 MiB on the C
        library gives memory back to the system after every operation; both cost more than a group saves.
        """
        if probes.device.type != "cpu":
            return self._replay_group(probes, affine)
        largest = max((step.shape.numel() for step in self.steps), default=1) * probes.element_size()
        groups = probes.split(max(1, 2**23 // largest))
        return torch.cat([self._replay_group(group, affine) for group in groups])

    def _replay_group(self, probes: Tensor, affine: bool) -> Tensor:
        if len(probes) > 1:
            with suppress(RuntimeError):  # an operation that PyTorch does not batch
                return torch.vmap(lambda probe: self.replay(probe, affine))(probes)
        return torch.stack([self.replay(probe, affine) for probe in probes])
