import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from linmap.interpret.householder_projector import (
    HouseholderProjector,
    householder_product,
    nearest_isometry,
    projector_weight,
    reflectors,
    sefa,
)
from typed import gradient_of, other, present, tensor

pytestmark = pytest.mark.usefixtures("annotations_unchecked")
shapes = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda s: st.tuples(st.just(s[0]), st.just(s[1]), st.integers(1, min(s)))
)
seeds = st.integers(0, 2**16)
kinds = st.sampled_from(["rank", "full"])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def rotation(n: int, seed: int, sign: int = 1) -> torch.Tensor:
    Q = torch.linalg.qr(normal(n, n, seed=seed))[0]
    Q[0] *= sign * torch.linalg.det(Q).sign()
    return Q


# -- functions ---------------------------------------------------------------------------------------------------------


@given(shapes, seeds)
def test_the_weight_has_k_equal_singular_values(shape, seed):
    o, i, k = shape
    U, V = normal(o, k + 1, seed=seed), normal(i, k, seed=seed + 1)
    signs = torch.where(normal(k, seed=seed) > 0, 1.0, -1.0).double()
    W = projector_weight(U, V, k, signs=signs, gain=2.5)
    close(torch.linalg.svdvals(W), torch.tensor([2.5] * k + [0.0] * (min(o, i) - k)).double(), 1e-12)
    L, D = householder_product(U)[:, :k], householder_product(V)[:k]
    close(W @ D.mT, 2.5 * L * signs, 1e-12)
    close(projector_weight(-3 * U, V * 1e-6, k), projector_weight(U, V, k), 1e-12)


@given(shapes, seeds)
def test_the_nearest_isometry_is_nearest(shape, seed):
    o, i, k = shape
    A = normal(o, i, seed=seed)
    W = nearest_isometry(A, k)
    close(W @ W.mT @ W, W, 1e-12)
    other_one = projector_weight(normal(o, k, seed=seed + 1), normal(i, k, seed=seed + 2), k)
    assert torch.dist(A, W) <= torch.dist(A, other_one) + 1e-12
    close((A * W).sum(), torch.linalg.svdvals(A)[:k].sum(), 1e-12)


def test_derivatives_of_the_functions():
    U, V = normal(4, 3).requires_grad_(), normal(5, 2).requires_grad_()
    gain = torch.tensor(1.5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda U, V, gain: projector_weight(U, V, 2, gain=gain), (U, V, gain))
    assert torch.autograd.gradcheck(lambda A: nearest_isometry(A, 2), normal(4, 3).requires_grad_())


@given(shapes, seeds)
def test_sefa_is_the_eigendecomposition(shape, seed):
    o, i, k = shape
    A = normal(o, i, seed=seed)
    directions, values = sefa([A[: o // 2 + 1], A[o // 2 + 1 :]] if o > 1 else A, k)
    expected, vectors = torch.linalg.eigh(A.mT @ A)
    close(values.square(), expected.flip(0)[:k], 1e-9)
    close(((vectors.mT.flip(0)[:k] * directions).sum(1)).abs(), torch.ones(k).double(), 1e-6)
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()


def test_sefa_of_a_projector_spans_its_directions():
    layer = HouseholderProjector(7, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, values = sefa(layer, 3)
    close(found.mT @ found, layer.directions.mT @ layer.directions, 1e-12)
    close(values, torch.ones(3).double(), 1e-12)
    linear = nn.Linear(4, 3)
    assert torch.equal(sefa([linear, linear.weight], 2)[0].abs(), sefa([linear.weight, linear], 2)[0].abs())


# -- the start ---------------------------------------------------------------------------------------------------------


@given(shapes, seeds, kinds, st.sampled_from([1, -1]), st.booleans())
def test_it_starts_at_the_nearest_isometry(shape, seed, n_reflectors, sign, repeated):
    o, i, k = shape
    A = normal(o, i, seed=seed)
    if repeated and o == i:
        A = 3 * rotation(o, seed, sign)
        k = o  # where singular values are equal, only the whole space is determined
    layer = HouseholderProjector.from_weight(A, k, n_reflectors=n_reflectors)
    S = torch.linalg.svdvals(A)[:k]
    gain = S.square().mean().sqrt()
    close(layer.gain, gain)
    close(layer.weight, gain * nearest_isometry(A, k))
    close(layer.weight @ layer.directions.mT, gain * layer.signs * householder_product(layer.U)[:, :k])
    assert layer.orthogonality_error() < 1e-12
    assert HouseholderProjector.from_weight(A, k, gain=0.5).gain == 0.5


@pytest.mark.parametrize("n_reflectors", ["rank", "full"])
@pytest.mark.parametrize("A", [torch.eye(4), -torch.eye(4), torch.eye(4)[[1, 2, 3, 0]], torch.eye(5, 3)])
def test_axes_are_a_start_as_any_other(A, n_reflectors):
    k = min(A.shape)
    layer = HouseholderProjector.from_weight(A.double(), k, n_reflectors=n_reflectors)
    close(layer.weight, A.double(), 1e-14)


def test_a_linear_layer_gives_its_bias_dtype_and_scales():
    linear = nn.Linear(5, 4, dtype=torch.float64).eval()
    layer = HouseholderProjector.from_linear(linear, 2, scale=0.3, bias_scale=7)
    close(layer.weight, HouseholderProjector.from_weight(linear.weight.detach() * 0.3, 2).weight)
    close(present(layer.bias), linear.bias * 7)
    assert layer.U.dtype == torch.float64
    assert not layer.training
    assert HouseholderProjector.from_linear(nn.Linear(5, 4, bias=False), 2).bias is None


def test_a_start_draws_nothing_and_a_raw_start_draws_from_its_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    HouseholderProjector.from_weight(normal(4, 3), 2)
    first = HouseholderProjector(6, 5, 2, generator=torch.Generator().manual_seed(3))
    again = HouseholderProjector(6, 5, 2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.weight, again.weight)
    large = HouseholderProjector(400, 300, 20, generator=torch.Generator().manual_seed(3))
    assert float(large.U.detach().std()) == pytest.approx(0.05, rel=0.05)
    assert large.signs.eq(1).all()
    assert large.gain == 1


def test_a_weight_of_lower_rank_warns():
    A = normal(6, 3) @ normal(3, 8, seed=1)
    with pytest.warns(UserWarning, match=r"weight has rank 3, rank=5 asked; the last 2 directions are arbitrary"):
        assert HouseholderProjector.from_weight(A, 5).orthogonality_error() < 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HouseholderProjector.from_weight(A.float(), 3)


# -- the layer ---------------------------------------------------------------------------------------------------------


@given(shapes, seeds, st.sampled_from([(), (3,), (2, 3)]), st.booleans())
def test_the_forward_is_the_affine_map(shape, seed, batch, bias):
    o, i, k = shape
    layer = HouseholderProjector(
        i, o, k, bias=bias, gain=1.7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    if bias:
        nn.init.normal_(present(layer.bias), generator=torch.Generator().manual_seed(seed))
    x = normal(*batch, i, seed=seed)
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    close(layer(x), expected, 1e-12)
    close(layer.to_linear()(x), expected, 1e-12)
    layer.dim = 1
    image = normal(2, i, 3, 4, seed=seed)
    pixels = nn.functional.linear(image.movedim(1, -1), layer.weight, layer.bias).movedim(-1, 1)
    close(layer(image), pixels, 1e-12)
    close(layer(image[:, :, 0, 0]), pixels[:, :, 0, 0], 1e-12)


def test_torch_orthogonal_parametrisation_with_the_same_weight_has_the_same_output():
    layer = HouseholderProjector(6, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    peer = orthogonal(nn.Linear(6, 6, dtype=torch.float64), orthogonal_map="householder")
    peer.weight = layer.weight.detach()
    with torch.no_grad():
        tensor(peer.bias).copy_(present(layer.bias))
    x = normal(3, 6)
    close(layer(x), peer(x), 1e-12)


def test_training_cannot_make_directions_less_orthogonal_and_renormalising_changes_nothing():
    layer = HouseholderProjector(20, 12, 5, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(100):
        for parameter in layer.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    assert layer.orthogonality_error() < 1e-5
    before = layer.weight
    assert layer.renormalize_() is layer
    torch.testing.assert_close(layer.weight, before)
    torch.testing.assert_close(torch.cat([layer.U, layer.V]).square().sum(0), torch.full((5,), 2.0))


def test_gradients_reach_reflectors_and_bias():
    layer = HouseholderProjector(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, parameters = normal(2, 4).requires_grad_(), dict(layer.named_parameters())

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, (x, *parameters.values()))
    (layer.weight.sum() + layer.directions.sum()).backward()
    assert all(gradient_of(reflector).abs().max() > 0 for reflector in (layer.U, layer.V))


def test_transforms_and_the_compiler_follow_the_layer():
    layer = HouseholderProjector(5, 4, 2, generator=torch.Generator().manual_seed(0))
    x = normal(3, 5).float()
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    gradient = torch.func.grad(lambda p: torch.func.functional_call(layer, p, (x,)).sum())(
        dict(layer.named_parameters())
    )
    layer(x).sum().backward()
    torch.testing.assert_close(gradient["V"], layer.V.grad)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    layer = HouseholderProjector(64, 32, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = copy.deepcopy(layer).float()
    x = normal(3, 64).to(dtype)
    assert torch.equal(layer(x), wide(x.float()).to(dtype))
    assert torch.equal(layer.weight, wide.weight.to(dtype))
    assert layer.to_linear().weight.dtype == dtype
    assert layer.orthogonality_error() < 1e-5


def test_autocast_leaves_the_directions_exact():
    layer = HouseholderProjector(64, 32, 4, generator=torch.Generator().manual_seed(0))
    before, x = layer.weight, normal(3, 64).float()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, before)
        assert layer.orthogonality_error() < 1e-5
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02)


def test_copies_pickles_and_the_meta_device():
    layer = HouseholderProjector.from_weight(normal(4, 5), 2, bias=torch.ones(4).double())
    x = normal(3, 5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert twin.U is not layer.U
    shell = copy.deepcopy(layer).to("meta")
    assert shell(x.to("meta")).shape == (3, 4)
    assert shell.weight.shape == (4, 5)
    shell.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(shell(x), layer(x))


def test_a_state_keeps_rank_signs_and_gain():
    layer = HouseholderProjector.from_weight(normal(6, 6), 4)
    state = layer.state_dict()
    assert set(state) == {"U", "V", "signs", "gain"}
    twin = HouseholderProjector(6, 6, 4, bias=False, dtype=torch.float64)
    twin.load_state_dict(state)
    assert torch.equal(twin.weight, layer.weight)


@pytest.mark.parametrize("n_reflectors", ["rank", "full"])
def test_a_state_of_another_layer_is_refused(n_reflectors):
    model = nn.Sequential(HouseholderProjector(6, 5, 4, n_reflectors=n_reflectors))
    before = copy.deepcopy(model.state_dict())
    for rank in (2, 5):
        state = nn.Sequential(HouseholderProjector(6, 5, rank, n_reflectors=n_reflectors)).state_dict()
        with pytest.raises((RuntimeError, ValueError), match=rf"rank {rank}.*rank 4"):
            model.load_state_dict(state)
    for name in ("0.U", "0.V"):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        state[name][:, 1] = 0
        with pytest.raises((RuntimeError, ValueError), match=rf"0: column 1 of {name[2:]} is zero"):
            model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="signs must be"):
        model.load_state_dict(model.state_dict() | {"0.signs": torch.full((4,), 0.5)})
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_the_error_of_broken_reflectors_is_nan():
    for name in ("U", "V"):
        layer = HouseholderProjector(6, 5, 3)
        with torch.no_grad():
            getattr(layer, name)[1, 1] = math.nan
        assert math.isnan(layer.orthogonality_error())


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, -1, 4, 2.0, True])
def test_a_rank_out_of_range_is_refused_everywhere(rank):
    calls = (
        lambda: HouseholderProjector(5, 3, rank),
        lambda: HouseholderProjector.from_weight(normal(3, 5), rank),
        lambda: nearest_isometry(normal(3, 5), rank),
        lambda: projector_weight(normal(3, 2), normal(5, 2), rank),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"rank .* 1 to 3"):
            call()


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (normal(3), "2 dimensions"),
        (torch.full((3, 3), math.inf), "finite"),
        (torch.zeros(3, 3), "all zeros"),
    ],
)
def test_a_weight_that_is_no_start_is_refused(A, message):
    with pytest.raises(ValueError, match=message):
        HouseholderProjector.from_weight(A, 1)


def test_other_arguments_that_cannot_be_used_are_refused():
    A = normal(3, 4)
    for gain in (0, -1.0, math.nan, "matched", True):
        with pytest.raises(ValueError, match="gain"):
            HouseholderProjector.from_weight(A, 2, gain=other(gain))
    with pytest.raises(ValueError, match="gain"):
        HouseholderProjector(4, 3, 2, gain=other("match"))
    with pytest.raises(ValueError, match="n_reflectors"):
        HouseholderProjector.from_weight(A, 2, n_reflectors=other("half"))
    with pytest.raises(ValueError, match="bias must have 3 entries"):
        HouseholderProjector.from_weight(A, 2, bias=torch.ones(4))
    with pytest.raises(TypeError, match="floating"):
        HouseholderProjector.from_weight(torch.ones(3, 3, dtype=torch.int64), 1)
    for layer in (nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm1d(3)):
        with pytest.raises(TypeError, match="2-D weight"):
            HouseholderProjector.from_linear(layer, 1)
    with pytest.raises(ValueError, match="signs"):
        projector_weight(normal(3, 2), normal(4, 2), 2, signs=torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="signs"):
        projector_weight(normal(3, 2), normal(4, 2), 2, signs=torch.ones(3))


def test_an_input_of_another_size_or_type_is_refused():
    layer = HouseholderProjector(4, 3, 2)
    for x in (torch.ones(2, 3), torch.ones(())):
        with pytest.raises(ValueError, match="4 features on axis -1"):
            layer(x)
    with pytest.raises(TypeError, match="floating"):
        layer(torch.ones(2, 4, dtype=torch.int64))
    layer.dim = 1
    with pytest.raises(ValueError, match="4 features on axis 1"):
        layer(torch.ones(4))
    with pytest.raises(ValueError, match="dim=-1"):
        layer.to_linear()


def test_sefa_refuses_what_it_cannot_stack():
    for k in (0, 4):
        with pytest.raises(ValueError, match="k must be"):
            sefa(normal(3, 5), k)
    with pytest.raises(ValueError, match="same number of inputs"):
        sefa([normal(3, 5), normal(3, 4)], 1)
    with pytest.raises(ValueError, match="empty"):
        sefa([], 1)
    with pytest.raises(TypeError, match="no linear layer"):
        sefa(nn.ReLU(), 1)
    with pytest.raises(TypeError, match="floating"):
        sefa(torch.ones(3, 3, dtype=torch.int64), 1)


def test_what_comes_from_elsewhere_is_checked_before_it_is_used():
    layer, V = HouseholderProjector(6, 5, 3), torch.randn(6, 3)
    whole = nn.Linear(3, 3).requires_grad_(False)
    whole.weight = nn.Parameter(torch.eye(3).long(), requires_grad=False)
    for call, message in (
        (lambda: HouseholderProjector.from_linear(whole, 2), "floating dtype"),
        (lambda: HouseholderProjector(3, 3, 2, dtype=torch.int64), "dtype must be"),
        (lambda: projector_weight(V, V.double(), 2), "same dtype"),
        (lambda: layer(other(np.ones((2, 6)))), "x must be a tensor"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    for call, message in (
        (lambda: HouseholderProjector.from_linear(nn.Linear(3, 3), 2, scale=math.nan), "scale"),
        (lambda: HouseholderProjector.from_linear(nn.Linear(3, 3), 2, bias_scale=math.inf), "bias_scale"),
        (lambda: HouseholderProjector.from_weight(V, 2, bias=torch.full((6,), math.nan)), "bias must be finite"),
        (lambda: HouseholderProjector.from_weight(V.to("meta"), 2), "meta"),
        (lambda: projector_weight(V, V, 2, gain=other("match")), "gain must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    full = HouseholderProjector(6, 5, 3, n_reflectors="full").state_dict()
    states = ((full, "5 reflectors in U, the layer 3"), (before | {"gain": torch.tensor(-1.0)}, "gain must be"))
    for state, message in states:
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_orthonormal_columns_in_bfloat16_are_orthonormal_to_its_precision():
    Q = torch.linalg.qr(torch.randn(64, 10, generator=torch.Generator().manual_seed(0)))[0].bfloat16()
    Y, signs = reflectors(Q)
    torch.testing.assert_close(householder_product(Y, 10) * signs, Q, atol=0.02, rtol=0)


def test_stacked_weights_are_as_wide_as_the_widest():
    A = torch.randn(3, 4)
    assert sefa([A, A.double(), A], 2)[0].dtype == torch.float64
