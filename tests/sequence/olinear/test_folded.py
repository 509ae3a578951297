"""Folding: fewer operations, the same forecasts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from linmap.sequence.olinear import NormLin, OLinear, OLinear_C, basis, fold
from linmap.sequence.olinear.model import Block
from typed import of_class


def moved(model: OLinear) -> OLinear:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "one copy": {"embed": 1},
    "no shift": {"learn_shift": False},
    "narrow head": {"d_ff": 3},
    "trained with dropout": {"dropout": 0.9},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_folded_forecasts_are_the_models(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    bases: dict[str, Any] = {"Q_in": basis("random", 6), "Q_out": basis("random", 4)}
    sizes: dict[str, Any] = {"d_model": 8, "embed": 3}
    model = moved(OLinear(3, 6, 4, **(sizes | bases | options)).double())
    x = torch.randn(5, 6, 3, dtype=torch.float64) * 4 + 1
    torch.testing.assert_close(fold(model)(x), model(x), atol=1e-9, rtol=1e-9)


def test_the_published_size_folds_to_1e_5() -> None:
    torch.manual_seed(0)
    model = OLinear(7, 96, 96, Q_in=basis("dct", 96), Q_out=basis("random", 96)).eval()
    with torch.no_grad():
        for shift in (model.delta1, model.delta2):
            assert shift is not None
            shift.normal_()
    x = torch.randn(4, 96, 7)
    torch.testing.assert_close(fold(model)(x), model(x), atol=1e-5, rtol=1e-5)


def test_olinear_c_folds() -> None:
    torch.manual_seed(0)
    model = moved(OLinear_C(3, 6, 4, np.corrcoef(np.random.default_rng(0).standard_normal((3, 9))), d_model=8))
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(fold(model)(x), model(x), atol=1e-5, rtol=1e-5)


def test_folding_costs_less_than_half_and_leaves_nothing_to_train() -> None:
    model, x = OLinear(7, 96, 96).eval(), torch.randn(1, 96, 7)
    folded = fold(model)
    counts = []
    for module in (model, folded):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(x)
        counts.append(counter.get_total_flops())
    assert counts[1] < counts[0] / 2
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_later_training_does_not_reach_the_folded_model() -> None:
    torch.manual_seed(0)
    model, x = OLinear(3, 6, 4, d_model=8, embed=2).eval(), torch.randn(2, 6, 3)
    folded = fold(model)
    before = folded(x)
    moved(model)
    torch.testing.assert_close(folded(x), before)


def test_one_basis_per_variate_cannot_be_folded() -> None:
    model = OLinear(2, 3, 3, d_model=4, Q_in=np.stack([np.eye(3)] * 2), Q_out=np.stack([np.eye(3)] * 2))
    with pytest.raises(ValueError, match="one basis per variate cannot be folded"):
        fold(model)


def test_every_mixing_folds() -> None:
    torch.manual_seed(0)
    prior = torch.rand(3, 3)
    model = OLinear(
        3, 6, 4, d_model=8, embed=2, weight_transform="sigmoid", norm="l2", prior=prior, Q_in=basis("dct", 6)
    ).eval()
    mixing = of_class(NormLin, of_class(Block, model.blocks[1]).mixing)
    A = torch.sigmoid(mixing.weight) + prior
    torch.testing.assert_close(mixing.matrix(), A / A.norm(dim=-1, keepdim=True))
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(fold(model)(x), model(x), atol=1e-5, rtol=1e-5)
