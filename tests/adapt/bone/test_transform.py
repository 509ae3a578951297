"""The functional core against the definitions, written out block by block, and against PEFT's MiSS."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, MissConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from adapt.cases import inside
from linmap.adapt.bone import bone_delta, bone_forward
from linmap.adapt.bone.product import few_tokens
from linmap.adapt.bone.transform import MODES, block_shape
from typed import of_class

MINI_R = 2
sizes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))  # block rows, block columns, r


def drawn(na, nb, r, mode, tokens=3, dtype=torch.float64, seed=0, mini_r=1):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    n_out, n_in = na * r, nb * r
    D = 0.3 * normal(*block_shape(n_out, n_in, r, mode, mini_r))
    return normal(tokens, n_in), normal(n_out, n_in), normal(n_out), D


def by_definition(W, D, mode):
    """W' entry by entry, or block by block, in NumPy."""
    W, D = W.detach().double().numpy(), D.detach().double().numpy()
    changed = W.copy()
    n_out, n_in = W.shape
    if mode in ("add", "mini"):
        for o in range(n_out):
            for i in range(n_in):
                changed[o, i] += D[i % D.shape[0], o % D.shape[1]]
        return torch.from_numpy(changed)
    r = D.shape[-1]
    for a in range(n_out // r):
        for b in range(n_in // r):
            block = W[a * r : (a + 1) * r, b * r : (b + 1) * r]
            D_g = D[a if mode == "bat" else b]
            changed[a * r : (a + 1) * r, b * r : (b + 1) * r] = block @ (np.eye(r) + D_g) + D_g
    return torch.from_numpy(changed)


@pytest.mark.parametrize("mode", MODES)
@given(shape=sizes, tokens=st.integers(0, 7), seed=st.integers(0, 99))
def test_delta_forward_and_gradients_follow_the_definition(mode, shape, tokens, seed):
    x, W, bias, D = drawn(*shape, mode=mode, tokens=tokens, seed=seed)
    expected = by_definition(W, D, mode)
    torch.testing.assert_close(W + bone_delta(W, D, mode), expected, rtol=0, atol=1e-12)
    for tensor in (x, W, bias, D):
        tensor.requires_grad_()
    y = bone_forward(x, W, bias, D, mode)
    torch.testing.assert_close(y, x @ expected.mT + bias, rtol=0, atol=1e-11)
    weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(y, [x, W, bias, D], weights)
    dense = (x @ (W + bone_delta(W, D, mode)).mT + bias) * weights
    theirs = torch.autograd.grad(dense.sum(), [x, W, bias, D])
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [2, pytest.param(1, marks=pytest.mark.slow), 9])
def test_gradcheck_first_and_second_order(mode, tokens):
    tensors = [tensor.requires_grad_() for tensor in drawn(2, 3, 3, mode, tokens)]
    frozen = tensors[1].detach()

    def forward(x, bias, D, W=frozen):
        return bone_forward(x, W, bias, D, mode)

    x, W, bias, D = tensors
    assert torch.autograd.gradcheck(forward, (x, bias, D))
    assert torch.autograd.gradgradcheck(forward, (x, bias, D))
    if tokens == 2:  # the form that D = 0 takes does not depend on them
        assert torch.autograd.gradgradcheck(forward, (x, bias, torch.zeros_like(D, requires_grad=True)))
    assert torch.autograd.gradcheck(forward, (x, bias, D, W))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_changes_nothing_neither_forward_nor_backward(mode, tokens, dtype):
    x, W, bias, D = drawn(3, 2, 8, mode, tokens, dtype)
    x.requires_grad_()
    base = nn.functional.linear(x, W, bias)
    y = bone_forward(x, W, bias, torch.zeros_like(D, dtype=torch.promote_types(dtype, torch.float32)), mode)
    assert torch.equal(y, base)
    assert torch.equal(*(torch.autograd.grad(output.square().sum(), x)[0] for output in (y, base)))


@pytest.mark.parametrize("mode", ["bat", "bat-row"])
def test_few_and_many_tokens_take_different_ways_to_the_same(mode):
    """Twelve tokens at once go another way than one at a time."""
    x, W, bias, D = drawn(3, 2, 4, mode, tokens=12)
    assert few_tokens(x[:1], D)
    assert not few_tokens(x, D)
    D.requires_grad_()
    x.requires_grad_()
    together = bone_forward(x, W, bias, D, mode)
    apart = torch.cat([bone_forward(row, W, bias, D, mode) for row in x.split(1)])
    torch.testing.assert_close(together, apart)
    for output in (together, apart):
        output.square().sum().backward(retain_graph=True)
    grad_x, grad_D = torch.autograd.grad(together.square().sum(), (x, D), retain_graph=True)
    for mine, reference in zip(torch.autograd.grad(apart.square().sum(), (x, D)), (grad_x, grad_D), strict=True):
        torch.testing.assert_close(mine, reference)


def test_bat_with_blocks_of_one_scales_and_shifts_the_rows():
    _, W, _, D = drawn(5, 3, 1, "bat")
    d = D.reshape(5, 1)
    torch.testing.assert_close(W + bone_delta(W, D, "bat"), W * (1 + d) + d)


@pytest.mark.parametrize("mode", ["bat", "bat-row"])
def test_one_block_is_a_dense_product(mode):
    _, W, _, D = drawn(1, 1, 5, mode)
    torch.testing.assert_close(W + bone_delta(W, D, mode), W @ (torch.eye(5) + D[0]) + D[0])


def test_bat_row_on_a_zero_weight_tiles_the_sum_of_the_blocks():
    x, W, _, D = drawn(3, 2, 4, "bat-row")
    s = torch.stack([x_b @ D_b.mT for x_b, D_b in zip(x.split(4, dim=-1), D, strict=True)]).sum(0)
    torch.testing.assert_close(bone_forward(x, torch.zeros_like(W), None, D, "bat-row"), s.repeat(1, 3))


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_add_has_rank_r_at_most_for_any_sizes(n_out, n_in, data):
    r = data.draw(st.integers(1, n_in))
    D = torch.randn(r, n_out, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    W = torch.zeros(n_out, n_in, dtype=torch.float64)
    delta = bone_delta(W, D, "add")
    assert torch.linalg.matrix_rank(delta) <= r
    torch.testing.assert_close(delta, by_definition(W, D, "add"))


def test_mini_of_full_width_is_add():
    x, W, bias, D = drawn(3, 2, 4, "add")
    assert torch.equal(bone_delta(W, D, "mini"), bone_delta(W, D, "add"))
    torch.testing.assert_close(bone_forward(x, W, bias, D, "mini"), bone_forward(x, W, bias, D, "add"))


def test_delta_of_a_block_row_is_a_multiple_of_the_block_plus_identity():
    _, W, _, D = drawn(3, 2, 4, "bat")
    delta = bone_delta(W, D, "bat")
    for a in range(3):
        for b in range(2):
            rows, columns = slice(4 * a, 4 * a + 4), slice(4 * b, 4 * b + 4)
            torch.testing.assert_close(delta[rows, columns], (W[rows, columns] + torch.eye(4)) @ D[a])


def test_swapping_block_columns_of_the_weight_and_of_x_changes_nothing():
    x, W, bias, D = drawn(3, 2, 4, "bat")
    order = [4, 5, 6, 7, 0, 1, 2, 3]
    torch.testing.assert_close(
        bone_forward(x[:, order], W[:, order], bias, D, "bat"), bone_forward(x, W, bias, D, "bat")
    )


@pytest.mark.parametrize("tokens", [2, 30])
@pytest.mark.parametrize(("mode", "n_in"), [("bat", 8), ("add", 8), ("add", 10), ("mini", 8)])
def test_forward_gradients_and_merge_equal_peft_s_miss(mode, n_in, tokens, generator):
    r, n_out = 4, 12
    linear = nn.Linear(n_in, n_out).double()
    init = {"bat": "bat", "add": True, "mini": "mini"}[mode]
    config = MissConfig(target_modules=["0"], r=r, init_weights=init, mini_r=3 if mode == "mini" else 1)
    miss = get_peft_model(nn.Sequential(copy.deepcopy(linear)), config, autocast_adapter_dtype=False)
    block = inside(miss)[0].miss_block["default"]
    with torch.no_grad():
        block.copy_(0.3 * torch.randn(block.shape, generator=generator, dtype=torch.float64))
    D = block.detach().clone().requires_grad_()
    x = torch.randn(2, tokens, n_in, generator=generator, dtype=torch.float64)
    ours, theirs = bone_forward(x, linear.weight, linear.bias, D, mode), miss(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(D.grad, block.grad, rtol=0, atol=1e-9)
    merged = of_class(nn.Sequential, miss.merge_and_unload())[0].weight
    torch.testing.assert_close(linear.weight + bone_delta(linear.weight, D, mode), merged, rtol=0, atol=1e-12)


def test_add_equals_peft_s_lora_with_a_tiled_identity(generator):
    r, n_in, n_out = 3, 8, 5
    linear = nn.Linear(n_in, n_out).double()
    config = LoraConfig(target_modules=["0"], r=r, lora_alpha=r)
    lora = get_peft_model(nn.Sequential(copy.deepcopy(linear)), config, autocast_adapter_dtype=False)
    D = torch.randn(r, n_out, generator=generator, dtype=torch.float64)
    layer = inside(lora)[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(torch.eye(r).repeat(1, 3)[:, :n_in])
        layer.lora_B["default"].weight.copy_(D.mT)
    x = torch.randn(4, n_in, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(bone_forward(x, linear.weight, linear.bias, D, "add"), lora(x))


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_weights_compute_in_float32(mode):
    """A D too small for bfloat16's I + D still changes the weight by what it should."""
    x, W, _, D = drawn(2, 3, 4, mode, 2, torch.bfloat16)
    D = 1e-3 * D.float()
    delta = bone_delta(W, D, mode)
    assert delta.dtype == torch.float32
    torch.testing.assert_close(delta, (by_definition(W, D, mode) - W.double()).float(), rtol=1e-4, atol=1e-7)
    y = bone_forward(x, W, None, D, mode)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), x.double() @ by_definition(W, D, mode).mT, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [2, 30])
def test_autocast_takes_its_dtype_and_keeps_gradients_in_float32(mode, tokens):
    x, W, bias, D = drawn(2, 3, 4, mode, tokens, torch.float32)
    D.requires_grad_()
    exact = bone_forward(x, W, bias, D, mode)
    (expected,) = torch.autograd.grad(exact.sum(), D)
    with torch.autocast("cpu", torch.bfloat16):
        y = bone_forward(x, W, bias, D, mode)
    (found,) = torch.autograd.grad(y.sum(), D)
    assert y.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, rtol=3e-2, atol=0.1)
    torch.testing.assert_close(found, expected, rtol=3e-2, atol=0.3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [2, 30])
def test_checkpointing_gives_the_same_gradients(mode, tokens):
    x, W, bias, D = drawn(2, 3, 4, mode, tokens)
    x.requires_grad_()
    D.requires_grad_()
    plain = torch.autograd.grad(bone_forward(x, W, bias, D, mode).square().sum(), (x, D))
    y = checkpoint(bone_forward, x, W, bias, D, mode, use_reentrant=False)
    again = torch.autograd.grad(y.square().sum(), (x, D))
    assert all(torch.equal(mine, reference) for mine, reference in zip(again, plain, strict=True))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("mode", "tokens"),
    [("bat", 2), ("add", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("bat", 30), ("bat-row", 2)))],
)
def test_compiled_gives_the_same_gradients(mode, tokens):
    x, W, bias, D = drawn(2, 3, 4, mode, tokens)
    x.requires_grad_()
    D.requires_grad_()
    compiled = torch.compile(bone_forward, backend="aot_eager", fullgraph=True)
    for run in (bone_forward, compiled):
        y = run(x, W, bias, D, mode)
        gradients = torch.autograd.grad(y.square().sum(), (x, D))
        if run is bone_forward:
            expected = (y, *gradients)
    for mine, reference in zip((y, *gradients), expected, strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [2, 30])
def test_no_built_weight_is_kept_for_the_backward_pass(mode, tokens):
    x, W, bias, D = (tensor.requires_grad_() for tensor in drawn(4, 5, 4, mode, tokens))
    W.requires_grad_(False)
    storages = {}
    parameters = {tensor.untyped_storage().data_ptr() for tensor in (W, D, bias)}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bone_forward(x, W, bias, D, mode)
    kept = sum(size for pointer, size in storages.items() if pointer not in parameters)
    assert kept <= x.untyped_storage().nbytes()


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 12, 0, "bat"), "r=0 must be an integer of at least 1"),
        ((8, 12, 2.0, "bat"), "r=2.0 must be an integer of at least 1"),
        ((8, 12, True, "add"), "r=True must be an integer of at least 1"),
        ((8, 12, 3, "bat"), "r=3 does not divide both in_features=12 and out_features=8; use r=2 or 4"),
        ((8, 12, 64, "bat-row"), "r=64 does not divide both in_features=12 and out_features=8; use r=4, or"),
        ((8, 5, 8, "add"), "r=8 exceeds in_features=5"),
        ((8, 5, 6, "mini", 2), "r=6 exceeds in_features=5"),
        ((12, 8, 4, "mini", 5), "mini_r=5 does not divide out_features=12; use mini_r=4 or 6"),
        ((12, 8, 4, "mini", 0), "mini_r=0 must be an integer of at least 1"),
        ((12, 8, 4, "row"), "mode='row' must be one of 'bat', 'bat-row', 'add', 'mini'"),
    ],
)
def test_impossible_blocks_are_refused_with_what_would_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        block_shape(*arguments)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("shape", "mode", "message"),
    [
        ((2, 4, 4), "bat", r"takes D of shape \(out / r, r, r\), got \(2, 4, 4\)"),  # that is bat-row
        ((3, 4, 4), "bat-row", r"takes D of shape \(in / r, r, r\)"),
        ((4, 12), "bat", r"takes D of shape \(out / r, r, r\), got \(4, 12\)"),
        ((12, 4), "add", r"r=12 exceeds in_features=8"),
        ((4, 8), "add", r"takes D of shape \(r, out\), got \(4, 8\)"),
        ((3, 4, 4), "add", r"takes D of shape \(r, out\), got \(3, 4, 4\)"),
        ((4, 5), "mini", "mini_r=5 does not divide out_features=12"),
        ((3, 4, 4), "col", r"mode=.* must be one of"),
    ],
)
def test_a_D_that_does_not_fit_is_refused(shape, mode, message):
    W = torch.zeros(12, 8)
    with pytest.raises(ValueError, match=message):
        bone_delta(W, torch.zeros(shape), mode)
    with pytest.raises(ValueError, match=message):
        bone_forward(torch.zeros(2, 8), W, None, torch.zeros(shape), mode)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("mode", MODES)
def test_x_of_another_length_is_refused(mode):
    _, W, _, D = drawn(3, 2, 4, mode)
    with pytest.raises(ValueError, match=r"x must have in = 8 features on its last dimension, got shape \(2, 12\)"):
        bone_forward(torch.zeros(2, 12, dtype=W.dtype), W, None, D, mode)
