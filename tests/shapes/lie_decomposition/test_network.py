"""`LieResNet`: its size, its invariance, its draws and its state; and the weights of the authors."""

# PyTorch declares what modules hold as Tensor | Module; what is refused has the wrong type on purpose
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false

import copy
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linmap.shapes.lie_decomposition import (
    SO2,
    GLnPlus,
    HaarSampler,
    LieConv2d,
    LieLift2d,
    LieProject2d,
    LieResNet,
    LogNormalSampler,
    PolarGroup,
    Siren,
    SLn,
    invariance_error,
    load_official,
)
from linmap.shapes.lie_decomposition.draws import Draws, FixedSamples
from shapes.lie_decomposition.cases import GROUPS, QUARTERS, drawn, images, quarters, seeded

by_group = pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)


def small(group: PolarGroup | None = None, **more) -> LieResNet:
    options = {"num_samples": 3, "channels": 4, "kernel_size": 3, "hidden": 6, "head": 8, "generator": seeded()} | more
    return LieResNet(group or SLn(2), 1, 5, **options).double().eval()


def test_the_reference_network_has_the_published_number_of_parameters() -> None:
    for group, count in ((SLn(2), 339_102), (GLnPlus(2), 339_282)):
        net = LieResNet(group, angle="radians")
        assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count


def test_forward_is_the_reference_network() -> None:
    net, s, x = small(), drawn(SLn(2), 3), images(2, 1, 12, 13)

    def normed(y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[1:])

    y = F.gelu(normed(net.lift(x, s)))
    z = F.gelu(normed(net.conv1(y, s, s)))
    z = F.gelu(normed(net.conv2(z, s, s)))
    y = normed(F.gelu(z + y))
    y = F.gelu(F.max_pool2d(y.flatten(1, 2), 2).unflatten(1, (4, 3)))
    features = F.gelu(normed(net.conv3(y, s, s))).amax((2, 3, 4))
    torch.testing.assert_close(net.features(x, s), features)
    first, norm, *_, last = net.head
    expected = last(F.gelu(norm(first(features))))
    torch.testing.assert_close(net(x, samples=s), expected)


@by_group
@pytest.mark.parametrize("separable", [False, True])
def test_logits_are_invariant_to_quarter_turns(group: PolarGroup, separable: bool) -> None:
    net = small(group, kernel_size=5, separable=separable)
    for size in (20, 40):
        error = invariance_error(net, images(2, 1, size, size), QUARTERS, samples=quarters(group))
        assert error < 1e-12


def test_each_pass_draws_two_sets_of_which_the_residual_block_uses_the_first() -> None:
    net, x = small(), images(2, 1, 12, 12)
    generator = seeded(3)
    first, second = (net.sampler.sample(3, generator=generator, dtype=torch.float64) for _ in range(2))
    y = F.gelu(F.layer_norm(net.lift(x, first), (4, 3, 10, 10)))
    z = F.gelu(F.layer_norm(net.conv1(y, first, first), (4, 3, 10, 10)))
    z = F.gelu(F.layer_norm(net.conv2(z, first, first), (4, 3, 10, 10)))
    y = F.gelu(net.pool(F.layer_norm(F.gelu(z + y), (4, 3, 10, 10))))
    y = net.conv3(y, first, second)
    y = F.gelu(F.layer_norm(y, y.shape[1:])).amax((2, 3, 4))
    torch.testing.assert_close(net.features(x, generator=seeded(3)), y)


def test_draws_are_numbered_private_and_new_at_each_pass() -> None:
    x, state = images(1, 1, 12, 12), torch.get_rng_state().clone()
    net, twin = small(dropout=0.0), small(dropout=0.0)
    a, b = net(x), net(x)
    assert not torch.equal(a, b)
    assert torch.equal(twin(x), a)
    assert torch.equal(twin(x), b)
    assert not torch.equal(net.train()(x), a)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    one = LieResNet(SLn(2), channels=2, hidden=4, head=4)
    torch.manual_seed(0)
    two = LieResNet(SLn(2), channels=2, hidden=4, head=4)
    assert torch.equal(one.head[0].weight, two.head[0].weight)
    assert one.draws.seed == two.draws.seed


def test_evaluation_takes_the_mean_over_draws() -> None:
    x = images(2, 1, 12, 12)
    net = small(eval_draws=3)
    generator = seeded(5)
    single = copy.deepcopy(net)
    single.eval_draws = 1
    expected = torch.stack([single(x, generator=generator) for _ in range(3)]).mean(0)
    torch.testing.assert_close(net(x, generator=seeded(5)), expected)
    net.train()
    single.train()
    net.head[3].p = single.head[3].p = 0.0
    torch.testing.assert_close(net(x, generator=seeded(5)), single(x, generator=seeded(5)))


def test_a_deterministic_network_keeps_its_samples() -> None:
    x = images(2, 1, 12, 12)
    net, twin = (small(deterministic=True) for _ in range(2))
    assert torch.equal(net(x), net(x))
    assert torch.equal(net(x), twin(x))
    assert not torch.equal(net.first.g, net.second.g)
    assert net.first.g.dtype == torch.float64
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
    other = small(deterministic=True, generator=seeded(1))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))


def test_kept_samples_without_a_generator_are_the_first_draw_of_training() -> None:
    net = small(deterministic=True, generator=None)
    assert (net.draws.trained, net.draws.evaluated) == (1, 0)
    again = Draws(None)
    again.seed = net.draws.seed
    source = again.next(training=True)
    for kept in (net.first, net.second):
        torch.testing.assert_close(kept.g, FixedSamples(net.sampler, 3, source).g)


def test_states_load_across_numbers_of_samples() -> None:
    x = images(2, 1, 12, 12)
    drawing, more = small(), small(num_samples=7, generator=seeded(1))
    assert not any("first" in name or name.endswith(".g") for name in drawing.state_dict())
    more.load_state_dict(drawing.state_dict())
    s = drawn(SLn(2), 5)
    assert torch.equal(more(x, samples=s), drawing(x, samples=s))
    fixed, larger = small(deterministic=True), small(num_samples=6, deterministic=True, generator=seeded(2))
    larger.load_state_dict(fixed.state_dict())
    assert torch.equal(larger(x), fixed(x))
    before = small(deterministic=True, generator=seeded(2))
    kept = before.first.g.clone()
    before.load_state_dict(drawing.state_dict())
    assert torch.equal(before.first.g, kept)
    drawing.load_state_dict(fixed.state_dict())
    unweighted = small(deterministic=True, sampler=LogNormalSampler(SLn(2)), num_samples=2)
    larger.load_state_dict(unweighted.state_dict())
    assert larger.first.weight is None
    assert torch.equal(larger(x), unweighted(x))


def test_gradients_reach_every_weight() -> None:
    for separable in (False, True):
        net = small(GLnPlus(2), separable=separable).train()
        net(images(3, 1, 12, 12)).square().sum().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all())
            assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(num_samples=0), ValueError, "num_samples must be.*got 0"),
        (lambda: small(eval_draws=0), ValueError, "eval_draws must be.*got 0"),
        (lambda: small(num_samples=1025), ValueError, "num_samples=1025 and eval_draws=1 must be at most 1024"),
        (lambda: small(eval_draws=10**9), ValueError, "eval_draws=1000000000 must be at most 1024"),
        (lambda: small(eval_draws=2, deterministic=True), ValueError, "eval_draws=2 needs deterministic=False"),
        (lambda: small(dropout=1.0), ValueError, "dropout must lie"),
        (lambda: small(kernel_size=4), ValueError, "kernel_size must be odd"),
        (lambda: small(head=0), ValueError, "head must be"),
        (lambda: small(mask="x"), ValueError, "mask must be one of"),
        (lambda: small(angle="x"), ValueError, "angle must be one of"),
        (lambda: small(SLn(3)), ValueError, "group must act on the plane"),
        (lambda: LieResNet("sl2"), TypeError, "group must be"),
        (lambda: small()(torch.zeros(1, 12, 12)), ValueError, "x must be images"),
        (lambda: small()(torch.zeros(1, 3, 12, 12)), ValueError, "in_channels=1"),
        (lambda: small()(torch.zeros(1, 1, 7, 12)), ValueError, "kernel_size=3 they must be at least 8 x 8"),
        (lambda: small()(torch.zeros(1, 1, 12, 12).int()), TypeError, "int32"),
    ],
)
def test_what_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_smallest_image_passes() -> None:
    assert small()(torch.zeros(1, 1, 8, 8, dtype=torch.float64)).shape == (1, 5)


# -- the authors' weights ----------------------------------------------------------------------------------------------


def siren_state(shapes: list[tuple[int, int]], prefix: str = "") -> dict[str, Tensor]:
    state = {}
    for i, (out, inputs) in enumerate(shapes):
        name = "final_linear" if i == len(shapes) - 1 else f"kernel_net.net.{i}.linear"
        state[f"{prefix}{name}.weight"] = images(out, inputs, seed=i).float()
        state[f"{prefix}{name}.bias"] = images(out, seed=10 + i).float()
    return state | {f"{prefix}kernel_net.net.0.act_layer.a": torch.tensor([10.0])}


def test_official_weights_of_networks_for_kernels_and_of_layers() -> None:
    shapes = [(6, 5), (6, 6), (6, 6), (12, 6)]
    state = siren_state(shapes)
    net = Siren(5, 12, hidden=6)
    assert load_official(net, state) is net
    for i in range(4):
        name = "final_linear" if i == 3 else f"kernel_net.net.{i}.linear"
        assert torch.equal(net.layers[i].weight, state[f"{name}.weight"])
        assert torch.equal(net.layers[i].bias, state[f"{name}.bias"])
    for make, inputs, more in (
        (LieLift2d, 2, {}), (LieConv2d, 5, {"angle": "radians"}), (LieProject2d, 2, {}),
    ):  # fmt: skip
        layer = make(SLn(2), 3, 4, 5, hidden=6, bias=True, **more)
        state = siren_state([(6, inputs), (6, 6), (6, 6), (12, 6)], "inr.") | {
            "bias": images(4).float(),
            "grid": torch.zeros(2, 5, 5),
            "g_inv": torch.zeros(3, 2, 2),
            "group.basis.basis_matrix": torch.zeros(3, 2, 2),
        }
        load_official(layer, state)
        assert torch.equal(layer.kernel_net.layers[3].weight, state["inr.final_linear.weight"])
        assert torch.equal(layer.bias, state["bias"])


def network_state(channels: int = 4, hidden: int = 6) -> dict[str, Tensor]:
    state = siren_state([(hidden, 2), (hidden, hidden), (hidden, hidden), (channels, hidden)], "stem.0.inr.")
    for part in ("blocks.0.conv1", "blocks.0.conv2", "blocks.4"):
        shapes = [(hidden, 5), (hidden, hidden), (hidden, hidden), (channels**2, hidden)]
        state |= siren_state(shapes, f"{part}.inr.")
    state |= {"fc.0.weight": images(8, channels).float(), "fc.4.weight": images(5, 8).float()}
    return state | {"fc.1.weight": images(8).float(), "fc.1.bias": images(8).float(), "fc.4.bias": images(5).float()}


def test_official_weights_of_the_network() -> None:
    state = network_state()
    net = load_official(small(angle="radians").float(), {f"model.{name}": value for name, value in state.items()})
    assert torch.equal(net.lift.kernel_net.layers[1].bias, state["stem.0.inr.kernel_net.net.1.linear.bias"])
    assert torch.equal(net.conv2.kernel_net.layers[3].weight, state["blocks.0.conv2.inr.final_linear.weight"])
    assert torch.equal(net.conv3.kernel_net.layers[0].weight, state["blocks.4.inr.kernel_net.net.0.linear.weight"])
    assert torch.equal(net.head[0].weight, state["fc.0.weight"])
    assert torch.equal(net.head[1].bias, state["fc.1.bias"])
    assert torch.equal(net.head[4].bias, state["fc.4.bias"])


def test_official_weights_that_do_not_fit_are_named() -> None:
    net, state = small(angle="radians").float(), network_state()
    with pytest.raises(ValueError, match=r"state lacks 'fc\.1\.bias'"):
        load_official(net, {name: value for name, value in state.items() if name != "fc.1.bias"})
    with pytest.raises(ValueError, match=r"state has 'fc\.7\.weight', which has no place"):
        load_official(net, state | {"fc.7.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"shape.*angle"):
        load_official(small().float(), state)
    with pytest.raises(ValueError, match=r"frequency 30.*w0=10"):
        load_official(net, state | {"blocks.4.inr.kernel_net.net.1.act_layer.a": torch.tensor([30.0])})
    with pytest.raises(TypeError, match="module must be"):
        load_official(torch.nn.Linear(1, 1), state)


def test_samplers_of_a_subgroup_serve_a_larger_group() -> None:
    net = small(GLnPlus(2), sampler=HaarSampler(SO2()))
    assert math.isfinite(float(net(images(1, 1, 12, 12)).detach().sum()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_another_type_come_back_as_logits_of_it(dtype: torch.dtype) -> None:
    net, x = small().float().eval(), images(2, 1, 12, 12).to(dtype)
    wide = net(x.float(), generator=seeded())
    for module in (net, copy.deepcopy(net).to(dtype)):
        logits = module(x, generator=seeded())
        assert logits.dtype == module.features(x, generator=seeded()).dtype == dtype
        torch.testing.assert_close(logits.float(), wide, atol=0.05, rtol=0.05)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(sampler="haar"), TypeError, "sampler must be a sampler such as HaarSampler"),
        (lambda: small(dropout="half"), TypeError, "dropout must be a number"),
        (lambda: small(w0="a"), TypeError, "w0 must be a positive number, got 'a'"),
        (lambda: small(kernel_size="5"), TypeError, "kernel_size must be a whole number"),
        (lambda: LieResNet(SLn(2), None), TypeError, "in_channels must be a whole number"),
        (lambda: small()(np.zeros((1, 1, 12, 12))), TypeError, "x must be a tensor, got ndarray"),
        (lambda: small(sampler=HaarSampler(SLn(3)))(images(1, 1, 12, 12)), ValueError, r"samples must be of .*3, 3"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
