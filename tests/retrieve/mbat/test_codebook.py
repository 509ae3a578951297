import hashlib
from typing import Any

import numpy as np
import pytest

from linmap.retrieve.mbat import Codebook, DenseOrthogonal, HadamardDiagonal
from linmap.retrieve.mbat.codebook import LeastRecentlyUsed


def test_known_answers_of_the_format() -> None:
    codebook = Codebook(10_000)
    assert "".join("+-"[int(sign < 0)] for sign in codebook.atom("str", "hello")[:16]) == "+++++++++-++--++"
    operator: Any = codebook.operator("key", "a")
    assert operator.permutation[:8].tolist() == [4650, 691, 687, 5646, 568, 6153, 6297, 2532]
    assert operator.signs[:8].tolist() == [1, 1, 1, 1, 1, 1, -1, 1]


@pytest.mark.parametrize("dim", [64, 77, 1000])
@pytest.mark.parametrize("token", ["", "a", "é", "日本語", "a\0b"])
@pytest.mark.parametrize("seed", ["", "clinic ü"])
def test_atoms_and_operators_follow_the_format_bit_by_bit(dim: int, token: str, seed: str) -> None:
    def stream(kind: str, n: int) -> bytes:
        message = b"mbat/1\x00" + kind.encode() + b"\x00" + token.encode("utf-8")
        message += b"\x00seed\x00" + seed.encode("utf-8") if seed else b""
        return hashlib.shake_256(message).digest(n)

    def signs(kind: str) -> list[int]:
        data = stream(kind, (dim + 7) // 8)
        return [1 - 2 * (data[j // 8] >> (j % 8) & 1) for j in range(dim)]

    data = stream("perm.key", 8 * dim)
    keys = [int.from_bytes(data[8 * j : 8 * j + 8], "little") for j in range(dim)]
    codebook = Codebook(dim, seed)
    assert codebook.atom("word", token).dtype == np.int8
    assert codebook.atom("word", token).tolist() == signs("word")
    operator: Any = codebook.operator("key", token)
    assert operator.permutation.tolist() == sorted(range(dim), key=keys.__getitem__)
    assert operator.signs.tolist() == signs("sign.key")


def test_atoms_of_different_kind_token_or_seed_are_nearly_orthogonal() -> None:
    a = Codebook(4096).atom("str", "x").astype(int)
    others = [Codebook(4096).atom("word", "x"), Codebook(4096).atom("str", "y"), Codebook(4096, "s").atom("str", "x")]
    assert all(abs(a @ other) < 5 * 64 for other in others)


def test_a_cached_atom_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Codebook(64).atom("str", "x")[0] = 1


def test_caches_are_bounded_and_forget_the_longest_unused() -> None:
    cache: LeastRecentlyUsed[int, Any] = LeastRecentlyUsed(2)
    made = []
    for key in (1, 2, 1, 3, 1, 2):
        cache.get(key, lambda key=key: made.append(key))
    assert made == [1, 2, 3, 2]
    assert len(cache) == 2
    codebook = Codebook(64, cache_bytes=64 * 2 * 10)
    first = codebook.atom("str", "0").copy()
    for i in range(100):
        codebook.atom("str", str(i))
    assert len(codebook._atoms) == 10
    assert np.array_equal(codebook.atom("str", "0"), first)


@pytest.mark.parametrize("operators", ["hadamard", "dense"])
def test_other_structures_are_orthogonal_and_reproducible(operators) -> None:
    one, two = (Codebook(128, operators=operators).operator("key", "a") for _ in range(2))
    assert isinstance(one, HadamardDiagonal | DenseOrthogonal)
    matrix = one.apply(np.eye(128))
    np.testing.assert_array_equal(matrix, two.apply(np.eye(128)))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(128), atol=1e-12)
    assert abs(np.trace(matrix)) / 128 < 5 / np.sqrt(128)


@pytest.mark.parametrize("dim", [0, 63, -5, 2.0, "2048", True])
def test_dim_must_be_an_integer_of_at_least_64(dim) -> None:
    with pytest.raises(ValueError, match="dim must be an integer of at least 64"):
        Codebook(dim)


def test_wrong_structures_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="pad to dim=128"):
        Codebook(100, operators="hadamard")
    with pytest.raises(ValueError, match="stop at dim=2048"):
        Codebook(4096, operators="dense")
    with pytest.raises(ValueError, match="operators must be"):
        Codebook(64, operators="householder")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="seed must be a text"):
        Codebook(64, 7)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="lone surrogate"):
        Codebook(64).atom("str", "\ud800")
