"""Accuracy on files whose classes are other ones, or written otherwise."""

import numpy as np
import pytest

from linmap.data.labels import judged
from linmap.recipes.answers import say_accuracy


@pytest.mark.parametrize(
    ("given", "classes", "codes"),
    [
        (np.array(["a", "b"]), np.array(["a", "b"]), None),
        (np.array([1, 2]), np.array(["1", "2"]), None),
        (np.array([1.0, 2.0]), np.array([1, 2]), None),
        (np.array(["1", "2"]), np.array([1, 2]), None),
        (np.array(["left", "right"]), np.array([1, 2]), np.array([1, 2])),
    ],
)
def test_one_class_in_two_writings_is_one_class(given, classes, codes) -> None:
    answers = judged(given, classes, codes)
    assert answers.rows.all()
    assert answers.true.tolist() == classes.tolist()
    assert answers.note is None


def test_classes_that_the_run_does_not_know_do_not_count() -> None:
    summary: dict = {}
    answers = judged(np.array(["a", "b", "rest", "b"]), np.array(["a", "b"]))
    say_accuracy(summary, answers, np.array(["a", "b", "b", "a"]))
    assert summary == {
        "accuracy": 0.6667,
        "notes": ["the accuracy is over 3 of 4 samples: the run does not know the classes rest"],
    }


def test_without_a_known_class_there_is_no_accuracy() -> None:
    summary: dict = {}
    say_accuracy(summary, judged(np.array([7, 8]), np.array(["a", "b"])), np.array(["a", "b"]))
    assert summary == {"notes": ["no accuracy: the file has the classes 7, 8, and the run knows a, b"]}
