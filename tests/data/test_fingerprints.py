"""The same content has the same fingerprint, in whatever memory it lies; another content has another."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from linmap.data.fingerprints import content_fingerprint

VALUES = st.recursive(
    st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=3), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=8,
)


def written(value: object) -> str:
    """Unlike `==`, tells 1 from 1.0 and from True, and 0.0 from -0.0."""
    if isinstance(value, dict):
        return f"{{{sorted((name, written(item)) for name, item in value.items())}}}"
    return str([written(item) for item in value]) if isinstance(value, list) else repr(value)


@given(VALUES, VALUES)
def test_values_share_a_fingerprint_only_if_they_are_written_alike(a: object, b: object) -> None:
    assert (content_fingerprint(a) == content_fingerprint(b)) == (written(a) == written(b))
    assert (content_fingerprint([a, b]) == content_fingerprint([b, a])) == (written(a) == written(b))


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=4), elements=st.floats(-9, 9, width=32)))
def test_an_array_is_told_by_its_entries_shape_and_type(array: np.ndarray) -> None:
    known = content_fingerprint(array)
    assert content_fingerprint(torch.from_numpy(array)) == content_fingerprint(array.copy(order="F")) == known
    assert content_fingerprint(array.astype(np.float64)) != known
    assert content_fingerprint(array[None]) != known
    other = array.copy()
    other.flat[-1] = np.nextafter(other.flat[-1], np.float32(99))
    assert content_fingerprint(other) != known


def test_beyond_the_limit_evenly_spaced_rows_are_read() -> None:
    x = np.arange(1000.0).reshape(100, 10)
    known = content_fingerprint(x, limit=len(x.tobytes()) // 4)
    assert known != content_fingerprint(x)
    for row in (0, 4, 96):
        changed = x.copy()
        changed[row, 9] = -1
        assert content_fingerprint(changed, limit=2000) != known
    changed = x.copy()
    changed[1] = -1
    assert content_fingerprint(changed, limit=2000) == known  # as documented
    assert content_fingerprint(changed, limit=None) != content_fingerprint(x, limit=None)


def test_dataclasses_are_read_by_their_fields_and_strangers_refused() -> None:
    @dataclass
    class Pair:
        x: np.ndarray
        y: object

    assert content_fingerprint(Pair(np.ones(2), 1)) == content_fingerprint([np.ones(2), 1])
    with pytest.raises(TypeError, match="a function has no fingerprint"):
        content_fingerprint(Pair(np.ones(2), test_beyond_the_limit_evenly_spaced_rows_are_read))
