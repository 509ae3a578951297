"""The laws of the representation, over random clouds."""

import itertools
import math
import warnings
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from linmap.shapes.tinvnn import TinvEmbedding, TinvFrame, moment_signs, tinv_frame
from shapes.tinvnn.shapes import copy_of, cube, orthogonal, polygon

SCALES: list[Any] = ["rms", "maxdist", "maxnorm", "none"]


def clouds(seed: int, batch: int = 3, n: int = 12, d: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, d, generator=generator, dtype=torch.float64).exp().to(dtype)


seeds = st.integers(0, 10**6)


@hypothesis.given(seeds, st.integers(1, 5), st.sampled_from(SCALES[:3]), st.booleans())
def test_copies_have_one_representation(seed: int, d: int, scale: Any, reflections: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    X = clouds(seed, 1, 15, d)[0]
    embedding = TinvEmbedding(scale=scale, reflections=reflections)
    for reach in (1.0, 3.0):
        other = embedding(copy_of(X, generator, special=not reflections, reach=reach))
        torch.testing.assert_close(other, embedding(X), atol=1e-9, rtol=0)


def test_single_precision_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    X = clouds(0, 1, 200, 3, torch.float32)[0]
    H = TinvEmbedding()(X)
    for _ in range(20):
        other = TinvEmbedding()(copy_of(X, generator).float())
        torch.testing.assert_close(other, H, atol=2e-5, rtol=0)


@hypothesis.given(seeds, st.integers(1, 5))
def test_the_order_of_points_is_kept(seed: int, d: int) -> None:
    X = clouds(seed, d=d)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(TinvEmbedding()(X[:, order]), TinvEmbedding()(X)[:, order], atol=1e-12, rtol=0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("n_components", [None, 5])
def test_distances_are_kept_up_to_the_scale(scale: Any, n_components: int | None) -> None:
    X = clouds(1)
    H, frame = TinvEmbedding(n_components, scale=scale)(X, return_frame=True)
    torch.testing.assert_close(torch.cdist(H, H) * frame.scale[:, None, None], torch.cdist(X, X))
    D, Xc = torch.cdist(X, X), X - X.mean(1, keepdim=True)
    expected = {
        "rms": (D.square().sum((1, 2)) / (2 * 12**2)).sqrt(),
        "maxdist": D.amax((1, 2)),
        "maxnorm": Xc.norm(dim=-1).amax(1),
        "none": torch.ones(3, dtype=torch.float64),
    }
    torch.testing.assert_close(frame.scale, expected[scale])


def test_columns_are_the_principal_coordinates() -> None:
    X = clouds(2)
    H, frame = TinvEmbedding()(X, return_frame=True)
    Xc = X - X.mean(1, keepdim=True)
    eigenvalues = torch.linalg.eigvalsh(Xc.mT @ Xc).flip(-1) / frame.scale[:, None] ** 2
    torch.testing.assert_close(H.mT @ H, torch.diag_embed(eigenvalues), atol=1e-10, rtol=0)
    torch.testing.assert_close(H.mean(1), torch.zeros(3, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(H.square().sum((1, 2)) / 12, torch.ones(3, dtype=torch.float64))
    assert (H.pow(3).sum(1)[~frame.ambiguous] > 0).all()
    torch.testing.assert_close(H @ H.mT * frame.scale[:, None, None] ** 2, Xc @ Xc.mT, atol=1e-9, rtol=0)


def test_truncated_and_padded() -> None:
    X = clouds(3)
    H = TinvEmbedding()(X)
    torch.testing.assert_close(TinvEmbedding(2)(X), H[..., :2])
    padded, frame = TinvEmbedding(5)(X, return_frame=True)
    torch.testing.assert_close(padded[..., :3], H)
    assert not padded[..., 3:].any()
    assert frame.Q.shape == (3, 3, 5)
    assert not frame.degenerate[:, 3:].any()


def test_masked_points_count_for_nothing() -> None:
    X, mask = clouds(4), torch.ones(3, 12, dtype=torch.bool)
    mask[1, 5:], mask[2, :3] = False, False
    X[~mask] = torch.nan
    H, frame = TinvEmbedding()(X, mask, return_frame=True)
    assert not H[~mask].any()
    for i in range(3):
        torch.testing.assert_close(H[i, mask[i]], TinvEmbedding()(X[i, mask[i]]), atol=1e-12, rtol=0)
        torch.testing.assert_close(frame.center[i], X[i, mask[i]].mean(0))
    one = TinvEmbedding()(X[1], mask[1])
    torch.testing.assert_close(one, H[1])


def test_clouds_are_independent_of_each_other() -> None:
    X = clouds(5, batch=6)
    X[2] = 1.0
    X[3] = clouds(6, 1)[0] * 1e6
    with pytest.warns(UserWarning, match="cloud 2"):
        H = TinvEmbedding()(X)
    assert not H[2].any()
    for i in (0, 1, 3, 4, 5):
        assert torch.equal(H[i], TinvEmbedding()(X[i]))


def test_large_offsets() -> None:
    X = clouds(7)
    far = X.float() + 3000
    torch.testing.assert_close(TinvEmbedding()(far).double(), TinvEmbedding()(far.double()), atol=2e-5, rtol=0)
    torch.testing.assert_close(TinvEmbedding()(X + 5e6), TinvEmbedding()(X), atol=1e-8, rtol=0)


def test_precision_and_extreme_units() -> None:
    X = clouds(8)
    for dtype in (torch.float16, torch.bfloat16):
        H = TinvEmbedding()(X.to(dtype))
        assert H.dtype == torch.float32
        torch.testing.assert_close(H, TinvEmbedding()(X.to(dtype).float()))
    whole = (10 * X).long()
    with pytest.warns(UserWarning, match=r"int64"):
        H = TinvEmbedding()(whole)
    torch.testing.assert_close(H, TinvEmbedding()(whole.float()))
    for unit in (1e150, 1e-150):
        H, frame = TinvEmbedding()(X * unit, return_frame=True)
        torch.testing.assert_close(H, TinvEmbedding()(X), atol=1e-9, rtol=0)
        torch.testing.assert_close(frame.from_canonical(H) / unit, X)
        torch.testing.assert_close(TinvEmbedding(scale="none")(X * unit) / unit, TinvEmbedding(scale="none")(X))


@pytest.mark.parametrize("reflections", [True, False])
def test_flat_clouds_and_few_points(reflections: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    plane = clouds(9, d=2) @ torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    H, frame = TinvEmbedding(reflections=reflections)(plane, return_frame=True)
    assert not H[..., 2:].any()
    torch.testing.assert_close(torch.cdist(H, H) * frame.scale[:, None, None], torch.cdist(plane, plane))
    torch.testing.assert_close(frame.Q.mT @ frame.Q, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    torch.testing.assert_close(frame.from_canonical(H), plane)
    for n in (1, 2, 3):
        if n == 1:
            with pytest.warns(UserWarning, match="equal"):
                H, frame = TinvEmbedding()(clouds(10, n=n, d=5), return_frame=True)
            assert (frame.scale == 1).all()
        else:
            H, _ = TinvEmbedding()(clouds(10, n=n, d=5), return_frame=True)
        assert H.isfinite().all()
        assert not H[..., n - 1 :].any()


def test_hands_are_kept_apart_only_if_asked_for() -> None:
    X = clouds(11)
    mirror = X * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(TinvEmbedding()(mirror), TinvEmbedding()(X), atol=1e-12, rtol=0)
    handed = TinvEmbedding(reflections=False)
    H, frame = handed(X, return_frame=True)
    torch.testing.assert_close(torch.linalg.det(frame.Q), torch.ones(3, dtype=torch.float64))
    assert (handed(mirror) - H).abs().amax((1, 2)).min() > 0.1
    torch.testing.assert_close(H[..., :2], TinvEmbedding()(X)[..., :2])
    for signs in ("random", "none"):
        Q = tinv_frame(X, signs=signs, reflections=False, generator=torch.Generator().manual_seed(0)).Q
        torch.testing.assert_close(torch.linalg.det(Q), torch.ones(3, dtype=torch.float64))


def test_the_frame_goes_there_and_back() -> None:
    X = clouds(12)
    for one in (X, X[0], X.float() + 3000):
        H, frame = TinvEmbedding()(one, return_frame=True)
        tolerance = 1e-12 if one.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(frame.to_canonical(one), H, atol=tolerance, rtol=0)
        torch.testing.assert_close(frame.from_canonical(H), one)
        Q, s = frame.Q, frame.scale[..., None, None]
        torch.testing.assert_close(frame.from_canonical(H, "vector"), s * H @ Q.mT)
        torch.testing.assert_close(frame.from_canonical(H, "direction"), H @ Q.mT)


def test_vectors_of_a_network_turn_with_the_input() -> None:
    generator = torch.Generator().manual_seed(0)
    X, R = clouds(13)[0], orthogonal(3, generator)

    def answer(X: Tensor, kind: str) -> Tensor:
        H, frame = TinvEmbedding()(X, return_frame=True)
        return frame.from_canonical(H.sin(), kind)

    moved = 3 * X @ R.mT + 7
    torch.testing.assert_close(answer(moved, "point"), 3 * answer(X, "point") @ R.mT + 7)
    torch.testing.assert_close(answer(moved, "vector"), 3 * answer(X, "vector") @ R.mT)
    torch.testing.assert_close(answer(moved, "direction"), answer(X, "direction") @ R.mT)


def test_random_signs_and_the_eigensolvers() -> None:
    X = clouds(14, batch=200)
    moment, random, eigen = TinvEmbedding(), TinvEmbedding(signs="random"), TinvEmbedding(signs="none")
    H = moment(X)
    draw = random(X, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(draw.abs(), H.abs())
    share = (draw * H).sum(1).sign().mean(0)
    assert share.abs().max() < 0.25
    assert torch.equal(draw, random(X, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(random.eval()(X), H)
    torch.testing.assert_close(eigen(X).abs(), H.abs())
    assert not torch.allclose(eigen(X), H)


@pytest.mark.parametrize("reflections", [True, False])
def test_frames_are_all_flips(reflections: bool) -> None:
    X = clouds(15)
    embedding = TinvEmbedding(reflections=reflections)
    H, frames = embedding(X), embedding.frames(X)
    flips = [f for f in itertools.product((1, -1), repeat=3) if reflections or math.prod(f) == 1]
    assert frames.shape == (3, len(flips), 12, 3)
    assert torch.equal(frames[:, 0], H)
    for i, flip in enumerate(flips):
        assert torch.equal(frames[:, i], H * torch.tensor(flip))
    assert embedding.frames(X[0]).shape == (len(flips), 12, 3)


@pytest.mark.parametrize("scale", SCALES)
def test_gradient_through_a_constant_frame(scale: Any) -> None:
    X, W = clouds(16).requires_grad_(), clouds(17)
    H, frame = TinvEmbedding(scale=scale)(X, return_frame=True)
    (H * W).sum().backward()
    assert not frame.Q.requires_grad
    expected = W @ frame.Q.mT / frame.scale[:, None, None]
    torch.testing.assert_close(X.grad, expected - expected.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("scale", "n_components"),
    [("rms", None), ("rms", 2), ("rms", 4), ("maxdist", None), ("maxnorm", None), ("none", None)],
)
def test_the_true_gradient(scale: Any, n_components: int | None) -> None:
    X = clouds(18, batch=2, n=5).requires_grad_()
    embedding = TinvEmbedding(n_components, scale=scale, detach_frame=False)
    assert torch.autograd.gradcheck(embedding, (X,))
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 4:] = False
    assert torch.autograd.gradcheck(lambda x: embedding(x, mask), (X,))


@pytest.mark.parametrize("detach_frame", [True, False])
def test_gradients_are_finite(detach_frame: bool) -> None:
    flat = torch.cat([clouds(19, 1, 8, 2)[0], torch.zeros(8, 1, dtype=torch.float64)], 1)
    line = torch.arange(8.0).double()[:, None] * torch.ones(3, dtype=torch.float64)
    X = torch.stack([cube(), flat, line, torch.ones(8, 3, dtype=torch.float64)]).requires_grad_()
    with pytest.warns(UserWarning, match="equal"):
        H = TinvEmbedding(detach_frame=detach_frame)(X)
    (H * clouds(20, 4, 8)).sum().backward()
    assert X.grad is not None
    assert X.grad.isfinite().all()


@pytest.mark.parametrize("detach_frame", [True, False])
def test_forward_mode_agrees_with_backward_mode(detach_frame: bool) -> None:
    embedding, X = TinvEmbedding(detach_frame=detach_frame), clouds(3, 1, 5)[0]
    torch.testing.assert_close(torch.func.jacfwd(embedding)(X), torch.func.jacrev(embedding)(X))


def test_arrays_of_any_memory_are_read() -> None:
    X = clouds(4)[0].numpy()
    expected = TinvEmbedding()(X)
    fixed = X.copy()
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (X[::-1][::-1], np.asfortranarray(X), X.astype(">f8"), fixed, pd.DataFrame(X)):
            torch.testing.assert_close(TinvEmbedding()(given), expected)
    torch.testing.assert_close(TinvEmbedding()(X[::-1]), expected.flip(0))


def test_moment_signs() -> None:
    h = torch.tensor([[-3.0, 1, 1, 1], [2, -1, -1, 0]]).mT
    signs, ambiguous = moment_signs(h)
    assert signs.tolist() == [-1, 1]
    assert not ambiguous.any()
    torch.testing.assert_close(moment_signs(-h)[0], -signs)
    even, none = moment_signs(polygon(4))
    assert even.tolist() == [1, 1]
    assert none.all()
    fifth = torch.tensor([-2.0, -2, 1, 3, 0], dtype=torch.float64)
    fifth = fifth.where(fifth != 0, torch.tensor(0.0, dtype=torch.float64))
    padded = torch.cat([h, torch.full((2, 2), 9.0)])
    mask = torch.tensor([True] * 4 + [False] * 2)
    assert moment_signs(padded, mask)[0].tolist() == [-1, 1]
    assert moment_signs(h, tau=1e3)[1].all()


def test_later_moments_decide_where_earlier_ones_vanish() -> None:
    a, b = 1.0, 2.0  # -b, a and their weights: mean and cube vanish, the fifth power does not
    h = torch.tensor([a] * 8 + [-b] * 5 + [0.5] * 0, dtype=torch.float64)
    root = torch.linalg.solve(
        torch.tensor([[1.0, 2.0, 3.0], [1, 8, 27], [1, 32, 243]], dtype=torch.float64),
        torch.tensor([0.0, 0, 1], dtype=torch.float64),
    )
    weights = (root * 240).round().long()  # of 1, 2, 3; negative: of -1, -2, -3
    values = [
        k * (1 if w > 0 else -1) for k, w in zip((1.0, 2.0, 3.0), weights.tolist(), strict=True) for _ in range(abs(w))
    ]
    h = torch.tensor(values, dtype=torch.float64)
    assert abs(h.sum()) < 1e-12
    assert abs(h.pow(3).sum()) < 1e-12
    assert h.pow(5).sum() > 0
    assert moment_signs(h[:, None])[0].item() == 1
    assert moment_signs(-h[:, None])[0].item() == -1
    mixed = torch.tensor([[1.0, 2], [-1, 0], [1, 2], [-1, 0], [0, -4], [0, 0]], dtype=torch.float64)
    signs, ambiguous = moment_signs(mixed)
    assert signs[0] == 1  # by the sum of h_1 |h|²
    assert not ambiguous[0]


def test_the_frame_is_frozen_and_has_its_fields() -> None:
    assert tinv_frame(clouds(0)) != tinv_frame(clouds(0))  # by identity, as of tensors
    frame = tinv_frame(clouds(21)[0])
    assert isinstance(frame, TinvFrame)
    assert [part.shape for part in (frame.center, frame.scale, frame.Q)] == [(3,), (), (3, 3)]
    assert frame.ambiguous.dtype == frame.degenerate.dtype == torch.bool
    with pytest.raises(AttributeError):
        frame.scale = 1  # pyright: ignore


def test_a_large_cloud_is_cheap() -> None:
    X = torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0))
    for scale in SCALES:
        assert TinvEmbedding(scale=scale)(X).isfinite().all()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("reflections", [True, False])
def test_the_mirrored_axis_alone_is_ambiguous_and_a_second_one_where_only_turns_count(
    axis: int, reflections: bool
) -> None:
    generator = torch.Generator().manual_seed(axis)
    half = torch.randn(8, 3, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 2.0, 0.6])
    mirrored = half.clone()
    mirrored[:, axis] *= -1
    X = torch.cat([half, mirrored]) @ orthogonal(3, generator)
    frame = tinv_frame(X[None], reflections=reflections)
    # without reflections the last sign is that of the determinant: open where another one is
    expected = {axis} if reflections else set() if axis == 2 else {axis, 2}
    assert set(frame.ambiguous[0].nonzero()[:, 0].tolist()) == expected
