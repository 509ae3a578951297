import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linmap.interpret.householder_projector import (
    interpretable_path_length,
    jacobian,
    jacobian_basis,
    perceptual_path_length,
    rank_directions,
    traversal_range,
    traverse,
)
from linmap.interpret.householder_projector.changes import image_changes
from typed import other

pytestmark = pytest.mark.usefixtures("annotations_unchecked")
seeds = st.integers(0, 2**16)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(n_slots: int = 3, i: int = 4) -> nn.Module:
    """Images (2, 4, 4) of codes, non-linear in every slot."""
    torch.manual_seed(0)
    layers = (
        nn.Flatten(),
        nn.Linear(n_slots * i, 12),
        nn.Tanh(),
        nn.Unflatten(1, (3, 2, 2)),
        nn.ConvTranspose2d(3, 4, 2, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 2, 1),
    )
    return nn.Sequential(*layers).double().eval()


def test_a_traversal_adds_steps_at_its_slots_only():
    w, direction, G = normal(2, 3, 4), normal(4, seed=1), network()
    before = w.clone()
    for slot in (1, [0, 2], (2, 2)):
        images = traverse(G, w.requires_grad_(), slot, direction, [-2, 0.5])
        assert not images.requires_grad
        for alpha, image in zip([-2, 0.5], images, strict=True):
            v = before.clone()
            v[:, sorted({*np.atleast_1d(np.array(slot)).tolist()})] += alpha * direction
            torch.testing.assert_close(image, G(v).detach())
    assert torch.equal(w, before)


def test_the_range_is_in_standard_deviations_along_the_direction():
    w, direction = normal(50, 4), normal(4, seed=1)
    alphas = traversal_range(w, direction, n_std=2, n=5)
    sd = np.std(w.numpy() @ direction.numpy(), ddof=1)
    np.testing.assert_allclose(alphas, np.linspace(-2 * sd, 2 * sd, 5), atol=1e-12)


def test_directions_are_ranked_by_the_change_of_images():
    w, D, G = normal(5, 3, 4), normal(4, 4, seed=1), network()
    order, change = rank_directions(G, w, 1, D, eps=0.5)
    for j, d in enumerate(D):
        v = w.clone()
        v[:, 1] += 0.5 * d
        expected = (G(v) - G(w)).flatten(1).norm(dim=1).mean() / 0.5
        torch.testing.assert_close(change[j], expected.detach())
    assert order.dtype == torch.int64
    assert order.tolist() == sorted(range(4), key=lambda j: -float(change[j]))
    tied, _ = rank_directions(lambda w: w.flatten(1), w, 0, torch.eye(4).double())
    assert tied.tolist() == [0, 1, 2, 3]


def test_changes_and_jacobian_have_derivatives():
    w, D, G = normal(3, 2, 4), normal(2, 4, seed=1), network(2)
    assert torch.autograd.gradcheck(
        lambda w, D: rank_directions(G, w, 1, D)[1], (w.requires_grad_(), D.requires_grad_())
    )
    assert torch.autograd.gradcheck(lambda w, D: jacobian_basis(G, w, 1, D), (w, D))


def columns_of(G: nn.Module, w: torch.Tensor, slot: int, D: torch.Tensor) -> torch.Tensor:
    """(S, pixels, k) by reverse mode, one sample at a time."""

    def image(alpha: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        at = torch.zeros(code.shape[0], 1).double()
        at[slot] = 1
        return G((code + at * (alpha @ D))[None]).flatten()

    zero = torch.zeros(len(D)).double()
    return torch.stack([torch.autograd.functional.jacobian(lambda a, c=code: image(a, c), zero) for code in w])


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("samples", [1, 5])
def test_the_jacobian_basis_diagonalises_the_mean_gram(k, samples, monkeypatch):
    monkeypatch.setattr(jacobian, "AT_ONCE", 2 * k)  # in parts of two samples
    w, G = normal(samples, 3, 4), network()
    D = torch.linalg.qr(normal(4, k, seed=1))[0].mT
    found, values = jacobian_basis(G, w, 2, D)
    assert not found.requires_grad
    J = columns_of(G, w, 2, found)
    torch.testing.assert_close((J.mT @ J).mean(0), values.diag(), rtol=1e-8, atol=1e-10)
    assert values.tolist() == sorted(values.tolist(), reverse=True)
    torch.testing.assert_close(found @ found.mT, torch.eye(k).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.mT @ found, D.mT @ D, rtol=0, atol=1e-10)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


# -- path lengths ------------------------------------------------------------------------------------------------------


def trimmed_mean(d: np.ndarray, trim: tuple[float, float]) -> float:
    kept = d[(d >= np.percentile(d, trim[0], method="lower")) & (d <= np.percentile(d, trim[1], method="higher"))]
    return float(kept.mean())


@given(seeds, st.integers(1, 30), st.sampled_from([(1.0, 99.0), (10.0, 80.0), (0.0, 100.0)]))
def test_the_path_length_is_the_trimmed_mean_of_squared_changes(seed, samples, trim):
    G, calls = network(), []
    a, b, t = normal(samples, 3, 4, seed=seed), normal(samples, 3, 4, seed=seed + 1), normal(samples, seed=seed + 2)

    def synthesis(w: torch.Tensor) -> torch.Tensor:
        calls.append(len(w))
        return G(w)

    def features(images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    found = perceptual_path_length(synthesis, a, b, t, features=features, eps=0.01, trim=trim)
    at = t[:, None, None]
    ends = [features(G(a + (at + e) * (b - a))).detach().numpy() for e in (0, 0.01)]
    assert found == pytest.approx(trimmed_mean(np.square(ends[1] - ends[0]).sum(1) / 0.01**2, trim), rel=1e-6)
    assert calls == [samples, samples]

    slots, D = torch.arange(samples) % 3, normal(samples, 4, seed=seed + 3)
    found = interpretable_path_length(G, a, slots, D, eps=0.5, trim=trim)
    moved = a.clone()
    for s in range(samples):
        moved[s, slots[s]] += 0.5 * D[s]
    d = (G(moved) - G(a)).detach().numpy()
    assert found == pytest.approx(trimmed_mean(np.square(d).reshape(samples, -1).sum(1) / 0.25, trim), rel=1e-9)


def test_of_a_linear_generator_it_is_the_squared_norm():
    A, w, d = normal(6, 4), normal(8, 1, 4), normal(4, seed=1)
    length = interpretable_path_length(lambda w: w[:, 0] @ A.mT, w, torch.zeros(8).long(), d.expand(8, 4))
    assert length == pytest.approx(float((A @ d).square().sum()))
    flat = perceptual_path_length(lambda w: w @ A.mT, w[:, 0], w[:, 0] + d, torch.zeros(8).double())
    assert flat == pytest.approx(float((A @ d).square().sum()), rel=1e-6)


def test_a_step_that_rounding_swallows_warns():
    w = torch.ones(4, 3, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="lost in the rounding"):
        perceptual_path_length(lambda w: w, w, 2 * w, torch.full((4,), 0.5, dtype=torch.bfloat16))


# -- refusals ----------------------------------------------------------------------------------------------------------

W, D = normal(2, 3, 4), normal(4, 4)


@pytest.mark.parametrize("slot", [3, -1, [0, 3], [], True, 1.0])
def test_a_slot_out_of_range_is_refused(slot):
    for call in (
        lambda: traverse(network(), W, other(slot), D[0], [1.0]),
        lambda: rank_directions(network(), W, other(slot), D),
        lambda: jacobian_basis(network(), W, other(slot), D),
    ):
        with pytest.raises((ValueError, TypeError), match="slot"):
            call()


def test_codes_and_directions_of_other_shapes_are_refused():
    for w in (W[0], W[0, 0]):
        with pytest.raises(ValueError, match="w must have 3 dimensions"):
            traverse(network(), w, 0, D[0], [1.0])
    with pytest.raises(ValueError, match="direction must have the 4 features"):
        traverse(network(), W, 0, normal(3), [1.0])
    with pytest.raises(ValueError, match="at least one step"):
        traverse(network(), W, 0, D[0], [])
    with pytest.raises(ValueError, match="directions must have"):
        rank_directions(network(), W, 0, D[:, :3])
    for eps in (0.0, math.nan):
        with pytest.raises(ValueError, match="eps"):
            rank_directions(network(), W, 0, D, eps=eps)
    with pytest.raises(ValueError, match="two samples"):
        traversal_range(W[:1, 0], D[0])
    with pytest.raises(TypeError, match="floating"):
        traverse(network(), torch.ones(2, 3, 4, dtype=torch.int64), 0, D[0], [1.0])


def test_path_lengths_refuse_what_does_not_fit_together():
    w, t = W[:, 0], torch.zeros(2).double()
    with pytest.raises(ValueError, match="same number of samples"):
        perceptual_path_length(network(), W, W[:1], t)
    with pytest.raises(ValueError, match="same number of samples"):
        perceptual_path_length(network(), W, W, t[:1])
    with pytest.raises(ValueError, match="trim"):
        perceptual_path_length(lambda w: w, w, w, t, trim=(99.0, 1.0))
    with pytest.raises(ValueError, match="not finite"):
        perceptual_path_length(lambda w: w * math.inf, w, w + 1, t)
    for slots in (torch.tensor([0, 3]), torch.tensor([0, -1]), torch.tensor([0])):
        with pytest.raises(ValueError, match="slots"):
            interpretable_path_length(network(), W, slots, D[:2])
    with pytest.raises(TypeError, match="whole numbers"):
        interpretable_path_length(network(), W, torch.zeros(2), D[:2])


def test_a_synthesis_that_works_in_place_changes_no_measure():
    def synthesis(w: torch.Tensor) -> torch.Tensor:
        return w.sin().flatten(1)

    def in_place(w: torch.Tensor) -> torch.Tensor:
        return w.sin_().flatten(1)

    w, D, slots = normal(5, 2, 4), normal(5, 4, seed=1), torch.tensor([0, 1, 1, 0, 1])
    found = []
    for G in (synthesis, in_place):
        change = rank_directions(G, w, 1, D)[1]
        length = interpretable_path_length(G, w, slots.to(torch.uint8), D)
        found.append((change, torch.tensor(length), image_changes(G, w, [0, 1], D[:2]), traverse(G, w, 0, D[0], [1])))
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert torch.equal(w, normal(5, 2, 4))


def test_numbers_and_rows_that_mean_nothing_are_refused():
    w, D, t = normal(3, 2, 4), normal(2, 4), normal(3)
    G = nn.Flatten()
    for call, message in (
        (lambda: traverse(G, w, 0, D[0], other(5)), "alphas must be a sequence"),
        (lambda: traverse(G, w, 0, D[0], other("12")), "alphas must be a sequence"),
        (lambda: traverse(G, w, 0, D[0], [math.nan]), "alphas must be a finite number"),
        (lambda: traverse(G, w, 0, D[0] * math.nan, [1]), "direction must be finite"),
        (lambda: traversal_range(w[:, 0], D[0], n_std=math.inf), "n_std"),
        (lambda: rank_directions(G, w, 0, D, eps=math.inf), "eps"),
        (lambda: rank_directions(G, w[:0], 0, D), "at least one sample"),
        (lambda: jacobian_basis(G, w[:0], 0, D), "at least one sample"),
        (lambda: perceptual_path_length(G, w, w, t, trim=other((1,))), "trim must be two"),
        (lambda: perceptual_path_length(G, w, w, t, features=lambda x: x.mean(0)), "a row for each of 3 samples"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert traverse(G, w, other(torch.tensor([0, 1])), D[0], other(np.array([1.0]))).shape == (1, 3, 8)
