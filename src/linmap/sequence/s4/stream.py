"""`Stream`: the answers of an estimator to a series that arrives sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from safetensors import safe_open
from torch import Tensor

from linmap.artifacts import write_tensors
from linmap.data.door import understood
from linmap.errors import ArgumentError, ArtifactError, DataError
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

    def save(self, path: Path, model: str) -> None:
        """Write the state as safetensors, atomically.

        Parameters
        ----------
        path
            Of the file.
        model
            What names the weights that it belongs to, such as `linmap.artifacts.run_fingerprint` of their folder.
        """
        write_tensors(path, self.state(), {"model": model})

    def load(self, path: Path, model: str) -> None:
        """Continue from what `save` has written with the same weights: to the same answers, byte for byte.

        Raises
        ------
        ArtifactError
            If the file is no state, or one of another model.
        """
        try:
            with understood(path, "a file of safetensors"), safe_open(path, framework="pt") as file:
                of = (file.metadata() or {}).get("model")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except DataError as error:
            raise ArtifactError(f"{path} is not the state of a stream ({error}); name another file.") from None
        if of != model:
            raise ArtifactError(f"{path} is the state of another model's stream; name another file, or remove it.")
        self.restore(tensors)
