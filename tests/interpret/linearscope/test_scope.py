"""The interpreter's laws over every unit of the method's table, and what the scope refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from interpret.linearscope.networks import (
    LINEAR,
    PIECEWISE,
    SMOOTH,
    UNITS,
    Attention,
    Lambda,
    MultiHead,
    SqueezeExcite,
    Twice,
    Unit,
    classifier,
    unit_id,
)
from linmap.interpret.linearscope import LinearScope, UnknownOperationError, register_rule
from linmap.maps import Dense
from typed import other

every_unit = pytest.mark.parametrize("unit", UNITS, ids=unit_id)
both_modes = pytest.mark.parametrize("mode", ["record", "parallel"])


def picture(seed: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def jacobian(net: nn.Module, x: Tensor) -> Tensor:
    J = torch.autograd.functional.jacobian(net, x)
    return J.reshape(-1, x.numel())


# -- exactness -----------------------------------------------------------------------------------------------------


@every_unit
def test_reproduces_the_network_at_x_in_double_precision(unit: Unit):
    x = picture()
    net = unit.network()
    interp = LinearScope(net, **unit.options).at(x)
    y = interp.dense() @ x.flatten() + interp.residual.flatten()
    assert torch.allclose(y, net(x).flatten(), rtol=0, atol=2e-12 * float(net(x).abs().max()))
    assert interp.exactness() < 1e-12


@every_unit
def test_reproduces_the_network_at_x_in_single_precision(unit: Unit):
    interp = LinearScope(unit.network(torch.float32), **unit.options).at(picture(dtype=torch.float32))
    assert interp.exactness() < 1e-5


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Every tensor that is made empty holds NaN until it is written."""
    filling: Any = torch.utils.deterministic
    filled, strict = filling.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(strict)
    filling.fill_uninitialized_memory = filled


@both_modes
@every_unit
def test_what_was_left_in_new_memory_does_not_matter(unit: Unit, mode: Any, poisoned_memory: None):
    interp = LinearScope(unit.network(), mode=mode, **unit.options).at(picture())
    assert torch.empty(1).isnan().all()
    assert interp.exactness() < 1e-12
    with torch.no_grad():
        assert interp(picture(1)).isfinite().all()
    assert interp.rmatvec(torch.ones(1, interp.out_features, dtype=torch.float64)).isfinite().all()


@every_unit
def test_the_pass_is_the_plain_network_bit_for_bit(unit: Unit):
    net, x = unit.network(), picture()
    with torch.no_grad():
        assert torch.equal(LinearScope(net, **unit.options).at(x).output, net(x))


@pytest.mark.parametrize("unit", [*PIECEWISE, *LINEAR], ids=unit_id)
def test_is_the_jacobian_of_a_piecewise_linear_network(unit: Unit):
    net, x = unit.network(), picture()
    interp = LinearScope(net).at(x)
    J = jacobian(net, x)
    # PyTorch's own hardsigmoid gradient holds 1/6 in single precision
    torch.testing.assert_close(interp.dense(), J, rtol=1e-12 if unit.name != "hardsigmoid" else 1e-6, atol=1e-12)
    assert float((J - J.mean()).abs().max()) > 1e-3


@pytest.mark.parametrize("unit", SMOOTH, ids=unit_id)
def test_taylor_makes_smooth_units_their_jacobian(unit: Unit):
    net, x = unit.network(), picture()
    interp = LinearScope(net, smooth="taylor").at(x)
    # PyTorch's own celu gradient holds alpha in single precision
    torch.testing.assert_close(interp.dense(), jacobian(net, x), rtol=1e-10 if unit.name != "celu" else 1e-6, atol=1e-9)
    assert interp.exactness() < 1e-12
    secant = LinearScope(net).at(x).dense()
    assert float((secant - interp.dense()).abs().max()) > 1e-3


@every_unit
def test_modes_agree(unit: Unit):
    net, x = unit.network(), picture()
    recorded, parallel = (LinearScope(net, mode=mode, **unit.options).at(x) for mode in ("record", "parallel"))
    probes = torch.stack([picture(seed)[0] for seed in (1, 2, 3)])
    with torch.no_grad():
        torch.testing.assert_close(recorded(probes), parallel(probes), rtol=1e-12, atol=1e-12)
    u = torch.randn(2, recorded.out_features, dtype=torch.float64)
    torch.testing.assert_close(recorded.rmatvec(u), parallel.rmatvec(u), rtol=1e-12, atol=1e-12)


@every_unit
def test_rows_are_the_adjoint_of_columns(unit: Unit):
    interp = LinearScope(unit.network(), **unit.options).at(picture())
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(interp.out_features, dtype=torch.float64, generator=generator)
    v = torch.randn(interp.in_features, dtype=torch.float64, generator=generator)
    left, right = u @ interp.matvec(v), interp.rmatvec(u) @ v
    assert abs(float(left - right)) < 1e-10 * max(1.0, abs(float(left)))


@pytest.mark.parametrize(
    "net", [SqueezeExcite(), Attention(False), Attention(True), MultiHead()], ids=lambda n: type(n).__name__
)
def test_attention_and_excitation(net: nn.Module):
    net, x = net.double().eval(), picture()
    interp = LinearScope(net).at(x)
    assert interp.exactness() < 1e-12
    torch.testing.assert_close(interp.output, net(x), rtol=1e-12, atol=1e-12)


# -- frozen forms with a closed form -------------------------------------------------------------------------------


def frozen(function, x: Tensor, **options) -> tuple[Tensor, Tensor]:
    """F and r of a function of the input itself."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    interp = LinearScope(Net().eval(), **options).at(x)
    return interp.dense(), interp.residual.flatten()


@pytest.mark.parametrize(
    ("function", "gate"),
    [
        (F.silu, torch.sigmoid),
        (F.gelu, lambda z: (1 + torch.erf(z / 2**0.5)) / 2),
        (F.mish, lambda z: torch.tanh(F.softplus(z))),
        (lambda z: F.hardswish(3 * z), lambda z: 3 * F.hardsigmoid(9 * z / 3)),
        (lambda z: z * torch.sigmoid(z), torch.sigmoid),
        (lambda z: torch.sigmoid(2 * z) * z, lambda z: torch.sigmoid(2 * z)),
    ],
)
def test_gates_are_frozen_to_their_value(function, gate):
    z = torch.cat([torch.zeros(1, 1, dtype=torch.float64), picture()[:, 0, 0]], 1)
    matrix, r = frozen(function, z)
    torch.testing.assert_close(matrix, torch.diag(gate(z)[0]), rtol=1e-10, atol=1e-12)
    assert not r.any()


@pytest.mark.parametrize(
    ("function", "at_zero", "slope_at_zero"),
    [(torch.tanh, 0.0, 1.0), (torch.sigmoid, 0.5, 0.25), (F.elu, 0.0, 1.0), (F.softplus, 0.6931471805599453, 0.5)],
)
def test_secants_start_at_the_origin(function, at_zero, slope_at_zero):
    z = torch.tensor([[-2.0, -1e-3, 0.0, 1e-8, 1e-4, 0.7, 3.0]], dtype=torch.float64)
    matrix, r = frozen(function, z)
    torch.testing.assert_close(r, torch.full((7,), at_zero, dtype=torch.float64))
    slopes = matrix.diagonal()
    assert float((slopes[2:4] - slope_at_zero).abs().max()) < 1e-7
    torch.testing.assert_close(slopes * z[0] + at_zero, function(z)[0], rtol=1e-12, atol=1e-12)


@given(st.floats(-1e-3, 1e-3, allow_subnormal=False))
def test_secant_slopes_do_not_cancel_in_single_precision(z: float):
    x = torch.tensor([[z]], dtype=torch.float32)
    for function, slope in ((torch.sigmoid, 0.25), (F.softplus, 0.5), (torch.tanh, 1.0)):
        matrix, _ = frozen(function, x)
        assert abs(float(matrix) - slope) < 1e-3


def test_instance_norm_holds_the_statistics_of_x():
    x = picture()
    gamma, beta = torch.tensor([2.0, -1, 0.5]).double(), torch.tensor([0.1, 0.2, 0.3]).double()
    matrix, r = frozen(lambda z: F.instance_norm(z, weight=gamma, bias=beta, eps=1e-2), x)
    mean, std = x.mean((2, 3)).flatten(), (x.var((2, 3), correction=0) + 1e-2).sqrt().flatten()
    torch.testing.assert_close(matrix, torch.diag((gamma / std).repeat_interleave(64)))
    torch.testing.assert_close(r, (beta - gamma * mean / std).repeat_interleave(64))


def test_normalize_divides_by_the_norm_of_x():
    x = picture()
    matrix, r = frozen(lambda z: F.normalize(z, dim=1), x)
    torch.testing.assert_close(matrix.diagonal(), (1 / x.norm(dim=1, keepdim=True)).expand_as(x).flatten())
    assert not r.any()


def test_attention_weights_are_frozen():
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    weights = torch.softmax(x @ x.mT, -1)[0]
    matrix, r = frozen(lambda z: torch.softmax(z @ z.mT, -1) @ z, x)
    torch.testing.assert_close(matrix, torch.kron(weights, torch.eye(4, dtype=torch.float64)))
    assert not r.any()


def test_gate_says_which_factor_is_frozen():
    x = picture()[:, :2, 0, 0]
    for gate, index in (("left", 0), ("right", 1)):
        matrix, _ = frozen(lambda z: z[:, :1] * z[:, 1:], x, gate=gate)
        expected = torch.zeros(1, 2, dtype=torch.float64)
        expected[0, 1 - index] = x[0, index]
        torch.testing.assert_close(matrix, expected)


def test_relu_is_dead_at_zero():
    matrix, _ = frozen(F.relu, torch.tensor([[-1.0, 0.0, 2.0]]))
    assert matrix.diagonal().tolist() == [0, 0, 1]


# -- laws of the affine map ----------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(-3, 3))
def test_is_affine(seed: int, a: float, b: float):
    interp = LinearScope(classifier()).at(picture())
    u, v = picture(seed), picture(seed + 1)
    r = interp.residual
    torch.testing.assert_close(
        interp(a * u + b * v) - r, a * (interp(u) - r) + b * (interp(v) - r), rtol=1e-9, atol=1e-12
    )


@both_modes
def test_parts_are_those_of_the_dense_matrix(mode: Any):
    interp = LinearScope(classifier(), mode=mode).at(picture())
    matrix = interp.dense()
    torch.testing.assert_close(interp.row(3), matrix[3])
    torch.testing.assert_close(interp.columns([0, 100, 191], batch_size=2), matrix[:, [0, 100, 191]])
    v = picture(9)
    torch.testing.assert_close(interp.matvec(v).flatten(), matrix @ v.flatten())
    torch.testing.assert_close(interp(v), interp.matvec(v) + interp.residual)
    torch.testing.assert_close(interp.T(torch.ones(5).double()), matrix.sum(0))
    head = Dense(5, 2, dtype=torch.float64)
    torch.testing.assert_close((interp.linear.T.matrix()), matrix.mT)
    torch.testing.assert_close((head @ interp.linear).matrix(), head.matrix() @ matrix)
    torch.testing.assert_close((interp @ Dense.from_matrix(torch.eye(192).double())).matrix(), matrix)


def test_scaling_leaves_a_bias_free_relu_network_unchanged():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 4, bias=False)
    )
    net, x = net.double().eval(), picture()
    scope = LinearScope(net)
    matrix = scope.at(x).dense()
    for factor in (0.999, 1.001):
        interp = scope.at(factor * x)
        torch.testing.assert_close(interp.dense(), matrix, rtol=0, atol=0)
        assert not interp.residual.any()


def test_a_linear_network_is_the_product_of_its_matrices_whatever_the_input():
    from scipy.linalg import toeplitz

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 1, 3, bias=False), nn.Conv1d(1, 1, 4, bias=False)).double().eval()

    def banded(kernel: Tensor, n: int) -> Tensor:
        k = kernel.flatten().detach().numpy()
        column, row = [k[0], *[0] * (n - len(k))], [*k, *[0] * (n - len(k))]
        return torch.from_numpy(toeplitz(column, row))

    expected = banded(net.get_parameter("1.weight"), 10) @ banded(net.get_parameter("0.weight"), 12)
    for seed in (0, 1):
        x = torch.randn(1, 1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(LinearScope(net).at(x).dense(), expected)


def test_votes_sum_to_the_logit_and_are_gradient_times_input():
    net, x = classifier(), picture().requires_grad_()
    interp = LinearScope(net).at(x.detach())
    (gradient,) = torch.autograd.grad(net(x)[0, 2], x)
    torch.testing.assert_close(interp.votes(2), (gradient * x)[0].detach())
    torch.testing.assert_close(interp.votes(2).sum() + interp.residual[0, 2], interp.output[0, 2])
    torch.testing.assert_close(interp.votes(2, versus=4), interp.votes(2) - interp.votes(4))
    assert interp.bias_share(2) == pytest.approx(float(interp.residual[0, 2] / interp.output[0, 2]))


@pytest.mark.parametrize("origin", [0.3, torch.tensor([0.1, -0.2, 0.4]).double().reshape(3, 1, 1)])
def test_origin_moves_weight_between_votes_and_residual(origin):
    net, x = classifier(), picture()
    plain, moved = LinearScope(net).at(x), LinearScope(net, origin=origin).at(x)
    o = torch.as_tensor(origin, dtype=torch.float64).expand_as(x)
    torch.testing.assert_close(moved.residual, plain.residual + plain.matvec(o))
    torch.testing.assert_close(moved.votes(1).sum() + moved.residual[0, 1], net(x)[0, 1])
    torch.testing.assert_close(moved(picture(7)), plain(picture(7)))
    assert moved.exactness() < 1e-12


def test_singular_and_eigen_pairs_are_those_of_the_dense_matrix():
    interp = LinearScope(
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)).double().eval()
    )
    interp = interp.at(picture())
    matrix = interp.dense()
    U, S, Vh = interp.svd(6)
    torch.testing.assert_close(S, torch.linalg.svdvals(matrix)[:6], rtol=1e-6, atol=0)
    torch.testing.assert_close(matrix @ Vh.mT, U * S, rtol=0, atol=1e-9)
    torch.testing.assert_close(U.mT @ U, torch.eye(6).double(), rtol=0, atol=1e-9)
    L, V = interp.eig(3)
    torch.testing.assert_close(matrix.to(V.dtype) @ V, V * L, rtol=0, atol=1e-6)
    assert float(L.abs()[0]) == pytest.approx(float(torch.linalg.eigvals(matrix).abs().max()), rel=1e-6)


def test_inverse_undoes_the_linear_part():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.LeakyReLU(0.5)).double().eval()
    interp, v = LinearScope(net).at(picture()), picture(4).flatten()
    torch.testing.assert_close(interp.inverse()(interp.matvec(v)), v)


# -- how networks are written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), None, nn.ReLU6(inplace=True)])
def test_modules_called_twice_in_place_and_functional_calls(act: nn.Module | None):
    torch.manual_seed(0)
    net = Twice(act).double().eval()
    first, second = net.get_submodule("body.0"), net.get_submodule("body.1.0")
    plain_act = nn.ReLU6 if isinstance(act, nn.ReLU6) else nn.ReLU
    plain = nn.Sequential(first, plain_act(), second, plain_act()).eval()
    x = picture()
    torch.testing.assert_close(LinearScope(net).at(x).dense(), LinearScope(plain).at(x).dense(), rtol=0, atol=0)
    torch.testing.assert_close(LinearScope(net).at(x).dense(), jacobian(plain, x))


def test_pieces_compose():
    net, x = classifier(), picture()
    whole = LinearScope(net).at(x)
    head, tail = LinearScope(net, to="3").at(x), LinearScope(net, from_="4").at(x)
    torch.testing.assert_close(tail.dense() @ head.dense(), whole.dense())
    torch.testing.assert_close(tail.input, head.output)
    torch.testing.assert_close(tail(head(x)), net(x))
    one = LinearScope(net, from_="4", to="4").at(x)
    torch.testing.assert_close(one.matvec(tail.input) + one.residual, net.get_submodule("4")(tail.input))


def test_nothing_stays_on_the_model_even_after_an_error():
    net, x = classifier(), picture()
    broken = Lambda(lambda z: torch.cumprod(z, 1)).double().eval()
    runs: list[tuple[nn.Module, dict[str, Any]]] = [
        (net, {"to": "4", "from_": "1"}),
        (net, {}),
        (broken, {"from_": "first"}),
    ]
    for model, options in runs:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        original = x.clone()
        try:
            with LinearScope(model, **options) as scope:
                scope.at(x).report()
        except UnknownOperationError:
            assert model is broken
        assert all(not m._forward_hooks and not m._forward_pre_hooks and not m.training for m in model.modules())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert torch.equal(x, original)


def test_training_mode_is_restored_where_it_is_allowed():
    net = classifier().train()
    with pytest.warns(UserWarning, match="switched to eval"):
        interp = LinearScope(net, strict=False).at(picture())
    assert all(module.training for module in net.modules())
    torch.testing.assert_close(interp.output, net.eval()(picture()))


@pytest.mark.usefixtures("annotations_unchecked")
def test_dictionaries_and_final_softmax():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"p": x.flatten(1).softmax(1), "logits": 2 * x.flatten(1)}

    x, net = picture(), Net().eval()
    with pytest.raises(TypeError, match=r"dict with keys \['logits', 'p'\].*output=lambda"):
        LinearScope(net).at(x)
    torch.testing.assert_close(LinearScope(net, output=lambda o: o["logits"]).at(x).output, 2 * x.flatten(1))
    for mode in ("record", "parallel"):
        with pytest.warns(UserWarning, match="its logits"):
            interp = LinearScope(net, mode=mode, output=lambda o: o["p"]).at(x)
        torch.testing.assert_close(interp.output, x.flatten(1))
        torch.testing.assert_close(interp(x), x.flatten(1))
    with pytest.raises(ValueError, match="ends in a softmax"):
        LinearScope(net, strip_softmax=False, output=lambda o: o["p"]).at(x)


# -- unknown operations --------------------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Identity(), Lambda(function))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.sin, "sin"), (torch.erf, "erf"), (lambda z: torch.cumprod(z, 1), "cumprod"), (torch.exp, "exp"),
        (torch.log, "log"), (lambda z: z**2, "pow"), (lambda z: z / (1 + z.abs()), "div"), (lambda z: z * z, "mul"),
        (lambda z: z.flatten(2) @ z.flatten(2).mT, "bmm"), (lambda z: z * z.norm(), "linalg_vector_norm"),
        (torch.special.i0, "special_i0|i0"),
        (lambda z: z + torch.rand_like(z), "rand_like"), (lambda z: z * float(z.max()), "_local_scalar_dense"),
        (lambda z: F.dropout(z, 0.5, training=True), "dropout|bernoulli"), (lambda z: torch.fft.fft(z).real, "fft"),
        (lambda z: F.conv2d(z, z[:, :, :3, :3].contiguous()), "convolution"), (lambda z: z.norm(dim=1), "norm"),
    ],
)  # fmt: skip
def test_unknown_operations_are_named_with_module_and_line(function, name: str):
    with pytest.raises(UnknownOperationError, match=rf"({name}).*block\.1.*(test_scope|networks)\.py:\d+"):
        LinearScope(Nested(function).double().eval()).at(picture())


def test_unknown_operations_that_only_decide_are_no_obstacle():
    net = Lambda(lambda z: torch.where(torch.cumprod(z, 1) > 0.01, z, -z)).double().eval()
    torch.testing.assert_close(LinearScope(net).at(picture()).dense(), jacobian(net, picture()))


def test_without_strict_an_unknown_operation_is_a_constant_and_named():
    net = Lambda(lambda z: z + torch.erf(z)).double().eval()
    x = picture()
    with pytest.warns(UserWarning, match="erf"):
        interp = LinearScope(net, strict=False).at(x)
    torch.testing.assert_close(interp.dense(), jacobian(net.first, x))
    assert interp.exactness() < 1e-12
    assert "erf" in interp.report()["ignored"][0]


@pytest.mark.usefixtures("annotations_unchecked")
def test_registered_rules_are_used_and_checked():
    net, x = Lambda(lambda z: torch.erfinv(z.clamp(-0.9, 0.9))).double().eval(), picture()
    with pytest.raises(UnknownOperationError, match="register_rule"):
        LinearScope(net).at(x)
    scope = LinearScope(net)
    scope.register_rule(torch.erfinv, lambda z: (torch.erfinv(z) / z, 0.0))
    assert scope.at(x).exactness() < 1e-12
    scope.register_rule("erfinv", lambda z: lambda p: p * torch.erfinv(z) / z + 1 - 1)
    assert scope.at(x).exactness() < 1e-12
    scope.register_rule(torch.ops.aten.erfinv, lambda z: (torch.erfinv(z) / z, 1.0))
    with pytest.raises(UnknownOperationError, match="does not reproduce"):
        scope.at(x)
    register_rule(torch.ops.aten.erfinv.default, lambda z: (torch.erfinv(z) / z, 0.0))
    assert LinearScope(net).at(x).exactness() < 1e-12
    with pytest.raises(TypeError, match="is not an operation"):
        register_rule(print, lambda z: (z, z))
    with pytest.raises(TypeError, match="must be a function"):
        register_rule(torch.sin, other(3))


def test_a_model_that_overwrites_its_own_buffer_is_refused():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cache: Tensor
            self.register_buffer("cache", torch.zeros(1, 3, 8, 8).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.cache.copy_(x) * 2

    net = Net().eval()
    with pytest.raises(UnknownOperationError, match="overwrites a parameter or a buffer"):
        LinearScope(net).at(picture())
    assert not net.cache.any()


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 8, 8).double(), ValueError, "no batch axis"),
        (torch.zeros(8, 3, 8, 8).double(), ValueError, "interpret one input at a time: got batch 8"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "convert to float and normalise as in training"),
        (torch.full((1, 3, 8, 8), float("nan")).double(), ValueError, "NaN or infinite"),
        (torch.zeros(1, 3, 8, 8), ValueError, r"the model is torch.float64, x is torch.float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.float64, device="meta"), ValueError, "meta"),
        ([[1.0]], TypeError, "must be a tensor, got list"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_inputs(x, error, message):
    with pytest.raises(error, match=message):
        LinearScope(classifier()).at(x)


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_models():
    net = classifier()
    with pytest.raises(ValueError, match=r"training mode; call model\.eval"):
        LinearScope(classifier().train()).at(picture())
    with pytest.raises(TypeError, match="scripted"):
        LinearScope(torch.jit.script(net))
    with pytest.raises(TypeError, match=r"must be an nn\.Module"):
        LinearScope(other(lambda x: x))
    with pytest.raises(ValueError, match="too coarse"):
        LinearScope(net.bfloat16()).at(picture().bfloat16())
    with pytest.raises(ValueError, match=r"to='body' is not a layer of Sequential"):
        LinearScope(net, to="body")
    options: list[dict[str, Any]] = [{"mode": "both"}, {"smooth": "jacobian"}, {"sigmoid": "x"}, {"gate": "up"}]
    for option in [*options, {"softmax": "half"}]:
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be one of"):
            LinearScope(net, **option)


@pytest.mark.usefixtures("annotations_unchecked")
def test_quantised_models_are_refused():
    class Quantised(nn.Module):
        pass

    Quantised.__module__ = "torch.ao.nn.quantized.modules"
    with pytest.raises(TypeError, match="quantised"):
        LinearScope(nn.Sequential(Quantised()))


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_requests():
    interp = LinearScope(classifier()).at(picture())
    with pytest.raises(IndexError, match="output index 5 is out of range: there are 5 outputs"):
        interp.votes(5)
    with pytest.raises(IndexError, match="out of range"):
        interp.row(7)
    with pytest.raises(ValueError, match=r"960 entries.*max_elements"):
        interp.dense(max_elements=100)
    with pytest.raises(ValueError, match=r"k must be between 1 and min\(in_features, out_features\) = 5, got 6"):
        interp.svd(6)
    with pytest.raises(ValueError, match="square map"):
        interp.eig(1)
    with pytest.raises(ValueError, match=r"probes must have shape"):
        interp(torch.zeros(1, 192).double())
    with pytest.raises(ValueError, match="expected vectors"):
        interp.matvec(torch.zeros(7).double())
    with pytest.raises(ValueError, match="does not broadcast"):
        LinearScope(classifier(), origin=torch.zeros(7)).at(picture())
    with pytest.raises(ValueError, match="pole at z = 0"):
        frozen(torch.sigmoid, torch.zeros(1, 3), sigmoid="ratio")
    with pytest.raises(ValueError, match="does not depend on the input"):
        frozen(torch.sign, picture())


def test_report_is_plain():
    import json

    interp = LinearScope(classifier()).at(picture())
    report = json.loads(json.dumps(interp.report()))
    assert report["units"] == {"relu": 1, "max_pool2d_with_indices": 1, "hardtanh": 1}
    assert report["bias_share"] == pytest.approx(float(interp.residual.norm() / interp.output.norm()))


def test_places_and_flat_indices_name_the_same_pixels():
    interp = LinearScope(classifier().double()).at(x := picture())
    place = (2, 3, 4)
    i = interp.input_index(place)
    impulse = torch.zeros_like(x)
    impulse[0, 2, 3, 4] = 1
    assert interp.input_index(i) == i
    torch.testing.assert_close(interp.columns([i])[:, 0], interp.matvec(impulse).flatten())
