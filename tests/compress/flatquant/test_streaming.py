"""Calibration from folder to folder."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import linmap  # noqa: F401  (registers the quantizer)
from compress.flatquant.models import tiny, tokens
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.streaming import INDEX, calibrate_folder

IDS = tokens(8, 12)


config = partial(FlatQuantConfig, epochs=2, k_bits=4, v_bits=4)


def saved(folder: Path, family: str = "llama", **options: Any) -> Any:
    tiny(family).save_pretrained(folder, **options)
    return AutoModelForCausalLM.from_pretrained(folder)


def assert_same_state(ours: PreTrainedModel, theirs: PreTrainedModel) -> None:
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        pytest.param("llama", {"weights": "gptq", "w_symmetric": False}, marks=pytest.mark.slow),
        ("llama_biased", {"blocks": [1]}),
        ("llama", {"transform": "none", "scale": False, "clip": False}),
        pytest.param("gemma2", {}, marks=pytest.mark.slow),
        pytest.param("qwen3", {}, marks=pytest.mark.slow),
        pytest.param("gemma3", {}, marks=pytest.mark.slow),
    ],
)
def test_streaming_gives_the_bytes_of_calibrate(tmp_path, family, options) -> None:
    model = saved(tmp_path / "source", family, max_shard_size="4KB")
    report = calibrate_folder(tmp_path / "source", tmp_path / "target", IDS, config(**options))
    calibrate(model, IDS, config(**options))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert_same_state(loaded, model)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert report == model.flatquant
    model.save_pretrained(tmp_path / "whole")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert again.config.quantization_config.to_dict() == loaded.config.quantization_config.to_dict()


def test_half_precision_folders_stay_in_half_precision(tmp_path) -> None:
    tiny("llama").to(torch.bfloat16).save_pretrained(tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    calibrate_folder(tmp_path / "source", tmp_path / "target", IDS, config(epochs=1))
    calibrate(model, IDS, config(epochs=1))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert loaded.dtype == torch.bfloat16
    assert_same_state(loaded, model)


def test_files_beside_the_weights_are_copied(tmp_path) -> None:
    saved(tmp_path / "source")
    (tmp_path / "source/tokenizer.json").write_text("{}")
    calibrate_folder(tmp_path / "source", tmp_path / "target", IDS, config(epochs=1))
    assert (tmp_path / "target/tokenizer.json").read_text() == "{}"
    assert (tmp_path / "target" / INDEX).exists()
    assert not (tmp_path / "target/model.safetensors").exists()


def test_a_run_goes_on_from_its_work_folder(tmp_path) -> None:
    model = saved(tmp_path / "source")
    work = tmp_path / "work"
    calibrate_folder(tmp_path / "source", tmp_path / "first", IDS, config(), work=work)
    (work / "block_00001.safetensors").unlink()
    calibrate(model, IDS, config(), work=work, resume=True)  # the blocks are those of calibrate
    assert_same_state(AutoModelForCausalLM.from_pretrained(tmp_path / "first"), model)


def test_bad_folders_are_refused(tmp_path) -> None:
    saved(tmp_path / "source")
    with pytest.raises(ValueError, match="target is the source folder"):
        calibrate_folder(tmp_path / "source", tmp_path / "source", IDS, config())
    calibrate_folder(tmp_path / "source", tmp_path / "target", IDS, config(epochs=0))
    with pytest.raises(RuntimeError, match="quantised already"):
        calibrate_folder(tmp_path / "target", tmp_path / "again", IDS, config())
    (tmp_path / "source/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor"):
        calibrate_folder(tmp_path / "source", tmp_path / "again", IDS, config())


def test_a_folder_that_lacks_a_tensor_is_refused(tmp_path) -> None:
    model = tiny("llama")
    state = {name: t for name, t in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    model.save_pretrained(tmp_path / "source", state_dict=state)
    with pytest.raises(ValueError, match=r"no tensor model.layers.1.mlp.up_proj.weight"):
        calibrate_folder(tmp_path / "source", tmp_path / "target", IDS, config())
