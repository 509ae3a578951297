"""SALT's layers: both ways to compute them, kinds of base layers, initialisation, merging, what is refused."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from linmap.adapt import SaltConv2d, SaltLinear, salt_regularization, salt_spectrum, salt_weight, signed_svd
from linmap.adapt.salt.layer import SaltAdapter
from typed import of_class, present

RELUS = ("all", "diag", "none")


def linear(n_in=7, n_out=6, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Linear(n_in, n_out, dtype=dtype)


def moved(layer, scale=0.5, seed=1):
    """The layer with random parameters in all its adapters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.adapters.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return layer


def weight_of(adapter):
    spectral = adapter.spectral
    basis = (spectral.U, spectral.S, spectral.Vt)
    return salt_weight(*basis, adapter.alpha, adapter.beta, adapter.X, adapter.Y, adapter.k, adapter.relu)


def inputs(*shape, seed=2):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)


# -- forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", RELUS)
@given(n_in=st.integers(1, 12), n_out=st.integers(1, 12), tokens=st.sampled_from([1, 40]), data=st.data())
def test_few_and_many_tokens_give_the_dense_weights_output_and_gradients(relu, n_in, n_out, tokens, data):
    k = data.draw(st.integers(0, min(n_in, n_out)))
    layer = moved(SaltLinear(linear(n_in, n_out), k=k, r=1, relu=relu), scale=2)  # so that the relu cuts
    adapter = layer.adapters["default"]
    x = inputs(2, tokens, n_in)
    assert adapter.needs_weight(x) == (2 * tokens * (n_in + n_out + min(n_in, n_out)) > 3 * n_in * n_out)
    y, expected = layer(x), F.linear(x, weight_of(adapter), layer.base_layer.bias)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    wanted = [x, *adapter.parameters()]
    direction = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(value, wanted, direction) for value in (y, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("relu", RELUS)
def test_few_tokens_never_build_a_matrix_of_the_weights_size(relu):
    layer = moved(SaltLinear(linear(40, 50), k=20, r=2, relu=relu))
    x = inputs(3, 40)
    given = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in given:
                sizes.append(result.numel())
            return result

    with Sizes():
        layer(x).sum().backward()
    assert 3 * 50 <= max(sizes) <= (20 * 20 if relu == "all" else 3 * 50)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("tokens", [3, 400])
def test_no_matrix_is_kept_for_the_backward_pass(relu, tokens):
    layer = moved(SaltLinear(linear(30, 30), k=6, r=2, relu=relu))
    kept = []
    x = inputs(tokens, 30)
    frozen = {t.untyped_storage().data_ptr() for t in (*layer.parameters(), *layer.buffers(), x)}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // 8 for t in kept}
    new = sum(size for pointer, size in storages.items() if pointer not in frozen)
    assert new <= tokens * 30 + tokens * 2 + 100


def test_the_weight_is_built_once_in_evaluation_and_again_after_a_change():
    layer = moved(SaltLinear(linear(), k=2, r=2)).eval()
    x = inputs(3, 7).detach()
    with torch.no_grad():
        first = layer(x)
        assert present(layer._cache)[1] is layer.adapted_matrix([layer.adapters["default"]])
        moved(layer, seed=5)
        second = layer(x)
    assert (first - second).abs().max() > 1e-2
    torch.testing.assert_close(second, F.linear(x, weight_of(layer.adapters["default"]), layer.base_layer.bias))


@pytest.mark.parametrize(
    "relu", ["diag", *(pytest.param(relu, marks=pytest.mark.slow) for relu in RELUS if relu != "diag")]
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_compiled(relu):
    torch._dynamo.reset()
    layer = moved(SaltLinear(linear(), k=2, r=2, relu=relu))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for tokens in (3, 50):
        x = inputs(tokens, 7)
        ours, theirs = (
            torch.autograd.grad(call(x).square().sum(), [x, *layer.adapters.parameters()]) for call in (compiled, layer)
        )
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("tokens", [20, 200])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_keeps_its_adapter_and_basis_in_float32(dtype, tokens):
    base = linear(64, 64, dtype=dtype)
    layer = SaltLinear(base, k=40, r=2, relu="diag")
    adapter = layer.adapters["default"]
    assert {tensor.dtype for tensor in (*adapter.parameters(), adapter.spectral.U)} == {torch.float32}
    torch.testing.assert_close(
        adapter.spectral.S.double(), torch.linalg.svdvals(base.weight.double()), rtol=1e-6, atol=0
    )
    x = inputs(tokens, 64).detach().to(dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), base(x))
    moved(layer, 0.1)
    expected = x.double() @ weight_of(adapter).double().mT + base.bias.double()
    error = (layer(x).double() - expected).norm() / expected.norm()
    assert 0 < float(error.detach()) < 2 * torch.finfo(dtype).eps
    layer(x).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in adapter.parameters())


# -- initialisation --------------------------------------------------------------------------------------------------


def test_the_start_changes_no_bit():
    base = linear(dtype=torch.float32)
    layer = SaltLinear(base, k=2, r=3)
    for tokens in (2, 50):
        x = inputs(tokens, 7).detach().float()
        assert torch.equal(layer(x), base(x))


def test_the_factors_are_drawn_as_the_authors_draw_them():
    torch.manual_seed(3)
    adapter = SaltLinear(linear(40, 40), k=4, r=6).adapters["default"]
    assert not bool(adapter.Y.any())
    assert adapter.X.shape == (36, 6)
    assert 0.95 < float(adapter.X.detach().abs().max()) <= math.sqrt(6 / 6)
    assert abs(float(adapter.X.detach().var()) * 3 - 1) < 0.25  # of U(-1, 1): 1/3
    small = SaltLinear(linear(40, 40), k=4, r=6, init="gauss").adapters["default"]
    assert all(0.008 < float(factor.detach().std()) < 0.012 for factor in (small.X, small.Y))


def test_layers_of_one_shape_start_differently_and_the_seed_decides():
    def start(seed):
        torch.manual_seed(seed)
        return [SaltLinear(base, k=1, r=2).adapters["default"].X for base in (first, second)]

    first, second = linear(), linear()
    one, other = start(0)
    assert not torch.equal(one, other)
    assert torch.equal(one, start(0)[0])
    assert not torch.equal(one, start(1)[0])


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 9), st.floats(0.05, 1))
def test_the_number_of_parameters(n_in, n_out, r, ratio):
    q = min(n_in, n_out)
    k = max(1, int(q * ratio))
    with pytest.warns(UserWarning, match="exceeds the") if k < q < k + r else _nothing():
        layer = SaltLinear(linear(n_in, n_out), ratio=ratio, r=r)
    r = min(r, q - k)
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert trained == 2 * k + 2 * r * (q - k)
    assert not layer.base_layer.weight.requires_grad


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_by_default_a_tenth_of_the_values_is_tuned():
    adapter = SaltLinear(linear(30, 25)).adapters["default"]
    assert (adapter.k, adapter.X.shape, adapter.relu) == (2, (23, 8), "all")


def test_alpha_decays_to_one():
    layer = moved(SaltLinear(linear(), k=3, r=2))
    optimizer = torch.optim.AdamW(layer.adapters.parameters(), lr=0.1, weight_decay=5)
    for _ in range(50):
        optimizer.zero_grad()
        (0 * layer(inputs(2, 7)).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(layer.adapters["default"].alpha.detach(), torch.ones(3).double(), rtol=0, atol=1e-3)


# -- kinds of layers -------------------------------------------------------------------------------------------------


def test_conv1d_is_a_linear_layer_with_its_weight_transposed():
    conv, base = Conv1D(6, 7).double(), linear()
    with torch.no_grad():
        conv.weight.copy_(base.weight.mT)
        present(conv.bias).copy_(base.bias)
    ours, theirs = moved(SaltLinear(conv, k=2, r=2)), moved(SaltLinear(base, k=2, r=2))
    x = inputs(5, 7)
    torch.testing.assert_close(ours(x), theirs(x))
    ours.merge()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("relu", RELUS)
def test_a_1x1_convolution_is_a_linear_layer_on_channels(relu):
    base, conv = linear(), nn.Conv2d(7, 6, 1).double()
    with torch.no_grad():
        conv.weight.copy_(base.weight[..., None, None])
        present(conv.bias).copy_(base.bias)
    on_channels, on_features = (
        moved(SaltConv2d(conv, k=2, r=2, relu=relu)),
        moved(SaltLinear(base, k=2, r=2, relu=relu)),
    )
    x = inputs(2, 7, 3, 4)
    torch.testing.assert_close(on_channels(x), on_features(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("padding", [0, 1, "valid", "same"])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_1x1_convolution_of_images_of_any_size_has_the_dense_weight(padding, side):
    torch.manual_seed(0)
    conv = nn.Conv2d(7, 6, 1, padding=padding).double()
    layer = moved(SaltConv2d(conv, k=2, r=2))
    x = inputs(1, 7, side, side)
    assert layer.adapters["default"].needs_weight(x.movedim(-3, -1)) == (side == 5)
    weight = weight_of(layer.adapters["default"])[..., None, None]
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, conv.bias, padding=padding))


@pytest.mark.parametrize("given", [False, True])
def test_only_a_basis_that_is_found_is_told_not_to_be_unique(given):
    base = linear(6, 6)
    with torch.no_grad():
        base.weight.copy_(torch.eye(6))
    eye = torch.eye(6, dtype=torch.float64)
    options: Any = {"basis": (eye, torch.ones(6, dtype=torch.float64), eye)} if given else {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        SaltLinear(base, k=2, r=2, **options)
    assert any("not unique" in str(one.message) for one in told) == (not given)


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": "same"}, {"padding": 2, "padding_mode": "circular"}],
)
def test_a_convolution_runs_with_the_weight_of_each_group(relu, groups, options):
    torch.manual_seed(0)
    base = nn.Conv2d(4, 8, (3, 2), groups=groups, **options).double()
    layer = moved(SaltConv2d(base, ratio=0.4, r=1, relu=relu))
    adapter = layer.adapters["default"]
    basis = signed_svd(base.weight.flatten(1).unflatten(0, (groups, -1)).squeeze(0))
    tensors = (adapter.alpha, adapter.beta, adapter.X, adapter.Y)
    expected = copy.deepcopy(base)
    expected.weight.data = salt_weight(*basis, *tensors, adapter.k, relu).reshape(base.weight.shape)
    x = inputs(2, 4, 7, 6)
    torch.testing.assert_close(layer(x), expected(x))
    q = min(8 // groups, 4 // groups * 6)
    k = max(1, int(0.4 * q))
    assert sum(p.numel() for p in adapter.parameters()) == groups * (2 * k + 2 * (q - k) * (k < q))


def test_a_convolution_with_a_forward_of_its_own_keeps_it():
    class PaddedConv(nn.Conv2d):
        def forward(self, x):
            return super().forward(F.pad(x, (0, 1, 0, 1)))

    base = PaddedConv(3, 5, 3, stride=2).double()
    layer = SaltConv2d(base, k=1, r=2)
    x = inputs(1, 3, 8, 8)
    torch.testing.assert_close(layer(x), base(x))
    moved(layer)
    changed = copy.deepcopy(base)
    changed.weight.data = weight_of(layer.adapters["default"]).reshape(base.weight.shape)
    torch.testing.assert_close(layer(x), changed(x))


# -- the basis -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", RELUS)
def test_a_basis_that_is_given_is_used(relu):
    base = linear()
    U, S, Vt = signed_svd(base.weight)
    flipped = (-U, S, -Vt)
    layer = moved(SaltLinear(base, k=2, r=2, relu=relu, basis=flipped))
    adapter = layer.adapters["default"]
    expected = salt_weight(*flipped, adapter.alpha, adapter.beta, adapter.X, adapter.Y, 2, relu)
    x = inputs(3, 7)
    torch.testing.assert_close(layer(x), F.linear(x, expected, base.bias))


def test_a_basis_of_another_weight_is_refused():
    with pytest.raises(ValueError, match="Linear: basis is not an SVD of this weight"):
        SaltLinear(linear(), k=2, r=2, basis=signed_svd(linear(seed=1).weight))
    with pytest.raises(ValueError, match=r"Linear: basis must be the thin SVD of a weight \(6, 7\)"):
        SaltLinear(linear(), k=2, r=2, basis=signed_svd(linear(7, 5).weight))


def test_a_second_adapter_on_a_merged_layer_has_the_basis_of_the_base():
    layer = moved(SaltLinear(linear(), k=2, r=2))
    layer.merge()
    layer.add_adapter("second", k=1, r=2)
    assert torch.equal(layer.adapters["second"].spectral.S, layer.adapters["default"].spectral.S)
    layer.unmerge()
    layer.merge(keep_base=False)
    with pytest.raises(ValueError, match="its weight is merged and the original was not kept"):
        layer.add_adapter("third", k=1, r=2)


# -- merging and several adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_merge_and_unmerge(dtype, kind):
    torch.manual_seed(0)
    base = linear(dtype=dtype) if kind == "linear" else nn.Conv2d(7, 6, 2, dtype=dtype)
    layer = moved((SaltLinear if kind == "linear" else SaltConv2d)(base, k=2, r=2))
    x = inputs(3, 7).detach() if kind == "linear" else inputs(1, 7, 4, 4).detach()
    x = x.to(dtype)
    before, y = base.weight.clone(), layer(x)
    layer.merge()
    tolerance = {torch.float64: 1e-10, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(layer(x), y, rtol=0, atol=tolerance)
    layer.unmerge()
    assert torch.equal(base.weight, before)
    assert layer(x).dtype == dtype


def test_adapters_add_up():
    layer = SaltLinear(linear(), k=2, r=2)
    layer.add_adapter("second", k=1, r=1, relu="diag")
    layer.set_adapter(["default", "second"])
    moved(layer)
    base = layer.base_layer
    deltas = sum(weight_of(adapter) - base.weight for adapter in layer.adapters.values())
    for tokens in (3, 50):
        x = inputs(tokens, 7)
        torch.testing.assert_close(layer(x), F.linear(x, base.weight + deltas, base.bias))


# -- regularisation and spectrum -------------------------------------------------------------------------------------


def test_the_penalty_has_its_closed_form_and_a_gradient_at_the_start():
    layers = (SaltLinear(linear(), k=2, r=2), SaltLinear(linear(6, 5), k=1, r=2))
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    penalty = salt_regularization(model)
    assert penalty.item() == 0
    penalty.backward()
    assert all(bool((p.grad == 0).all()) for layer in layers for p in layer.adapters.parameters())
    expected = []
    for layer in layers:
        moved(layer)
        a = of_class(SaltAdapter, layer.adapters["default"])
        S = a.spectral.S[: a.k]
        expected.append((torch.diag(a.alpha * S + a.beta - S).norm() + (a.X @ a.Y).norm()).detach())
    torch.testing.assert_close(salt_regularization(model).detach(), sum(expected))
    torch.testing.assert_close(salt_regularization(model, "mean").detach(), sum(expected) / 2)
    torch.testing.assert_close(salt_regularization(model, reduction="none").detach(), torch.stack(expected))


def test_the_spectrum_is_that_of_the_weights():
    model = nn.Sequential(
        moved(SaltLinear(linear(), k=2, r=2)), moved(SaltConv2d(nn.Conv2d(2, 4, 2, groups=2), k=1, r=1))
    )
    spectra, layer = salt_spectrum(model), of_class(SaltLinear, model[0])
    assert list(spectra) == ["0", "1"]
    S, S_new = spectra["0"]
    torch.testing.assert_close(S, torch.linalg.svdvals(layer.base_layer.weight))
    torch.testing.assert_close(S_new, torch.linalg.svdvals(weight_of(layer.adapters["default"])).detach())
    assert spectra["1"][1].shape == (2, 2)


def test_a_model_without_salt_is_refused():
    with pytest.raises(ValueError, match="this Linear has no active SALT adapter"):
        salt_regularization(linear())
    with pytest.raises(ValueError, match="no active SALT adapter"):
        salt_spectrum(linear())


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, r"ratio=0.0 must be in \(0, 1\]"),
        ({"ratio": 1.5}, r"ratio=1.5 must be in \(0, 1\]"),
        ({"ratio": float("nan")}, r"ratio=.* must be in \(0, 1\]"),
        ({"k": 7}, "k=7 exceeds the 6 singular values of the weight"),
        ({"k": -1}, r"k=.* must be a whole number"),
        ({"k": 2.0}, r"k=.* must be a whole number"),
        ({"k": 2, "ratio": 0.1}, "give ratio or k, not both"),
        ({"k": 5, "r": 0}, r"r=.* must be at least 1 where k = 5 leaves 1 of 6"),
        ({"r": -2}, r"r=.* must be a whole number"),
        ({"relu": "some"}, r"relu=.* must be one of"),
        ({"init": "ones"}, r"init=.* must be 'zero' or 'gauss'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"Linear: {message}"):
        SaltLinear(linear(), **options)


def test_a_rank_above_the_rest_is_clipped_with_a_warning():
    with pytest.warns(UserWarning, match="r = 9 exceeds the 4 singular values that k = 2 leaves; r = 4"):
        layer = SaltLinear(linear(), k=2, r=9)
    assert layer.adapters["default"].X.shape == (4, 4)


@pytest.mark.parametrize("k", [0, 6])
def test_the_extremes_of_k(k):
    layer = SaltLinear(linear(), k=k, r=2)
    adapter = layer.adapters["default"]
    assert (adapter.alpha.shape, adapter.X.shape, adapter.Y.shape) == ((k,), (6 - k, 2), (2, 6 - k))
    layer(inputs(2, 7)).sum().backward()
    moved(layer)
    x = inputs(2, 7)
    torch.testing.assert_close(layer(x), F.linear(x, weight_of(adapter), layer.base_layer.bias))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value):
    base = linear()
    base.weight.data[1, 2] = value
    with pytest.raises(ValueError, match="Linear: its weight holds NaN or infinite values"):
        SaltLinear(base, k=2, r=2)


def test_weights_without_values_or_not_dense_are_refused():
    with pytest.raises(ValueError, match="its weight is on the meta device"):
        SaltLinear(nn.Linear(3, 3, device="meta"), k=1, r=1)
    base = linear()
    base.weight = nn.Parameter(torch.zeros(6, 7, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"Linear: .*quantised \(torch.int8\)"):
        SaltLinear(base, k=1, r=1)


def test_a_layer_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="SaltLinear adapts Linear or Conv1D, got a Conv2d"):
        SaltLinear(nn.Conv2d(3, 3, 1), k=1, r=1)
    with pytest.raises(TypeError, match="SaltConv2d adapts Conv2d, got a Linear"):
        SaltConv2d(linear(), k=1, r=1)


def test_equal_singular_values_are_warned_of():
    base = linear(6, 6)
    base.weight.data = torch.eye(6).double()
    with pytest.warns(UserWarning, match="its singular basis is not unique"):
        SaltLinear(base, k=1, r=2)
    base.weight.data = torch.diag(torch.tensor([3.0, 3, 2, 1.5, 1, 0.5])).double()
    SaltLinear(base, k=2, r=2)  # the equal ones are among those that are only scaled


def test_a_wrong_number_of_features_is_refused():
    with pytest.raises(ValueError, match="x must have 7 features on its last dimension"):
        SaltLinear(linear(), k=1, r=1)(torch.zeros(2, 5).double())
