"""What a type checker cannot know of the objects of a test: that something is there, or of which class it is."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from sklearn import base
from torch import Tensor

T = TypeVar("T")


def present(value: T | None) -> T:
    """A value that must not be None."""
    assert value is not None
    return value


def of_class(kind: type[T], value: object) -> T:
    """A value of a class that its declaration leaves open, such as a child of a module."""
    assert isinstance(value, kind)
    return value


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient that a backward pass left."""
    return present(parameter.grad)


def tensor(value: Any) -> Tensor:
    """A parameter or buffer of a module, which PyTorch declares as one of these or a module."""
    assert isinstance(value, torch.Tensor)
    return value


def cloned(estimator: T) -> T:
    """An estimator as scikit-learn's `clone` makes it: of the same class, not fitted."""
    return cast(T, base.clone(cast(Any, estimator)))


def other(value: object) -> Any:
    """A value of a type that the annotations do not allow, which the code must refuse."""
    return value
