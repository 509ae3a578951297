"""OLinear against its definition written out, and the laws that it obeys."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from linmap.sequence.olinear import NormLin, OLinear, OLinear_C, basis, load_official, weighted_loss
from linmap.sequence.olinear.model import Block
from typed import of_class


def shaken(model: OLinear, seed: int = 0) -> OLinear:
    """Every parameter moved off its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def small(N: int = 3, T: int = 6, P: int = 4, **options: Any) -> OLinear:
    torch.manual_seed(0)
    bases: dict[str, Any] = {"Q_in": basis("random", T), "Q_out": basis("random", P, seed=1)}
    sizes: dict[str, Any] = {"d_model": 5, "d_ff": 7, "embed": 2, "layers": 2, "dropout": 0.0}
    return shaken(OLinear(N, T, P, **(sizes | bases | options)).double())


def blocks(model: OLinear) -> list[Block]:
    return [of_class(Block, block) for block in model.blocks]


def by_definition(model: OLinear, x: Tensor) -> Tensor:
    """The forward pass with the copies written out, step by step as the method gives it (no dropout)."""
    N, T, P, E = model.n_variates, model.seq_len, model.pred_len, model.embed
    mean, std = x.mean(1, keepdim=True), (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    x = (x - mean.detach()) / std.detach() * model.revin.gain + model.revin.shift
    z = torch.stack([x.mT] * E, dim=2)  # (B, N, E, T)
    if model.phi is not None:
        z = z * model.phi[:, None]
    Q_in, Q_out = (Q if Q.ndim == 3 else Q.expand(N, -1, -1) for Q in (model.Q_in, model.Q_out))
    z = torch.einsum("bnet,nkt->bnek", z, Q_in)
    if model.delta1 is not None:
        z = z + model.delta1[None, :, None, :]
    h = model.encoder(z.reshape(len(x), N, E * T))
    for block in blocks(model):
        mixing = of_class(NormLin, block.mixing)
        A = F.normalize(F.softplus(mixing.weight), p=1, dim=-1)
        h = block.norm1(h + mixing.output(A @ mixing.value(h)))
        h = block.norm2(h + block.linear2(F.gelu(block.linear1(h))))
    z = model.decoder(model.norm(h)).reshape(len(x), N, E, P)
    z = torch.einsum("bnek,nkt->bnet", z, Q_out)
    if model.delta2 is not None:
        z = z + model.delta2[None, :, None, :]
    y = model.head2(F.gelu(model.head1(z.transpose(2, 3).reshape(len(x), N, P * E)))).transpose(1, 2)
    return (y - model.revin.shift) / (model.revin.gain + 1e-10) * std.detach() + mean.detach()


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one copy": {"embed": 1},
    "no shift": {"learn_shift": False},
    "one variate": {"N": 1},
    "one basis per variate": {
        "Q_in": np.stack([basis("random", 6, seed=s) for s in (2, 3, 4)]),
        "Q_out": np.stack([basis("random", 4, seed=s) for s in (5, 6, 7)]),
    },
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_forward_and_gradients_are_those_of_the_definition(options: dict) -> None:
    model = small(**options)
    x = torch.randn(2, 6, model.n_variates, dtype=torch.float64)
    target = torch.randn(2, 4, model.n_variates, dtype=torch.float64)
    parameters = list(model.parameters())
    ours, expected = model(x), by_definition(model, x)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)
    for got, wanted in zip(
        torch.autograd.grad((ours - target).square().sum(), parameters),
        torch.autograd.grad((expected - target).square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-8)


def test_gradcheck_of_the_encoder_without_copies() -> None:
    model = small()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.encode, (x,))


def test_parameters_of_the_published_size() -> None:
    model = OLinear(7, 96, 96)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_518_944
    assert {"Q_in", "Q_out"} <= set(model.state_dict())


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = OLinear(40, 6, 4, d_model=8, embed=2000)
    assert model.phi is not None
    assert float(model.phi.detach().std()) == pytest.approx(1, abs=0.1)
    for parameter, value in ((model.delta1, 0), (model.delta2, 0), (model.revin.gain, 1), (model.revin.shift, 0)):
        assert parameter is not None
        assert bool((parameter == value).all())
    mixing = blocks(model)[0].mixing
    assert isinstance(mixing, NormLin)
    noise = mixing.weight.detach() - torch.eye(40)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


@given(seed=st.integers(0, 99), scale=st.floats(1, 50), shift=st.floats(-50, 50))
def test_forecasts_follow_the_units_of_the_input(seed: int, scale: float, shift: float) -> None:
    torch.manual_seed(seed)
    model = OLinear(3, 6, 4, d_model=5, embed=2, layers=1).double().eval()
    x = torch.randn(2, 6, 3, dtype=torch.float64) * 3
    torch.testing.assert_close(model(scale * x + shift), scale * model(x) + shift, atol=1e-3 * scale, rtol=1e-3)


def test_windows_of_a_batch_do_not_see_each_other_but_variates_do() -> None:
    model, x = small().eval(), torch.randn(2, 6, 3, dtype=torch.float64)
    other = x.clone()
    other[1, :, 0] = torch.randn(6)
    torch.testing.assert_close(model(other)[0], model(x)[0])
    moved = (model(other)[1, :, 1] - model(x)[1, :, 1]).detach()
    assert float(moved.abs().max()) > 1e-6


def test_two_calls_before_the_backward_pass_do_not_disturb_each_other() -> None:
    model, a, b = small(), torch.randn(1, 6, 3, dtype=torch.float64), 9 + torch.randn(1, 6, 3, dtype=torch.float64)
    alone = model(a)
    together = torch.cat([model(a), model(b)])
    torch.testing.assert_close(together[:1], alone)


def test_a_constant_window_stays_finite() -> None:
    forecast = small()(torch.full((1, 6, 3), 4.2, dtype=torch.float64))
    assert bool(torch.isfinite(forecast).all())


def test_a_rotation_is_absorbed_by_the_first_layer() -> None:
    model = small(learn_shift=False)
    absorbed = OLinear(3, 6, 4, d_model=5, d_ff=7, embed=2, dropout=0.0, Q_out=model.Q_out, learn_shift=False).double()
    state = model.state_dict() | {"Q_in": torch.eye(6, dtype=torch.float64)}
    W = state["encoder.weight"].reshape(5, 2, 6)
    state["encoder.weight"] = (W @ model.Q_in).reshape(5, 12)
    absorbed.load_state_dict(state)
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(absorbed(x), model(x))


def test_dropout_acts_in_training_alone_and_on_the_forecast_too() -> None:
    torch.manual_seed(0)
    model = OLinear(3, 6, 50, d_model=5, embed=2, dropout=0.5)
    x = torch.randn(1, 6, 3)
    torch.testing.assert_close(model.eval()(x), model(x))
    dropped = (model.train()(x) - x.mean(1, keepdim=True)).abs() < 1e-6  # a dropped value is the window's mean
    assert 0.3 < float(dropped.float().mean()) < 0.7


def test_compiles_with_the_same_result(annotations_unchecked: None) -> None:
    model, x = small().eval(), torch.randn(2, 6, 3, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Q_in": np.ones((6, 6))}, "Q_in is not orthogonal: max"),
        ({"Q_in": np.eye(5)}, r"Q_in must have shape \(6, 6\) or \(3, 6, 6\), got \(5, 5\)"),
        ({"Q_out": np.stack([np.eye(4)] * 3)}, "both be shared by the variates, or both"),
        ({"embed": 0}, "embed must be at least 1, got 0"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_explained(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 6, 4)])
def test_wrong_windows_are_explained(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"expected windows of shape \(batch, 6, 3\).*, got \({shape[0]}, {shape[1]}"):
        small()(torch.zeros(shape, dtype=torch.float64))


# -- OLinear-C ---------------------------------------------------------------------------------------------------------


def test_variates_mix_by_the_softmax_of_their_correlation() -> None:
    C = torch.tensor([[1.0, 0.5, float("nan")], [0.5, 1.0, float("nan")], [float("nan")] * 3])
    model = OLinear_C(3, 6, 4, C, d_model=5, embed=2)
    expected = F.softmax(torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]), dim=-1)
    for block in blocks(model):
        torch.testing.assert_close(block.mixing.matrix(), expected)
    learned = {name for name, _ in OLinear(3, 6, 4, d_model=5, embed=2).named_parameters()}
    fixed = {name for name, _ in model.named_parameters()}
    assert learned - fixed == {"blocks.0.mixing.mix.weight", "blocks.1.mixing.mix.weight"}
    with pytest.raises(ValueError, match=r"correlation must have shape \(3, 3\), got \(2, 2\)"):
        OLinear_C(3, 6, 4, np.eye(2))


# -- the loss ----------------------------------------------------------------------------------------------------------


@given(step=st.integers(0, 9), error=st.floats(-5, 5))
def test_an_error_weighs_by_its_step(step: int, error: float) -> None:
    target = torch.zeros(1, 10, 1, dtype=torch.float64)
    forecast = target.clone()
    forecast[0, step, 0] = error
    assert float(weighted_loss(forecast, target)) == pytest.approx(abs(error) * (step + 1) ** -0.5 / 10)


def test_without_weights_it_is_the_mean_error() -> None:
    a, b = torch.randn(3, 5, 2), torch.randn(3, 5, 2)
    torch.testing.assert_close(weighted_loss(a, b, alpha=0), F.l1_loss(a, b))
    torch.testing.assert_close(weighted_loss(a, b, alpha=0, kind="l2"), F.mse_loss(a, b))
    both = weighted_loss(a, b, kind="l1") + weighted_loss(a, b, kind="l2")
    torch.testing.assert_close(weighted_loss(a, b, kind="l1l2"), both)
    with pytest.raises(ValueError, match="kind must be one of 'l1', 'l2', 'l1l2', got 'huber'"):
        weighted_loss(a, b, kind="huber")


# -- the authors' weights ----------------------------------------------------------------------------------------------


def official_state(model: OLinear) -> dict[str, Tensor]:
    """The weights of `model` under the authors' names and in their shapes."""
    ours = model.state_dict()
    state = {
        "embeddings": ours["phi"][None],
        "revin_layer.affine_weight": ours["revin.gain"],
        "revin_layer.affine_bias": ours["revin.shift"],
        "delta1": ours["delta1"][None, :, None],
        "delta2": ours["delta2"][None, :, None],
    }
    pairs = {
        "ortho_trans.0": "encoder",
        "ortho_trans.2": "decoder",
        "fc.0": "head1",
        "fc.2": "head2",
        "ortho_trans.1.norm": "norm",
    }
    for i in range(len(model.blocks)):
        theirs = f"ortho_trans.1.attn_layers.{i}"
        state[f"{theirs}.weight_mat"] = ours[f"blocks.{i}.mixing.mix.weight"][None]
        pairs |= {f"{theirs}.v_proj": f"blocks.{i}.mixing.value", f"{theirs}.out_proj": f"blocks.{i}.mixing.output"}
        pairs |= {f"{theirs}.norm{k}": f"blocks.{i}.norm{k}" for k in (1, 2)}
        pairs |= {f"{theirs}.conv{k}": f"blocks.{i}.linear{k}" for k in (1, 2)}
    for theirs, name in pairs.items():
        for part in ("weight", "bias"):
            tensor = ours[f"{name}.{part}"]
            state[f"{theirs}.{part}"] = tensor[..., None] if "conv" in theirs and part == "weight" else tensor
    repeated = {
        f"encoder.{name.removeprefix('ortho_trans.1.')}": tensor
        for name, tensor in state.items()
        if name.startswith("ortho_trans.1.")
    }
    return state | repeated


def test_the_authors_weights_load() -> None:
    trained, fresh = small(), OLinear(3, 6, 4, d_model=5, d_ff=7, embed=2, dropout=0.0).double()
    fresh.Q_in, fresh.Q_out = trained.Q_in, trained.Q_out
    load_official(fresh, official_state(trained))
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(fresh(x), trained(x))


def test_foreign_weights_are_refused() -> None:
    state = official_state(small())
    with pytest.raises(ValueError, match=r"'fc\.1\.weight' is no tensor of the authors' OLinear"):
        load_official(small(), state | {"fc.1.weight": torch.zeros(1)})
    state.pop("delta1")
    with pytest.raises(RuntimeError, match="delta1"):
        load_official(small(), state)
