"""Dice, HD95 and the losses against brute force and known answers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from linmap.adapt.segmentation import dice, dice_loss, focal_loss, hd95, segmentation_loss
from typed import gradient_of

masks = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).random((9, 7)) < 0.3)


@given(masks, masks)
def test_dice_counts_pixels(A, B):
    expected = (2 * np.sum(A * B) + 1) / (A.sum() + B.sum() + 1)
    assert dice(A, B) == dice(B, A) == pytest.approx(expected)
    assert dice(A, A) == 1


@given(masks, masks)
def test_hd95_is_the_brute_force_one(A, B):
    ours, theirs = (np.argwhere(M & np.logical_not(binary_erosion(M))) for M in (A, B))
    distances = cdist(ours, theirs)
    expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    assert hd95(A, B) == hd95(B, A) == pytest.approx(expected)
    assert hd95(A, A) == 0


def test_a_shift_is_its_own_distance():
    A, B = np.zeros((2, 30, 30))
    A[5:15, 5:15], B[5:15, 9:19] = 1, 1
    assert hd95(A, B) == 4


def test_empty_masks():
    empty, full = np.zeros((3, 4)), np.ones((3, 4))
    assert (dice(empty, empty), hd95(empty, empty)) == (1, 0)
    assert dice(empty, full) == pytest.approx(1 / 13)
    assert hd95(empty, full) == hd95(full, empty) == 5  # the diagonal in place of infinity


@pytest.mark.usefixtures("annotations_unchecked")
def test_masks_of_other_values_or_shapes_are_refused():
    with pytest.raises(ValueError, match=r"mask must hold 0 and 1 alone, got \[0.0, 0.5\]"):
        dice(np.array([[0, 0.5]]), np.array([[0, 1]]))
    with pytest.raises(ValueError, match=r"truth must hold 0 and 1 alone, got \[0, 255\]"):
        hd95(np.array([[0, 1]]), np.array([[0, 255]]))
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2\) and \(2, 1\)"):
        dice(np.zeros((1, 2)), np.zeros((2, 1)))


def test_the_losses_are_their_definitions():
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(2, 1, 5, 6, dtype=torch.float64), (torch.rand(2, 1, 5, 6) < 0.3).double()
    p = 1 / (1 + torch.exp(-logits))
    overlap = (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    p_t = torch.where(target == 1, p, 1 - p)
    focal = (-torch.where(target == 1, 0.75, 0.25).double() * (1 - p_t) ** 3 * p_t.log()).mean()
    torch.testing.assert_close(dice_loss(logits, target), 1 - overlap)
    torch.testing.assert_close(focal_loss(logits, target), focal)
    torch.testing.assert_close(segmentation_loss(logits, target), 1 - overlap + focal)


def test_the_losses_stay_finite_where_the_network_is_sure():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    segmentation_loss(logits, torch.tensor([[0.0, 1.0]])).backward()
    assert bool(torch.isfinite(gradient_of(logits)).all())
