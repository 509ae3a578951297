"""One run of a comparison: what it learns, and what is measured."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linmap.adapt.triadaptlora.layer import used_parameters
from linmap.maps import TriangularPair
from linmap.recipes.finetuning.arms import Steering, Way, frozen, trained
from linmap.recipes.finetuning.tasks import CHOOSING, TRAINING, BatchesByLength
from recipes.finetuning.line import PLAIN, Line


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


def test_a_run_is_validated_at_its_checkpoints_and_learns() -> None:
    run = trained(PLAIN, Line().trial())
    assert [step for step, _ in run.details["validation"]] == [10, 20]
    assert len(run.details["losses"]) == 20
    assert run.values[CHOOSING] < 0.1 < run.details["losses"][0]
    assert run.values[TRAINING] == pytest.approx(sum(run.details["losses"][-2:]) / 2, abs=1e-6)
    assert abs(run.values["weight"] - 3) < 0.5
    assert run.parameters == 1
    assert run.details["step_seconds"] > 0
    assert trained(PLAIN, Line().trial()).details["losses"] == run.details["losses"]


def test_a_run_that_chooses_is_shorter_and_sees_no_test_data() -> None:
    run = trained(PLAIN, Line().trial(choosing=True))
    assert [step for step, _ in run.details["validation"]] == [7]
    assert "weight" not in run.values


def test_an_arm_without_anything_to_train_is_only_measured() -> None:
    run = trained(Way("frozen", "baseline", frozen, rate_scale=0), Line().trial(None))
    assert run.parameters == 0
    assert run.details["validation"] == [[0, run.values[CHOOSING]]]
    assert set(run.values) == {CHOOSING, "weight"}


def test_a_run_that_diverges_says_so() -> None:
    broken = replace(PLAIN, penalty=lambda model: model.weight.sum() * math.nan)  # pyright: ignore
    run = trained(broken, Line().trial())
    assert math.isnan(run.values[CHOOSING])
    assert all(math.isnan(run.values[metric.name]) for metric in Line().metrics)


def test_penalty_and_steering_act_in_training_and_stay_out_of_the_losses() -> None:
    seen: list[int] = []

    def steer(model: nn.Module) -> Steering:
        return Steering(lambda model, step: seen.append(step), lambda: {"layer": 1 + len(seen) // 8})

    pulled = replace(PLAIN, penalty=lambda model: 1e3 * model.weight.square().sum(), steer=steer)  # pyright: ignore
    run = trained(pulled, Line().trial())
    assert seen == list(range(1, 21))
    assert run.details["ranks"] == [(0, {"layer": 1}), (8, {"layer": 2}), (16, {"layer": 3})]
    assert abs(run.values["weight"]) < 0.5  # pulled to 0
    assert max(run.details["losses"]) < 50  # without the thousandfold penalty


def test_room_for_growth_is_not_counted_as_parameters() -> None:
    model = TriangularPair(7, 5, 2, max_rank=4)
    assert used_parameters(model, list(model.parameters())) == 2 * (7 + 5) + 2 * 3
    model.grow(4)
    assert used_parameters(model, list(model.parameters())) == 4 * (7 + 5) + 4 * 5


def test_full_tuning_has_the_rates_scaled() -> None:
    assert replace(PLAIN, rate_scale=1 / 50).arm((1e-3, 1e-2)).rates == [2e-5, 2e-4]
    assert replace(PLAIN, rate_scale=0).arm((1e-3, 1e-2)).rates == []
