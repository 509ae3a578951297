"""Fine-tuning from the command line: what is wrong is one clear line, exit code 2, and no file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from linmap.cli import main
from recipes.finetuning.tiny import moods, save_encoder, save_llama, sums, write_jsonl


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and data."""
    folder = tmp_path_factory.mktemp("here")
    save_llama(folder / "llama")
    save_encoder(folder / "encoder")
    write_jsonl(folder / "sums.jsonl", sums(8))
    write_jsonl(folder / "moods.jsonl", moods(8))
    write_jsonl(folder / "mixed.jsonl", [*sums(2), {"prompt": "a"}])
    write_jsonl(folder / "long.jsonl", [{"prompt": "a" * 40, "completion": "b"}] * 3)
    write_jsonl(folder / "one.jsonl", sums(1))
    (folder / "empty.jsonl").touch()
    (folder / "broken.jsonl").write_text('{"text": \n')
    return folder


BONE = "fit bone --model llama --data sums.jsonl"
TRIADAPT = "fit triadaptlora --model llama --data sums.jsonl"
SALT = "fit salt --model llama --data sums.jsonl"
BAD = [
    # files
    ("fit bone --model llama --data none.jsonl", "none.jsonl: there is no such file"),
    ("fit bone --model llama --data empty.jsonl", "empty.jsonl is empty; there is nothing to read"),
    ("fit bone --model llama --data broken.jsonl", "broken.jsonl, line 1, column"),
    ("fit bone --model llama --data mixed.jsonl", 'mixed.jsonl, line 3: the field "completion" is missing'),
    ("fit bone --model llama --data llama", "llama is a folder"),
    ("fit bone --model llama --data llama/model.safetensors", "must end in .jsonl"),
    ("fit bone --model llama --data one.jsonl", "too few to hold any out"),
    ("fit bone --model llama --data long.jsonl --max-length 20", "has a token to learn within"),
    ("fit bone --model llama --data sums.jsonl --task classification", 'expected "text" and "label"'),
    # models
    ("fit bone --model ./none --data sums.jsonl", "--model ./none: there is no such folder"),
    ("fit bone --model sums.jsonl --data sums.jsonl", "sums.jsonl is a file"),
    ("fit bone --model encoder --data sums.jsonl --max-length 65", "--max-length 65 exceeds the 64 positions"),
    ("fit bone --model llama --data sums.jsonl --out llama", "is there already"),
    # flags
    (f"{BONE} --batch-size 3 --accumulation 2", "--batch-size 3 cannot be split"),
    (f"{BONE} --lr 0", "--lr 0.0 must be positive"),
    (f"{BONE} --validation 1", "--validation 1.0"),
    (f"{BONE} --epoch 3", "did you mean --epochs?"),
    (f"{BONE} --target-modules nothing_like_it", "nothing_like_it"),
    (f"{BONE} --precision fp16", "needs a GPU"),
    # Bone
    (f"{BONE} --r 0", "--r 0 must be"),
    (f"{BONE} --r 5", "5"),
    (f"{BONE} --r 64 --mode add", "exceeds in_features"),
    (f"{BONE} --r 8 --mode mini --mini-r 5", "--mini-r 5 does not divide out_features=32; use --mini-r 4 or 8"),
    (f"{BONE} --r 8 --dropout 0.5", "dropout"),
    # TriAdaptLoRA
    (f"{TRIADAPT} --growth sideways", "--growth"),
    (f"{TRIADAPT} --growth-interval 0", "--growth-interval 0 must be at least 1"),
    (f"{TRIADAPT} --growth-warmup 1", "--growth-warmup 1.0"),
    (f"{TRIADAPT} --reference-rank 0", "--reference-rank 0 must be"),
    # SALT
    (f"{SALT} --ratio 0", "ratio"),
    (f"{SALT} --ratio 1.5", "ratio"),
    (f"{SALT} --r 0", "--r 0 must be at least 1"),
    (f"{SALT} --also-train nothing_like_it", "nothing_like_it"),
]


@pytest.mark.parametrize(("command", "message"), BAD)
def test_wrong_use_is_one_line_and_leaves_no_file(
    here: Path, command: str, message: str, check_wrong_use: Callable[[Path, list[str], str], None]
) -> None:
    extra = [] if "--max-length" in command else ["--max-length", "64"]
    extra += [] if "--r " in command or "bone" not in command else ["--r", "8"]
    check_wrong_use(here, [*command.split(), *extra], message)


def test_texts_are_fitted_and_answered(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["fit", "bone", "--model", str(here / "llama"), "--data", str(here / "sums.jsonl"), "--r", "8"]
    assert main([*command, "--max-steps", "2", "--out", "run", "--merge", "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["system"] == "bone"
    assert fitted["summary"]["steps"] == 2
    assert (tmp_path / "run" / "merged" / "config.json").exists()
    command = ["apply", "run", "--data", str(here / "sums.jsonl"), "--max-new-tokens", "3", "--limit", "2", "--json"]
    assert main([*command, "--out", "answers.jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["records"] == 2
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
    before = sorted(tmp_path.rglob("*"))
    for bad, message in (
        (
            ["apply", "run", "--data", str(here / "moods.jsonl"), "--out", "a.jsonl", "--max-new-tokens", "0"],
            "1 or more",
        ),
        (
            ["apply", "run", "--data", str(here / "empty.jsonl"), "--out", "a.jsonl"],
            "is empty; there is nothing to read",
        ),
        (["apply", "run", "--data", str(here / "sums.jsonl"), "--out", "a.parquet"], ".jsonl or .csv"),
        (["apply", "run/merged", "--data", str(here / "sums.jsonl")], "was not written by `linmap fit`"),
        (["apply", "bone"], "bone must be fitted first"),
    ):
        assert main(bad) == 2
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    adapter = tmp_path / "run" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-40])
    assert main(["apply", "run", "--data", str(here / "sums.jsonl"), "--out", "a.jsonl"]) == 2
    assert "run/adapter_model.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("slug", ["bone", "triadaptlora"])
def test_help_says_what_records_may_hold(slug: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", slug, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in ('"prompt" and "completion"', "--model", "--packing", "--target-modules", "--merge", "--resume"):
        assert word in text
    assert "--shots" not in text
    assert main(["compare", slug, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--shots" in text
    assert "--packing" not in text


def test_flags_of_salt_follow_the_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "salt", "--data", str(here / "sums.jsonl"), "--help"]) == 0
    assert "--packing" in capsys.readouterr().out
    assert main(["fit", "salt", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--packing" not in text
    assert "linmap fit salt --data train.jsonl --help" in " ".join(text.split())
