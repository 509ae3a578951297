"""The residual stream of a decoder on the tape of a reading: its values between the blocks, and what they add."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.interpret.linearscope.tape import Tape


def blocks_of(model: nn.Module) -> tuple[str, int]:
    """The path of a model's list of blocks, and how many there are.

    Raises
    ------
    ArgumentError
        If the model has no list of `config.num_hidden_layers` modules.
    """
    config = getattr(model, "config", None)
    depth = getattr(getattr(config, "text_config", config), "num_hidden_layers", None)
    lists = [(path, len(m)) for path, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise ArgumentError(
            f"{type(model).__name__} has no list of blocks of the length that config.num_hidden_layers says ({depth})."
        )
    return min(lists, key=lambda found: found[0].count("."))


class Streams:
    """Values 0 ... depth of the residual stream: what enters the first block, and what each block hands on.

    With every value h_l a reading is affine: y = G_l h_l + r_l, exact at x, where G_l is the frozen rest of the
    network behind block l and r_l what its biases add.

    Parameters
    ----------
    tape
        Of the reading.
    x
        Its input, (1, tokens, width).
    blocks, depth
        From `blocks_of`.
    """

    def __init__(self, tape: Tape, x: Tensor, blocks: str, depth: int) -> None:
        self.tape, self.x, self.blocks, self.depth = tape, x, blocks, depth
        ends = [(f"{blocks}.{i}", "start") for i in range(depth)] + [(f"{blocks}.{depth - 1}", "end")]
        if any(end not in tape.layers for end in ends):
            raise ArgumentError(f"the reading does not pass through every block of {blocks}.")
        self.numbers = [tape.layers[end] for end in ends]

    @cached_property
    def values(self) -> Float[Tensor, "levels tokens width"]:
        """h_0 ... h_depth."""
        kept = self._keep(self.numbers)
        with torch.no_grad():
            self.tape.replay(self.x, affine=True, keep=kept)
        return torch.stack([self.x[0] if n == self.tape.start else kept[n][0][0] for n in self.numbers])

    @cached_property
    def _graph(self) -> tuple[dict[int, Tensor], Tensor]:
        """One replay under autograd: the values that gradients are taken at, and y."""
        offsets = [step.output for step in self.tape.steps if step.offset is not None]
        kept = self._keep([*self.numbers, *offsets])
        with torch.inference_mode(False), torch.enable_grad():
            start = torch.zeros_like(self.x).requires_grad_()
            y = self.tape.replay(start, affine=False, keep=kept)
        return {number: values[0] for number, values in kept.items()} | {self.tape.start: start}, y

    def _keep(self, numbers: list[int]) -> dict[int, list[Tensor]]:
        return {number: [] for number in numbers if number != self.tape.start}

    def gradients(self, cotangent: Tensor) -> tuple[Float[Tensor, "levels tokens width"], Float[Tensor, " levels"]]:
        """G_l^T u for every l, and what the biases behind block l add to <u, y>.

        Parameters
        ----------
        cotangent
            u, of the logits of the last position, (vocabulary,).
        """
        points, y = self._graph
        u = _at_the_end(cotangent, y)
        found = torch.autograd.grad(y, list(points.values()), u, retain_graph=True)
        by_number = dict(zip(points, found, strict=True))
        at = {step.output: place for place, step in enumerate(self.tape.steps)} | {self.tape.start: -1}
        constants = torch.zeros(self.depth + 1, dtype=torch.float64)
        for step in self.tape.steps:
            if step.offset is not None:
                added = step.added(by_number[step.output])
                behind = [at[step.output] > at[number] for number in self.numbers]
                constants += added * torch.tensor(behind, dtype=torch.float64)
        return torch.stack([by_number[number][0] for number in self.numbers]), constants

    def input_gradient(self, cotangent: Float[Tensor, " vocabulary"]) -> Float[Tensor, "tokens width"]:
        """F^T u for u of the logits of the last position."""
        points, y = self._graph
        (found,) = torch.autograd.grad(y, points[self.tape.start], _at_the_end(cotangent, y), retain_graph=True)
        return found[0]

    @cached_property
    def hidden(self) -> str:
        """The path of the layer whose output is the last hidden state: the final norm, or else the last block."""
        last = f"{self.blocks}.{self.depth - 1}"
        behind = [path for (path, side), n in self.tape.layers.items() if side == "start" and n == self.numbers[-1]]
        return next((path for path in behind if (path, "end") in self.tape.layers), last)


def _at_the_end(u: Float[Tensor, " vocabulary"], y: Tensor) -> Tensor:
    """u at the last position of y, which may hold the logits of all, and zero before."""
    whole = torch.zeros_like(y)
    whole.reshape(-1, len(u))[-1] = u
    return whole
