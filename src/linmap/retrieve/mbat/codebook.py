"""The codebook "mbat/1": (kind, token) -> atom or operator, from a hash, the same on every machine and in every year.

stream(kind, token) = SHAKE-256("mbat/1" 00 kind 00 token [00 "seed" 00 seed])
atom                = ceil(D/8) bytes of stream(kind, token); bit j, little-endian in each byte: 0 -> +1, 1 -> -1
permutation         = stable argsort of D little-endian u64 of stream("perm." kind, token)
signs of operator   = atom of kind "sign." kind
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Int, Int8
from scipy.special import ndtri

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.retrieve.mbat.operators import DenseOrthogonal, HadamardDiagonal, Operator, SignedPermutation

FORMAT = "mbat/1"
SMALLEST_DIM = 64
LARGEST_DENSE_DIM = 2048

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LeastRecentlyUsed(Generic[Key, Value]):
    """A dictionary of at most `capacity` entries that forgets the one used longest ago."""

    def __init__(self, capacity: int) -> None:
        self.capacity = max(capacity, 1)
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The entry of `key`, made by `make()` where there is none."""
        try:
            self._entries.move_to_end(key)
            return self._entries[key]
        except KeyError:
            value = self._entries[key] = make()
            if len(self._entries) > self.capacity:
                self._entries.popitem(last=False)
            return value

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class Codebook:
    """Atoms x in {±1}^D and role operators, drawn from SHAKE-256 of their kind and token.

    Parameters
    ----------
    dim
        D, at least 64.
    seed
        Any text; different seeds give independent codebooks.
    operators
        "signed_permutation" (the format "mbat/1"), or "hadamard" (dim a power of two), or "dense" (dim up to 2048).
    cache_bytes
        Upper bound of the memory for atoms and operators seen before.

    Raises
    ------
    ValueError
        If dim is too small, or not one that the operators can have.
    """

    def __init__(
        self,
        dim: Any = 2048,
        seed: Any = "",
        *,
        operators: str = "signed_permutation",
        cache_bytes: int = 64 << 20,
    ) -> None:
        self.dim = check_dim(dim, operators)
        if not isinstance(seed, str):
            raise ArgumentTypeError(f"seed must be a text, got {seed!r} of type {type(seed).__name__}; use str(seed).")
        self.seed = seed
        self.structure = operators
        operator_bytes = {"signed_permutation": 9 * dim, "hadamard": 3 * dim, "dense": 8 * dim * dim}[operators]
        self._atoms: LeastRecentlyUsed[tuple[str, str], np.ndarray] = LeastRecentlyUsed(cache_bytes // (2 * dim))
        self._operators: LeastRecentlyUsed[tuple[str, str], Operator] = LeastRecentlyUsed(
            cache_bytes // (2 * operator_bytes)
        )
        self._level_order: np.ndarray | None = None

    def atom(self, kind: str, token: str) -> Int8[np.ndarray, " dim"]:
        """The signs of an atom; kinds are str, word, ngram, num, lit, level and has. Read-only."""
        return self._atoms.get((kind, token), lambda: self._signs(kind, token))

    def operator(self, kind: str, token: str) -> Operator:
        """The role operator of a key (kind key), of arrays (arr) or of the next item (seq)."""
        return self._operators.get((kind, token), lambda: self._make_operator(kind, token))

    def level_order(self) -> Int[np.ndarray, " dim"]:
        """The fixed order in which the level code flips coordinates."""
        if self._level_order is None:
            self._level_order = self._permutation("level", "")
        return self._level_order

    def stream(self, kind: str, token: str, n_bytes: int) -> bytes:
        """The first bytes of SHAKE-256 of (kind, token).

        Raises
        ------
        ValueError
            If the token holds half of a surrogate pair, which UTF-8 cannot express.
        """
        try:
            text = token.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ArgumentError(
                f"the string {token!r:.60} holds a lone surrogate (position {error.start}), which is not Unicode text; "
                "replace it, e.g. with s.encode('utf-8', 'replace').decode()."
            ) from None
        message = b"mbat/1\0" + kind.encode() + b"\0" + text
        if self.seed:
            message += b"\0seed\0" + self.seed.encode()
        return hashlib.shake_256(message).digest(n_bytes)

    def _signs(self, kind: str, token: str) -> np.ndarray:
        bits = np.frombuffer(self.stream(kind, token, -(-self.dim // 8)), np.uint8)
        signs = 1 - 2 * np.unpackbits(bits, count=self.dim, bitorder="little").view(np.int8)
        signs.flags.writeable = False
        return signs

    def _permutation(self, kind: str, token: str) -> np.ndarray:
        keys = np.frombuffer(self.stream("perm." + kind, token, 8 * self.dim), "<u8")
        return np.argsort(keys, kind="stable")

    def _make_operator(self, kind: str, token: str) -> Operator:
        if self.structure == "hadamard":  # three rounds; the first has the signs of the format's operator
            rounds = ("sign.", "sign2.", "sign3.")
            return HadamardDiagonal(np.stack([self._signs(prefix + kind, token) for prefix in rounds]))
        if self.structure == "dense":
            words = np.frombuffer(self.stream("gauss." + kind, token, 8 * self.dim**2), "<u8")
            uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            return DenseOrthogonal.haar(ndtri(uniform).reshape(self.dim, self.dim))
        return SignedPermutation(self._permutation(kind, token), self._signs("sign." + kind, token))

    def __getstate__(self) -> dict[str, Any]:
        return {"dim": self.dim, "seed": self.seed, "operators": self.structure}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __repr__(self) -> str:
        return f"Codebook(dim={self.dim}, seed={self.seed!r}, operators={self.structure!r})"


def check_dim(dim: Any, operators: str = "signed_permutation") -> int:
    """`dim` itself, if vectors of this length can be had with these operators."""
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < SMALLEST_DIM:
        raise ArgumentError(f"dim must be an integer of at least {SMALLEST_DIM}, got {dim!r}; 2048 serves most uses.")
    if operators not in ("signed_permutation", "hadamard", "dense"):
        raise ArgumentError(f"operators must be 'signed_permutation', 'hadamard' or 'dense', got {operators!r}.")
    if operators == "hadamard" and dim & (dim - 1):
        raise ArgumentError(
            f"Hadamard operators need a power of two as dim, got {dim}; pad to dim={1 << int(dim).bit_length()}."
        )
    if operators == "dense" and dim > LARGEST_DENSE_DIM:
        raise ArgumentError(
            f"dense operators take 8 * dim**2 bytes each and stop at dim={LARGEST_DENSE_DIM}, got {dim}; "
            "use operators='signed_permutation'."
        )
    return int(dim)
