"""`TinvWrapper`: an embedding and a network as one, averaged over frames where the embedding has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentTypeError
from linmap.shapes.tinvnn.embedding import TinvEmbedding
from linmap.shapes.tinvnn.points import as_mask, as_tensor, check_choice, read_points

Average = Literal["prob", "logit"]


class TinvWrapper(nn.Module):
    """A network in front of which every point set is brought to its canonical pose.

    Parameters
    ----------
    net
        Called as `net(H)`, or `net(H, mask)` where a mask is given; H is (B, n, q).
    embedding
        `TinvEmbedding()` by default. With signs="frames", and "random" in evaluation mode, the network runs on all
        sign frames and its outputs are averaged, so that the answer does not depend on any choice of signs.
    average
        "prob": the logarithm of the mean softmax, which serves as logits. "logit": the mean output.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """

    def __init__(
        self, net: nn.Module | Callable, embedding: TinvEmbedding | None = None, average: Average = "prob"
    ) -> None:
        super().__init__()
        if not callable(net):
            raise ArgumentTypeError(f"net must be a module or a function, got {type(net).__name__}.")
        if embedding is not None and not isinstance(embedding, TinvEmbedding):
            raise ArgumentTypeError(f"embedding must be a TinvEmbedding, got {type(embedding).__name__}.")
        check_choice("average", average, Average)
        self.net = net
        self.embedding = TinvEmbedding() if embedding is None else embedding
        self.average = average

    def forward(self, X: Any, mask: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """The network's output, without batch dimension where X is one cloud (n, d)."""
        X = as_tensor(X)
        if X.ndim == 2:
            return self.forward(X[None], read_points(X, mask).mask, generator)[0]
        signs = self.embedding.signs
        if signs == "frames" or (signs == "random" and not self.training):
            return self._averaged(X, mask)
        return self._net(self.embedding(X, mask, generator=generator), mask)

    def _net(self, H: Tensor, mask: Any) -> Tensor:
        return self.net(H) if mask is None else self.net(H, as_mask(mask, H.device))

    def _averaged(self, X: Tensor, mask: Any) -> Tensor:
        H = self.embedding.frames(X, mask)
        batch, frames = H.shape[:2]
        if mask is not None:
            mask = read_points(X, mask).mask
            mask = None if mask is None else mask.repeat_interleave(frames, 0)
        outputs = self._net(H.flatten(0, 1), mask).unflatten(0, (batch, frames))
        if self.average == "logit":
            return outputs.mean(1)
        return outputs.log_softmax(-1).logsumexp(1) - math.log(frames)
