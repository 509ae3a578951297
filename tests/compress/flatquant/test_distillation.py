"""Distillation: all students trained together on the original's next-token distribution."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.flatquant.models import tiny, tokens
from compress.flatquant.outliers import planted, sequences
from linmap.compress.flatquant.block import StudentBlock
from linmap.compress.flatquant.calibration import CalibrationReport, calibrate, merge_model, student_model
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.distillation import distil, divergence, parameter_groups, teacher_of
from linmap.compress.flatquant.streaming import calibrate_folder
from typed import of_class

IDS = tokens(8, 12)
STREAM = tokens(1, 400)[0]


config = partial(
    FlatQuantConfig,
    n_samples=8,
    sequence_length=12,
    epochs=1,
    k_bits=4,
    v_bits=4,
    distil_steps=6,
    distil_length=16,
)


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def mean_divergence(model, original, ids) -> float:
    return divergence(model(input_ids=ids).logits, original(input_ids=ids).logits).item()


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 9))
def test_divergence_is_that_of_the_definition(seed, positions, vocabulary) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = torch.randn(2, 2, positions, vocabulary, generator=generator)
    expected = 0.0
    for q, p in zip(ours.flatten(0, 1).softmax(-1), theirs.flatten(0, 1).softmax(-1), strict=True):
        expected += sum(float(a * math.log(a / b)) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0) / (
            2 * positions
        )
    assert divergence(ours, theirs).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert divergence(theirs, theirs + 3.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_it_brings_the_quantised_model_nearer_on_text_that_it_did_not_see() -> None:
    original, fresh = planted(), sequences(7)
    stream = torch.cat([sequences(seed).flatten() for seed in range(20, 40)])
    options: dict[str, Any] = {"n_samples": 16, "sequence_length": 32, "epochs": 3, "distil_length": 64}
    blocks = calibrate(planted(), stream, config(distil_steps=0, **options))
    together = calibrate(planted(), stream, config(distil_steps=100, distil_weight_lr=3e-4, **options))
    assert len(of_class(CalibrationReport, together.flatquant).distillation) == 100
    assert mean_divergence(together, original, fresh) < 0.85 * mean_divergence(blocks, original, fresh)


def test_the_students_merge_to_the_model_that_was_trained() -> None:
    model = student_model(tiny(), IDS, config(distil_weight_lr=1e-3))
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        after = merge_model(model)(input_ids=IDS).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_what_is_trained() -> None:
    start, model = student_model(tiny(), IDS, config(distil_steps=0)), student_model(tiny(), IDS, config())
    old, new = state(start), state(model)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name for name in moved if "embed" in name or "lm_head" in name or name == "model.norm.weight"} == set()
    for part in ("sites.attention.scale", "q_proj.linear.weight", "down_proj.input_max", "input_layernorm.weight"):
        assert any(part in name for name in moved), part
    still = state(student_model(tiny(), IDS, config(distil_weight_lr=0.0)))
    assert all(torch.equal(old[name], still[name]) for name in old if name.endswith("linear.weight"))


@pytest.mark.parametrize("w_bits", [4, 16])
def test_weights_gains_and_clipping_have_their_learning_rates(w_bits) -> None:
    settings = config(distil_lr=0.1, distil_clip_lr=0.2, distil_weight_lr=0.3)
    model = student_model(tiny(), IDS, config(distil_steps=0, w_bits=w_bits))
    settings.w_bits = w_bits
    groups = {group["lr"]: group["params"] for group in parameter_groups(model, settings)}
    assert set(groups) == ({0.1, 0.2, 0.3} if w_bits == 4 else {0.1, 0.2})  # an unquantised weight has nothing to learn
    assert len(groups.get(0.3, range(14))) == 2 * 7


@pytest.mark.slow  # three distillations; test_calibration.py has the same seeds by default
def test_a_stream_gives_windows_of_their_own_and_the_same_seed_the_same_bytes() -> None:
    one, two = (state(calibrate(tiny(), STREAM, config(distil_length=20))) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = state(calibrate(tiny(), STREAM, config(distil_length=20, distil_lr=1e-2)))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_global_random_state_is_not_touched() -> None:
    model = tiny()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    calibrate(model, IDS, config(distil_steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_an_interrupted_distillation_goes_on_with_the_same_bytes(tmp_path, monkeypatch) -> None:
    from linmap.compress.flatquant import distillation

    monkeypatch.setattr(distillation, "CHECKPOINT_EVERY", 2)
    whole = state(calibrate(tiny(), IDS, config(), work=tmp_path / "whole"))
    calls = 0

    def stop(ours, theirs):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("stopped")
        return divergence(ours, theirs)

    with monkeypatch.context() as patched:
        patched.setattr(distillation, "divergence", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            calibrate(tiny(), IDS, config(), work=tmp_path / "cut")
    model = calibrate(tiny(), IDS, config(), work=tmp_path / "cut", resume=True)
    assert len(model.flatquant.distillation) == 4  # the first two were done
    resumed = state(model)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_wrong_use(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"distil_steps=.* must be at least 0, and distil_length=.* at least 2"):
        FlatQuantConfig(distil_length=1)
    with pytest.raises(ValueError, match=r"distil_weight_lr=.* must be at least 0 and finite"):
        FlatQuantConfig(distil_weight_lr=float("nan"))
    with pytest.raises(ValueError, match="fewer than distil_length=999"):
        calibrate(tiny(), STREAM, config(distil_length=999))
    half = student_model(tiny(), IDS, config(distil_steps=0)).to(torch.bfloat16)
    with pytest.raises(ValueError, match="load it in float32"):
        distil(half, teacher_of(tiny()), IDS, config())
    tiny().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="streaming holds one at a time"):
        calibrate_folder(tmp_path / "model", tmp_path / "out", IDS, config())


def test_no_student_keeps_the_graph_of_the_last_step() -> None:
    model = student_model(tiny(), IDS, config())
    assert all(not site.pairs for m in model.modules() if isinstance(m, StudentBlock) for site in m.sites.values())
