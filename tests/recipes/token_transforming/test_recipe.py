"""Token Transforming from the command line: what is compared, what is written, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, Dinov2Config, Dinov2Model

from linmap.cli import main
from linmap.compress.token_transforming import compress
from linmap.data.image_preparation import read_preparation
from linmap.data.images import read_image
from linmap.data.vectors import VectorFile
from linmap.errors import ArgumentError, DataError, Stopped
from linmap.experiment import Result
from linmap.recipes.job import ApplyJob
from linmap.recipes.token_transforming import apply as applying
from linmap.recipes.token_transforming.apply import apply
from linmap.recipes.token_transforming.flags import Apply, Compare
from recipes.finetuning.tiny import save_encoder, save_llama, write_jsonl

SIDE, PATCH = 56, 14
PREPARATION = {
    "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": SIDE}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.2] * 3,
}  # fmt: skip


def save_vision(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=SIDE, patch_size=PATCH)
    with contextlib.redirect_stderr(io.StringIO()):
        Dinov2Model(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARATION))
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and data."""
    folder = tmp_path_factory.mktemp("here")
    save_vision(folder / "vision")
    save_encoder(folder / "encoder")
    save_llama(folder / "llama")
    rng = np.random.default_rng(0)
    for number in range(8):
        kind = ("cat", "dog")[number % 2]
        values = rng.integers(0, 128, (60, 70, 3)) + 100 * (number % 2)
        for path in (folder / "classes" / kind / f"{number}.png", folder / "photos" / f"{number}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path)
    texts = ["a few words about the weather of the day", "short", "a longer line on whatever comes to mind, at last"]
    write_jsonl(folder / "texts.jsonl", [{"text": text} for text in texts])
    prompts = [{"prompt": f"{number} is a number, and so are {number + 1} and {number + 2}; what of the next? " * 2}
               for number in range(2)]  # fmt: skip
    write_jsonl(folder / "prompts.jsonl", prompts)
    write_jsonl(folder / "brief.jsonl", [{"prompt": "a"}])
    write_jsonl(folder / "chats.jsonl", [{"messages": [{"role": "user", "content": "hello"}]}])
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"x")
    (folder / "bare").mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / "bare" / file).write_bytes((folder / "vision" / file).read_bytes())
    return folder


def compared(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(folder)
    assert main(["compare", "token_transforming", *command.split(), "--repeats", "1"]) == 0
    return Result.load(Path(command.split()[-1]))


# -- compare -----------------------------------------------------------------------------------------------------------


def test_photographs_are_compared_by_what_is_restored(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"--model vision --data photos --keep .75 .3 --batch-size 4 --out {tmp_path}"
    found = compared(here, command, monkeypatch)
    names = [row.name for row in found.rows]
    assert names == ["Token Transforming", "hard", "ToMe on x", "ToMe on keys", "PiToMe on x", "EViT", "pruning",
                     "random centres", "as it is"]  # fmt: skip
    (table,) = found.tables
    cells = {(row[0], row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(cells) == len(table.rows) == 2 * 8 + 1
    assert cells["-", "as it is"]["patch cosine"] == "1.000 ± 0.000"
    saved = [float(str(cells["keep 0.3", name]["multiply-adds saved"]).rstrip("%")) for name in names[:4]]
    assert max(saved) - min(saved) < 6  # pairs do it in two steps, at about the same cost
    assert len(found.rows[0].values["patch cosine, keep 0.75"]) == 8
    assert found.verdict.startswith(("With patch cosine at least 0.980", "No way and budget has patch cosine"))
    assert "Keep 0.3:" in table.note
    assert found.verdict.count(". ") < 3
    assert "Beside the best other way, Token Transforming is" in found.verdict
    assert {picture.file for picture in found.pictures} == {"curves.svg", "flows.svg"}
    again = compared(here, f"--resume {command}", monkeypatch)
    assert again.rows[0].values == found.rows[0].values


def test_classes_are_told_from_features_that_the_model_gives_as_it_is(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compared(here, f"--model vision --data classes --keep .5 --out {tmp_path}", monkeypatch)
    assert found.metrics[0].name == "accuracy, keep 0.5"
    assert "on 2 images" in found.task  # a quarter of each class
    assert found.rows[-1].values["accuracy, keep 0.5"] == [1.0, 1.0]  # one class is brighter


def test_texts(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"--model encoder --data texts.jsonl --keep .6 --length 40 --out {tmp_path}"
    found = compared(here, command, monkeypatch)
    assert found.metrics[0].name == "cosine, keep 0.6"
    assert all(0 < value <= 1.00001 for value in found.rows[0].values["cosine, keep 0.6"])


def test_prompts(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"--model llama --data prompts.jsonl --keep .5 --at 0 --length 100 --out {tmp_path}"
    found = compared(here, command, monkeypatch)
    assert [row.name for row in found.rows][:2] == ["Token Transforming", "FastV"]
    assert all(value >= -1e-6 for value in found.rows[0].values["KL, keep 0.5"])
    assert {picture.file for picture in found.pictures} == {"curves.svg"}


# -- apply -------------------------------------------------------------------------------------------------------------


def features(here: Path, out: Path, monkeypatch: pytest.MonkeyPatch, data: str = "photos", **flags: Any) -> VectorFile:
    monkeypatch.chdir(here)
    model = "encoder" if data == "texts.jsonl" else "vision"
    apply(Apply(model=model, **({"batch_size": 3} | flags)), ApplyJob(Path(data), out))
    return VectorFile(out)


def test_without_merging_the_features_are_those_of_the_model(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features(here, tmp_path / "a.npy", monkeypatch, keep=1.0, features="both")
    assert found.ids == [f"{number}.png" for number in range(8)]
    model = AutoModel.from_pretrained(here / "vision").eval()
    preparation = read_preparation(here / "vision")
    x = preparation.batch(read_image(here / "photos" / name) for name in found.ids)
    with torch.no_grad():
        answer = model(pixel_values=x)
    expected = torch.cat([answer.pooler_output, answer.last_hidden_state[:, 1:].mean(1)], 1).numpy()
    np.testing.assert_allclose(np.concatenate(list(found.blocks())), expected, atol=1e-5)
    with torch.no_grad(), compress(model, stages=(0.5, (1, 2, 3))) as handle:
        answer = model(pixel_values=x)
        expected = handle.pool(answer.last_hidden_state, skip=1).numpy()
    merged = features(here, tmp_path / "b.npy", monkeypatch, keep=0.5, features="mean")
    np.testing.assert_allclose(np.concatenate(list(merged.blocks())), expected, atol=1e-5)


def test_texts_come_in_the_order_of_the_file(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = features(here, tmp_path / "a.parquet", monkeypatch, "texts.jsonl", keep=0.8, length=40, batch_size=1)
    assert one.ids == ["1", "2", "3"]
    together = features(here, tmp_path / "b.parquet", monkeypatch, "texts.jsonl", keep=1.0, length=40, batch_size=3)
    alone = features(here, tmp_path / "c.parquet", monkeypatch, "texts.jsonl", keep=1.0, length=40, batch_size=1)
    one, other = (np.concatenate(list(f.blocks())) for f in (together, alone))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_interrupted_run_goes_on(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "BLOCK", 1)
    whole = features(here, tmp_path / "a.npy", monkeypatch, keep=0.5)
    out = tmp_path / "b.npy"
    with monkeypatch.context() as patch:
        calls: list[int] = []

        def interrupt(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return answers_of(*arguments)

        answers_of = applying.answers_of
        patch.setattr(applying, "answers_of", interrupt)
        with pytest.raises(Stopped, match="6 of 8 images are done and kept"):
            features(here, out, monkeypatch, keep=0.5)
    assert not out.exists()
    with pytest.raises(DataError, match=r"b\.npy\.work belongs to a run with another keep"):
        features(here, out, monkeypatch, keep=0.6, resume=True)
    summary = apply(Apply(model="vision", keep=0.5, batch_size=3, resume=True), ApplyJob(Path("photos"), out))
    assert summary["resumed"] == 6
    assert out.read_bytes() == (tmp_path / "a.npy").read_bytes()
    assert whole.metadata["fingerprint"] == summary["fingerprint"]
    assert not (tmp_path / "b.npy.work").exists()


def test_a_target_of_speed_is_measured_once(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    work = tmp_path / "a.npy.work"
    flags = {"model": "vision", "target_speedup": 1.5, "batch_size": 8}

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(applying, "answers_of", stop)
        patch.setattr(applying, "budget_of", lambda *_: {"stages": (0.4, (1, 2))})
        with pytest.raises(Stopped):
            apply(Apply(**flags), ApplyJob(Path("photos"), tmp_path / "a.npy"))
    (work / "budget.json").write_text(json.dumps({"stages": [0.4, [1, 2]]}))
    summary = apply(Apply(**flags, resume=True), ApplyJob(Path("photos"), tmp_path / "a.npy"))
    assert summary["budget"] == {"stages": [0.4, [1, 2]]}


# -- what is refused ---------------------------------------------------------------------------------------------------

COMPARE, APPLY = "compare token_transforming", "apply token_transforming"
BAD = [
    (f"{COMPARE} --data none", "there is no such"),
    (f"{COMPARE} --model llama --data photos", "has no preprocessor_config.json"),
    (f"{COMPARE} --model dinov2-small --data texts.jsonl", "--model dinov2-small reads images, not text"),
    (f"{COMPARE} --model bare --data photos", "has no preprocessor_config.json"),
    (f"{COMPARE} --model vision --data broken", "a.png: this is not an image"),
    (f"{COMPARE} --model vision --data photos --size 50", "cannot be cut into patches of 14 x 14"),
    (f"{COMPARE} --model vision --data photos --at 4", "the model has 4 blocks"),
    (f"{COMPARE} --model vision --data photos --keep 1.5", "--keep 1.5 must be a share"),
    (f"{COMPARE} --model vision --data photos --tau 0", "tau"),
    (f"{COMPARE} --model vision --data photos --repeats 0", "--repeats 0 must be 1 or more"),
    (f"{COMPARE} --model encoder --data chats.jsonl", "is a chat"),
    (f"{COMPARE} --model llama --data brief.jsonl", "no prompt has 64 tokens or more"),
    (f"{APPLY} --model llama --data prompts.jsonl --out a.parquet", "is a language model, whose answers are"),
    (f"{APPLY} --model vision --data photos --out a.csv", "must end in .parquet or .npy"),
    (f"{APPLY} --model vision --data photos --out photos/a.npy", "must not lie in photos"),
    (f"{APPLY} --model vision --data photos --keep .5 --target-flops .5 --out a.npy", "are both budgets"),
    (f"{APPLY} --model vision --data photos --target-speedup 1 --out a.npy", "--target-speedup 1 must be above 1"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "message"), BAD)
def test_wrong_use_is_one_line(
    command: str, message: str, here: Path, check_wrong_use: Callable[[Path, list[str], str], None]
) -> None:
    check_wrong_use(here, command.split(), message)


def test_flags_that_do_not_go_together() -> None:
    for kind, options, message in (
        (Apply, {"target_flops": 0.5, "at": (1,)}, "target_flops chooses the blocks itself"),
        (Apply, {"keep": 0.0}, "keep=0 must be a share above 0"),
        (Compare, {"limit": 0}, "limit=0 must be 1 or more"),
    ):
        with pytest.raises(ArgumentError, match=message):
            kind(**options)
