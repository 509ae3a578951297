"""Passes that networks rarely make: infinite values inside, inference mode, writes to many tensors, drawn indices."""

import pytest
import torch
import torch.nn.functional as F

from interpret.linearscope.networks import Lambda
from linmap.interpret.linearscope import LinearScope, UnknownOperationError

MASK = torch.arange(4).reshape(1, 4, 1, 1) == 1


def picture() -> torch.Tensor:
    return torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def jacobian(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(net, x).reshape(-1, x.numel())


both_modes = pytest.mark.parametrize("mode", ["record", "parallel"])


def masked(z: torch.Tensor, value: float = float("-inf")) -> torch.Tensor:
    return (z * 2 + 1).masked_fill(MASK, value)


BOUNDED = {
    "relu": lambda z: masked(z).relu(),
    "clamp": lambda z: masked(z).clamp(min=-3),
    "clamp above": lambda z: masked(z, float("inf")).clamp(-0.5, 0.5),
    "hardtanh": lambda z: F.hardtanh(masked(z)),
    "threshold": lambda z: F.threshold(masked(z), 0.1, 2.0),
    "maximum": lambda z: torch.maximum(masked(z), z),
    "maximum with a constant": lambda z: torch.maximum(masked(z), torch.full_like(z, -1.0)),
    "minimum": lambda z: torch.minimum(z, masked(z, float("inf"))),
    "a constant that is infinite": lambda z: torch.maximum(z, torch.full_like(z, float("-inf"))),
}


@both_modes
@pytest.mark.parametrize("function", BOUNDED.values(), ids=BOUNDED)
def test_what_is_infinite_and_bounded_again_has_no_slope(function, mode):
    net, x = Lambda(function).double().eval(), picture()
    interp = LinearScope(net, mode=mode).at(x)
    torch.testing.assert_close(interp.dense(), jacobian(net, x))
    assert interp.exactness() < 1e-12


@both_modes
@pytest.mark.parametrize("model_too", [False, True])
def test_inference_mode_changes_nothing(mode, model_too):
    def made() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4)).double().eval()

    x = torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
    right, net = LinearScope(made(), mode=mode).at(x), made()
    with torch.inference_mode():
        found = LinearScope(made() if model_too else net, mode=mode).at(x.clone())
        assert torch.equal(found.dense(), right.dense())
        assert torch.equal(found.votes(1), right.votes(1))
        assert torch.equal(found.rmatvec(torch.ones(4).double()), right.rmatvec(torch.ones(4).double()))


def in_place_of_many(z: torch.Tensor) -> torch.Tensor:
    parts = [z.clone(), z + 1]
    torch._foreach_mul_(parts, 3.0)
    return parts[0] + parts[1]


def drawn(z: torch.Tensor) -> torch.Tensor:
    return z[:, torch.multinomial(z.abs().sum((0, 2, 3)), 2)]


@pytest.mark.parametrize(
    ("function", "message"),
    [(in_place_of_many, r"_foreach_mul_.*several tensors at once"), (drawn, r"multinomial.*draws random numbers")],
)
def test_writes_to_many_tensors_and_drawn_indices_are_refused_by_name(function, message):
    with pytest.raises(UnknownOperationError, match=message):
        LinearScope(Lambda(function).double().eval()).at(picture())
    net, x = Lambda(lambda z: torch.cat([z, function(z)], 1)).double().eval(), picture()
    with pytest.warns(UserWarning, match=message):
        interp = LinearScope(net, strict=False).at(x)
    own = jacobian(net.first, x)
    torch.testing.assert_close(interp.dense()[: len(own)], own)
