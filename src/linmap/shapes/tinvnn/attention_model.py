"""The attention model that builds tours city by city (Kool et al. 2019), decoded from every city (POMO)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.errors import ArgumentError
from linmap.training.parts import drawn

CLIP = 10.0


class Rollout(NamedTuple):
    """One tour from each start."""

    tours: Int[Tensor, "batch starts n"]
    log_probability: Float[Tensor, "batch starts"]


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each with a sum and instance normalisation over the cities."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.combine = nn.Linear(width, width)
        self.first_norm = nn.InstanceNorm1d(width, affine=True)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.second_norm = nn.InstanceNorm1d(width, affine=True)

    def forward(self, x: Float[Tensor, "batch n c"]) -> Float[Tensor, "batch n c"]:
        q, k, v = (split(part, self.heads) for part in self.project(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.first_norm((x + self.combine(attended)).mT).mT
        return self.second_norm((x + self.feed(x)).mT).mT


class AttentionModel(nn.Module):
    """Encoder of cities, and a decoder that chooses the next one.

    Parameters
    ----------
    dim
        Coordinates of a city.
    width, heads, layers, hidden
        Of the encoder.
    """

    def __init__(self, dim: int = 2, width: int = 128, heads: int = 8, layers: int = 6, hidden: int = 512) -> None:
        super().__init__()
        if width % heads:
            raise ArgumentError(f"width={width} must be a multiple of heads={heads}.")
        self.heads, self.width = heads, width
        self.embed = nn.Linear(dim, width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.query_first = nn.Linear(width, width, bias=False)
        self.query_last = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.combine = nn.Linear(width, width)

    def forward(
        self,
        H: Float[Tensor, "batch n d"],
        starts: Int[Tensor, " starts"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """Tours from each of `starts` (all cities by default): drawn with `generator`, without it the likeliest."""
        x = self.embed(H)
        for layer in self.layers:
            x = layer(x)
        return self._decoded(x, torch.arange(H.shape[1], device=H.device) if starts is None else starts, generator)

    def _decoded(self, x: Tensor, starts: Tensor, generator: torch.Generator | None) -> Rollout:
        batch, n, _ = x.shape
        keys, values = (split(part, self.heads) for part in self.keys_values(x).chunk(2, -1))
        from_last = self.query_last(x)
        last = starts.expand(batch, -1)
        first = gathered(self.query_first(x), last)
        open_ = torch.ones(batch, len(starts), n, dtype=torch.bool, device=x.device).scatter(
            2, last.unsqueeze(2), False
        )
        tours, log_probability = [last], x.new_zeros(batch, len(starts))
        for _ in range(n - 1):
            query = split(first + gathered(from_last, last), self.heads)
            glimpse = F.scaled_dot_product_attention(query, keys, values, attn_mask=open_.unsqueeze(1))
            glimpse = self.combine(glimpse.transpose(1, 2).flatten(2))
            scores = CLIP * torch.tanh(glimpse @ x.mT / math.sqrt(self.width))
            scores = scores.masked_fill(~open_, -torch.inf)
            if generator is None:
                last = scores.argmax(2)
            else:
                noise = drawn(torch.rand, *scores.shape, generator=generator, device=generator.device).to(scores)
                last = (scores - (-noise.clamp(1e-20, 1 - 1e-7).log()).log()).argmax(2)  # Gumbel
                chosen = scores.log_softmax(2).gather(2, last.unsqueeze(2)).squeeze(2)
                log_probability = log_probability + chosen
            open_ = open_.scatter(2, last.unsqueeze(2), False)
            tours.append(last)
        return Rollout(torch.stack(tours, 2), log_probability)


def split(x: Float[Tensor, "batch n c"], heads: int) -> Float[Tensor, "batch heads n part"]:
    """The channels of each head."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def gathered(x: Float[Tensor, "batch n c"], which: Int[Tensor, "batch starts"]) -> Float[Tensor, "batch starts c"]:
    """The rows of some cities."""
    return x.gather(1, which.unsqueeze(2).expand(-1, -1, x.shape[2]))


def lengths(tours: Int[Tensor, "batch starts n"], X: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch starts"]:
    """The lengths of closed tours."""
    batch, starts, n = tours.shape
    points = X.gather(1, tours.reshape(batch, -1, 1).expand(-1, -1, X.shape[2])).reshape(batch, starts, n, -1)
    return (points - points.roll(-1, 2)).norm(dim=-1).sum(-1)
