"""The Frechet distance against scipy's matrix square root, and against a form without any square root of a matrix."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from linmap.interpret.householder_projector.frechet import diversity, frechet_distance


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """As the metric is usually computed, with a small multiple of the identity where the product is singular."""
    C, D = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    root = scipy.linalg.sqrtm(C @ D)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(C + D) - 2 * np.trace(root).real)


def by_singular_values(a: np.ndarray, b: np.ndarray) -> float:
    """tr (C^(1/2) D C^(1/2))^(1/2) is the nuclear norm of the product of the centred samples."""
    X, Y = (x - x.mean(0) for x in (a, b))
    n, m = len(X) - 1, len(Y) - 1
    nuclear = np.linalg.svd(X @ Y.T, compute_uv=False).sum() / math.sqrt(n * m)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (X**2).sum() / n + (Y**2).sum() / m - 2 * nuclear)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 30, 5), (9, 9, 1), (200, 150, 20), (12, 7, 30)])
def test_it_is_the_distance_of_two_gaussians(n: int, m: int, d: int) -> None:
    random = np.random.default_rng(n + d)
    a = random.standard_normal((n, d)) @ random.standard_normal((d, d)) + random.standard_normal(d)
    b = 3 * random.standard_normal((m, d))
    found = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(by_singular_values(a, b), rel=1e-5)
    if min(n, m) > d:
        assert found == pytest.approx(by_scipy(a, b), rel=1e-8)
    assert found == pytest.approx(frechet_distance(torch.from_numpy(b), torch.from_numpy(a)), rel=1e-8)


def test_laws() -> None:
    a = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-7)
    shift = torch.arange(6.0).double()
    assert frechet_distance(a, a + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)
    spread = float(a.T.cov().trace())
    assert frechet_distance(a, 3 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(4 * spread, rel=1e-6)
    assert frechet_distance(a.float(), a.float() + 1e-3) == pytest.approx(6e-6, rel=1e-2)  # float64 within
    assert diversity(a) == pytest.approx(
        float(np.mean([np.linalg.norm(x - y) for i, x in enumerate(a) for y in a[:i]]))
    )


def test_what_has_no_distance_is_refused() -> None:
    a = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        frechet_distance(a, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="2 samples at least, got 4 and 1"):
        frechet_distance(a, a[:1])
    with pytest.raises(ValueError, match="b holds values that are not finite"):
        frechet_distance(a, a / 0)
    with pytest.raises(ValueError, match="2 samples at least"):
        diversity(a[:1])
