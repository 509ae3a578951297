"""Perplexity of a language model on a stream of tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from linmap.errors import ArgumentError


@torch.no_grad()
def perplexity(
    model: nn.Module, ids: Int[Tensor, " n"], window: int = 512, n_windows: int | None = None, batch_size: int = 4
) -> float:
    """exp of the mean negative log-likelihood over windows without overlap, each scored from its second token.

    Nothing is put in front of a window. The rest of the stream that fills no window is left out.

    Parameters
    ----------
    ids
        A stream of token ids.
    window
        Tokens of a window.
    n_windows
        Score only the first windows; None: all.
    batch_size
        Windows of a forward pass.

    Raises
    ------
    ValueError
        If the stream is shorter than the windows, or a window has nothing to predict.
    """
    if window < 2:
        raise ArgumentError(f"window={window} leaves nothing to predict; take at least 2 tokens.")
    count = len(ids) // window if n_windows is None else n_windows
    if count < 1 or len(ids) < count * window:
        raise ArgumentError(
            f"{len(ids)} tokens do not fill {max(count, 1)} windows of {window}; give more text or smaller windows."
        )
    device = next(model.parameters()).device
    windows = ids[: count * window].view(count, window).to(device)
    was_training = model.training
    model.eval()
    total = 0.0
    for batch in windows.split(batch_size):
        output: Any = model(input_ids=batch, use_cache=False)
        logits = output.logits[:, :-1].float().flatten(0, 1)
        total += F.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum").double().item()
    model.train(was_training)
    return math.exp(total / (count * (window - 1)))
