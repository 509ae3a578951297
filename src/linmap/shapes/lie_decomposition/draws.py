"""Where the samples of a network come from: a numbered stream of draws, or sets that were drawn once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from linmap.geometry.groups import GroupSamples, Sampler


class Draws:
    """Draws numbered from 0, each a function of a seed and its number: nothing else is read or moved.

    Parameters
    ----------
    generator
        Source of the seed; None: PyTorch's global generator.

    Attributes
    ----------
    trained, evaluated
        How many draws training and evaluation have made; each has numbers of its own.
    """

    def __init__(self, generator: Generator | None) -> None:
        device = "cpu" if generator is None else generator.device
        self.seed = int(torch.randint(2**62, (), generator=generator, device=device))
        self.trained = self.evaluated = 0

    def next(self, training: bool) -> Generator:
        """The generator of the next draw."""
        number = self.trained if training else self.evaluated
        self.trained, self.evaluated = self.trained + training, self.evaluated + (not training)
        (state,) = np.random.SeedSequence([self.seed, number, int(training)]).generate_state(1, np.uint64)
        return Generator().manual_seed(int(state >> np.uint64(1)))


class FixedSamples(nn.Module):
    """Samples that were drawn once, as float64 buffers; a state of another number of samples replaces them.

    Parameters
    ----------
    sampler, num_samples, generator
        What draws them.
    """

    g: Tensor
    g_inv: Tensor
    weight: Tensor | None

    def __init__(self, sampler: Sampler, num_samples: int, generator: Generator) -> None:
        super().__init__()
        samples = sampler.sample(num_samples, generator=generator, dtype=torch.float64)
        for name in ("g", "g_inv", "weight"):
            self.register_buffer(name, getattr(samples, name))

    def forward(self, like: Tensor) -> GroupSamples:
        """The samples in the type and on the device of a tensor."""
        return GroupSamples(self.g, self.g_inv, self.weight).to(like.dtype, like.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if found := [name for name in ("g", "g_inv", "weight") if prefix + name in state_dict]:
            if "weight" not in found and len(state_dict.get(prefix + "g", self.g)) != len(self.g):
                self.weight = None  # another number of samples may need none
            for name in found:
                self.register_buffer(name, torch.empty_like(state_dict[prefix + name], device=self.g.device))
        else:  # the state of a network that draws: its weights fit, and the samples stay
            state_dict = {prefix + name: value for name, value in self.state_dict().items()}
        super()._load_from_state_dict(state_dict, prefix, *rest)
