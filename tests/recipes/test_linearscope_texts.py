"""The recipe at language models and vision transformers: what it writes, compares and refuses."""

from __future__ import annotations

import csv
import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from linmap.errors import ArgumentError, DataError, UsageError
from linmap.recipes.job import ApplyJob, CompareJob
from linmap.recipes.linearscope.apply import apply
from linmap.recipes.linearscope.compare import compare
from linmap.recipes.linearscope.compare_text import CHANCE, INTEGRATED, LRP, OURS, PRODUCT, ROLLOUT, TRUTH
from linmap.recipes.linearscope.flags import Apply, Compare
from linmap.recipes.linearscope.kinds import is_text, named
from linmap.recipes.linearscope.vision import seen_point
from recipes.finetuning.tiny import save_llama, write_jsonl


@pytest.fixture(scope="module", name="llama")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module", name="vit")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "vit"
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    steps = {"do_resize": True, "size": {"height": 16, "width": 16}, "do_rescale": True, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(steps | {"image_processor_type": "ViTImageProcessor"}))
    return str(folder)


def test_apply_writes_a_page_numbers_and_tables(llama: str, tmp_path: Path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("One <two>\n")
    out = tmp_path / "out"
    summary = apply(Apply(model=llama, against="x", singular=1), ApplyJob(data=prompt, out=out))
    assert summary["files"] == ["page.html", "reading.json", "contributions.csv", "layers.csv"]
    assert {path.name for path in out.iterdir()} == set(summary["files"])
    report = json.loads((out / "reading.json").read_text())
    assert [token["text"] for token in report["tokens"]] == list("One <two>")
    assert sum(report["contributions"]) + report["residual"] == pytest.approx(report["value"], rel=1e-4)
    assert report["against"]["text"] == "x"
    assert len(report["directions"]) == 2
    with open(out / "contributions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["contribution"]) for row in rows] == pytest.approx(report["contributions"])
    assert summary["answer"] in html.unescape((out / "page.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 64}, "--side is for images, and .* reads texts"),
        ({"at": (1, 2)}, "--at is for images"),
        ({"target": "two"}, r"target='two' is 3 tokens"),
    ],
)
def test_flags_of_images_are_refused_for_texts(settings: dict, message: str, llama: str, tmp_path: Path):
    with pytest.raises((UsageError, ArgumentError), match=message):
        apply(Apply(model=llama, **settings), ApplyJob(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_data_of_the_other_kind_is_refused(llama: str, tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(UsageError, match=r"a\.txt: efficientnet-lite0 reads images"):
        apply(Apply(model="efficientnet-lite0"), ApplyJob(data=tmp_path / "a.txt"))
    with pytest.raises(UsageError, match="--against is for texts, and fsrcnn-x2 reads"):
        apply(Apply(model="fsrcnn-x2", against="x"), ApplyJob())
    (tmp_path / "p.csv").write_text("text\nHello\n")
    with pytest.raises(DataError, match=r"p\.csv: this reads one prompt .*\.md.*picture .*\.png.*compare linearscope"):
        apply(Apply(model=llama), ApplyJob(data=tmp_path / "p.csv"))
    with pytest.raises(DataError, match=r"a\.txt .*nothing|holds no text"):
        apply(Apply(model=llama), ApplyJob(data=tmp_path / "a.txt"))
    with pytest.raises(UsageError, match="'resnet': there are efficientnet-lite0"):
        apply(Apply(model="resnet"), ApplyJob())


def test_the_data_says_which_model_is_meant():
    assert named(Apply(), Path("a.jsonl.gz")).model == named(Apply(), Path("b.TXT")).model == "smollm2-135m"
    assert named(Apply(), Path("c.png")).model == named(Apply(), None).model == "efficientnet-lite0"
    assert not is_text(None)


def test_the_comparison_of_prompts(llama: str, tmp_path: Path):
    data = write_jsonl(tmp_path / "prompts.jsonl", [{"text": text} for text in ("One two", "abcdef", "x", "three 4")])
    settings = Compare(model=llama, length=6, steps=2)
    result = compare(settings, CompareJob(data=data, out=tmp_path / "out"))
    assert [row.name for row in result.rows] == [OURS, PRODUCT, INTEGRATED, ROLLOUT, LRP, CHANCE, TRUTH]
    assert {len(values) for row in result.rows for values in row.values.values()} == {3}  # one is too short
    assert result.checks[0].passed, result.checks[0].figures
    assert result.rows[-1].values["rank correlation"] == pytest.approx([1, 1, 1])
    assert all(row.seconds and row.seconds > 0 for row in result.rows)
    assert "prompts" in result.verdict
    assert [picture.file for picture in result.pictures] == ["deletion.svg"]
    more = compare(Compare(model=llama, length=6, steps=3), CompareJob(data=data, out=tmp_path / "out", resume=True))
    same = [row.name for row, other in zip(more.rows, result.rows, strict=True) if row.values == other.values]
    assert same == [OURS, PRODUCT, ROLLOUT, LRP, CHANCE, TRUTH]  # only the arm that changed was run again
    with pytest.raises(UsageError, match="--deleted is for images"):
        compare(Compare(model=llama, deleted=0.2), CompareJob(data=data, out=tmp_path))


def test_a_vision_transformer_of_a_folder_is_read_and_compared(vit: str, tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(photo)
    summary = apply(Apply(model=vit, singular=1), ApplyJob(data=photo, out=tmp_path / "out"))
    assert summary["exactness"] < 1e-5
    assert summary["target_name"] in ("cat", "dog")
    page = (tmp_path / "out/page.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml") == 5
    assert f"“{summary['target_name']}”" in page
    result = compare(Compare(model=vit, random_masks=1), CompareJob(data=photo, out=tmp_path / "compared"))
    assert result.checks[0].passed, result.checks[0].figures
    with pytest.raises(UsageError, match=r"--mean is not for .*preprocessor_config"):
        apply(Apply(model=vit, mean=1.0), ApplyJob(data=photo))
    with pytest.raises(UsageError, match="--at is for dinov2-small"):
        apply(Apply(model=vit, at=(1, 1)), ApplyJob(data=photo))


def test_a_point_of_the_photograph_in_what_the_model_sees():
    from linmap.data.image_preparation import ImagePreparation

    photo = np.zeros((200, 400, 3), np.uint8)
    seen = ImagePreparation(size=100, crop=(80, 80))  # resized to 100 x 200, then the centre
    assert seen_point(seen, photo, (200, 100)) == (40, 40)
    assert seen_point(seen, photo, (121, 21)) == (0, 0)
    with pytest.raises(UsageError, match="does not see"):
        seen_point(seen, photo, (0, 100))
    with pytest.raises(UsageError, match="outside the photograph of 400 x 200"):
        seen_point(seen, photo, (400, 0))


def test_damaged_weights_are_refused(llama: str, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "damaged"
    shutil.copytree(llama, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArgumentError, match=r"lacks weights of its LlamaForCausalLM: model\.norm\.weight"):
        apply(Apply(model=str(folder)), ApplyJob(out=tmp_path / "out"))
    (folder / "model.safetensors").write_bytes(bytes(100))
    with pytest.raises(ArgumentError, match=r"damaged cannot be loaded as a causal language model: .*header"):
        apply(Apply(model=str(folder)), ApplyJob(out=tmp_path / "out"))
