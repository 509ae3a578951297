"""Parts of a reading: the map between two layers, and the block of F between some inputs and some outputs.

Both come out of the operations that one reading recorded; the network does not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from linmap.errors import ArgumentError, OutOfRangeError
from linmap.interpret.linearscope.interpreter import AffineInterpreter, Recorded
from linmap.interpret.linearscope.tape import Step, Tape
from linmap.maps import Implicit


@torch.no_grad()
def part(interp: AffineInterpreter, from_: str | None = None, to: str | None = None) -> AffineInterpreter:
    """The affine map from what goes into layer `from_` to what comes out of layer `to` (their first calls), at x.

    What the layers between take from elsewhere (a connection around `from_`) is a constant, as in
    `LinearScope(from_=, to=)`; but all parts of one reading come from one pass of the network.

    Parameters
    ----------
    interp
        A reading that goes through both layers.
    from_, to
        Paths of layers of the network; None for the input and the output of the reading.

    Raises
    ------
    ValueError
        If the reading does not go through a layer, or `to` does not depend on `from_`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from linmap.interpret.linearscope import LinearScope, part
    >>> net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    >>> interp = LinearScope(net).at(torch.randn(1, 4))
    >>> head, tail = part(interp, to="0"), part(interp, from_="1")
    >>> torch.allclose(tail.dense() @ head.dense(), interp.dense(), atol=1e-6)
    True
    """
    tape = interp.tape()
    start = tape.start if from_ is None else _value(tape, from_, "start")
    end = tape.end if to is None else _value(tape, to, "end")
    steps = _between(tape, start, end)
    if end != start and not steps:
        raise ArgumentError(f"what comes out of to={to!r} does not depend on what goes into from_={from_!r}.")
    written = {step.output for step in steps} | {start}
    kept: dict[int, list[Tensor]] = {i: [] for step in steps for i in step.inputs if i not in written}
    kept |= {start: [], end: []}
    tape.replay(interp.input, affine=True, keep=kept)
    values = {number: found[0] for number, found in kept.items() if found} | {tape.start: interp.input}
    like = {step.output: interp.input.new_zeros(()).expand(step.shape) for step in steps}
    like[start] = torch.zeros_like(values[start])
    steps = [_with_constants(step, values, like) for step in steps]
    origin = None if from_ is not None else interp.scene.origin
    scene = replace(interp.scene, x=values[start], output=values[end], origin=origin)
    return AffineInterpreter(scene, Recorded(Tape.of(steps, start, end, tape.layers), values[start]))


def _value(tape: Tape, path: str, side: str) -> int:
    number = tape.layers.get((path, side))
    if number is None or number not in {tape.start, *(step.output for step in tape.steps)}:
        argument = "from_" if side == "start" else "to"
        raise ArgumentError(
            f"{argument}={path!r}: the reading does not go through this layer: it is none of the network, runs outside "
            "from_ and to, or only decides (as the keys and queries of a held attention do)."
        )
    return number


def _between(tape: Tape, start: int, end: int) -> list[Step]:
    """The steps by which `end` depends on `start`."""
    reached, ahead = {start}, []
    for step in tape.steps:
        if step.output != start and reached.intersection(step.inputs):
            reached.add(step.output)
            ahead.append(step)
    needed, steps = {end}, []
    for step in reversed(ahead):
        if step.output in needed:
            steps.append(step)
            needed.update(i for i in step.inputs if i in reached)
    return steps[::-1]


def _with_constants(step: Step, values: Mapping[int, Tensor], like: Mapping[int, Tensor]) -> Step:
    """The step with those inputs held at their `values` that do not depend on the start of the part.

    `like` has zeros for those that do.
    """
    if all(i in like for i in step.inputs):
        return step
    free = tuple(i for i in step.inputs if i in like)
    held = [None if i in like else torch.zeros_like(values[i]) for i in step.inputs]

    def linear(*probes: Tensor) -> Tensor:
        rest = iter(probes)
        return step.linear(*(next(rest) if zero is None else zero for zero in held))

    offset = step.linear(*(like[i] if i in like else values[i] for i in step.inputs))
    return replace(step, inputs=free, linear=linear, offset=offset if step.offset is None else offset + step.offset)


def block(
    interp: AffineInterpreter,
    input: int | tuple[int, ...] | None = None,
    output: int | tuple[int, ...] | None = None,
) -> Implicit:
    """The block of F from the input elements at one place to the output elements at another, as a map of its own.

    A place holds the first indices of an element, without the batch axis: of embeddings (1, tokens, features) the place
    3 is token 3, of an image (1, channels, height, width) it is channel 3. `block(interp, input=3).svd(5)` finds the
    singular vectors of a token's operator without building it.

    Parameters
    ----------
    interp
        The reading.
    input, output
        Places; None for all of the input or output. Negative indices count from the end.

    Raises
    ------
    IndexError
        If a place lies outside.
    """
    read, write = _elements(interp.input_shape, input, "input"), _elements(interp.output_shape, output, "output")

    def embedded(v: Tensor, elements: slice, size: int, product: Callable[[Tensor], Tensor]) -> Tensor:
        whole = v.new_zeros(*v.shape[:-1], size)
        whole[..., elements] = v
        return product(whole)

    def forward(v: Tensor) -> Tensor:
        return embedded(v, read, interp.in_features, interp.matvec)[..., write]

    def adjoint(u: Tensor) -> Tensor:
        return embedded(u, write, interp.out_features, interp.rmatvec)[..., read]

    sizes = read.stop - read.start, write.stop - write.start
    return Implicit(*sizes, forward, adjoint, dtype=interp.dtype, device=interp.device)


def _elements(shape: torch.Size, place: int | tuple[int, ...] | None, side: str) -> slice:
    """The flat indices of the elements at a place, which lie beside one another."""
    indices = () if place is None else (place,) if isinstance(place, int) else tuple(place)
    if len(indices) > len(shape) or any(not -n <= i < n for i, n in zip(indices, shape, strict=False)):
        raise OutOfRangeError(f"{side}={place} lies outside the {side} of shape {tuple(shape)}.")
    size, first = shape.numel(), 0
    for i, n in zip(indices, shape, strict=False):
        size //= n
        first += (i % n) * size
    return slice(first, first + size)
