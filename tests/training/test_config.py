import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.training import TrainingConfig
from linmap.training.config import check_resumable, learning_rate, total_steps

SCHEDULES = ("constant", "halving", "type3", "cosine", "linear")


def by_epoch(schedule: Any, epochs: int) -> list[float]:
    config = TrainingConfig(epochs=epochs, lr=1.0, schedule=schedule)
    return [learning_rate(config, 10 * epoch, epoch, 10) for epoch in range(epochs)]


def test_halving_repeats_the_first_rate_then_halves() -> None:
    assert by_epoch("halving", 5) == [1, 1, 0.5, 0.25, 0.125]


def test_type3_decays_by_a_tenth_after_the_fourth_epoch() -> None:
    assert by_epoch("type3", 6) == pytest.approx([1, 1, 1, 1, 0.9, 0.81])


def test_cosine_goes_by_epoch() -> None:
    assert by_epoch("cosine", 4) == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])


def test_cosine_falls_from_the_end_of_its_warm_up() -> None:
    config = TrainingConfig(epochs=100, lr=0.1, schedule="cosine", warmup_epochs=5)
    rates = [learning_rate(config, 10 * epoch, epoch, 10) for epoch in range(100)]
    assert rates[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert rates[99] == pytest.approx(0.05 * (1 + math.cos(math.pi * 94 / 95)))


def test_a_checkpoint_of_an_older_version_had_the_defaults_of_what_came_later() -> None:
    config = TrainingConfig(schedule="cosine")
    older = asdict(config) | {"betas": list(config.betas)}
    del older["warmup_epochs"]
    saved = {"config": older, "data_samples": 5}
    check_resumable(config, 5, saved, None)
    with pytest.raises(ValueError, match="started with warmup_epochs=0, now it is 2"):
        check_resumable(replace(config, warmup_epochs=2), 5, saved, None)


def test_linear_rises_to_the_rate_and_falls_to_zero_at_the_last_step() -> None:
    config = TrainingConfig(epochs=2, lr=1.0, schedule="linear", warmup_steps=4)
    rates = [learning_rate(config, step, step // 7, 7) for step in range(15)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rates[5:] == pytest.approx([0.1 * k for k in range(9, -1, -1)])


@given(
    schedule=st.sampled_from(SCHEDULES),
    epochs=st.integers(1, 20),
    per_epoch=st.integers(1, 20),
    warmup=st.integers(0, 30),
    max_steps=st.none() | st.integers(1, 50),
)
def test_the_rate_stays_within_its_bounds(schedule, epochs, per_epoch, warmup, max_steps) -> None:
    config = TrainingConfig(epochs=epochs, lr=0.1, schedule=schedule, warmup_steps=warmup, max_steps=max_steps)
    for step in range(total_steps(config, per_epoch)):
        rate = learning_rate(config, step, step // per_epoch, per_epoch)
        assert 0 < rate <= 0.1
        if schedule == "constant":
            assert rate == pytest.approx(0.1 * min(1, (step + 1) / warmup if warmup else 1))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("total", range(1, 8))
def test_no_warm_up_makes_a_rate_negative_zero_or_too_large(schedule, total: int) -> None:
    """Short and long warm-ups, those that a run does not live to see the end of included."""
    for warmup in (*range(2 * total + 2), 100):
        config = TrainingConfig(epochs=total, lr=0.1, schedule=schedule, warmup_steps=warmup)
        plain = TrainingConfig(epochs=total, lr=0.1, schedule=schedule)
        for step in range(total):
            rate = learning_rate(config, step, step, 1)
            assert 0 < rate <= 0.1
            if step < warmup:
                without = 0.1 if schedule == "linear" else learning_rate(plain, step, step, 1)
                assert rate == pytest.approx(without * (step + 1) / warmup)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epochs": 0}, "epochs"),
        ({"warmup_epochs": 2}, "warmup_epochs"),
        ({"warmup_epochs": 10, "schedule": "cosine"}, "warmup_epochs"),
        ({"max_steps": 0}, "max_steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"momentum": 0.9}, "momentum=0.9 is a setting of sgd"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"accumulation": 0}, "accumulation"),
        ({"batch_size": 32, "accumulation": 3}, "batch_size=32 .* accumulation=3"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"patience": 0}, "patience"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"seed": -1}, "seed"),
        ({"epochs": 1.5}, "epochs=1.5 must be a whole number"),
        ({"warmup_steps": 0.5}, "warmup_steps=0.5 must be a whole number"),
    ],
)
def test_settings_out_of_range_are_named(settings, named) -> None:
    with pytest.raises(ValueError, match=named):
        TrainingConfig(**settings)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("name", ["epochs", "max_steps", "lr", "weight_decay", "warmup_steps", "clip_norm", "seed"])
def test_what_is_no_number_is_named(name: str) -> None:
    values: list[Any] = ["a"] if name in ("max_steps", "clip_norm") else ["a", None]
    for value in values:
        with pytest.raises(TypeError, match=f"{name} must be a number, got {value!r}"):
            TrainingConfig(**{name: value})
