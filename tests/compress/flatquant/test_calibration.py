"""Calibration of whole models: the comparison that the method must win, determinism, resumption, bad input."""

import dataclasses
import functools
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from compress.flatquant.models import tiny, tokens
from compress.flatquant.outliers import planted, sequences
from fresh import Fresh
from linmap.compress.flatquant import blockwise
from linmap.compress.flatquant.block import StudentBlock
from linmap.compress.flatquant.calibration import CalibrationReport, calibrate, merge_model, student_model
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.quantizer import fake_quantize
from two_processes import launch
from typed import of_class, present

IDS = tokens(8, 12)
rounding = functools.partial(FlatQuantConfig, transform="none", scale=False, clip=False)
config = functools.partial(FlatQuantConfig, epochs=2, k_bits=4, v_bits=4)


def state(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@functools.cache
def calibrated(weights: Literal["rtn", "gptq"] = "rtn") -> dict[str, Tensor]:
    """What one process makes of the tiny model in one go."""
    return state(calibrate(tiny(), IDS, config(weights=weights)))


@torch.no_grad()
def logits_error(seed: int, config: FlatQuantConfig) -> float:
    model, fresh = planted(seed), sequences(1000 + seed)
    expected = model(fresh).logits
    calibrate(model, sequences(2000 + seed), config)
    return float((model(fresh).logits - expected).square().mean())


# -- what it is for ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_flatquant_beats_hadamard_and_rounding_on_outliers() -> None:
    errors = torch.tensor(
        [
            [
                logits_error(seed, FlatQuantConfig()),
                logits_error(seed, FlatQuantConfig(transform="hadamard", scale=False, clip=False)),
                logits_error(seed, rounding()),
            ]
            for seed in range(3)
        ]
    )
    flat, hadamard, rounded = errors.mean(0).tolist()
    assert flat < 0.9 * hadamard
    assert flat < 0.5 * rounded


@pytest.mark.slow
def test_the_steps_of_the_method_each_help() -> None:
    """Untrained < trained, without scales < with, nearest < GPTQ: on the mean of two models."""
    steps = FlatQuantConfig(epochs=0), FlatQuantConfig(scale=False), FlatQuantConfig(), FlatQuantConfig(weights="gptq")
    errors = torch.tensor([[logits_error(seed, step) for step in steps] for seed in range(2)]).mean(0)
    assert (errors.diff() < 0).all(), errors


def test_no_transform_is_plain_rounding_bit_for_bit() -> None:
    model = tiny()
    weights = {name: p.clone() for name, p in model.named_parameters() if "_proj.weight" in name}
    calibrate(model, config=rounding(a_bits=16))
    for name, W in weights.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(layer.dequantized_weight(), fake_quantize(W, 4, True, per="row")[0])


@pytest.mark.parametrize(
    "options",
    [
        {"w_symmetric": False, "a_symmetric": False},
        *(pytest.param(options, marks=pytest.mark.slow) for options in ({}, {"parametrization": "inverse"})),
    ],
)
def test_merging_leaves_the_logits_as_the_students_have_them(options) -> None:
    model = student_model(tiny("llama_biased"), IDS, config(**options))
    with torch.no_grad():
        before = model(IDS).logits
        after = merge_model(model)(IDS).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_students_stay_trainable_as_a_whole() -> None:
    model = student_model(tiny(), IDS, config(epochs=0))
    students = [block for block in model.model.layers if isinstance(block, StudentBlock)]
    model(IDS).logits.square().mean().backward()
    gradients = [p.grad for student in students for name, p in student.trained().items() if "diagonal" in name]
    assert gradients
    assert all(g is not None and bool(g.abs().sum() > 0) for g in gradients)
    assert all(p.grad is None for name, p in model.named_parameters() if "norm" in name or "embed" in name)


def test_training_lowers_the_error_of_every_block() -> None:
    model = calibrate(planted(), sequences(3), FlatQuantConfig(epochs=6))
    for report in of_class(CalibrationReport, model.flatquant).blocks.values():
        assert len(report.losses) == 6
        assert present(report.last) < 0.95 * present(report.first)


# -- the same result, however it is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [pytest.param("rtn", marks=pytest.mark.slow), "gptq"])
def test_same_seed_same_bytes_and_other_seed_other_bytes(weights) -> None:
    one = calibrated(weights)
    assert_same(one, state(calibrate(tiny(), IDS, config(weights=weights))))
    other = state(calibrate(tiny(), IDS, config(weights=weights, seed=1)))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_global_random_state_is_not_touched() -> None:
    model = tiny()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    calibrate(model, IDS, config(epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow  # two processes that share a folder, below, are several jobs too
def test_several_jobs_give_the_bytes_of_one(tmp_path) -> None:
    one = calibrate(tiny(), IDS, config())
    two = calibrate(tiny(), IDS, config(), n_jobs=2, work=tmp_path)
    assert_same(state(one), state(two))
    assert one.flatquant == two.flatquant
    assert len(list(tmp_path.iterdir())) == 2


def test_two_processes_give_the_bytes_of_one(tmp_path) -> None:
    launch(Path(__file__).with_name("distributed.py"), str(tmp_path))
    for rank in range(2):
        assert_same(load_file(tmp_path / f"rank{rank}.safetensors"), calibrated("gptq"))


def test_blocks_that_are_left_out_stay_as_they_are() -> None:
    model = tiny()
    untouched = state(model.model.layers[0])
    calibrate(model, IDS, config(blocks=[1]))
    assert list(model.flatquant.blocks) == [1]
    assert_same(state(model.model.layers[0]), untouched)
    assert any(isinstance(module, QuantizedLinear) for module in model.model.layers[1].modules())


# -- interruption ------------------------------------------------------------------------------------------------------


def test_a_killed_run_resumes_at_its_block_with_the_same_bytes(tmp_path) -> None:
    work = tmp_path / "work"
    process = Fresh(Path(__file__).with_name("killed.py"), str(work))
    try:
        deadline = time.monotonic() + 240
        while not (work / "in_block_1").exists():
            assert process.poll() is None, process.stderr
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
    (work / "in_block_1").unlink()
    assert [path.name for path in work.iterdir()] == ["block_00000.safetensors"]
    first = (work / "block_00000.safetensors").stat()
    resumed = calibrate(tiny(), IDS, config(), work=work, resume=True)
    assert_same(state(resumed), calibrated())
    assert (work / "block_00000.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    assert (work / "block_00001.safetensors").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The work of a calibration of one epoch; nothing is added to it by runs that are refused."""
    work = tmp_path_factory.mktemp("work")
    calibrate(tiny(), IDS, config(epochs=1), work=work)
    return work


def test_a_new_run_does_not_take_the_blocks_of_an_old_one(tmp_path) -> None:
    calibrate(tiny(), IDS, config(seed=1), work=tmp_path)
    again = calibrate(tiny(), IDS, config(), work=tmp_path)
    assert_same(state(again), calibrated())


@pytest.mark.parametrize(
    ("seed", "ids", "options"),
    [(1, IDS, {}), (0, IDS.flip(0), {}), (0, IDS, {"lr": 1e-3}), (0, IDS, {"k_bits": 16})],
    ids=["model", "tokens", "learning rate", "bits"],
)
def test_the_work_of_another_calibration_is_refused(finished, seed, ids, options) -> None:
    with pytest.raises(ValueError, match="was calibrated with another model, text or config"):
        calibrate(tiny(seed=seed), ids, config(epochs=1, **options), work=finished, resume=True)


def test_transforms_serve_nearest_rounding_and_gptq(tmp_path) -> None:
    calibrate(tiny(), IDS, config(), work=tmp_path)
    model = calibrate(tiny(), IDS, config(weights="gptq"), work=tmp_path, resume=True)
    assert_same(state(model), calibrated("gptq"))


def test_damaged_work_is_refused(tmp_path, finished) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "block_00001.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"block_00001.safetensors is damaged"):
        calibrate(tiny(), IDS, config(epochs=1), work=tmp_path, resume=True)
    flipped = bytearray((finished / "block_00001.safetensors").read_bytes())
    flipped[-9] ^= 1
    (tmp_path / "block_00001.safetensors").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"block_00001.safetensors is damaged"):
        calibrate(tiny(), IDS, config(epochs=1), work=tmp_path, resume=True)
    save_file({"x": torch.zeros(1)}, tmp_path / "block_00001.safetensors")
    with pytest.raises(ValueError, match="was calibrated with another"):
        calibrate(tiny(), IDS, config(epochs=1), work=tmp_path, resume=True)


def test_resuming_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="resume=True needs work="):
        calibrate(tiny(), IDS, config(), resume=True)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_the_config_stays_what_was_asked() -> None:
    asked = config(weights="gptq")
    model = calibrate(tiny(), IDS, asked)
    assert type(asked) is FlatQuantConfig
    assert asked == config(weights="gptq")
    saved = model.config.quantization_config.to_dict()
    assert FlatQuantConfig.from_dict(saved) == dataclasses.replace(asked, compile=False)
    assert ProvenConfig.from_dict(saved) == model.config.quantization_config


def test_a_trained_student_is_not_drawn(monkeypatch) -> None:
    model = student_model(tiny(), IDS, config())
    student: Any = model.model.layers[0]
    kept = blockwise.TrainedBlock({name: p.detach() for name, p in student.trained().items()}, blockwise.BlockReport())
    monkeypatch.setattr("linmap.compress.flatquant.transforms.haar_orthogonal", None)
    again = blockwise.trained_student(student.original[0], student.config, kept)
    for name, p in again.trained().items():
        assert torch.equal(p, kept.tensors[name])


def test_a_quantised_model_is_refused() -> None:
    model = calibrate(tiny(), config=rounding())
    with pytest.raises(RuntimeError, match="quantised already"):
        calibrate(model, config=rounding())
    with pytest.raises(RuntimeError, match="quantised already"):
        calibrate(student_model(tiny(), IDS, config(epochs=0)), IDS, config())
    with pytest.raises(RuntimeError, match="no students"):
        merge_model(tiny())


@pytest.mark.parametrize("config", [FlatQuantConfig(), FlatQuantConfig(epochs=0), rounding(weights="gptq")])
def test_tokens_are_asked_for_where_they_are_needed(config) -> None:
    with pytest.raises(ValueError, match="calibrated on text"):
        calibrate(tiny(), config=config)


def test_untrained_matrices_and_hadamard_need_no_tokens() -> None:
    for config in (
        FlatQuantConfig(epochs=0, scale=False),
        FlatQuantConfig(transform="hadamard", scale=False, clip=False),
    ):
        assert calibrate(tiny(), config=config).flatquant.blocks[0].losses == []


def test_shared_weights_are_refused() -> None:
    model = tiny()
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    with pytest.raises(ValueError, match=r"layers.0.mlp.up_proj and .*layers.1.mlp.up_proj share a weight"):
        calibrate(model, IDS, config())
    model = tiny()
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    with pytest.raises(ValueError, match="share a weight"):
        calibrate(model, IDS, config())


@pytest.mark.parametrize("blocks", [[2], [-1], []])
def test_blocks_that_are_not_there_are_refused(blocks) -> None:
    with pytest.raises(ValueError, match="blocks"):
        calibrate(tiny(), IDS, config(blocks=blocks))


def test_infinite_activations_name_the_block_and_the_place() -> None:
    model = tiny()
    model.model.layers[1].mlp.gate_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(RuntimeError, match=r"block 1: the output of mlp\.gate_proj holds NaN or infinite numbers"):
        calibrate(model, IDS, config())


def test_a_block_that_diverges_keeps_its_best_state(monkeypatch) -> None:
    steps = 0
    step = blockwise.backward

    def overflow(student, x, y, arguments):
        nonlocal steps
        steps += 1
        if steps == 3:
            raise FloatingPointError("the loss became nan")
        return step(student, x, y, arguments)

    monkeypatch.setattr(blockwise, "backward", overflow)
    with pytest.warns(UserWarning, match="block 0: epoch 2, step 1: the loss became nan; its best state"):
        model = calibrate(tiny(), IDS, config(epochs=5, batch_size=4))
    report = model.flatquant.blocks[0]
    assert report.stopped == "epoch 2, step 1: the loss became nan"
    assert len(report.losses) == 1
    assert len(model.flatquant.blocks[1].losses) == 5
    assert bool(model(IDS).logits.isfinite().all())
