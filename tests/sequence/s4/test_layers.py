import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from linmap.maps import DiagonalPlusLowRank
from linmap.sequence.s4 import S4, S4D
from linmap.sequence.s4.layers import StateSpaceLayer, TiedDropout
from typed import other

pytestmark = pytest.mark.filterwarnings("ignore:step in training mode")

CONFIGURATIONS = {
    "lin": lambda: S4D(4, 8),
    "inv, bilinear": lambda: S4D(4, 8, "inv", "bilinear"),
    "legs, one copy": lambda: S4D(4, 8, "legs", n_ssm=1),
    "diag, two copies": lambda: S4D(4, 8, "diag", n_ssm=2),
    "hippo, softplus": lambda: S4D(4, 8, "hippo", dt_transform="softplus"),
    "real": lambda: S4D(4, 8, "real"),
    "real modes": lambda: S4D(4, 3, "real", is_real=True),
    "rand, band-limited": lambda: S4D(4, 8, "rand", bandlimit=0.02, dt=(0.1, 0.5), normalize=True),
    "S4 legs": lambda: S4(4, 8),
    "S4 fout, one copy": lambda: S4(4, 8, "fout", n_ssm=1),
    "S4 hippo": lambda: S4(4, 8, "hippo", n_ssm=2),
    "S4 legt": lambda: S4(4, 8, "legt"),
    "S4 legs, rank 2": lambda: S4(4, 8, "legs", rank=2, bandlimit=0.1, dt=(0.05, 0.2)),
}


def build(name: str, seed: int = 0) -> StateSpaceLayer:
    torch.manual_seed(seed)
    return CONFIGURATIONS[name]().double()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def recurrence(layer: StateSpaceLayer, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    state, outputs = layer.initial_state(len(u)).to(torch.complex128) if state is None else state, []
    for l in range(u.shape[1]):
        y, state = layer.step(u[:, l], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("L", [1, 2, 7, 24])
def test_convolution_recurrence_and_chunks_are_the_same(name: str, L: int) -> None:
    layer, u = build(name), noise(3, L, 4)
    y, state = layer(u, return_state=True)
    by_step, after = recurrence(layer, u)
    torch.testing.assert_close(by_step, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(after, state, rtol=0, atol=1e-10)
    scanned, states = layer.scan(u)
    torch.testing.assert_close(scanned, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(states[:, -1], state, rtol=0, atol=1e-10)
    if L > 1:
        cut = L // 2
        first, between = layer(u[:, :cut], return_state=True)
        second, end = layer(u[:, cut:], between)
        torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=0, atol=1e-10)
        torch.testing.assert_close(end, state, rtol=0, atol=1e-10)
        torch.testing.assert_close(states[:, cut - 1], between, rtol=0, atol=1e-10)
        torch.testing.assert_close(layer.scan(u[:, cut:], between)[1], states[:, cut:], rtol=0, atol=1e-10)
        torch.testing.assert_close(recurrence(layer, u[:, cut:], between)[0], y[:, cut:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_shorter_sequences_in_a_batch_are_as_if_alone(name: str) -> None:
    layer, u, lengths = build(name), noise(3, 11, 4), torch.tensor([4, 11, 1])
    before = torch.view_as_complex(noise(3, 4, layer.modes, 2, seed=1))
    if layer.real:
        before = torch.complex(before.real, torch.zeros_like(before.real))
    for state in (None, before):
        y, after = layer(u, state, lengths, return_state=True)
        for i, length in enumerate(lengths.tolist()):
            alone = None if state is None else state[i : i + 1]
            expected, end = layer(u[i : i + 1, :length], alone, return_state=True)
            torch.testing.assert_close(y[i : i + 1, :length], expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(after[i : i + 1], end, rtol=0, atol=1e-10)
            assert (y[i, length:] == 0).all()


@pytest.mark.parametrize("kind", [S4D, S4])
def test_both_directions_are_two_causal_passes(kind: type[S4D | S4]) -> None:
    torch.manual_seed(0)
    layer = kind(3, 8, bidirectional=True, activation=False, gate=False).double()
    u, L = noise(2, 9, 3), 9
    forward, reverse = layer.kernel(L)
    expected = layer.D * u
    for i in range(L):
        for j in range(L):
            expected[:, i] = expected[:, i] + (forward[:, i - j] if j <= i else reverse[:, j - i - 1]) * u[:, j]
    torch.testing.assert_close(layer(u), expected, rtol=0, atol=1e-10)
    lengths = torch.tensor([5, 9])
    torch.testing.assert_close(layer(u, lengths=lengths)[:1, :5], layer(u[:1, :5]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_past_alone_counts_and_time_may_shift(name: str) -> None:
    layer, u = build(name), noise(1, 16, 4)
    changed = u.clone()
    changed[:, 9] += 1
    y, other = layer(u), layer(changed)
    torch.testing.assert_close(other[:, :9], y[:, :9], rtol=0, atol=1e-12)
    assert (other[:, 9] - y[:, 9]).abs().max() > 1e-6
    later = layer(torch.cat([torch.zeros(1, 5, 4, dtype=torch.float64), u], 1))[:, 5:]
    torch.testing.assert_close(later, y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_rate_multiplies_the_step(name: str) -> None:
    layer = build(name)
    slower = copy.deepcopy(layer)
    raw = (2 * layer.dt).detach()
    slower.raw_dt.data = raw.log() if layer.dt_transform == "exp" else raw.expm1().log()
    u = noise(1, 12, 4)
    torch.testing.assert_close(layer(u, rate=2.0), slower(u), rtol=0, atol=1e-10)
    y, state = layer.step(u[:, 0], layer.initial_state().to(torch.complex128), rate=2.0)
    torch.testing.assert_close(y, slower(u)[:, 0], rtol=0, atol=1e-10)
    assert state.shape == (1, 4, layer.modes)


def test_one_real_mode_is_an_exponential_moving_average() -> None:
    layer = S4D(1, 1, "real", dt=(0.3, 0.3), is_real=True, activation=False, gate=False).double()
    layer.C.data.fill_(1)
    layer.D.data.zero_()
    u, y = noise(1, 20, 1), torch.zeros(1, 1, dtype=torch.float64)
    keep = torch.exp(-layer.dt)
    found = layer(u)
    for l in range(20):
        y = keep * y + (1 - keep) * u[:, l]
        torch.testing.assert_close(found[:, l], y, rtol=0, atol=1e-12)


def test_modes_that_do_not_move_hold_a_sum() -> None:
    """ZOH with A -> 0: finite values and gradients, and the state is dt times the running sum."""
    layer = S4D(2, 2, activation=False, gate=False).double()
    layer.log_decay.data.fill_(-60)
    u = noise(1, 30, 2)
    _, state = layer(u, return_state=True)
    torch.testing.assert_close(state[..., 0].real, layer.dt * u.sum(1), rtol=0, atol=1e-12)
    layer(u).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("init", ["legs", "fout"])
def test_the_state_matrix_is_the_hippo_matrix_in_another_basis(init: str) -> None:
    layer = S4(2, 16, init).double()
    A = layer.state_matrix()
    assert isinstance(A, DiagonalPlusLowRank)
    dense = A.matrix()
    assert dense.shape == (2, 16, 16)
    trace = {"legs": -sum(range(1, 17)), "fout": -(1 + 2 * 7) - 16e-4}[init]
    torch.testing.assert_close(
        dense.diagonal(dim1=-2, dim2=-1).sum(-1).real, torch.full((2,), trace).double(), atol=1e-3, rtol=0
    )
    state, system = noise(1, 2, 16), layer._system(1.0)
    half = layer.dt[:, None, None] / 2 * dense
    identity = torch.eye(16, dtype=torch.complex128)
    x = torch.complex(state[..., :8], state[..., 8:])
    full = torch.cat([x, x.conj()], -1).unsqueeze(-1)
    moved = torch.linalg.solve(identity - half, (identity + half) @ full)[..., :8, 0]
    by_step = (system[0] @ state.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(torch.cat([moved.real, moved.imag], -1), by_step, rtol=0, atol=1e-10)


def test_a_constant_input_has_an_output_of_variance_one() -> None:
    """||A^-1 B|| = 1 for HiPPO matrices: with C ~ N(0, I) nothing needs scaling."""
    torch.manual_seed(0)
    layer = S4(512, 16, "legs", dt=(0.1, 0.1), activation=False, gate=False, clip_B=None)
    layer.D.data.zero_()
    with torch.no_grad():
        y = layer.double()(torch.ones(1, 2000, 512, dtype=torch.float64))[0, -1]
    assert float(y.square().mean()) == pytest.approx(1, abs=4 * (2 / 512) ** 0.5)


def test_features_share_copies_in_turn() -> None:
    layer = S4D(6, 4, "diag", n_ssm=2)
    modes = layer._modes()
    assert torch.equal(modes[::2], modes[:1].expand(3, -1))
    assert torch.equal(modes[1::2], modes[1:2].expand(3, -1))
    assert not torch.equal(modes[0], modes[1])
    assert layer.log_decay.shape == (2, 2)
    assert layer.C.shape == (1, 6, 2, 2)


def test_steps_cover_their_range_and_modes_beyond_the_band_are_silent() -> None:
    torch.manual_seed(0)
    dt = S4D(2000, 2, dt=(1e-3, 0.1)).dt.detach()
    assert 1e-3 <= float(dt.min()) < 1.1e-3
    assert 0.09 < float(dt.max()) <= 0.1 + 1e-6
    assert abs(float(dt.log10().mean()) + 2) < 0.05
    layer = S4D(1, 8, dt=(1.0, 1.0), bandlimit=1.0)  # frequencies 0, pi, 2 pi, 3 pi a step: from pi on aliased
    assert (layer._weights(1.0)[1][0, 0] == 0).tolist() == [False, True, True, True]


def test_the_optimisers_groups() -> None:
    layer = S4(4, 8)
    slow, rest = layer.optim_groups(1e-2, weight_decay=0.05)
    assert (slow["lr"], slow["weight_decay"], rest["lr"], rest["weight_decay"]) == (1e-3, 0.0, 1e-2, 0.05)
    assert layer.optim_groups(1e-4)[0]["lr"] == 1e-4
    assert {id(p) for p in slow["params"]} == {
        id(getattr(layer, n)) for n in ("raw_dt", "log_decay", "frequency", "P", "B")
    }
    assert {id(p) for g in (slow, rest) for p in g["params"]} == {id(p) for p in layer.parameters()}
    torch.optim.AdamW(layer.optim_groups(1e-2)).step()


def test_parts_of_the_state_space_can_have_their_own_rates() -> None:
    def rates(layer: StateSpaceLayer) -> dict[str, tuple[float, float]]:
        names = {id(parameter): name for name, parameter in layer.named_parameters()}
        groups = layer.optim_groups(1e-2, 0.05)
        return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}

    one = rates(S4D(4, 8, lr=1e-4))
    assert one["raw_dt"] == one["log_decay"] == one["frequency"] == one["B"] == (1e-4, 0)
    assert one["C"] == (1e-4, 0.05)
    assert one["D"] == (1e-2, 0.05)
    some = rates(S4(4, 8, lr={"dt": 5e-3, "A": 0.0}))
    assert some["raw_dt"] == (5e-3, 0)
    assert some["B"] == (1e-3, 0)
    assert some["C"] == (1e-2, 0.05)
    assert not {"log_decay", "frequency", "P"} & set(some)
    layer = S4(4, 8, lr={"A": 0.0})
    layer(torch.randn(1, 5, 4)).sum().backward()
    assert layer.P.grad is None
    assert layer.B.grad is not None


@pytest.mark.parametrize("name", ["lin", "S4 legs"])
def test_kernels_are_kept_in_evaluation_and_follow_the_weights(name: str) -> None:
    layer, u = build(name).eval(), noise(1, 6, 4)
    with torch.no_grad():
        assert layer.kernel(6).data_ptr() == layer.kernel(6).data_ptr()
        before = layer(u)
        layer.C.mul_(2)
        assert not torch.allclose(layer(u), before)
        layer.C.div_(2)
        torch.testing.assert_close(layer(u), before)
    layer(u).sum().backward()
    assert layer.C.grad is not None


def average_through_data(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.data.mul_(0.9).add_(0.01)


def assign(layer: nn.Module) -> None:
    layer.load_state_dict({name: value * 0.9 + 0.01 for name, value in layer.state_dict().items()}, assign=True)


@pytest.mark.parametrize("write", [average_through_data, assign])
@pytest.mark.parametrize("name", ["lin", "S4 legs"])
def test_what_is_kept_follows_writes_that_no_version_counts(name: str, write) -> None:
    layer, u = build(name).eval(), noise(1, 6, 4)
    with torch.no_grad():
        for _ in range(4):  # an address may come back
            before = layer(u)
            write(layer)
            after = layer(u)
            torch.testing.assert_close(after, copy.deepcopy(layer).train()(u), rtol=1e-9, atol=1e-9)
            assert (after - before).abs().max() > 1e-6


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("own", [None, ["C"], ["log_decay"]])
@torch.no_grad()
def test_many_layers_at_once_under_vmap_leave_nothing_behind(own: list[str] | None) -> None:
    """Each with all parameters of its own, or with some and the others in common."""
    layers, u = [build("lin", seed).eval() for seed in range(3)], noise(1, 6, 4)
    common = {name: value for name, value in layers[0].state_dict().items() if own and name not in own}
    for layer in layers[1:]:
        layer.load_state_dict(common, strict=False)
    parameters, buffers = torch.func.stack_module_state(list[nn.Module](layers))
    stacked = {name: value for name, value in parameters.items() if own is None or name in own}
    assert own is None or list(stacked) == own

    def one(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layers[0], (parameters, buffers_of_one), (u,))

    buffers_of_one = {name: value[0] for name, value in buffers.items()}
    together = torch.vmap(one)
    for _ in range(2):
        torch.testing.assert_close(together(stacked), torch.stack([layer(u) for layer in layers]))


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_kept_is_not_that_of_weights_before_a_training_step(fused: bool) -> None:
    torch.manual_seed(0)
    layer, u = S4D(4, 8), torch.randn(1, 6, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        layer.eval()
        with torch.inference_mode():
            found = layer(u)
        torch.testing.assert_close(found, layer(u).detach())
        layer.train()(u).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_parameter_learns_and_survives_saving(name: str) -> None:
    layer, u = build(name), noise(2, 9, 4)
    layer(u).square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert not parameter.is_complex()
        assert parameter.grad.abs().max() > 0 or layer.bandlimit is not None, parameter_name
    other = build(name, seed=1)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(u), layer(u))


def test_dropout_drops_features_for_the_whole_sequence() -> None:
    torch.manual_seed(0)
    y = TiedDropout(0.5)(torch.ones(8, 5, 16))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert (y == y[:, :1]).all()
    assert (TiedDropout(0.5).eval()(torch.ones(1, 2, 3)) == 1).all()
    assert isinstance(S4D(2, 2, dropout=0.1, tie_dropout=False).dropout, nn.Dropout)


def test_half_precision_is_computed_in_float32_with_one_warning() -> None:
    layer = S4D(4, 8, gate=False)
    u = torch.randn(2, 6, 4)
    with pytest.warns(UserWarning, match=r"float32") as caught:
        y = layer(u.bfloat16())
    assert len(caught) == 1
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(u.bfloat16().float()).bfloat16().float(), rtol=2e-2, atol=2e-2)
    half = S4(4, 8).bfloat16()  # its parameters too
    with pytest.warns(UserWarning, match="float32"):
        y = half(u.bfloat16())
    assert y.dtype == torch.bfloat16
    with pytest.warns(UserWarning, match="float32"):
        first, _ = half.eval().step(u[:, 0].bfloat16(), half.initial_state(2))
    torch.testing.assert_close(first, y[:, 0], rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")
        S4D(4, 8)(torch.randn(2, 6, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S4D(4, 7), r"d_state=7 must be even and >= 2"),
        (lambda: S4(4, 0), r"d_state=0 must be even and >= 2"),
        (lambda: S4D(0), "d_model=0 must be a positive"),
        (lambda: S4D(4, n_ssm=3), "n_ssm must divide d_model = 4, got 3"),
        (lambda: S4D(4, init="diag", n_ssm=1), "needs n_ssm that 2 divides"),
        (lambda: S4D(4, dt=(0, 0.1)), "must be a range of steps"),
        (lambda: S4D(4, dt=(0.2, 0.1)), "must be a range of steps"),
        (lambda: S4D(4, init="legsd"), "init=legsd is not one of S4D; choose from lin, inv"),
        (lambda: S4(4, init="lin"), "init=lin is not one of S4; choose from legs, fout, legt, hippo"),
        (lambda: S4(4, init="hippo", n_ssm=1), "needs n_ssm that 2 divides"),
        (lambda: S4D(4, lr={"P": 1.0}), "lr: there is no part 'P'"),
        (lambda: S4D(4, lr=-1.0), "lr of dt must be 0"),
        (lambda: S4(4, init="legt", rank=1), "legt needs rank 2"),
        (lambda: S4D(4, disc=other("euler")), "disc must be 'zoh' or 'bilinear'"),
        (lambda: S4D(4, dropout=1.0), r"dropout=1.0 must lie in \[0, 1\)"),
        (lambda: S4D(4, is_real=True), "needs init='real'"),
        (lambda: S4D(4, dt_transform=other("relu")), "dt_transform must be"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_settings(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("kind", [S4D, S4])
def test_bad_inputs(kind: type[S4D | S4]) -> None:
    layer = kind(4, 8)
    u, state = torch.randn(2, 6, 4), layer.initial_state(2)
    with pytest.raises(ValueError, match=r"H = 4, got shape \(2, 4, 6\); this looks like \(B, H, L\): pass u.mT"):
        layer(u.mT)
    with pytest.raises(ValueError, match=r"u must be \(B, L, H\)"):
        layer(u[0])
    with pytest.raises(ValueError, match="length 0"):
        layer(u[:, :0])
    with pytest.raises(TypeError, match=r"floating-point numbers, got torch.int64"):
        layer(u.long())
    bad = u.clone()
    bad[1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"not finite at index \(1, 3, 2\)"):
        layer(bad)
    for lengths, message in (
        (torch.tensor([1]), "lengths must be 2 integers"),
        (torch.tensor([1.0, 2.0]), "lengths must be 2 integers"),
        (torch.tensor([1, 7]), "between 1 and L = 6, got 1 to 7"),
        (torch.tensor([-1, 2]), "between 1 and L = 6, got -1 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(u, lengths=lengths)
    with pytest.raises(ValueError, match="state must be complex"):
        layer.step(u[:, 0], state.real)
    with pytest.raises(ValueError, match=r"initial_state\(2\)"):
        layer(u, state[:1])
    with pytest.raises(ValueError, match="rate must be a positive"):
        layer(u, rate=0.0)
    both = kind(4, 8, bidirectional=True)
    with pytest.raises(ValueError, match="step: a bidirectional layer"):
        both.step(u[:, 0], state)
    with pytest.raises(ValueError, match="scan: a bidirectional layer"):
        both.scan(u)
    with pytest.warns(UserWarning, match="builds dA and dB anew"):
        layer.train().step(u[:, 0], state)
    with pytest.raises(ValueError, match="a bidirectional layer has no state"):
        both(u, return_state=True)
