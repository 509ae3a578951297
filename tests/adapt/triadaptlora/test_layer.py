"""A layer alone, against dense references and against PEFT's LoRA."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.pytorch_utils import Conv1D

from adapt.cases import inside
from adapt.triadaptlora.problem import dense, randomise
from linmap.adapt import TriAdaptConv2d, TriAdaptLinear, triadapt_orthogonality

N_IN, N_OUT = 9, 7


def linear(rank=1, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = TriAdaptLinear(nn.Linear(N_IN, N_OUT).to(dtype), init_rank=rank, **options)
    return layer, layer.adapters["default"]


def drawn(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"init_c": "identity"}, {"storage": "append"}, {"scaling": "rank"}])
def test_it_starts_at_zero_and_one_step_changes_the_loss(options):
    layer, adapter = linear(2, **options)
    x, base = drawn(4, N_IN), copy.deepcopy(layer.base_layer)
    assert torch.equal(layer(x), base(x))
    assert not adapter.delta_weight().any()
    before = (layer(x) - 1).square().mean()
    before.backward()
    torch.optim.SGD(adapter.parameters(), lr=0.1).step()
    assert (layer(x) - 1).square().mean() < before


@given(st.integers(1, 5), st.sampled_from(["fixed", "rank"]), st.sampled_from(["prealloc", "append"]))
def test_output_and_gradients_are_those_of_the_dense_formula(rank, scaling, storage):
    layer, adapter = linear(rank, scaling=scaling, storage=storage)
    randomise(adapter) if storage == "prealloc" else [p.data.normal_() for p in adapter.parameters()]
    x = drawn(2, 3, N_IN).requires_grad_()
    inputs = [x, *adapter.parameters()]
    g = drawn(2, 3, N_OUT, seed=2)
    y = layer(x)
    expected = F.linear(x, layer.base_layer.weight + dense(adapter), layer.base_layer.bias)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(y, inputs, g)
    theirs = torch.autograd.grad(expected, inputs, g)
    for ours_i, theirs_i in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_i, theirs_i, rtol=1e-10, atol=1e-10)
    assert torch.linalg.matrix_rank(adapter.delta_weight()) <= rank
    torch.testing.assert_close(adapter.delta_weight(), dense(adapter), rtol=1e-10, atol=1e-10)


def test_what_lies_beyond_the_rank_has_no_part_in_anything():
    layer, adapter = linear(2)
    randomise(adapter)
    x = drawn(4, N_IN)
    y = layer(x)
    with torch.no_grad():
        adapter.map.A[2:] = 5.0
        adapter.map.B[:, 2:] = 5.0
        for C in (adapter.map.lower, adapter.map.upper):
            C[2:], C[:, 2:] = 5.0, 5.0
    torch.testing.assert_close(layer(x), y, rtol=1e-13, atol=1e-13)
    layer(x).square().sum().backward()
    assert not adapter.map.A.grad[2:].any()
    assert not adapter.map.B.grad[:, 2:].any()
    assert not adapter.map.lower.grad[2:].any()
    assert not adapter.map.upper.grad[:, 2:].any()


def test_gradients_of_the_triangles_are_those_of_the_core():
    layer, adapter = linear(4, alpha=3.0, reference_rank=2)
    randomise(adapter)
    map, x = adapter.map, drawn(5, N_IN)
    C = map.core.detach().clone().requires_grad_()
    A, B = map.A[:4].detach(), map.B[:, :4].detach()
    (layer.base_layer(x) + 1.5 * x @ A.T @ C.T @ B.T).square().sum().backward()
    layer(x).square().sum().backward()
    torch.testing.assert_close(map.lower.grad[:4, :4], C.grad.tril())
    torch.testing.assert_close(map.upper.grad[:4, :4], C.grad.triu())
    assert torch.equal(map.lower.grad.diagonal(), map.upper.grad.diagonal())


def test_with_the_identity_between_it_is_lora():
    layer, adapter = linear(4, alpha=16, reference_rank=4, init_c="identity")
    net = nn.Sequential(copy.deepcopy(layer.base_layer))
    lora = get_peft_model(net, LoraConfig(r=4, lora_alpha=16, target_modules=["0"])).double()
    with torch.no_grad():
        adapter.map.B[:, :4] = drawn(N_OUT, 4)
        theirs = inside(lora)[0]
        theirs.lora_A["default"].weight.copy_(adapter.map.A[:4])
        theirs.lora_B["default"].weight.copy_(adapter.map.B[:, :4])
    x = drawn(5, N_IN)
    torch.testing.assert_close(layer(x), lora(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("storage", ["prealloc", "append"])
@given(st.integers(1, 4), st.integers(0, 3))
def test_the_identity_between_stays_so_while_it_grows(storage, rank, growth):
    _, adapter = linear(rank, init_c="identity", storage=storage)
    for reached in (rank, rank + growth):
        adapter.grow(reached)
        torch.testing.assert_close(adapter.map.core, torch.eye(reached, dtype=torch.float64), rtol=0, atol=0)
    assert not torch.equal(linear(rank, storage=storage)[1].map.core, torch.eye(rank, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [1, 16, 100])
def test_growth_leaves_the_outputs_as_they_are_bit_for_bit(dtype, tokens):
    torch.manual_seed(0)
    layer = TriAdaptLinear(nn.Linear(96, 64).to(dtype), reference_rank=4)
    adapter = layer.adapters["default"]
    x = drawn(tokens, 96).to(dtype)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    for rank in range(2, 8):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        optimizer.step()
        y = layer(x)
        adapter.grow(rank)
        assert torch.equal(layer(x), y)


def test_published_growth_moves_the_outputs():
    x = drawn(4, N_IN)
    cases: tuple[dict[str, Any], ...] = ({"scaling": "rank"}, {"grow_init": "paper"})
    for options in cases:
        layer, adapter = linear(2, **options)
        randomise(adapter)
        y = layer(x)
        adapter.grow(3)
        assert (layer(x) - y).abs().max() > 1e-6, options


@pytest.mark.parametrize("storage", ["prealloc", "append"])
def test_conv1d_and_conv2d_are_adapted_as_matrices(storage):
    torch.manual_seed(0)
    conv1d = Conv1D(N_OUT, N_IN).double()
    layer = TriAdaptLinear(conv1d, init_rank=2, storage=storage)
    [p.data.normal_() for p in layer.adapters["default"].parameters()]
    x = drawn(3, N_IN)
    delta = dense(layer.adapters["default"])
    torch.testing.assert_close(layer(x), x @ (conv1d.weight + delta.T) + conv1d.bias)

    conv = nn.Conv2d(3, 8, 3, padding=1, stride=2).double()
    layer = TriAdaptConv2d(conv, init_rank=2, storage=storage)
    [p.data.normal_() for p in layer.adapters["default"].parameters()]
    x = drawn(2, 3, 6, 6)
    delta = dense(layer.adapters["default"]).reshape(conv.weight.shape)
    torch.testing.assert_close(layer(x), F.conv2d(x, conv.weight + delta, conv.bias, stride=2, padding=1))


def test_merge_gives_the_same_outputs_and_unmerge_the_old_weight():
    layer, adapter = linear(3)
    randomise(adapter)
    x, y, W = drawn(4, N_IN), layer(drawn(4, N_IN)), layer.base_layer.weight.clone()
    layer.merge()
    torch.testing.assert_close(layer(x), y)
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, W)


def test_a_half_precision_base_gets_a_float32_adapter():
    layer, adapter = linear(2, dtype=torch.bfloat16)
    assert adapter.dtype == torch.float32
    y = layer(drawn(3, N_IN).bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert adapter.map.B.grad.dtype == torch.float32


def test_autocast_runs_both_ways():
    layer, adapter = linear(2, dtype=torch.float32)
    randomise(adapter)
    x = drawn(3, N_IN).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.5)
    y.float().sum().backward()
    assert adapter.map.A.grad.dtype == torch.float32


def test_dropout_acts_on_the_adapter_alone_and_in_training_alone():
    layer, adapter = linear(2, dropout=0.5)
    randomise(adapter)
    x = drawn(4, N_IN)
    layer.train()
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    torch.manual_seed(3)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + dropped @ dense(adapter).T)
    layer.eval()
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ dense(adapter).T)


@pytest.mark.usefixtures("annotations_unchecked")
def test_compiled_code_outlives_growth():
    layer, adapter = linear(1, dtype=torch.float32)
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=backend)
    x = drawn(4, N_IN).float()
    for rank in range(1, 5):
        adapter.grow(rank)
        torch.testing.assert_close(compiled(x), layer(x))
        randomise(adapter, seed=rank)
    torch.testing.assert_close(compiled(x), layer(x))
    assert len(compilations) == 1


def test_what_is_kept_for_the_backward_is_near_what_lora_keeps():
    torch.manual_seed(0)
    base, x = nn.Linear(768, 768), torch.randn(512, 768)
    lora = get_peft_model(nn.Sequential(copy.deepcopy(base)), LoraConfig(r=8, target_modules=["0"]))
    ours = TriAdaptLinear(base, init_rank=8)
    assert kept(ours, x) <= 1.05 * kept(lora, x)


def kept(model, x):
    """Bytes kept for the backward, beside the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    y.sum().backward()
    return sum(seen.values())


def test_orthogonality_is_the_mean_distance_of_both_grams_from_the_identity():
    first, one = linear(2)
    second, two = linear(3)
    for seed, adapter in enumerate((one, two)):
        randomise(adapter, seed)
    model = nn.ModuleList([first, second])
    terms = []
    for adapter, R in ((one, 2), (two, 3)):
        A, B = adapter.map.A[:R], adapter.map.B[:, :R]
        terms += [(A @ A.T - torch.eye(R)).norm(), (B.T @ B - torch.eye(R)).norm()]
    torch.testing.assert_close(triadapt_orthogonality(model), sum(terms) / 4)
    triadapt_orthogonality(model).backward()
    assert not one.map.A.grad[2:].any()
    with pytest.raises(ValueError, match="no active TriAdaptLoRA adapter"):
        triadapt_orthogonality(nn.Linear(2, 2))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_rank": 8}, r"Linear: the rank 8 is above 7, .* shape \(7, 9\)"),
        ({"init_rank": 0}, "init_rank=0 must be a positive integer"),
        ({"reference_rank": 1.5}, "reference_rank=1.5 must be a positive integer"),
        ({"init_rank": 3, "r_max": 2}, "init_rank=3 is above r_max=2"),
        ({"alpha": 0}, r"alpha=.* must be positive"),
        ({"dropout": 1.0}, r"dropout=.* must be a probability below 1"),
        ({"scaling": "none"}, "scaling='none' must be 'fixed' or 'rank'"),
        ({"grow_init": "zero"}, "grow_init='zero' must be 'zero_b' or 'paper'"),
        ({"init_c": "zero"}, "init_c='zero' must be 'normal' or 'identity'"),
        ({"storage": "list"}, "storage='list' must be 'prealloc' or 'append'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TriAdaptLinear(nn.Linear(N_IN, N_OUT), **options)


def test_dropout_on_a_convolution_and_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"dropout=0.1 has no meaning on a Conv2d"):
        TriAdaptConv2d(nn.Conv2d(3, 4, 1), dropout=0.1)
    layer, _ = linear()
    with pytest.raises(ValueError, match="x must have 9 features"):
        layer(drawn(2, 3))
