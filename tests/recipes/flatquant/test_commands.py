"""FlatQuant from the command line: from a text to a folder that generates; what is wrong is one clear line."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from linmap.cli import main
from linmap.compress.flatquant.config import METHOD
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.errors import ArgumentError
from linmap.processes import this_process
from linmap.recipes.flatquant.fit import check_out
from recipes.finetuning.tiny import save_encoder, save_llama, sums, write_jsonl

TEXT = "".join(f"Line {i} of a text that is long enough, {i * i} times.\n" for i in range(60))
FIT = "fit flatquant --model llama --data text.txt --windows 8 --length 16 --epochs 2"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and data."""
    folder = tmp_path_factory.mktemp("here")
    save_llama(folder / "llama")
    save_encoder(folder / "encoder")
    (folder / "text.txt").write_text(TEXT)
    (folder / "short.txt").write_text("A few words.")
    (folder / "empty.txt").touch()
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    write_jsonl(folder / "sums.jsonl", sums(3))
    for name, config in (("other", {"format": 1, "system": "bone", "config": {}}), ("model", {"model_type": "llama"})):
        (folder / name).mkdir()
        (folder / name / ("linmap.json" if name == "other" else "config.json")).write_text(json.dumps(config))
    save_llama(folder / "quantised")
    config = json.loads((folder / "quantised" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "linmap_flatquant"}
    (folder / "quantised" / "config.json").write_text(json.dumps(config))
    return folder


BAD = [
    # models
    ("fit flatquant --model ./none --data text.txt", "--model ./none: there is no such folder"),
    ("fit flatquant --model text.txt --data text.txt", "text.txt is a file"),
    (f"{FIT} --model encoder", "encoder lacks weights of its BertLMHeadModel"),
    (f"{FIT} --model encoder --stream", "decoder blocks are not recognised"),
    ("fit flatquant --model minilm-l6 --data text.txt", "no language model that generates"),
    (f"{FIT} --model quantised", "--model quantised is quantised already"),
    # texts
    (f"{FIT} --data none.txt", "none.txt: there is no such file"),
    (f"{FIT} --data empty.txt", "empty.txt is empty"),
    (f"{FIT} --data short.txt", "short.txt has 12 tokens, and 8 windows of 16 need 128"),
    (f"{FIT} --data latin.txt", "byte 0xe9 is not UTF-8"),
    (f"{FIT} --data sums.jsonl", "must end in .txt, .md"),
    (f"{FIT} --data llama", "llama is a folder"),
    # bits and the calibration
    (f"{FIT} --w-bits 9", "--w-bits 9 is none of 2, 3, 4, 5, 6, 7, 8, 16"),
    (f"{FIT} --k-bits 1", "--k-bits 1 is none of"),
    (f"{FIT} --a-bits four", "--a-bits"),
    (f"{FIT} --w-bits 16 --a-bits 16", "nothing would be quantised"),
    (f"{FIT} --head-bits 4", "--head-bits 4 is neither 8 nor 16"),
    (f"{FIT} --weights nearest", "--weights"),
    (f"{FIT} --weights rtn --group-size 8", "--group-size 8 works with --weights gptq only"),
    (f"{FIT} --group-size 5", "--group-size 5 does not divide the"),
    (f"{FIT} --blocks 0", "--blocks 0 must be 1 or more"),
    (f"{FIT} --blocks 3", "this model's blocks are 0 to 1"),
    (f"{FIT} --windows 2", "--windows 2 is less than --batch-size 4"),
    (f"{FIT} --epochs -1", "--epochs -1 must be at least 0"),
    (f"{FIT} --lr 0", "--lr 0.0 must be positive"),
    (f"{FIT} --n-jobs 0", "--n-jobs 0 must be 1 or more"),
    (f"{FIT} --stream --base-dtype bfloat16", "leave --base-dtype bfloat16 out"),
    # where it goes
    (f"{FIT} --out other", "other/linmap.json is there already"),
    (f"{FIT} --out model", "model/config.json is there already"),
    (f"{FIT} --out llama", "llama/config.json is there already"),
    (f"{FIT} --out text.txt", "--out text.txt is a file"),
    # the comparison
    ("compare flatquant --model llama --data short.txt", "give more text, or lower --windows or --length"),
    ("compare flatquant --model llama --data text.txt --windows 8 --length 16", "lower --test-windows or --test"),
    (
        "compare flatquant --model encoder --data text.txt --windows 4 --length 8 --test-windows 1 --test-length 8",
        "encoder lacks weights of its BertLMHeadModel",
    ),
    (
        "compare flatquant --model llama --data text.txt --windows 8 --length 8 --test-windows 2 --test-length 16 "
        "--blocks 3",
        "--blocks 3: the model has 2",
    ),
    ("compare flatquant --bits W5A5", "--bits"),
    ("compare flatquant --methods magic", "--methods"),
    ("compare flatquant --test-windows 0", "--test-windows 0 must be 1 or more"),
    ("compare flatquant --test-length 1", "leaves nothing to predict"),
]


@pytest.mark.parametrize(("command", "message"), BAD)
def test_wrong_use_is_one_line_and_leaves_no_file(
    here: Path, command: str, message: str, check_wrong_use: Callable[[Path, list[str], str], None]
) -> None:
    check_wrong_use(here, command.split(), message)


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_text_and_a_model_give_a_folder_that_generates(
    here: Path, tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    out = tmp_path / "q"
    command = [*FIT.split(), "--k-bits", "4", "--v-bits", "4", "--out", str(out), "--json"]
    assert main(command + (["--stream"] if stream else [])) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["bits"] == "W4 A4 Q16 K4 V4"
    on_disk = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert summary["megabytes"] == pytest.approx(on_disk / 1e6, abs=0.05)  # the headers are not counted
    assert 0.25 < summary["linears_share_of_float16"] < 0.6  # scales and matrices weigh much in so small a model

    model: Any = AutoModelForCausalLM.from_pretrained(out).eval()
    assert isinstance(model.model.layers[1].mlp.down_proj, QuantizedLinear)
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompts = [record["prompt"] for record in sums(3)]
    write_jsonl(tmp_path / "p.jsonl", [{"id": i, "prompt": prompt} for i, prompt in enumerate(prompts)])
    answers = tmp_path / "a.jsonl"
    apply = ["apply", str(out), "--data", str(tmp_path / "p.jsonl"), "--out", str(answers), "--max-new-tokens", "5"]
    assert main([*apply, "--batch-size", "1"]) == 0
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [record["id"] for record in found] == [0, 1, 2]
    for record in found:
        ids = tokenizer(record["prompt"], return_tensors="pt")["input_ids"]
        written = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert record["generated"] == tokenizer.decode(written, skip_special_tokens=True)


def test_the_head_in_eight_bits(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    summaries = []
    for bits in ("16", "8"):
        out = tmp_path / bits
        command = [*FIT.split(), "--epochs", "0", "--weights", "rtn", "--head-bits", bits, "--out", str(out), "--json"]
        assert main(command) == 0
        summaries.append(json.loads(capsys.readouterr().out)["summary"])
    assert [summary["bits"] for summary in summaries] == ["W4 A4 Q16 K16 V16", "W4 A4 Q16 K16 V16 head 8"]
    wide, narrow = (load_file(tmp_path / bits / "model.safetensors") for bits in ("16", "8"))
    n, d = narrow["lm_head.weight"].shape
    before, after = (sum(tensor.nbytes for tensor in tensors.values()) for tensors in (wide, narrow))
    assert before - after == n * d - 4 * n  # bfloat16 against codes with a float32 scale a row
    assert summaries[1]["megabytes"] == round(after / 1e6, 2)
    rest = ["--out", str(tmp_path / "a.jsonl"), "--limit", "1", "--max-new-tokens", "2"]
    assert main(["apply", str(out), "--data", "sums.jsonl", *rest]) == 0


@pytest.mark.slow  # tests/compress/flatquant/test_streaming.py holds it for every family
def test_streaming_gives_the_same_model(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    found = []
    for name, more in (("whole", []), ("stream", ["--stream"])):
        assert main([*FIT.split(), "--out", str(tmp_path / name), *more]) == 0
        tensors: dict[str, torch.Tensor] = {}
        for path in (tmp_path / name).glob("*.safetensors"):
            tensors |= load_file(path)
        found.append(tensors)
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=0)


@pytest.mark.slow  # a kill of the calibration itself is a test of the library
def test_a_calibration_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*FIT.split(), "--out", str(whole)]) == 0
    assert main([*FIT.split(), "--out", str(killed)]) == 0
    for name in ("linmap.json", "config.json", "model.safetensors", "calibration/block_00001.safetensors"):
        (killed / name).unlink()  # as after a kill in the second block
    first = (killed / "calibration" / "block_00000.safetensors").stat().st_mtime_ns
    assert main([*FIT.split(), "--out", str(killed), "--resume"]) == 0
    assert (killed / "calibration" / "block_00000.safetensors").stat().st_mtime_ns == first
    for name in ("model.safetensors", "config.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    capsys.readouterr()
    assert main([*FIT.split(), "--out", str(killed), "--resume", "--lr", "0.1"]) == 2
    assert "another model, text or config" in capsys.readouterr().err
    assert (killed / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def test_a_second_run_leaves_no_shard_of_the_first(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    out = tmp_path / "q"
    assert main([*FIT.split(), "--out", str(out), "--stream"]) == 0
    assert len(list(out.glob("*.safetensors"))) == 3
    assert main([*FIT.split(), "--out", str(out), "--a-bits", "16", "--weights", "rtn"]) == 0
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    assert not (out / "model.safetensors.index.json").exists()
    assert AutoModelForCausalLM.from_pretrained(out).config.quantization_config.a_bits == 16


def test_what_is_no_whole_run_is_not_applied(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    out = tmp_path / "q"
    assert main([*FIT.split(), "--out", str(out), "--epochs", "0"]) == 0
    before = sorted(out.rglob("*"))
    for bad, message in (
        ("--data sums.jsonl --out a.parquet", ".jsonl or .csv"),
        ("--data empty.txt --out a.jsonl", "is empty; there is nothing to read"),
        ("--data sums.jsonl --out a.jsonl --max-new-tokens 0", "--max-new-tokens 0 must be 1 or more"),
        ("--data sums.jsonl --out a.jsonl --max-new-tokens 500", "exceed the 128 positions"),
    ):
        capsys.readouterr()
        assert main(["apply", str(out), *bad.split()]) == 2
        assert message in capsys.readouterr().err
    assert sorted(out.rglob("*")) == before
    (out / "model.safetensors").unlink()
    assert main(["apply", str(out), "--data", "sums.jsonl"]) == 2
    assert "is incomplete" in capsys.readouterr().err
    assert main(["apply", "flatquant"]) == 2
    assert "flatquant must be fitted first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("saved", "stored", "stream"),
    [
        ("float32", "bfloat16", True),
        pytest.param("float32", "bfloat16", False, marks=pytest.mark.slow),
        pytest.param("float16", "float16", False, marks=pytest.mark.slow),
    ],
)
def test_a_folder_is_not_larger_than_the_model_in_float16(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: str, stored: str, stream: bool
) -> None:
    monkeypatch.chdir(here)
    original = AutoModelForCausalLM.from_pretrained("llama", dtype=getattr(torch, saved))
    original.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained("llama").save_pretrained(tmp_path / "model")
    command = [*FIT.split(), "--model", str(tmp_path / "model"), "--blocks", "1", "--out", str(tmp_path / "q")]
    assert main(command + (["--stream"] if stream else [])) == 0
    size = sum(tensor.nbytes for path in (tmp_path / "q").glob("*.safetensors") for tensor in load_file(path).values())
    assert size < 2 * original.num_parameters()
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    assert model.dtype == getattr(torch, stored)
    assert model.model.layers[0].mlp.down_proj.weight_scale.dtype == torch.float32
    assert model(torch.arange(12)[None]).logits.isfinite().all()


def test_the_rest_keeps_float32_where_it_is_asked_for(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    assert main([*FIT.split(), "--rest-dtype", "float32", "--out", str(tmp_path / "q")]) == 0
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    original: Any = AutoModelForCausalLM.from_pretrained("llama")
    assert torch.equal(model.get_input_embeddings().weight, original.get_input_embeddings().weight)
    assert model.dtype == torch.float32


def test_what_a_killed_run_left_is_gone(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    out = tmp_path / "q"
    dead = this_process().replace(f"{os.getpid()}-", "77-", 1)
    block = out / "calibration" / f".block_00001.{dead}.0.partial.safetensors"
    left = [out / f".q.{dead}.0.partial" / "model.safetensors", block]
    for path in left:
        path.parent.mkdir(parents=True)
        path.touch()
    assert main([*FIT.split(), "--out", str(out), "--resume"]) == 0
    assert not [path for path in out.rglob("*") if "partial" in path.name]


def test_only_the_first_blocks_are_quantised(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    assert main([*FIT.split(), "--blocks", "1", "--out", str(tmp_path / "q")]) == 0
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    kinds = [isinstance(block.mlp.down_proj, QuantizedLinear) for block in model.model.layers]
    assert kinds == [True, False]


@pytest.mark.slow  # test_calibration.py holds it for the library
def test_the_answers_of_a_run_depend_on_nothing_but_the_run(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    answers = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main([*FIT.split(), "--seed", seed, "--out", str(tmp_path / name)]) == 0
        answers.append((tmp_path / name / "model.safetensors").read_bytes())
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_a_model_that_was_put_in_place_by_a_fit_that_was_killed_is_no_stranger(tmp_path: Path) -> None:
    """Between the model and `linmap.json`, which says whose it is."""
    mine = {"model_type": "llama", "quantization_config": {"quant_method": METHOD}}
    for config, begun, refused in ((mine, True, False), (mine, False, True), ({"model_type": "llama"}, True, True)):
        out = tmp_path / f"{begun} {refused}"
        (out / "calibration" if begun else out).mkdir(parents=True)
        (out / "config.json").write_text(json.dumps(config))
        with pytest.raises(ArgumentError, match="something else of yours") if refused else nullcontext():
            check_out(out)
