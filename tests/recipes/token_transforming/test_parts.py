"""The parts of the recipe by themselves: ways, timing, splits, borders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from faults.every_change import killed_at_every_change
from linmap.compress.token_transforming import TokenTransform, stage_schedule, transformer_macs
from linmap.compress.token_transforming.evaluation.pictures import borders, flow
from linmap.compress.token_transforming.evaluation.texts import pools_class_token
from linmap.compress.token_transforming.evaluation.timing import Seconds
from linmap.compress.token_transforming.evaluation.ways import decoder_ways, encoder_ways, stages
from linmap.data.image_sets import image_set_of
from linmap.data.work import discard
from linmap.errors import DataError
from linmap.recipes.token_transforming.apply import begin
from linmap.recipes.token_transforming.loading import parted, spread


@pytest.mark.parametrize("M", [3, 9, 16])
def test_every_way_leaves_as_many_tokens(M: int) -> None:
    torch.manual_seed(0)
    x, importance = torch.randn(2, 17, 8), torch.rand(2, 17)
    for way in encoder_ways(TokenTransform()):
        if way.transform.select in ("bipartite", "energy") and M < 9:
            continue
        built = way.transform.build(x, M=M, k=x, importance=importance)
        assert built.shape == (2, M, 17), way.name
        drops = way.name == "pruning"
        torch.testing.assert_close(built.mass_out.sum(1), torch.full((2,), float(M if drops else 17)))


def test_evit_without_a_class_token_is_left_out() -> None:
    assert "EViT" not in [way.name for way in encoder_ways(TokenTransform(), class_token=False)]
    assert next(decoder_ways(TokenTransform())).kind == "system"


@pytest.mark.parametrize("keep", [0.2, 0.35, 0.45])
def test_pairs_spend_as_much_where_they_must_do_it_twice(keep: float) -> None:
    n, at = 257, (3, 6, 9)
    share, blocks = stages(TokenTransform(select="bipartite"), keep, at, n, 384, 12)
    assert share >= 0.5
    assert blocks == (2, 3, 5, 6, 8, 9)
    costs = [transformer_macs(n, 384, 12, schedule=stage_schedule(n, *budget), feature_dim=384)
             for budget in ((keep, at), (share, blocks))]  # fmt: skip
    if keep > 0.3:
        assert costs[1] == pytest.approx(costs[0], rel=0.01)
    assert stages(TokenTransform(), keep, at, n, 384, 12) == (keep, at)
    assert stages(TokenTransform(select="energy"), 0.5, at, n, 384, 12) == (0.5, at)


def test_the_speed_up_is_that_of_neighbours_in_time() -> None:
    assert Seconds([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]).speed_up == 2.0


def test_a_quarter_of_every_class_is_measured() -> None:
    labels = np.repeat([0, 1, 2], [8, 4, 2])
    images = image_set_of(np.zeros((14, 2, 2), np.uint8), labels)
    test, train = parted(images, 64)
    assert test.labels is not None
    assert test.labels.tolist() == [0, 0, 1, 2]
    assert set(test.names).isdisjoint(train.names)
    assert len(train) == 10
    few, _ = parted(images, 3)
    assert few.labels is not None
    assert few.labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="the class 1 has 1 image"):
        parted(image_set_of(np.zeros((3, 2, 2), np.uint8), np.array([0, 0, 1])), 64)


def test_rows_are_spread_evenly() -> None:
    assert spread(10, 2) == [2, 7]
    assert spread(3, 5) == spread(3, None) == [0, 1, 2]


def test_borders_stand_where_tokens_differ() -> None:
    """Two patches of one token, then one that shares a half with it, on dark ground, then one dropped."""
    recovery = np.array([[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]])
    found = borders(recovery, np.zeros((1, 4, 3)))
    assert found == {(True, 0.5): [((2, 0), (2, 1))], (True, 1.0): [((3, 0), (3, 1))]}


def test_flows_are_shares() -> None:
    torch.manual_seed(0)
    x, importance = torch.randn(1, 10, 4), torch.rand(1, 10)
    first = TokenTransform(tau=0.5).build(x, M=6, importance=importance)
    second = TokenTransform(tau=0.5).build(first.apply(x), M=3, importance=importance[:, :6], mass=first.mass_out)
    shares, recovery = flow([first, second], 9)
    np.testing.assert_allclose(recovery.sum(2), 1, atol=1e-6)
    np.testing.assert_allclose(shares[:, 1:].sum(2), 1, atol=1e-6)
    assert not shares[:, 0].any()  # the class token is made of no patch


def test_the_pooling_of_a_sentence_encoder_is_honoured_or_refused(tmp_path) -> None:
    assert not pools_class_token(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    path = tmp_path / "1_Pooling" / "config.json"
    path.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    assert pools_class_token(tmp_path)
    path.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(DataError, match="pooling_mode_max_tokens; the mean and the class token"):
        pools_class_token(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
@pytest.mark.parametrize("resume", [True, False])
def test_a_work_folder_that_was_made_or_removed_in_part_is_in_nobodys_way(resume: bool, tmp_path: Path) -> None:
    def work(place: Path) -> None:
        begin(place / "v.npy.work", {"a": 1}, False)
        (place / "v.npy.work" / "00000000.npy").touch()
        discard(place / "v.npy.work")

    for place in killed_at_every_change(work, tmp_path):
        begin(place / "v.npy.work", {"a": 1}, resume)
        discard(place / "v.npy.work")
        assert not list(place.iterdir())


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "v.npy.work").mkdir()
    (tmp_path / "v.npy.work" / ".theirs").touch()
    with pytest.raises(DataError, match="in the way"):
        begin(tmp_path / "v.npy.work", {}, resume=False)
    assert (tmp_path / "v.npy.work" / ".theirs").exists()
