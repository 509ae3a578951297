"""`AffineInterpreter`: the affine map y = F x + r that a network is at one input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError, OutOfRangeError
from linmap.interpret.linearscope.rules import Options
from linmap.interpret.linearscope.tape import Layers, Step, Tape
from linmap.maps import Compose, Implicit, LinearMap


@dataclass(frozen=True)
class Scene:
    """The pass on x0 that the map was read from."""

    x: Tensor
    """Input of the map, (1, ...)."""
    output: Tensor
    origin: Tensor | None
    """Of the shape of x; None for zero."""
    mode: str
    options: Options
    ignored: tuple[str, ...]
    """Operations that became constants because `strict` was off."""
    batched: bool = True
    """Whether x has a batch axis, of size 1."""


class Engine(ABC):
    """How products with F are computed; probes and cotangents are stacked before x0's own batch axis."""

    @abstractmethod
    def apply(self, probes: Tensor, affine: bool) -> Tensor:
        """F probe, plus r if `affine`: (batch, *shape of x) -> (batch, *shape of y)."""

    @abstractmethod
    def adjoint(self, cotangents: Tensor) -> Tensor:
        """F^T u: (batch, *shape of y) -> (batch, *shape of x)."""

    @abstractmethod
    def tape(self) -> Tape:
        """The frozen operations."""


class Recorded(Engine):
    """mode="record": replay the tape; F^T is the backward of one linear replay, whose graph is kept."""

    def __init__(self, tape: Tape, x: Tensor) -> None:
        self._tape, self._x = tape, x
        self._graph: tuple[Tensor, Tensor] | None = None

    def tape(self) -> Tape:
        return self._tape

    def apply(self, probes: Tensor, affine: bool) -> Tensor:
        return self._tape.replay_batch(probes, affine)

    def adjoint(self, cotangents: Tensor) -> Tensor:
        if self._graph is None:
            with torch.inference_mode(False), torch.enable_grad():
                v = torch.zeros_like(self._x).requires_grad_()
                self._graph = v, self._tape.replay(v, affine=False)
        v, y = self._graph
        cotangents = cotangents.to(y.dtype)
        if len(cotangents) == 1:
            return torch.autograd.grad(y, v, cotangents[0], retain_graph=True)[0][None]
        return torch.autograd.grad(y, v, cotangents, retain_graph=True, is_grads_batched=True)[0]


class Parallel(Engine):
    """mode="parallel": x0 runs through the network again, and every probe beside it, operation by operation.

    `again(sink, probe)` runs x0 and returns what the sink returned for the output, and the values at the layers' ends.
    Nothing is kept between products; a transposed product needs the decisions in reverse order, so it keeps them for as
    long as it takes.
    """

    def __init__(
        self, again: Callable[[Callable[[Step, tuple[Any, ...]], Any], Any], tuple[Any, Layers]], x: Tensor
    ) -> None:
        self._again, self._x = again, x

    def tape(self) -> Tape:
        steps: list[Step] = []

        def sink(step: Step, _: tuple[Any, ...]) -> int:
            steps.append(step)
            return step.output

        end, layers = self._again(sink, 0)
        return Tape.of(steps, 0, end, layers)

    def apply(self, probes: Tensor, affine: bool) -> Tensor:
        def sink(step: Step, carried: tuple[list[Tensor], ...]) -> list[Tensor]:
            return [step(tuple(values), affine) for values in zip(*carried, strict=True)]

        return torch.stack(self._again(sink, list(probes))[0])

    def adjoint(self, cotangents: Tensor) -> Tensor:
        return Recorded(self.tape(), self._x).adjoint(cotangents)


class AffineInterpreter(Implicit):
    """What a network is at one input x: y = F x + r. Made by `LinearScope.at`.

    As a `LinearMap` it is F on flat vectors (C order): `matvec`, `rmatvec`, `rows`, `columns`, `dense`, `svd`, `eig`,
    `.T`; vectors may also come in the shape of x or of y, (..., C, H, W), and then leave in such a shape. Called as a
    function it is the whole affine map on probes of the shape of x: `interp(x)` equals `interp.output`. Where a
    `LinearMap` is applied by calling it (in a composition), use `interp.linear`.

    Attributes
    ----------
    input, output
        x and y = f(x), with their batch axis (the logits where a final softmax was cut off).
    batched
        Whether they have one.
    input_shape, output_shape
        Their shapes without it.
    scene
        The pass that the map was read from.
    residual
        L(origin), of the shape of y: r itself for the origin 0, r + F origin otherwise.
    origin
        The input from which votes and residual count: y = F (x - origin) + residual.
    linear
        F alone, as an `Implicit` map on flat vectors.
    """

    def __init__(self, scene: Scene, engine: Engine) -> None:
        x, y = scene.x, scene.output
        self.batched = scene.batched
        self.input_shape, self.output_shape = (_without_batch(t) if scene.batched else t.shape for t in (x, y))
        self.scene, self._engine = scene, engine
        super().__init__(x.numel(), y.numel(), self._forward_flat, self._adjoint_flat, dtype=y.dtype, device=y.device)
        del self.residual  # the error of `from_matrix`, which makes no interpreters
        self.input, self.output = x, y
        self.origin = torch.zeros_like(x) if scene.origin is None else scene.origin

    # -- products --------------------------------------------------------------------------------------------------

    def __call__(self, probe: Float[Tensor, " batch *features"]) -> Float[Tensor, " batch *outputs"]:
        """L(probe) = F probe + r for every probe of a batch (batch, C, H, W)."""
        if probe.shape[1:] != self.input_shape:
            raise ArgumentError(
                f"probes must have shape (batch, {', '.join(map(str, self.input_shape))}), got {tuple(probe.shape)}; "
                "for F on flat vectors use .matvec(v)."
            )
        return self._apply(probe, affine=True)

    def matvec(self, v: Tensor) -> Tensor:
        """F v for v of shape (..., n_in), or (..., *shape of x), which gives the shape of y."""
        return self._product(v, self.input_shape, self.output_shape, self.in_features, self._forward_flat)

    def rmatvec(self, u: Tensor) -> Tensor:
        """F^T u for u of shape (..., n_out), or (..., *shape of y), which gives the shape of x."""
        return self._product(u, self.output_shape, self.input_shape, self.out_features, self._adjoint_flat)

    @staticmethod
    def _product(
        v: Tensor, source: torch.Size, target: torch.Size, size: int, flat: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if v.ndim and v.shape[-1] == size:
            return flat(v)
        if v.ndim >= len(source) and v.shape[v.ndim - len(source) :] == source:
            leading = v.shape[: v.ndim - len(source)]
            return flat(v.reshape(*leading, size)).reshape(*leading, *target)
        raise ArgumentError(f"expected vectors of shape (..., {size}) or (..., {tuple(source)}), got {tuple(v.shape)}.")

    def _forward_flat(self, v: Tensor) -> Tensor:
        probes = v.reshape(-1, *self.input_shape)
        return self._apply(probes, affine=False).reshape(*v.shape[:-1], self.out_features)

    def _adjoint_flat(self, u: Tensor) -> Tensor:
        cotangents = u.reshape(-1, *self.output.shape)
        return self._engine.adjoint(cotangents).reshape(*u.shape[:-1], self.in_features)

    def _apply(self, probes: Tensor, affine: bool) -> Tensor:
        result = self._engine.apply(probes.reshape(-1, *self.input.shape), affine)
        return result.reshape(-1, *self.output_shape)

    @property
    def linear(self) -> Implicit:
        return Implicit(
            self.in_features,
            self.out_features,
            self._forward_flat,
            self._adjoint_flat,
            dtype=self.dtype,
            device=self.device,
        )

    def inverse(self) -> LinearMap:
        """F^-1, on flat vectors; from the dense F, so for small maps."""
        return self.linear.inverse()

    def __matmul__(self, other: LinearMap) -> LinearMap:
        """F @ other, on flat vectors."""
        return Compose(self.linear, other.linear if isinstance(other, AffineInterpreter) else other)

    # -- residual and votes ----------------------------------------------------------------------------------------

    @cached_property
    def residual(self) -> Tensor:
        with torch.no_grad():
            return self._engine.apply(self.origin[None], affine=True)[0]

    def bias_share(self, class_: int | None = None) -> float:
        """norm(residual) / norm(y); for one output, residual / y there."""
        if class_ is None:
            return float(self.residual.norm() / self.output.norm())
        i = self.output_index(class_)
        return float(self.residual.flatten()[i] / self.output.flatten()[i])

    def votes(self, class_: int, versus: int | None = None) -> Float[Tensor, "*features"]:
        """What every input element adds to output `class_`: row * (x - origin), of the shape of x without batch axis.

        The votes sum to y_class - residual_class; with `versus`, to the difference between the two outputs.
        """
        row = self.row(self.output_index(class_))
        if versus is not None:
            row = row - self.row(self.output_index(versus))
        return (row * (self.input - self.origin).flatten()).reshape(self.input_shape)

    def output_index(self, index: int | tuple[int, ...]) -> int:
        """The flat index of an output, given flat or as a place in the shape of y (without batch axis)."""
        return _flat_index(index, self.output_shape, "output")

    def input_index(self, index: int | tuple[int, ...]) -> int:
        """The flat index of an input element, given flat or as a place in the shape of x (without batch axis)."""
        return _flat_index(index, self.input_shape, "input")

    def as_input(self, v: Tensor) -> Tensor:
        """Flat vectors (..., n_in), such as rows or right singular vectors, in the shape of x."""
        return v.reshape(*v.shape[:-1], *self.input_shape)

    def as_output(self, u: Tensor) -> Tensor:
        """Flat vectors (..., n_out), such as left singular vectors or columns (transposed), in the shape of y."""
        return u.reshape(*u.shape[:-1], *self.output_shape)

    # -- what the map is made of -----------------------------------------------------------------------------------

    def tape(self) -> Tape:
        """The frozen operations that lead from x to y."""
        return self._engine.tape()

    @torch.no_grad()
    def exactness(self) -> float:
        """max |F (x - origin) + residual - y| / max |y|: rounding, or something is wrong."""
        y = self._engine.apply((self.input - self.origin)[None], affine=False)[0] + self.residual
        missed = (y - self.output).abs().masked_fill(y == self.output, 0)  # equal infinities among them
        largest = self.output.abs().nan_to_num(posinf=0).max()
        return float(missed.max() / largest.clamp_min(1e-30))

    def report(self) -> dict[str, Any]:
        """Sizes, exactness, bias share and the units that took decisions, as plain JSON values."""
        steps = self.tape().steps
        units = Counter(step.place.name for step in steps if step.unit)
        return {
            "input_shape": list(self.input.shape),
            "output_shape": list(self.output.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "mode": self.scene.mode,
            **asdict(self.scene.options),
            "origin": "zero" if self.scene.origin is None else "given",
            "operations": len(steps),
            "units": dict(units.most_common()),
            "ignored": list(self.scene.ignored),
            "exactness": self.exactness(),
            "output_norm": float(self.output.norm()),
            "residual_norm": float(self.residual.norm()),
            "bias_share": self.bias_share(),
        }


def _without_batch(tensor: Tensor) -> torch.Size:
    return tensor.shape[1:] if tensor.ndim and tensor.shape[0] == 1 else tensor.shape


def _flat_index(index: int | tuple[int, ...], shape: torch.Size, side: str) -> int:
    sizes = (shape.numel(),) if isinstance(index, int) else tuple(shape)
    places = (index,) if isinstance(index, int) else tuple(index)
    if len(places) != len(sizes) or any(not -size <= place < size for place, size in zip(places, sizes, strict=False)):
        what = f"{sizes[0]} {side}s" if isinstance(index, int) else f"shape {tuple(shape)}"
        raise OutOfRangeError(f"{side} index {index} is out of range: there are {what}.")
    flat = 0
    for place, size in zip(places, sizes, strict=True):
        flat = flat * size + place % size
    return flat
