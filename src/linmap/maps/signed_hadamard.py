"""`SignedHadamard`: a random-looking orthogonal map of any size in O(n log n).

Source: Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform" (2009), for Hadamard after random signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap
from linmap.maps.hadamard import hadamard_transform, transform_factors
from linmap.maps.orthogonal import by_rows


class SignedHadamard(LinearMap):
    """Random signs and Hadamard transforms in turn: orthogonal, fixed (nothing to train), never built in a forward.

    For n = 2^p, a round is H D with random signs D and the Hadamard matrix H / sqrt(n): all entries are ±1/sqrt(n).
    For another n, let m be the largest power of two below: a round is such a transform of the first m entries, then
    one of the last m, and the entries move on by a quarter between rounds. After two rounds the mean square of
    every entry of M is between 0.75 / n and 1.5 / n.

    Parameters
    ----------
    n
        Size of M, any positive integer.
    rounds
        How often to repeat; when None, 1 for a power of two and 2 otherwise.
    batch_shape
        Leading dimensions of M.
    generator
        Source of the signs.
    dtype, device
        As in PyTorch. Half precision is computed in float32.

    Attributes
    ----------
    signs
        The random signs of each transform, in the order of application, of shape (*batch_shape, transforms, m).
    """

    orthogonal = True
    signs: Tensor

    def __init__(
        self,
        n: int,
        *,
        rounds: int | None = None,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n, n, batch_shape=batch_shape, dtype=dtype, device=device)
        bits = n.bit_length() - 1
        self.window = 2**bits
        if rounds is None:
            rounds = 1 if n == self.window else 2
        if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
            raise ArgumentError(f"SignedHadamard: rounds must be a positive integer or None, got {rounds!r}.")
        self.rounds = rounds
        per_round = 1 if n == self.window else 2
        bits_drawn = torch.randint(
            2, (*batch_shape, per_round * rounds, self.window), generator=generator, device=device
        )
        self.register_buffer("signs", 1 - 2 * bits_drawn.to(self.dtype))
        for i, H in enumerate(transform_factors(self.window)):
            self.register_buffer(f"_factor_{i}", H.to(self.signs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(self._apply_all, self.signs, x, bool(self.batch_shape))

    def _transpose(self, y: Tensor) -> Tensor:
        return by_rows(self._undo_all, self.signs, y, bool(self.batch_shape))

    def _apply_all(self, signs: Tensor, x: Tensor) -> Tensor:
        for s, (shift, start) in zip(self._of_rows(signs), self._windows(), strict=True):
            x = x.roll(-shift, dims=-1) if shift else x
            x = self._on_window(x, start, lambda window, s=s: self._transform(window * s))
        return x

    def _undo_all(self, signs: Tensor, y: Tensor) -> Tensor:
        for s, (shift, start) in reversed([*zip(self._of_rows(signs), self._windows(), strict=True)]):
            y = self._on_window(y, start, lambda window, s=s: self._transform(window) * s)
            y = y.roll(shift, dims=-1) if shift else y
        return y

    def _windows(self) -> list[tuple[int, int]]:
        """For each transform, how far the entries move on before it, and the first entry that it takes."""
        n, m = self.in_features, self.window
        if m == n:
            return [(0, 0)] * self.rounds
        return [(0, 0), (0, n - m)] + [(max(1, n // 4), 0), (0, n - m)] * (self.rounds - 1)

    def _on_window(self, x: Tensor, start: int, transform: Callable[[Tensor], Tensor]) -> Tensor:
        end = start + self.window
        if self.window == self.in_features:
            return transform(x)
        x = x.expand(*torch.broadcast_shapes(x.shape[:-1], (*self.batch_shape, 1)), -1)
        return torch.cat([x[..., :start], transform(x[..., start:end]), x[..., end:]], dim=-1)

    def _of_rows(self, signs: Tensor) -> list[Tensor]:
        """The signs of each transform, ready to multiply (..., rows, m)."""
        return [s.unsqueeze(-2) for s in signs.unbind(-2)]

    def _transform(self, x: Tensor) -> Tensor:
        """The orthonormal Hadamard transform of a window."""
        return hadamard_transform(x, [H.to(x.dtype) for H in self._factors()])

    def _factors(self) -> list[Tensor]:
        return [buffer for name, buffer in self.named_buffers(recurse=False) if name.startswith("_factor_")]

    def flops(self, vectors: int = 1) -> int:
        per_transform = self.window * (2 * sum(map(len, self._factors())) + 2)
        return self.signs[..., 0].numel() * per_transform * vectors
