"""Classes and their numbers, and classes that are saved."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap import artifacts
from linmap.data.labels import class_numbers, decoded, encoded


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=20))
def test_numbers_bring_labels_back(labels: list[int]) -> None:
    y = np.array(labels)
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="y has one class"):
            class_numbers(y)
        return
    classes, numbers = class_numbers(y)
    assert (np.diff(classes) > 0).all()
    assert (classes[numbers] == y).all()


@pytest.mark.parametrize("y", [[0.5, 1.5], [[1, 2], [3, 4]]])
def test_what_is_no_class_is_refused(y: list) -> None:
    with pytest.raises(ValueError, match=r"y|label"):
        class_numbers(y)


@pytest.mark.parametrize(
    "classes",
    [
        np.array([-1, 4], np.int8),
        np.array([0.0, 2.0], np.float32),
        np.array([False, True]),
        np.array(["a", "long name"]),
        np.array(["a", "b"], object),
        np.array(["2024-01-01", "2024-02-29"], "datetime64[D]"),
        np.array([1, 90], "timedelta64[s]"),
    ],
    ids=lambda classes: classes.dtype.str,
)
def test_classes_come_back_from_json_in_their_type(classes: np.ndarray) -> None:
    config = json.loads(json.dumps(artifacts.plain(encoded(classes))))
    again = decoded(config)
    assert again.dtype == classes.dtype
    assert (again == classes).all()


def test_classes_of_older_runs_have_no_type() -> None:
    assert decoded({"classes": ["a", "b"]}).tolist() == ["a", "b"]
