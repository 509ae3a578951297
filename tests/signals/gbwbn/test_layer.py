import math
import warnings
from typing import Any

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from geometry.spd.matrices import spd, sym
from linmap.geometry.spd import bw_dist2, bw_mean, gbw_dist2, sym_invsqrt, sym_pow
from linmap.signals.gbwbn import GBWBatchNorm
from linmap.signals.gbwbn.normalization import centre
from signals.gbwbn.reference import differentiable, layer
from typed import gradient_of, present

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")
I4 = torch.eye(4, dtype=torch.float64)
thetas = st.sampled_from((0.25, 0.5, 1.0, 1.5))
seeds = st.integers(0, 999)
FEW = settings(max_examples=8)


def made(n: int = 4, M: Tensor | None = None, W: Tensor | None = None, s: float = 1.0, **options: Any) -> GBWBatchNorm:
    bn = GBWBatchNorm(n, **options)
    with torch.no_grad():
        for parameter, value in ((bn.M, M), (bn.W, W)):
            if value is not None:
                parameter.copy_(value)
        bn.s.fill_(s)
    return bn


# -- what it computes --------------------------------------------------------------------------------------------------


@FEW
@given(seeds, thetas, st.sampled_from(("centered", "official")))
def test_output_and_statistics_are_those_of_the_method_step_by_step(seed: int, theta: float, variance: str) -> None:
    X, M, W = spd(9, seed=seed), spd(seed=seed + 1), spd(seed=seed + 2)
    bn = made(M=M, W=W, s=0.3, theta=theta, variance=variance)
    out, B, v2 = layer(X, M, W, 0.3, theta, variance=variance)
    np.testing.assert_allclose(bn(X).detach().numpy(), out, rtol=1e-8, atol=1e-9 * np.abs(out).max())
    expected = 0.9 * 1 + 0.1 * v2
    assert float(bn.running_var) == pytest.approx(expected, rel=1e-9)
    assert float(bw_dist2(I4, bn.running_mean)) == pytest.approx(
        0.01 * float(bw_dist2(I4, torch.from_numpy(B))), rel=1e-6
    )


@FEW
@given(seeds, st.booleans())
def test_the_residual_is_the_distance_of_the_mean_transport_map_from_the_identity(seed: int, attached: bool) -> None:
    P, M, B = spd(6, seed=seed), spd(seed=seed + 1), spd(seed=seed + 2)
    root, inverse = sym_pow(B, 0.5), sym_invsqrt(B)
    Y = sym_invsqrt(M) @ P @ sym_invsqrt(M)
    T = inverse @ sym_pow(root @ Y @ root, 0.5) @ inverse
    expected = torch.linalg.matrix_norm(T.mean(0) - I4) / 2
    found = centre(P, sym_invsqrt(M), B.clone().requires_grad_(attached))
    torch.testing.assert_close(found.residual.detach(), expected, rtol=1e-8, atol=1e-10)


@FEW
@given(seeds, thetas, st.booleans())
def test_gradients_are_true_for_every_theta(seed: int, theta: float, attached: bool) -> None:
    X, M, W = spd(6, seed=seed), spd(seed=seed + 1), spd(seed=seed + 2)
    R = spd(6, seed=seed + 3)
    bn = made(M=M, W=W, s=0.3, theta=theta, backprop_stats=attached)
    x = X.clone().requires_grad_()
    (bn(x) * R).sum().backward()
    inputs = [A.clone().requires_grad_() for A in (X, M, W)] + [torch.tensor(0.3, dtype=X.dtype, requires_grad=True)]
    out = differentiable(*(sym(A) if A.ndim else A for A in inputs), theta, attached=attached)  # type: ignore
    expected = torch.autograd.grad((out * R).sum(), inputs)
    for ours, theirs in zip((x.grad, bn.M.grad, bn.W.grad, bn.s.grad), expected, strict=True):
        torch.testing.assert_close(
            present(ours).as_subclass(Tensor), theirs, rtol=1e-6, atol=1e-8 * float(theirs.abs().max())
        )


TIES = torch.tensor([[1, 1, 2], [3, 3, 1], [1, 1, 1]], dtype=torch.float64)
I3 = torch.eye(3, dtype=torch.float64)
POINTS = {
    "generic": (spd(2, n=3), spd(n=3, seed=1), spd(n=3, seed=2)),
    "metric and bias I": (spd(2, n=3), I3, I3),
    "repeated eigenvalues": (torch.diag_embed(TIES), I3, I3),
}


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("theta", [0.5, 1.0])
@pytest.mark.parametrize("point", POINTS)
def test_gradcheck_also_at_the_identity_and_at_ties(point: str, theta: float, attached: bool) -> None:
    X, M, W = (A.clone().requires_grad_() for A in POINTS[point])
    s = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    bn = GBWBatchNorm(3, theta=theta, backprop_stats=attached, momentum=0.0)
    with torch.no_grad():
        bn.running_mean.copy_(bw_mean(X, n_iter=1))
        bn.running_var.fill_(0.7)
    bn.train(attached)  # detached statistics are constants only in evaluation

    def function(X: Tensor, M: Tensor, W: Tensor, s: Tensor) -> Tensor:
        return torch.func.functional_call(bn, {"M": sym(M), "W": sym(W), "s": s}, (sym(X),))

    assert gradcheck(function, (X, M, W, s), atol=1e-6)


def test_off_diagonal_entries_of_the_metric_learn_from_the_identity() -> None:
    bn = GBWBatchNorm(4)
    (bn(spd(8)) * spd(8, seed=1)).sum().backward()
    gradient = gradient_of(bn.M).as_subclass(Tensor)
    assert float((gradient - gradient.diag().diag()).abs().amax()) > 1e-3


# -- what it promises --------------------------------------------------------------------------------------------------


@FEW
@given(seeds, thetas)
def test_mean_and_variance_become_what_was_asked(seed: int, theta: float) -> None:
    X, M = I4 + spd(12, seed=seed), I4 + spd(seed=seed + 1)
    bn = made(M=M, s=0.2, theta=theta, mean_iter=300, mean_tol=1e-15, momentum=1.0)
    out = bn(X).detach()
    assert bn.n_folded == 0
    assert bn.mean_residual < 1e-8
    N = sym_invsqrt(M)
    image_mean = bw_mean(N @ sym_pow(out, theta) @ N, n_iter=1000)
    torch.testing.assert_close(image_mean, N @ I4 @ N, rtol=1e-7, atol=1e-8)
    v2 = float(bn.running_var)
    measured = float(gbw_dist2(I4, out, M, theta).mean())
    assert measured == pytest.approx(0.04 * v2 / (v2 + bn.eps), rel=1e-6)


@FEW
@given(seeds, thetas)
def test_commuting_matrices_get_plain_batch_norm_of_their_roots(seed: int, theta: float) -> None:
    rng = np.random.default_rng(seed)
    x, m, w = rng.uniform(0.1, 3, (7, 4)), rng.uniform(0.1, 3, 4), rng.uniform(0.1, 3, 4)
    s, eps = 0.7, 1e-5
    r = np.sqrt(x**theta / m)
    deviation = r - r.mean(0)
    v2 = (deviation**2).sum(1).mean() / theta**2
    expected = (m * (np.sqrt(w**theta / m) + s / np.sqrt(v2 + eps) * deviation) ** 2) ** (1 / theta)
    X, M, W = (torch.diag_embed(torch.from_numpy(a)) for a in (x, m, w))
    out = made(M=M, W=W, s=s, theta=theta)(X).detach()
    torch.testing.assert_close(out, torch.diag_embed(torch.from_numpy(expected)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-2, 0.1, 10.0, 1e3])
def test_output_does_not_see_the_scale_of_the_data(scale: float) -> None:
    first, second = GBWBatchNorm(4, eps=0.0, momentum=1.0), GBWBatchNorm(4, eps=0.0, momentum=1.0)
    torch.testing.assert_close(first(spd(9)), second(scale * spd(9)), rtol=1e-11, atol=1e-11)
    assert float(second.running_var / first.running_var) == pytest.approx(scale, rel=1e-11)


@FEW
@given(seeds, thetas, st.integers(-20, -3))
def test_small_units_are_not_swamped_by_the_default_eps(seed: int, theta: float, power: int) -> None:
    X = spd(9, seed=seed)
    outputs = []
    for a in (1.0, 10.0**power):
        bn = made(s=0.3, theta=theta, momentum=1.0)
        outputs.append(bn(a * X).detach())
        torch.testing.assert_close(bn.eval()(a * X).detach(), outputs[-1], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-3 * float(outputs[0].abs().max()))


@FEW
@given(seeds, st.integers(2, 30))
def test_below_a_tenth_powers_of_four_pass_through_bit_for_bit(seed: int, power: int) -> None:
    X = spd(9, seed=seed) / 1024
    one, other = (GBWBatchNorm(4)(4.0**-k * X) for k in (0, power))
    assert torch.equal(one, other)


@FEW
@given(seeds, thetas)
def test_rotation_of_everything_rotates_the_output(seed: int, theta: float) -> None:
    X, M, W = spd(6, seed=seed), spd(seed=seed + 1), spd(seed=seed + 2)
    Q = torch.linalg.qr(spd(seed=seed + 3))[0]
    rotated = made(M=Q @ M @ Q.T, W=Q @ W @ Q.T, s=0.3, theta=theta)(Q @ X @ Q.T)
    torch.testing.assert_close(rotated, Q @ made(M=M, W=W, s=0.3, theta=theta)(X) @ Q.T, rtol=1e-7, atol=1e-8)


@FEW
@given(seeds)
def test_a_metric_is_plain_bures_wasserstein_on_congruent_data(seed: int) -> None:
    X, M, W = spd(6, seed=seed), spd(seed=seed + 1), spd(seed=seed + 2)
    N, root = sym_invsqrt(M), sym_pow(M, 0.5)
    plain = made(W=N @ W @ N, s=0.3)(sym(N @ X @ N))
    torch.testing.assert_close(made(M=M, W=W, s=0.3)(X), root @ plain @ root, rtol=1e-8, atol=1e-9)
    fixed = GBWBatchNorm(4, learn_metric=False)
    torch.testing.assert_close(fixed(X), made()(X))
    assert not fixed.M.requires_grad


@pytest.mark.parametrize("options", [{}, {"theta": 0.5}, {"variance": "official"}, {"mean_iter": 3}])
def test_evaluation_with_the_statistics_of_a_batch_is_training_on_it(options: dict[str, Any]) -> None:
    bn = made(M=spd(seed=1), W=spd(seed=2), s=0.3, momentum=1.0, **options)
    trained = bn(spd(9))
    torch.testing.assert_close(bn.eval()(spd(9)), trained, rtol=1e-11, atol=1e-12)
    none = made(M=spd(seed=1), W=spd(seed=2), s=0.3, momentum=None, **options)
    none(spd(9))
    torch.testing.assert_close(none.running_mean, bn.running_mean)


@pytest.mark.parametrize("parametrization", ["manifold", "logm"])
def test_state_dict_keeps_the_output_bit_for_bit(parametrization: Any) -> None:
    bn = GBWBatchNorm(4, theta=0.5, parametrization=parametrization)
    bn(spd(9)).sum().backward()
    with torch.no_grad():
        for parameter in bn.parameters():
            parameter.add_(0.01 * torch.eye(4, dtype=torch.float64) if parameter.ndim else 0.1)
    twin = GBWBatchNorm(4, theta=0.5, parametrization=parametrization)
    twin.load_state_dict(bn.state_dict())
    assert torch.equal(bn.eval()(spd(5, seed=3)), twin.eval()(spd(5, seed=3)))
    assert {"running_mean", "running_var", "num_batches_tracked"} <= bn.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_ill_conditioned_batches_stay_finite_symmetric_and_positive(dtype: torch.dtype, theta: float) -> None:
    for condition in (1e8, 1e12):
        X = spd(16, n=8, condition=condition, dtype=dtype).requires_grad_()
        bn = GBWBatchNorm(8, theta=theta, dtype=dtype)
        out = bn(X)
        (out * spd(16, n=8, seed=1, dtype=dtype)).sum().backward()
        assert torch.isfinite(out).all()
        assert torch.equal(out, out.mT)
        assert float(torch.linalg.eigvalsh(out.detach()).amin()) >= 0
        for gradient in (X.grad, bn.M.grad, bn.W.grad, bn.s.grad):
            assert torch.isfinite(present(gradient)).all()


def test_channels_are_pooled_into_the_batch() -> None:
    X = spd(6)
    torch.testing.assert_close(GBWBatchNorm(4)(X.reshape(2, 3, 4, 4)).reshape(6, 4, 4), GBWBatchNorm(4)(X))


def test_equal_matrices_become_the_bias() -> None:
    W = spd(seed=2)
    torch.testing.assert_close(made(W=W, theta=0.5)(spd().expand(3, 4, 4)).detach(), W.expand(3, 4, 4))


# -- parameters --------------------------------------------------------------------------------------------------------


def test_riemannian_steps_keep_metric_and_bias_positive_definite() -> None:
    bn = GBWBatchNorm(4)
    assert isinstance(bn.M, geoopt.ManifoldParameter)
    optimizer = geoopt.optim.RiemannianAdam(bn.parameters(), lr=0.3, amsgrad=True)
    for seed in range(20):
        optimizer.zero_grad()
        (bn(spd(8, seed=seed)) * spd(8, seed=seed + 1)).sum().backward()
        optimizer.step()
    for A in (bn.M, bn.W):
        assert float(torch.linalg.eigvalsh(A.detach().as_subclass(Tensor)).amin()) > 0
        torch.testing.assert_close(A, A.mT)
    assert not torch.allclose(bn.M, I4)


def test_logarithms_as_parameters_give_the_same_output_and_work_with_any_optimiser() -> None:
    bn = GBWBatchNorm(4, parametrization="logm")
    torch.testing.assert_close(bn(spd(8)), GBWBatchNorm(4)(spd(8)))
    optimizer = torch.optim.SGD(bn.parameters(), lr=0.01)
    for seed in range(5):
        optimizer.zero_grad()
        (bn(spd(8, seed=seed)) * spd(8, seed=seed + 1)).sum().backward()
        optimizer.step()
    assert float(torch.linalg.eigvalsh(bn.M.detach()).amin()) > 0


@pytest.mark.parametrize("name", ["M", "W"])
@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_a_parameter_that_left_the_cone_is_named_with_the_way_out(name: str, theta: float) -> None:
    bn = GBWBatchNorm(4, theta=theta)
    with torch.no_grad():
        getattr(bn, name)[0, 0] = -1
    with pytest.raises(ValueError, match=rf"{name} has left .* Riemannian optimiser.*logm"):
        bn(spd(5))


# -- domains -----------------------------------------------------------------------------------------------------------


def test_each_domain_has_statistics_of_its_own() -> None:
    X, domains = spd(10), torch.tensor([0, 1] * 5)
    X[1::2] = 50 * X[1::2]
    bn = GBWBatchNorm(4, n_domains=3, momentum=1.0)
    out = bn(X, domains)
    for d in (0, 1):
        alone = GBWBatchNorm(4, momentum=1.0)
        torch.testing.assert_close(out[domains == d], alone(X[domains == d]))
        torch.testing.assert_close(bn.running_mean[d], alone.running_mean)
        assert float(bn.running_var[d]) == pytest.approx(float(alone.running_var))
    assert torch.equal(bn.running_mean[2], I4)
    assert bn.num_batches_tracked.tolist() == [1, 1, 0]
    torch.testing.assert_close(bn.eval()(X, domains), out)


def test_a_domain_with_one_matrix_in_the_batch_uses_its_running_statistics() -> None:
    bn = GBWBatchNorm(4, n_domains=2, momentum=1.0)
    bn(spd(8), torch.tensor([0] * 4 + [1] * 4))
    before = bn.running_mean[1].clone()
    out = bn(spd(5, seed=1), torch.tensor([0, 0, 0, 0, 1]))
    assert torch.equal(bn.running_mean[1], before)
    torch.testing.assert_close(out[4:], bn.eval()(spd(5, seed=1)[4:], torch.tensor([1])))


def test_a_new_domain_gets_the_statistics_of_its_data() -> None:
    bn = GBWBatchNorm(4, n_domains=1, momentum=1.0)
    bn(spd(8), torch.zeros(8, dtype=torch.long))
    bn.add_domains(1)
    X, ones = 30 * spd(9, seed=1), torch.ones(9, dtype=torch.long)
    bn.estimate(X, ones)
    alone = GBWBatchNorm(4, momentum=1.0)
    torch.testing.assert_close(bn.eval()(X, ones), alone(X))
    assert bn.n_domains == 2


# -- diagnostics -------------------------------------------------------------------------------------------------------


def warned(bn: GBWBatchNorm, X: Tensor) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bn(X)
    return [str(one.message) for one in caught]


def test_diagnostics_count_and_warn_once() -> None:
    bn = made(s=50.0)
    assert any("n_folded" in message for message in warned(bn, spd(9)))
    assert bn.n_folded > 4
    assert warned(bn, spd(9)) == []

    F = torch.randn(9, 4, 2, dtype=torch.float64)
    bn = GBWBatchNorm(4)
    assert any("below the resolution" in message for message in warned(bn, sym(F @ F.mT)))
    assert 9 <= bn.n_clamped <= 18  # half of them, or what rounding leaves of that

    bn = GBWBatchNorm(8, dtype=torch.float32)
    assert any(
        "condition number" in message
        for message in warned(bn, spd(1, n=8, condition=1e6, dtype=torch.float32).expand(3, 8, 8))
    )

    assert any("before any training step" in message for message in warned(GBWBatchNorm(4).eval(), spd(9)))


def test_the_residual_falls_with_more_steps_and_warns_where_one_is_poor() -> None:
    F = torch.randn(9, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X = F @ F.mT + 1e-6 * torch.eye(8, dtype=torch.float64)
    one, ten = GBWBatchNorm(8), GBWBatchNorm(8, mean_iter=30)
    messages = warned(one, X)
    ten(X)
    assert 0 < ten.mean_residual < one.mean_residual
    assert any("raise mean_iter" in message for message in messages)


# -- bad input ---------------------------------------------------------------------------------------------------------


def broken(i: int, j: int, value: float) -> Tensor:
    X = spd(5)
    X[2, i, j] = value
    return X


BAD = {
    "not square": (torch.ones(3, 4, 5, dtype=torch.float64), ValueError, r"square matrices.*\(3, 4, 5\)"),
    "two dimensions": (spd(), ValueError, r"shape \(4, 4\)"),
    "another n": (spd(3, n=5), ValueError, "5 x 5 matrices.*n = 4"),
    "not symmetric": (broken(0, 1, 9.0), ValueError, "not symmetric.*mirror"),
    "NaN": (broken(1, 1, math.nan), ValueError, r"X\[2, 1, 1\] is nan"),
    "infinite": (broken(1, 1, math.inf), ValueError, r"X\[2, 1, 1\] is inf"),
    "indefinite": (broken(1, 1, -5.0), ValueError, "not positive definite: matrix 2 .*eigenvalue -.*shrinkage"),
    "half": (spd(3).half(), TypeError, "float32 or float64, got torch.float16"),
    "integers": (torch.ones(3, 4, 4, dtype=torch.long), TypeError, "float32 or float64, got torch.int64"),
    "other type": (spd(3).float(), TypeError, "X is torch.float32 and the layer torch.float64"),
    "one matrix": (spd(1), ValueError, "single matrix"),
    "none": (spd(0), ValueError, "holds no matrix"),
}


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("theta", [0.5, 1.0])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str, theta: float) -> None:
    X, error, message = BAD[name]
    bn = GBWBatchNorm(4, theta=theta)
    with pytest.raises(error, match=message):
        bn(X)
    assert int(bn.num_batches_tracked) == 0 or name == "indefinite"


def test_asymmetry_may_be_a_warning() -> None:
    X = spd(5)
    X[0, 0, 1] += 0.1
    with pytest.warns(UserWarning, match="not symmetric"):
        out = GBWBatchNorm(4, check="warn")(X)
    torch.testing.assert_close(out, GBWBatchNorm(4)(sym(X)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"theta": 0.0}, ValueError, "theta must be positive"),
        ({"theta": -1.0}, ValueError, "theta must be positive"),
        ({"theta": math.nan}, ValueError, "theta must be positive"),
        ({"eps": -1.0}, ValueError, "eps must not be negative"),
        ({"momentum": 2.0}, ValueError, "momentum must lie"),
        ({"mean_iter": 0}, ValueError, "mean_iter must be at least 1"),
        ({"variance": "other"}, ValueError, "variance must be centered or official"),
        ({"n_domains": 0}, ValueError, "n_domains must be positive"),
        ({"n": 0}, ValueError, "n must be positive"),
        ({"dtype": torch.float16}, TypeError, "dtype must be"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_options_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GBWBatchNorm(**(options | {"n": options.get("n", 4)}))


@pytest.mark.parametrize(
    ("n_domains", "domains", "message"),
    [
        (None, torch.zeros(5, dtype=torch.long), "has no domains"),
        (2, None, "needs the domain"),
        (2, torch.tensor([0, 1, 2, 0, 1]), r"domains must lie in 0 ... 1"),
        (2, torch.zeros(4, dtype=torch.long), "domains must be 5 integers"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_domains_are_named(n_domains: int | None, domains: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GBWBatchNorm(4, n_domains=n_domains)(spd(5), domains)
