"""What is annotated is checked in the test run: types and, over all arguments and the result, shapes."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float

import typechecker

if TYPE_CHECKING:
    from somewhere import Unknown

checked: Callable[[Any], Any] = typechecker.jaxtyped(typechecker=None)


@checked
def half(n: int, *, factor: float = 0.5) -> float:
    return factor * n if n >= 0 else str(n)  # pyright: ignore[reportReturnType]


@checked
def total(values: list[float]) -> float:
    return sum(values)


@checked
def largest(values: list[int]) -> int:
    return max(values)


@checked
def product(A: Float[np.ndarray, "n m"], x: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    return A @ x if A[0, 0] > 0 else x


@checked
def rows(A: Float[np.ndarray, "n m"]) -> Iterator[Float[np.ndarray, " m"]]:
    yield from A


@checked
def unknown(x: Unknown, n: int) -> int:
    return n


@checked
@dataclass
class Pair:
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]

    @checked
    def swapped(self, times: int = 1) -> Self:
        return self if times % 2 == 0 else type(self)(self.y, self.x)


def test_types_of_arguments_and_results() -> None:
    assert half(4) == half(4, factor=0.5) == 2
    assert half(4, factor=1) == 4  # an int is a float
    for wrong in (lambda: half("4"), lambda: half(4, factor="1"), lambda: half(-1), lambda: half()):
        with pytest.raises(TypeError):
            wrong()


def test_checks_draw_nothing_from_the_global_generator() -> None:
    before = random.getstate()
    assert total([1.0, 2.0, 3.0]) == 6
    assert largest([1, 2, 3]) == 3
    assert random.getstate() == before
    with pytest.raises(TypeError):
        total(["1", "2"])  # pyright: ignore[reportArgumentType]


def test_shapes_belong_together_over_arguments_and_result() -> None:
    A, x = np.ones((2, 3)), np.ones(3)
    assert product(A, x).tolist() == [3, 3]
    for wrong in ((A, np.ones(2)), (-A, x), (A, np.ones((3, 1))), (A.astype(int), x)):
        with pytest.raises(TypeError):
            product(*wrong)
    assert product(np.ones((4, 1)), np.ones(1)).shape == (4,)  # each call has sizes of its own
    assert len(list(rows(A))) == 2
    with pytest.raises(TypeError):
        rows(x)


def test_dataclasses_and_their_methods() -> None:
    pair = Pair(np.zeros(2), np.ones(2))
    assert pair.swapped().x.tolist() == [1, 1]
    for wrong in (lambda: Pair(np.zeros(2), np.ones(3)), lambda: pair.swapped(1.5)):
        with pytest.raises(TypeError):
            wrong()


def adder(n: int) -> Callable[[int], int]:
    @checked
    def add(k: int, times: int = n) -> int:
        return str(n) if n > 100 else n * times + k  # pyright: ignore[reportReturnType]

    return add


def columns_of(A: Float[np.ndarray, "n m"]) -> Callable[..., Float[np.ndarray, " n"]]:
    @checked
    def column(i: int, x: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, " n"]:
        return A[:, i] if x is None else A @ x

    return column


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5), st.integers(-9, 9))
def test_functions_of_one_definition_keep_their_own_values_and_are_checked_alike(numbers: list[int], k: int) -> None:
    adders = [adder(n) for n in numbers]
    for n, add in (*zip(numbers, adders, strict=True), *zip(numbers, adders, strict=True)):
        assert add(k) == n * n + k
        with pytest.raises(TypeError):
            add("1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        adder(101)(k)
    for n in numbers:
        A = np.arange(2.0 * (n + 1)).reshape(n + 1, 2)
        column = columns_of(A)
        assert (column(1) == A[:, 1]).all()
        if n + 1 != 2:
            with pytest.raises(TypeError):
                column(1, np.ones(2))


def test_what_only_pyright_knows_is_left_to_it() -> None:
    assert unknown("anything", 1) == 1
    with pytest.raises(TypeError):
        unknown("anything", "1")


def test_a_user_has_no_such_checks(annotations_unchecked: None) -> None:
    assert half(-1) == "-1"
    assert product(np.ones((2, 3)), np.ones(3, int)).tolist() == [3, 3]


def test_a_signal_that_comes_while_a_check_is_made_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, handled = [], []

    def making(function: Callable) -> Callable:
        made.append(function)
        signal.raise_signal(signal.SIGUSR1)
        return function

    def handler(number: int, frame: object) -> None:
        handled.append(number)

    def called() -> None: ...

    monkeypatch.setattr(typechecker, "_checked", making)
    before = signal.signal(signal.SIGUSR1, checked(handler))
    try:
        checked(called)()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled == [signal.SIGUSR1]
    assert made == [called]


def test_the_package_is_checked() -> None:
    from linmap.maps import Dense
    from linmap.training import TrainingConfig

    with pytest.raises(TypeError):
        Dense("3", 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        TrainingConfig(epochs="3")  # pyright: ignore[reportArgumentType]
