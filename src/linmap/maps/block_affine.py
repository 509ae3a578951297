"""`BlockAffine`: one block shared by all blocks of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap


class BlockAffine(LinearMap):
    """The matrix that repeats one block D: M[o, i] = D[i mod block_in, o mod block_out].

    It is the additive half of Bone's block affine transformation, W' = W (I + D) + D, which no weight is needed for:
    y = tile(fold(x) D), where `fold` sums the chunks of x of length block_in and `tile` repeats what comes out. Sizes
    that the block does not divide are padded with zeros on the way in and cut on the way out. The modes of Bone are

    | mode                        | `block_in` | `block_out` |
    | --------------------------- | ---------- | ----------- |
    | one r x r block for all     | r          | r           |
    | "add", "bat" (by block row) | r          | n_out       |
    | "mini"                      | r          | mini_r      |
    | "bat-row" (by block column) | n_in       | r           |

    Parameters
    ----------
    n_in, n_out
        Sizes.
    block_in, block_out
        Shape of D, 1 to n_in and 1 to n_out; `block_out` is `block_in` when None.
    init
        "zero": D = 0, as an adapter starts. "normal": D is drawn from N(0, 1/n_in), for a map that stands alone.
    batch_shape
        Leading dimensions of D.
    generator
        Source of the random draw.
    dtype, device
        As in PyTorch.

    Raises
    ------
    ValueError
        If a block size is out of range or `init` is unknown.

    References
    ----------
    Kang and Yin, "Bone: Block-Affine Adaptation of Large Language Models", arXiv 2409.15371.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        block_in: int,
        block_out: int | None = None,
        *,
        init: Literal["zero", "normal"] = "zero",
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n_in, n_out, batch_shape=batch_shape, dtype=dtype, device=device)
        block_out = block_in if block_out is None else block_out
        for name, size, limit_name, limit in (
            ("block_in", block_in, "n_in", n_in),
            ("block_out", block_out, "n_out", n_out),
        ):
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= limit:
                raise ArgumentError(
                    f"BlockAffine: {name} must be an integer from 1 to {limit_name} = {limit}, got {size!r}."
                )
        if init not in ("zero", "normal"):
            raise ArgumentError(f"BlockAffine: init must be 'zero' or 'normal', got {init!r}.")
        D = torch.zeros(*batch_shape, block_in, block_out, dtype=dtype, device=device)
        self.D = nn.Parameter(D if init == "zero" else D.normal_(0, n_in**-0.5, generator=generator))

    @property
    def rank_bound(self) -> int:
        return min(self.D.shape[-2:])

    def forward(self, x: Tensor) -> Tensor:
        return tile(fold(x, self.D.shape[-2]) @ self.D, self.out_features)

    def matrix(self) -> Tensor:
        return tile(tile(self.D, self.out_features).mT, self.in_features)

    def _transpose(self, y: Tensor) -> Tensor:
        return tile(fold(y, self.D.shape[-1]) @ self.D.mT, self.in_features)

    def flops(self, vectors: int = 1) -> int:
        block_in, block_out = self.D.shape[-2:]
        return (self.in_features + 2 * block_in * block_out) * vectors * self.batch_shape.numel()

    @classmethod
    def _from_matrix(cls, M: Tensor, block_in: int, block_out: int | None = None) -> Self:
        """Each entry of D is the mean of the entries of M that it stands for: the least-squares block."""
        n_out, n_in = M.shape[-2:]
        new = cls(n_in, n_out, block_in, block_out, batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)

        def folded(matrix: Tensor) -> Tensor:
            return fold(fold(matrix, new.D.shape[-2]).mT, new.D.shape[-1])

        new.D.copy_(folded(M) / folded(torch.ones_like(M)))
        return new


def fold(x: Shaped[Tensor, "*batch n"], length: int) -> Shaped[Tensor, "*batch length"]:
    """The sum of the chunks of the given length that x falls into, the last one padded with zeros."""
    if x.shape[-1] % length:
        x = F.pad(x, (0, -x.shape[-1] % length))
    return x.reshape(*x.shape[:-1], x.shape[-1] // length, length).sum(-2)


def tile(s: Shaped[Tensor, "*batch length"], n: int) -> Shaped[Tensor, "*batch n"]:
    """s repeated along its last dimension and cut at n entries; the adjoint of `fold`."""
    length = s.shape[-1]
    if length == n:
        return s
    repeats = -(-n // length)
    tiled = s.unsqueeze(-2).expand(*s.shape[:-1], repeats, length).reshape(*s.shape[:-1], repeats * length)
    return tiled if repeats * length == n else tiled[..., :n]
