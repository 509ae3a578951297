"""Samples by the Haar measure: invariance of integrals, the law of the radius, and what depends on what."""

# what is refused has the wrong type on purpose
# pyright: reportArgumentType=false

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from linmap.geometry.groups import SO2, GLnPlus, GroupSamples, HaarSampler, LogNormalSampler, PolarGroup, SLn, polar

GROUPS = [SLn(2), GLnPlus(2), SO2(), SLn(3), GLnPlus(3)]
by_group = pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def samplers(group: PolarGroup) -> list:
    rotations = ["auto", "haar"] + (["stratified", "uniform", "linspace"] if group.n == 2 else [])
    found = [HaarSampler(group, rotations=r) for r in rotations]
    found += [LogNormalSampler(group, rotations=r, weights=w) for r in rotations for w in (False, True)]
    return found + ([HaarSampler(group, qmc=True)] if group.n == 2 else [])


@by_group
def test_samples_are_elements_with_their_inverses_and_depend_on_the_generator_alone(group: PolarGroup) -> None:
    state = torch.get_rng_state().clone()
    for sampler in samplers(group):
        s = sampler.sample(7, generator=seeded(), dtype=torch.float64)
        assert len(s) == 7
        assert bool(group.belongs(s.g, 1e-9).all())
        torch.testing.assert_close(s.g @ s.g_inv, torch.eye(group.n).double().expand_as(s.g), atol=1e-12, rtol=0)
        assert s.g.untyped_storage().data_ptr() != s.g_inv.untyped_storage().data_ptr()
        again, other = (sampler.sample(7, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
        assert torch.equal(s.g, again.g)
        if sampler.rotations != "linspace" or not isinstance(group, SO2):
            assert not torch.equal(s.g, other.g)
        single = sampler.sample(7, generator=seeded())
        assert single.g.dtype == torch.float32
        torch.testing.assert_close(single.g, s.g.float())
        if s.weight is not None:
            assert float(s.weight.sum()) == pytest.approx(1)
            assert bool((s.weight > 0).all())
        sampler.sample(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_samples_are_new() -> None:
    sampler = HaarSampler(SLn(2))
    torch.manual_seed(0)
    first = sampler.sample(3)
    torch.manual_seed(0)
    assert not torch.equal(first.g, sampler.sample(3).g)


def stretches(s: GroupSamples) -> tuple[Tensor, Tensor]:
    """r and t of log P = r [[cos, sin], [sin, -cos]] + t I."""
    Y, _ = polar(s.g)
    t = Y.diagonal(dim1=1, dim2=2).mean(1)
    return torch.hypot((Y[:, 0, 0] - Y[:, 1, 1]) / 2, Y[:, 0, 1]), t


@pytest.mark.parametrize("qmc", [False, True])
@pytest.mark.parametrize("group", [SLn(2), GLnPlus(2)], ids=lambda g: g.name)
def test_the_radius_has_the_law_of_the_haar_measure(group: PolarGroup, qmc: bool) -> None:
    radius = 1.2
    s = HaarSampler(group, radius, 0.4, qmc=qmc).sample(4000, seeded(3), dtype=torch.float64)
    r, t = stretches(s)
    law = lambda x: (np.cosh(2 * x) - 1) / (math.cosh(2 * radius) - 1)  # noqa: E731
    assert stats.kstest(r.numpy(), law).pvalue > 0.01
    if isinstance(group, GLnPlus):
        assert stats.kstest(t.numpy(), stats.uniform(-0.4, 0.8).cdf).pvalue > 0.01
    else:
        assert float(t.abs().max()) < 1e-12
    assert s.weight is not None
    torch.testing.assert_close(s.weight, torch.full((4000,), 1 / 4000).double())


def bump(g: Tensor) -> Tensor:
    """Of small support around the identity, which moves by h and inversion keep inside of the samples."""
    size = 0.5 if g.shape[-1] == 2 else 2.5
    d = ((g - torch.eye(g.shape[-1])) ** 2).sum((-2, -1))
    return torch.where(d < size, torch.exp(-size / (size - d).clamp_min(1e-9)), 0.0)


CASES = {
    "SL(2)": (HaarSampler(SLn(2), 1.5, rotations="uniform"), SLn(2)),
    "GL+(2)": (HaarSampler(GLnPlus(2), 1.3, 1.3, rotations="uniform"), GLnPlus(2)),
    "SL(3)": (HaarSampler(SLn(3), 1.6), SLn(3)),
    "log-normal, weighted": (LogNormalSampler(SLn(2), 1.0, "uniform", weights=True), SLn(2)),
}


@pytest.mark.parametrize("case", CASES)
def test_integrals_do_not_change_under_left_right_and_inversion(case: str) -> None:
    sampler, group = CASES[case]
    N = 400_000 if group.n == 2 else 200_000
    s = sampler.sample(N, seeded(1), dtype=torch.float64)
    v = torch.zeros(group.dim, dtype=torch.float64)
    v[-1] = 0.3
    v[0] = 0.2
    h = group.from_coords(v)
    assert s.weight is not None
    reference = s.weight * bump(s.g) * N
    for f in (bump(h @ s.g), bump(s.g @ h), bump(s.g_inv)):
        difference = s.weight * f * N - reference
        error = float(difference.std()) / math.sqrt(N)
        assert abs(float(difference.mean())) < 4 * error
    assert float(reference.mean()) > 5 * float(reference.std()) / math.sqrt(N)  # there is something to compare


def test_the_authors_samples_without_weights_are_not_haars() -> None:
    N = 200_000
    s = LogNormalSampler(SLn(2), 0.1, "uniform").sample(N, seeded(1), dtype=torch.float64)
    assert s.weight is None
    h = torch.diag(torch.tensor([1.3, 1 / 1.3], dtype=torch.float64))
    f = lambda g: torch.exp(-4 * ((g - torch.eye(2)) ** 2).sum((-2, -1)))  # noqa: E731
    assert float(f(h @ s.g).mean() / f(s.g).mean()) < 0.95


@pytest.mark.parametrize("var", [0.1, [0.05, 0.2]])
def test_the_variance_is_that_of_the_coordinates_of_log_s(var) -> None:
    s = LogNormalSampler(SLn(2), var).sample(20_000, seeded(), dtype=torch.float64)
    log_S = 2 * polar(s.g)[0]
    coordinates = torch.stack([log_S[:, 0, 0], log_S[:, 0, 1]], 1) * math.sqrt(2)  # e11 - e22, then off the diagonal
    torch.testing.assert_close(coordinates.var(0), torch.tensor(var).double().expand(2), rtol=0.05, atol=0)
    assert bool((coordinates.mean(0).abs() < 0.01).all())
    wide = LogNormalSampler(GLnPlus(2), [0.1, 0.2, 0.3]).sample(20_000, seeded(), dtype=torch.float64)
    log_S = 2 * polar(wide.g)[0]
    coordinates = torch.stack([log_S[:, 0, 0], math.sqrt(2) * log_S[:, 0, 1], log_S[:, 1, 1]], 1)
    torch.testing.assert_close(coordinates.var(0), torch.tensor([0.1, 0.2, 0.3]).double(), rtol=0.05, atol=0)


def angles(s: GroupSamples) -> Tensor:
    return SLn(2).coords(s.g)[:, 1]


def test_rotations_by_their_names() -> None:
    N = 8
    stratified = angles(HaarSampler(SLn(2)).sample(N, seeded(), dtype=torch.float64)).sort().values
    torch.testing.assert_close(stratified.diff(), torch.full((N - 1,), 2 * math.pi / N).double())
    ends = LogNormalSampler(SLn(2)).sample(N, seeded(), dtype=torch.float64)
    torch.testing.assert_close(
        angles(ends), torch.linspace(-math.pi, math.pi, N).double().remainder(2 * math.pi), atol=1e-6, rtol=0
    )
    for rotations in ("uniform", "haar"):
        found = angles(HaarSampler(SLn(2), rotations=rotations).sample(2000, seeded(), dtype=torch.float64))
        assert stats.kstest(found.numpy() / (2 * math.pi), "uniform").pvalue > 0.01


def test_rotations_of_space_are_uniform() -> None:
    _, R = polar(HaarSampler(SLn(3)).sample(4000, seeded(), dtype=torch.float64).g)
    assert stats.kstest(R[:, 0, 2].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01  # Archimedes
    assert stats.kstest(R[:, 2, 0].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_stretches_of_space_lie_in_the_ball() -> None:
    s = HaarSampler(GLnPlus(3), 0.7, 0.2).sample(4000, seeded(), dtype=torch.float64)
    Y, _ = polar(s.g)
    t = Y.diagonal(dim1=1, dim2=2).mean(1)
    assert float(t.abs().max()) < 0.2
    norm = (Y - t[:, None, None] * torch.eye(3)).flatten(1).norm(dim=1)
    assert float(norm.max()) <= math.sqrt(2) * 0.7
    assert stats.kstest((norm / (math.sqrt(2) * 0.7)).numpy() ** 5, "uniform").pvalue > 0.01
    assert s.weight is not None
    density = GLnPlus(3).haar_density(Y)
    torch.testing.assert_close(s.weight, density / density.sum())


def test_sobol_points_integrate_better() -> None:
    def errors(qmc: bool) -> float:
        sampler = HaarSampler(SLn(2), 1.0, qmc=qmc)
        means = [float(stretches(sampler.sample(16, seeded(k), dtype=torch.float64))[0].mean()) for k in range(60)]
        return float(np.std(means))

    assert errors(True) < errors(False) / 2


def test_samples_move_to_types() -> None:
    s = HaarSampler(SLn(2)).sample(3, seeded(), dtype=torch.float64).to(torch.float32)
    assert s.weight is not None
    assert s.g.dtype == s.g_inv.dtype == s.weight.dtype == torch.float32


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: HaarSampler(SLn(2), radius=0), ValueError, "radius must be positive, got 0"),
        (lambda: HaarSampler(SLn(2), radius=math.inf), ValueError, "radius"),
        (lambda: HaarSampler(GLnPlus(2), scale_range=-0.1), ValueError, "scale_range must be positive"),
        (lambda: HaarSampler(SLn(2), rotations="all"), ValueError, "rotations must be one of.*stratified.*'all'"),
        (lambda: HaarSampler(SLn(3), rotations="stratified"), ValueError, "rotations='stratified'.*n = 3"),
        (lambda: LogNormalSampler(SLn(3)), ValueError, "rotations='linspace'.*'haar'"),
        (lambda: HaarSampler(SLn(3), qmc=True), ValueError, "qmc=True"),
        (lambda: HaarSampler("sl2"), TypeError, "group must be a PolarGroup"),
        (lambda: LogNormalSampler(SLn(2), 0.0), ValueError, "var must be positive"),
        (lambda: LogNormalSampler(SLn(2), [0.1, -0.1]), ValueError, "var must be positive"),
        (lambda: LogNormalSampler(SLn(2), [0.1] * 3), ValueError, "var must be a number or 2"),
        (lambda: HaarSampler(SLn(2)).sample(0), ValueError, "N must be at least 1, got 0"),
        (lambda: HaarSampler(SLn(2)).sample(2.0), TypeError, "N must be a positive integer, got 2.0"),
        (lambda: HaarSampler(SLn(2)).sample(True), TypeError, "N must be"),
        (lambda: HaarSampler(SLn(2)).sample(2, dtype=torch.float16), ValueError, "dtype"),
        (lambda: HaarSampler(SLn(2), radius="wide"), TypeError, "radius must be a positive number, got 'wide'"),
        (lambda: HaarSampler(SLn(2), radius=400.0), ValueError, "radius must be at most 40"),
        (lambda: HaarSampler(GLnPlus(2), scale_range=800), ValueError, "scale_range must be at most 40"),
        (lambda: LogNormalSampler(SLn(2), "wide"), TypeError, "var must be a number or 2 of them, got 'wide'"),
        (lambda: LogNormalSampler(SLn(2), 1e6).sample(9), ValueError, "var=1000000.0.*too large for torch.float32"),
        (lambda: HaarSampler(SLn(2)).sample(2, generator=5), TypeError, "generator must be a torch.Generator"),
        (lambda: GroupSamples(torch.eye(2), torch.eye(2)), ValueError, r"g must be.*\(2, 2\)"),
        (lambda: GroupSamples(torch.ones(3, 2, 2), torch.ones(2, 2, 2)), ValueError, "g_inv must have the shape"),
        (lambda: GroupSamples(torch.ones(3, 2, 2), torch.ones(3, 2, 2), torch.ones(2)), ValueError, "weight must"),
        (lambda: GroupSamples(torch.ones(3, 2, 2).int(), torch.ones(3, 2, 2)), TypeError, "g must be"),
    ],
)
def test_what_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
