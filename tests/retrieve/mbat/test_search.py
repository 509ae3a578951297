import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.retrieve.mbat import JSONVectorizer, nearest, pack_signs, sign_cosine


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))
def test_blocks_give_what_sorting_all_cosines_gives(rows: int, top: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, query = rng.normal(size=(rows, 8)), rng.normal(size=8)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    expected = np.argsort(-cosines, kind="stable")[:top]
    matches = nearest(query, (vectors[i : i + block] for i in range(0, rows, block)), top)
    assert [match.row for match in matches] == expected.tolist()
    np.testing.assert_allclose([match.cosine for match in matches], cosines[expected])


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="zero vector"):
        nearest(np.zeros(3), [np.ones((2, 3))], 1)
    with pytest.raises(ValueError, match="top must be at least 1"):
        nearest(np.ones(3), [np.ones((2, 3))], 0)


def test_sign_bits_keep_the_cosine() -> None:
    # E[agreement of signs] = (2 / pi) asin(rho) for jointly normal coordinates
    dim = 4096
    documents = [{f"k{i}": i if i >= common else -i for i in range(60)} for common in (0, 10, 30, 60)]
    vectors = JSONVectorizer(dim, strings="exact", numbers="exact").transform(documents)
    signs = np.sign(vectors)
    signs[signs == 0] = 1
    bits = pack_signs(vectors)
    assert bits.shape == (4, dim // 8)
    for i in range(4):
        rho = float(vectors[0] @ vectors[i])
        assert signs[0] @ signs[i] / dim == pytest.approx(2 / math.pi * math.asin(min(rho, 1.0)), abs=5 / 64)
        assert sign_cosine(bits[0], bits[i], dim) == pytest.approx(rho, abs=7 / 64)
