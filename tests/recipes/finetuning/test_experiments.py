"""One run of a comparison: what it learns, and what is measured."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linmap.maps import TriangularPair
from linmap.recipes.finetuning.experiments import (
    Arm,
    BatchesByLength,
    KeptForBackward,
    Steering,
    execute,
    used_parameters,
)
from recipes.finetuning.line import PLAIN, Line, frozen


class Rows:
    """A data set whose batch is its samples' numbers."""

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


@given(count=st.integers(1, 90), batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_sample_is_in_one_batch_and_neighbours_in_length_meet(count: int, batch_size: int, seed: int) -> None:
    lengths = torch.randint(1, 40, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    data = BatchesByLength(Rows(), lengths, batch_size, seed)
    batches: list[Any] = [data[i] for i in range(len(data))]
    assert sorted(i for batch in batches for i in batch) == list(range(count))
    assert all(len(batch) <= batch_size for batch in batches)
    assert len(batches) == math.ceil(count / batch_size)
    assert data.batches == BatchesByLength(Rows(), lengths, batch_size, seed).batches
    for first, second in pairwise(batches):
        if batches.index(second) % BatchesByLength.POOL:
            assert max(lengths[i] for i in first) <= min(lengths[i] for i in second)


def test_the_seed_changes_which_samples_meet() -> None:
    lengths = [1] * 40
    assert BatchesByLength(Rows(), lengths, 4, 0).batches != BatchesByLength(Rows(), lengths, 4, 1).batches


def test_what_is_kept_for_backward_is_counted_once_and_without_the_weights() -> None:
    first, second = nn.Linear(5, 3, bias=False), nn.Linear(5, 3, bias=False)
    model = nn.ModuleList([first, second])
    x = torch.randn(7, 5)
    kept = KeptForBackward(model)
    with kept:
        (first(x) + second(x)).sum()
    assert kept.total == x.nbytes  # x, for both weights; the weights themselves are the model's
    kept = KeptForBackward(model)
    with kept, torch.no_grad():
        (first(x) + second(x)).sum()
    assert kept.total == 0


def test_a_run_is_validated_at_its_checkpoints_and_learns() -> None:
    run = execute(Line(), PLAIN, 0.3, seed=0, steps=20)
    assert [step for step, _ in run.validation] == [10, 20]
    assert len(run.losses) == 20
    assert run.final < 0.1 < run.losses[0]
    assert abs(run.scores["weight"] - 3) < 0.5
    assert run.parameters == 1
    assert run.step_seconds > 0
    again = execute(Line(), PLAIN, 0.3, seed=0, steps=20)
    assert again.losses == run.losses


def test_a_pilot_is_validated_at_its_own_end() -> None:
    assert [step for step, _ in execute(Line(), PLAIN, 0.3, 0, steps=7).validation] == [7]


def test_an_arm_without_anything_to_train_is_only_measured() -> None:
    run = execute(Line(), Arm("frozen", "baseline", frozen, lr_scale=0), 0.0, 0, 20)
    assert (run.steps, run.losses, run.parameters) == (0, [], 0)
    assert run.validation[0][0] == 0


def test_penalty_and_steering_act_in_training_and_stay_out_of_the_losses() -> None:
    seen: list[int] = []

    def steer(model: nn.Module, steps: int, seed: int) -> Steering:
        return Steering(lambda model, step: seen.append(step), lambda: {"layer": 1 + len(seen) // 8})

    pulled = replace(PLAIN, penalty=lambda model: 1e3 * model.weight.square().sum(), steer=steer)  # pyright: ignore
    run = execute(Line(), pulled, 0.3, 0, 20)
    assert seen == list(range(1, 21))
    assert run.ranks == [(0, {"layer": 1}), (8, {"layer": 2}), (16, {"layer": 3})]
    assert abs(run.scores["weight"]) < 0.5  # pulled to 0
    assert max(run.losses) < 50  # without the thousandfold penalty


def test_room_for_growth_is_not_counted_as_parameters() -> None:
    model = TriangularPair(7, 5, 2, max_rank=4)
    assert used_parameters(model, list(model.parameters())) == 2 * (7 + 5) + 2 * 3
    model.grow(4)
    assert used_parameters(model, list(model.parameters())) == 4 * (7 + 5) + 4 * 5


def test_full_tuning_has_the_grid_scaled() -> None:
    assert replace(PLAIN, lr_scale=1 / 50).grid((1e-3, 1e-2)) == (2e-5, 2e-4)
    assert replace(PLAIN, lr_scale=0).grid((1e-3, 1e-2)) == (0.0,)
