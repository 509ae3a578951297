"""Transformer blocks with a mask of the tokens that are there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.training.randomness import Dropout

Tokens = Float[Tensor, "batch tokens width"]
Present = Bool[Tensor, "batch tokens"]


def expect_shape(name: str, value: Tensor, *shape: int | str) -> None:
    """Refuse a value of another shape; a word stands for any number.

    Raises
    ------
    ValueError
        If it is of another shape; the message begins with `name`.
    """
    fits = value.ndim == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        raise ArgumentError(f"{name} must be ({wanted}), got shape {tuple(value.shape)}.")


def present(name: str, mask: Tensor | None, *shape: int) -> Tensor | None:
    """The mask as booleans, of exactly this shape, for one of another batch would be stretched without a word.

    Raises
    ------
    ValueError
        If it is of another shape.
    """
    if mask is None:
        return None
    expect_shape(name, mask, *shape)
    return mask.bool()


class Attention(nn.Module):
    """Multi-head self-attention; keys of absent tokens do not count.

    Parameters
    ----------
    width, heads
        Of the tokens; the width is a multiple of the heads.
    bias
        Whether queries, keys and values have one.
    """

    def __init__(self, width: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ArgumentError(f"width={width} must be a multiple of heads={heads}.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tokens, mask: Present | None = None) -> Tokens:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        keys = None if mask is None else (mask | ~mask.any(-1, keepdim=True))[:, None, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block, with a long skip where it has one.

    Parameters
    ----------
    width, heads, bias
        As in `Attention`.
    ratio
        Hidden width of the MLP over the width.
    skip
        Whether it takes a second input, which a linear layer joins to the first (U-ViT).
    drop_path
        Share of the samples that leave out a branch in training.
    """

    def __init__(
        self, width: int, heads: int, *, bias: bool = False, ratio: int = 4, skip: bool = False, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, bias)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP(width, ratio * width)
        self.skip_linear = nn.Linear(2 * width, width) if skip else None
        self.drop = Dropout(drop_path)

    def forward(self, x: Tokens, mask: Present | None = None, skip: Tokens | None = None) -> Tokens:
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], -1))
        x = x + self._sometimes(self.attn(self.norm1(x), mask))
        return x + self._sometimes(self.mlp(self.norm2(x)))

    def _sometimes(self, branch: Tensor) -> Tensor:
        if not self.training or not self.drop.p:
            return branch
        return branch * self.drop.mask(branch[:, :1, :1].detach())
