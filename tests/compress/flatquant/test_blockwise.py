"""Calibration of one block: its gradients, its schedule, and what stops it."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.flatquant.models import tiny, tokens
from linmap.compress.architecture import block_paths, replace
from linmap.compress.flatquant.block import SCALED, SITES_OF, StudentBlock
from linmap.compress.flatquant.blockwise import (
    ETA_MIN,
    backward,
    calibrated_block,
    check_transforms,
    is_trained,
    learning_rates,
    start_student,
    train_block,
)
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.measures import smooth_scale
from linmap.compress.flatquant.teacher import BlockArguments, embedded, teacher_outputs
from linmap.compress.flatquant.transforms import SiteTransform
from typed import gradient_of, of_class, tensor

SYMMETRIC = {"k_symmetric": True, "v_symmetric": True}  # a zero point is rounded without a gradient


quantised = partial(FlatQuantConfig, k_bits=4, v_bits=4, q_bits=4, epochs=2)


class Case:
    """The first block of a tiny model, its inputs and targets, and a student."""

    def __init__(self, family: str = "llama", dtype: torch.dtype = torch.float32, n: int = 6, **options: Any) -> None:
        self.config = quantised(**options)
        self.model = tiny(family).to(dtype)
        self.block = self.model.model.layers[0]
        if dtype == torch.float64:
            _compute_norms_in_float64(self.block)
        self.x, arguments = embedded(self.model, tokens(n, 10), "model.layers")
        self.arguments: BlockArguments = arguments[0]
        self.y, self.channels = teacher_outputs(self.block, block_paths(self.block), self.x, self.arguments, 4)

    def student(self, seed: int = 0) -> StudentBlock:
        return start_student(self.block, self.config, seed, self.channels)


def _compute_norms_in_float64(block: nn.Module) -> None:
    """Transformers computes them in float32, too coarse for finite differences."""
    for path, norm in list(block.named_modules()):
        if type(norm).__name__.endswith("RMSNorm"):
            weight, eps = norm.get_parameter("weight"), of_class(float, norm.variance_epsilon)
            exact = nn.RMSNorm(len(weight), eps=eps, dtype=torch.float64)
            exact.weight.data.copy_(weight)
            replace(block, path, exact)


@pytest.mark.parametrize(
    ("family", "parametrization"),
    [
        ("llama_biased", "exponential"),
        pytest.param("llama_biased", "inverse", marks=pytest.mark.slow),
        ("qwen3", "svd"),
        pytest.param("llama_biased", "svd", marks=pytest.mark.slow),
        pytest.param("qwen3", "exponential", marks=pytest.mark.slow),
        pytest.param("qwen3", "inverse", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_finite_differences(family, parametrization, monkeypatch) -> None:
    """Of every parameter, in float64, where rounding is the identity (oracle 9)."""
    case = Case(family, torch.float64, parametrization=parametrization, n=2, **SYMMETRIC)
    monkeypatch.setattr(torch.Tensor, "round_", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "round", lambda self: self.clone())
    student = case.student().double()
    generator = torch.Generator().manual_seed(0)
    for name, p in student.trained().items():
        if name.endswith(("_max", "_min")):  # so that clipping matters
            p.data = 1 + torch.rand(p.shape, generator=generator, dtype=torch.float64)
        elif name.endswith(("scale", "diagonal")):
            p.data = 0.8 + 0.4 * torch.rand(p.shape, generator=generator, dtype=torch.float64)

    def loss() -> Tensor:
        return (student(case.x, **case.arguments) - case.y).square().mean()

    loss().backward()
    parameters = student.trained()
    assert len(parameters) > 30
    eps = 1e-6
    for name, p in parameters.items():
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            p += eps * direction
            above = loss()
            p -= 2 * eps * direction
            below = loss()
            p += eps * direction
        expected = float(above - below) / (2 * eps)
        assert p.grad is not None, name
        assert float((p.grad * direction).sum()) == pytest.approx(expected, rel=2e-4, abs=1e-7), name


def test_the_student_starts_with_smoothing_scales() -> None:
    case = Case(alpha=0.4)
    student = case.student()
    for site in SCALED:
        W = [student.linear(part).linear.weight for part, place in SITES_OF.items() if place == site]
        expected = smooth_scale(torch.cat(W).abs().amax(0), case.channels.maxima[site], 0.4)
        assert torch.equal(tensor(student.sites[site].scale), expected)


def test_the_gradient_does_not_depend_on_the_scale_of_the_loss() -> None:
    case = Case()
    student = case.student()
    value = backward(student, case.x, case.y, case.arguments)
    name, p = next(iter(student.trained().items()))
    (expected,) = torch.autograd.grad(
        (student(case.x, **case.arguments) - case.y).square().mean().log(), student.trained()[name]
    )
    torch.testing.assert_close(p.grad, expected)
    with torch.no_grad():
        assert value == pytest.approx(float((student(case.x, **case.arguments) - case.y).square().mean()))


@pytest.mark.parametrize("warmup", [0, 5])
def test_learning_rates_fall_along_a_cosine(warmup) -> None:
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [a], "lr": 5e-3}, {"params": [b], "lr": 5e-2}])
    schedule = learning_rates(optimizer, 20, warmup)
    seen = []
    for _ in range(21):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    for step, rates in enumerate(seen):
        for lr, start in zip(rates, (5e-3, 5e-2), strict=True):
            cosine = ETA_MIN + (start - ETA_MIN) * (1 + math.cos(math.pi * step / 20)) / 2
            if not warmup or step == 0:
                assert lr == pytest.approx(cosine * (0.01 if warmup else 1), rel=1e-6)
            elif step < warmup:
                assert lr < cosine
    assert seen[-1] == pytest.approx([ETA_MIN, ETA_MIN], rel=1e-2 if warmup else 1e-6)


def test_a_step_is_adamw_with_two_learning_rates() -> None:
    """One step of the loop against PyTorch's definition, with weight decay on all parameters."""
    case = Case(epochs=1, n=4)
    student, same = case.student(), case.student()
    train_block(student, case.x, case.y, case.arguments)
    backward(same, case.x, case.y, case.arguments)
    for name, p in same.trained().items():
        lr = 5e-2 if name.endswith(("_max", "_min")) else 5e-3
        g = gradient_of(p)
        update = g / (g.abs() + 1e-8)  # the first step of Adam
        expected = p.detach() * (1 - 0.01 * lr) - lr * update
        torch.testing.assert_close(student.trained()[name].detach(), expected, rtol=1e-4, atol=1e-5)


def test_windows_that_fill_no_batch_are_left_out() -> None:
    case = Case(n=6)  # batches of 4
    steps: list[float] = []
    report = train_block(case.student(), case.x, case.y, case.arguments, steps.append)
    assert len(steps) == 2
    assert report.losses == steps


def test_what_is_left_of_an_epoch_is_its_mean_loss() -> None:
    case = Case(n=8)
    steps: list[float] = []
    report = train_block(case.student(), case.x, case.y, case.arguments, steps.append)
    assert report.losses == pytest.approx([sum(steps[:2]) / 2, sum(steps[2:]) / 2])
    assert (report.first, report.last) == (report.losses[0], report.losses[1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"epochs": 0}, False),
        ({"transform": "none", "scale": True, "clip": False}, False),
        ({"transform": "none", "clip": True}, True),
        ({"transform": "hadamard", "clip": False}, False),
        ({"w_bits": 16, "a_bits": 16}, False),
        ({"w_bits": 16, "a_bits": 16, "v_bits": 4}, True),
    ],
)
def test_what_is_trained(options, expected) -> None:
    assert is_trained(FlatQuantConfig(**options)) is expected


@pytest.mark.parametrize(("what", "match"), [("nan", "the loss became nan"), ("singular", "singular|not finite")])
def test_steps_that_are_not_finite_end_the_training_with_the_best_state(what, match) -> None:
    case = Case(n=8, epochs=4, parametrization="inverse")
    student = case.student()
    states: list[dict[str, Tensor]] = []

    def after(_: float) -> None:
        states.append({name: p.detach().clone() for name, p in student.trained().items()})
        if len(states) == 3:  # in the second epoch
            weight = student.trained()["sites.mlp.factors.0.weight"]
            weight.data.zero_() if what == "singular" else weight.data.fill_(float("nan"))

    report = train_block(student, case.x, case.y, case.arguments, after)
    assert report.stopped is not None
    assert report.stopped.startswith("epoch 2, step 2:")
    for name, p in student.trained().items():
        assert torch.equal(p, states[1][name])  # the end of the first epoch
    assert len(report.losses) == 1
    check_transforms(student, 0)
    assert match


def test_bad_transforms_are_refused_before_merging() -> None:
    student = Case().student()
    check_transforms(student, 3)
    student.get_parameter("sites.mlp.scale").data[4] = -0.1
    with pytest.raises(ValueError, match=r"block 3: 1 scales at 'mlp' are not positive .*-0.1"):
        check_transforms(student, 3)
    student = Case().student()
    student.get_parameter("sites.down.factors.1.diagonal").data[0] = 1e-9
    with pytest.raises(ValueError, match=r"block 0: the matrix at 'down' has condition number \d"):
        check_transforms(student, 0)
    student.get_parameter("sites.down.factors.1.diagonal").data[0] = float("nan")
    with pytest.raises(ValueError, match="'down' has condition number nan"):
        check_transforms(student, 0)


def test_a_block_depends_on_its_own_seed_only() -> None:
    case = Case(epochs=1)
    inputs = (case.config,)
    data = (case.channels, case.x, case.y, case.arguments)
    torch.manual_seed(1)
    one = calibrated_block(case.block, *inputs, 7, *data).tensors
    torch.manual_seed(2)
    two = calibrated_block(case.block, *inputs, 7, *data).tensors
    other = calibrated_block(case.block, *inputs, 8, *data).tensors
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["sites.mlp.factors.0.left"], other["sites.mlp.factors.0.left"])


def test_the_original_block_stays_as_it_is() -> None:
    case = Case()
    before = {name: t.clone() for name, t in case.block.state_dict().items()}
    calibrated_block(case.block, case.config, 0, case.channels, case.x, case.y, case.arguments)
    after = case.block.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_half_precision_is_trained_under_autocast_with_float32_transforms() -> None:
    case = Case(dtype=torch.bfloat16, n=4)
    student = case.student()
    assert backward(student, case.x, case.y, case.arguments) > 0
    assert {p.dtype for p in student.trained().values()} == {torch.float32}
    pairs = [pair for site in student.sites.values() for pair in of_class(SiteTransform, site).pairs]
    assert {pair.P.dtype for pair in pairs} == {torch.float32}
    assert all(bool(gradient_of(p).isfinite().all()) for p in student.trained().values())
