"""Predictions of classifiers of Transformers, beside what their encoders give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.artifacts import write_table


class Head:
    """The head of a classifier: its classes, and, of the last pass, its logits and what the encoder gave it.

    Parameters
    ----------
    model
        Of Transformers, with a head that gives logits.
    encoder
        The encoder in it.
    """

    def __init__(self, model: Any, encoder: nn.Module) -> None:
        config = model.config
        self.labels = [str(config.id2label.get(k, k)) for k in range(config.num_labels)]
        self.kind = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
        self.logits: Tensor = torch.empty(0, len(self.labels))
        self._seen: Any = None
        encoder.register_forward_hook(self._see)

    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        self._seen = output

    def read(self, found: Any) -> Any:
        """Keep the logits of a pass; what the encoder gave."""
        self.logits = found.logits
        return self._seen


def write_predictions(path: Path, head: Head, names: list[str], logits: Float[np.ndarray, "inputs classes"]) -> None:
    """A line for every input: id, label and score, the largest probability; of a regression the value itself."""
    scores = torch.from_numpy(logits)
    if head.kind == "multi_label_classification":
        scores = scores.sigmoid()
    elif head.kind != "regression":
        scores = scores.softmax(-1)
    best = scores.argmax(-1)
    rows = {"id": names, "label": [head.labels[k] for k in best.tolist()], "score": scores.amax(-1).numpy()}
    write_table(path, pd.DataFrame(rows))
