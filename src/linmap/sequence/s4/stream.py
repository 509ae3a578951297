"""`Stream`: the answers of an estimator to a series that arrives sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.sequence.s4.model import SequenceModel


class Stream:
    """The answers of an estimator to one series, after each of its samples, and the state between them."""

    def __init__(
        self,
        model: SequenceModel,
        channels: int,
        scaled: Callable[[np.ndarray], Tensor],
        answers: Callable[[Tensor], np.ndarray],
    ) -> None:
        self.model, self.channels, self.scaled, self.answers = model.eval(), channels, scaled, answers
        self._state = model.initial_state()
        self.count = 0

    @torch.inference_mode()
    def update(self, sample: ArrayLike) -> Float64[np.ndarray, " outputs"]:
        """Probabilities of the classes, or the number, from all samples so far.

        Raises
        ------
        ValueError
            If the sample is not finite, or has another number of channels.
        """
        if np.iscomplexobj(sample):
            raise ArgumentError(f"sample {self.count} is complex; give real and imaginary parts as two channels.")
        values = np.atleast_1d(np.asarray(sample, np.float64))
        if values.shape != (self.channels,) or not np.isfinite(values).all():
            raise ArgumentError(f"sample {self.count} must hold {self.channels} finite numbers, got {values.tolist()}.")
        output, self._state = self.model.step(self.scaled(values[None]), self._state)
        self.count += 1
        return self.answers(output)[0]

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to continue from here: real tensors, which safetensors can keep."""
        parts = {name: torch.view_as_real(t) if t.is_complex() else t for name, t in self._state.items()}
        return {name: t.clone() for name, t in parts.items()} | {"samples": torch.tensor(self.count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` has returned.

        Raises
        ------
        ValueError
            If it is of another model.
        """
        expected = self.model.initial_state()
        restored = {}
        for name, like in expected.items():
            found = state.get(name)
            shape = (*like.shape, 2) if like.is_complex() else tuple(like.shape)
            if found is None or tuple(found.shape) != shape:
                got = "nothing" if found is None else f"shape {tuple(found.shape)}"
                raise ArgumentError(f"state: {name} must have shape {shape}, got {got}; it is of another model.")
            restored[name] = torch.view_as_complex(found.contiguous()) if like.is_complex() else found.clone()
        self._state, self.count = restored, int(state["samples"])
