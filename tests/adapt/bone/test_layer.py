"""Bone's layers: every kind of base layer, several adapters, merging and its undoing, what is refused."""

import copy
import warnings

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from linmap.adapt.bone import BoneConv2d, BoneEmbedding, BoneLinear, bone_forward
from linmap.adapt.bone.transform import MODES
from linmap.adapt.weights import matrix_of

N_IN, N_OUT, R = 8, 12, 4
OPTIONS = {"bat": {}, "bat-row": {}, "add": {}, "mini": {"mini_r": 3}}


def linear(mode="bat", dtype=torch.float64, **options):
    torch.manual_seed(0)
    return disturbed(BoneLinear(nn.Linear(N_IN, N_OUT).to(dtype), r=R, mode=mode, **OPTIONS[mode], **options))


def disturbed(layer, size=0.3):
    with torch.no_grad():
        for adapter in layer.adapters.values():
            adapter.D.copy_(size * torch.randn(adapter.D.shape))
    return layer


def bases():
    torch.manual_seed(0)
    tokens = torch.arange(10).reshape(2, 5)
    return {
        "Linear": (BoneLinear, nn.Linear(8, 12), torch.randn(2, 5, 8)),
        "Conv1D": (BoneLinear, Conv1D(12, 8), torch.randn(2, 5, 8)),
        "Conv2d": (BoneConv2d, nn.Conv2d(2, 12, (2, 4), stride=2, padding=1), torch.randn(3, 2, 7, 9)),
        "grouped Conv2d": (BoneConv2d, nn.Conv2d(4, 12, (2, 2), groups=2), torch.randn(3, 4, 5, 5)),
        "Embedding": (BoneEmbedding, nn.Embedding(10, 12, padding_idx=3), tokens),
    }


def every_layer():
    for name, (kind, base, x) in bases().items():
        for mode in MODES:
            if kind is not BoneEmbedding or mode == "add":
                layer = kind(base.double(), r=R, mode=mode, **OPTIONS[mode])
                yield pytest.param(layer, x.double() if x.is_floating_point() else x, id=f"{name}-{mode}")


@pytest.mark.parametrize(("layer", "x"), list(every_layer()))
def test_zero_adapter_is_the_base_and_merging_keeps_the_function(layer, x):
    assert torch.equal(layer(x), layer.base_layer(x))
    y = disturbed(layer)(x)
    assert not torch.allclose(y, layer.base_layer(x))
    before = layer.base_layer.weight.clone()
    layer.merge()
    torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-10)
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, before)
    torch.testing.assert_close(layer.eval()(x), y, rtol=0, atol=1e-10)
    with torch.no_grad():  # the kept W'
        torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("layer", "x"), list(every_layer()))
def test_the_weight_comes_back_by_algebra(layer, x):
    disturbed(layer)
    before = layer.base_layer.weight.clone()
    layer.merge(keep_base=False)
    assert not torch.allclose(layer.base_layer.weight, before)
    layer.unmerge()
    torch.testing.assert_close(layer.base_layer.weight, before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_bases_have_float32_adapters_and_unmerge_bit_for_bit(mode, dtype):
    layer = linear(mode, dtype)
    assert layer.adapters["default"].D.dtype == torch.float32
    x = torch.randn(2, 3, N_IN, dtype=dtype)
    before, y = layer.base_layer.weight.clone(), layer(x)
    assert y.dtype == dtype
    y.float().square().sum().backward()
    assert layer.adapters["default"].D.grad.dtype == torch.float32
    layer.merge()
    torch.testing.assert_close(layer(x), y, rtol=3e-2, atol=3e-2)
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, before)


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
def test_adapters_of_different_modes_act_in_order(first, second):
    layer = linear(first)
    layer.add_adapter("second", r=2, mode=second, **OPTIONS[second])
    disturbed(layer)
    layer.set_adapter(["default", "second"])
    x = torch.randn(3, 5, N_IN, dtype=torch.float64)
    W = layer.base_layer.weight
    for name in ("default", "second"):
        W = layer.adapters[name].weight(W)
    y = x @ W.mT + layer.base_layer.bias
    torch.testing.assert_close(layer(x), y)
    before = layer.base_layer.weight.clone()
    for keep_base in (True, False):
        layer.merge(keep_base=keep_base)
        assert layer.merged_adapters == ["default", "second"]
        torch.testing.assert_close(layer(x), y)
        layer.unmerge()
        torch.testing.assert_close(layer.base_layer.weight, before, rtol=0, atol=0 if keep_base else 1e-10)


def test_the_order_of_bat_adapters_matters_and_is_kept():
    layer = linear("bat")
    layer.add_adapter("second", r=R, mode="bat")
    disturbed(layer)
    x = torch.randn(3, N_IN, dtype=torch.float64)
    layer.set_adapter(["default", "second"])
    y = layer(x)
    layer.set_adapter(["second", "default"])
    assert not torch.allclose(layer(x), y)
    layer.merge(adapter_names=["default", "second"])
    torch.testing.assert_close(layer(x), y)


def test_gradients_reach_every_active_adapter():
    layer = linear("bat")
    layer.add_adapter("second", r=R, mode="bat")
    disturbed(layer)
    layer.set_adapter(["default", "second"])
    layer(torch.randn(3, N_IN, dtype=torch.float64)).square().sum().backward()
    assert all(adapter.D.grad.abs().sum() > 0 for adapter in layer.adapters.values())
    assert layer.base_layer.weight.grad is None


@pytest.mark.parametrize("mode", ["bat", "bat-row"])
def test_algebra_refuses_an_ill_conditioned_block_and_names_it(mode):
    layer = linear(mode)
    with torch.no_grad():
        layer.adapters["default"].D[1].copy_(-torch.eye(R))
    layer.merge(keep_base=False)
    with pytest.raises(ValueError, match=r"Linear: adapter 'default' cannot be unmerged: the block I \+ D\[1\]"):
        layer.unmerge()


def test_a_merge_that_is_not_finite_changes_nothing():
    layer = linear("bat")
    before = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.adapters["default"].D[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Linear: merging adapter 'default' would give NaN"):
        layer.merge()
    assert torch.equal(layer.base_layer.weight, before)


def test_merging_twice_warns_and_changes_nothing():
    layer = linear("bat")
    layer.merge()
    merged = layer.base_layer.weight.clone()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer.merge()
    assert caught
    assert torch.equal(layer.base_layer.weight, merged)


def test_a_D_changed_since_the_merge_is_noticed_without_the_kept_weight():
    layer = linear("add")
    layer.merge(keep_base=False)
    disturbed(layer)
    with pytest.raises(ValueError, match="an adapter was changed since it was merged"):
        layer.unmerge()


@pytest.mark.parametrize("mode", ["add", "mini"])
def test_dropout_acts_on_the_input_of_the_adapter_in_training_only(mode):
    layer = linear(mode, dropout=0.5)
    x = torch.randn(1, N_IN, dtype=torch.float64)
    expected = bone_forward(x, layer.base_layer.weight, layer.base_layer.bias, layer.adapters["default"].D, mode)
    torch.testing.assert_close(layer.eval()(x), expected)
    layer.train()
    mean = torch.stack([layer(x) for _ in range(4000)]).mean(0)
    assert not torch.allclose(layer(x), expected)
    torch.testing.assert_close(mean, expected, rtol=0.05, atol=0.15)


def test_dropout_acts_after_an_adapter_that_reads_the_weight():
    layer = linear("bat")
    layer.add_adapter("second", r=R, mode="add", dropout=0.5)
    disturbed(layer)
    layer.set_adapter(["default", "second"])
    x = torch.randn(1, N_IN, dtype=torch.float64)
    assert not torch.allclose(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_dropout_of_an_embedding_drops_whole_rows():
    layer = disturbed(BoneEmbedding(nn.Embedding(10, 6).double(), r=4, dropout=0.5))
    tokens = torch.arange(10).repeat(20)
    change = (layer(tokens) - layer.base_layer(tokens)).abs().sum(-1) > 0
    assert 0 < change.sum() < len(tokens)


def test_embedding_adds_the_row_of_the_token_by_residue():
    layer = disturbed(BoneEmbedding(nn.Embedding(10, 6).double(), r=4))
    D = layer.adapters["default"].D
    tokens = torch.tensor([[0, 5], [9, 3]])
    expected = layer.base_layer.weight[tokens] + D[tokens % 4]
    torch.testing.assert_close(layer(tokens), expected)


class ScaledEmbedding(nn.Embedding):
    def forward(self, tokens):
        return super().forward(tokens) * 10


def test_an_embedding_that_scales_scales_the_adapter_too():
    layer = disturbed(BoneEmbedding(ScaledEmbedding(10, 6).double(), r=4))
    tokens = torch.arange(10)
    y = layer(tokens)
    layer.merge()
    torch.testing.assert_close(layer(tokens), y)


def test_random_init_is_not_zero():
    layer = BoneLinear(nn.Linear(N_IN, N_OUT), r=R, mode="bat", init_weights=False)
    assert layer.adapters["default"].D.abs().min() > 0


class Quantised(nn.Linear):
    """Keeps integers; its forward makes them numbers again."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features)
        self.bias = base.bias
        self.weight = nn.Parameter((base.weight * 50).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) / 50, self.bias)


@pytest.mark.parametrize("mode", ["bat-row", "add", "mini"])
def test_modes_that_read_activations_only_work_on_quantised_layers(mode):
    base = Quantised(nn.Linear(N_IN, N_OUT))
    layer = disturbed(BoneLinear(base, r=R, mode=mode, **OPTIONS[mode]))
    x = torch.randn(3, N_IN)
    expected = bone_forward(x, base.weight.float() / 50, base.bias, layer.adapters["default"].D, mode)
    torch.testing.assert_close(layer(x), expected)
    layer(x).sum().backward()
    assert layer.adapters["default"].D.grad is not None


def test_bat_on_a_quantised_layer_is_refused_and_points_to_bat_row():
    with pytest.raises(TypeError, match=r"quantised .*'bat-row'"):
        BoneLinear(Quantised(nn.Linear(N_IN, N_OUT)), r=R, mode="bat")


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "Linear: r=0 must be an integer of at least 1"),
        ({"r": 5}, "Linear: mode 'bat' .* r=5 does not divide both in_features=8 and out_features=12; use r=4"),
        ({"r": 9, "mode": "add"}, "Linear: r=9 exceeds in_features=8"),
        (
            {"r": 4, "mode": "mini", "mini_r": 5},
            "Linear: mini_r=5 does not divide out_features=12; use mini_r=4 or 6",
        ),
        ({"r": 4, "mode": "col"}, r"Linear: mode=.* must be one of"),
    ],
)
def test_options_that_do_not_fit_the_layer_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BoneLinear(nn.Linear(N_IN, N_OUT), **options)


@pytest.mark.usefixtures("annotations_unchecked")
def test_embeddings_take_mode_add_only():
    with pytest.raises(ValueError, match="an Embedding can be adapted in mode 'add' only, got 'bat'"):
        BoneEmbedding(nn.Embedding(10, 6), r=2, mode="bat")


def test_other_layers_are_refused():
    with pytest.raises(TypeError, match="a LSTM cannot be adapted"):
        BoneLinear(nn.LSTM(4, 4), r=2)


def test_x_of_another_length_is_refused():
    with pytest.raises(ValueError, match="Linear: x must have 8 features"):
        linear()(torch.zeros(2, 7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        (
            "bat",
            "bat-row",
            r"expects D of shape \(2, 4, 4\) here, and the saved one has \(3, 4, 4\); that is mode 'bat'",
        ),
        ("mini", "add", r"mode 'add' with r=4 expects D of shape \(4, 12\) .* \(4, 3\); .* or 'mini' with mini_r=3"),
    ],
)
def test_a_saved_D_of_another_shape_is_refused_with_what_it_probably_is(saved, loaded, message):
    state = linear(saved).state_dict()
    with pytest.raises(ValueError, match=message):
        linear(loaded).load_state_dict(state)


def test_a_copy_of_a_layer_is_independent():
    layer = linear("add")
    other = copy.deepcopy(layer)
    disturbed(other)
    assert not torch.equal(layer.adapters["default"].D, other.adapters["default"].D)
    assert "mode='add', r=4" in repr(layer)


def test_conv_weight_is_changed_as_a_matrix():
    layer = disturbed(BoneConv2d(nn.Conv2d(2, 12, (2, 2)).double(), r=R, mode="bat"))
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    patches = nn.functional.unfold(x, (2, 2)).mT
    base, D = layer.base_layer, layer.adapters["default"].D
    expected = bone_forward(patches, matrix_of(base), base.bias, D, "bat")
    torch.testing.assert_close(layer(x).flatten(2).mT, expected)


def test_block_size_and_mode_may_stand_without_their_names():
    layer = BoneLinear(nn.Linear(N_IN, N_OUT), R, "bat-row")
    assert (layer.adapters["default"].r, layer.adapters["default"].mode) == (R, "bat-row")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (50,), (2, 3), (2, 50), (1, 1)])
@pytest.mark.parametrize("mode", MODES)
def test_the_output_may_be_written_to_in_place(mode, shape, bias):
    """As by ReLU(inplace=True), y *= s and y[mask] = 0 behind the layer."""
    torch.manual_seed(0)
    layer = disturbed(BoneLinear(nn.Linear(N_IN, N_OUT, bias=bias).double(), r=R, mode=mode, **OPTIONS[mode]))
    x = torch.randn(*shape, N_IN, dtype=torch.float64, requires_grad=True)
    D = layer.adapters["default"].D

    def loss(y):
        return y.square().sum()

    kept = (torch.arange(N_OUT) > 1).double()
    expected = torch.autograd.grad(loss(torch.relu((layer(x) * 0.5 + 1) * kept)), [x, D])
    y = layer(x)
    y *= 0.5
    y += 1
    y[..., :2] = 0
    nn.ReLU(inplace=True)(y)
    for ours, theirs in zip(torch.autograd.grad(loss(y), [x, D]), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
