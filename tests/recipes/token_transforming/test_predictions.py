"""Classifiers of Transformers from the command line: their predictions, and features in which nothing is drawn."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from linmap.compress.token_transforming import compress
from linmap.data.image_preparation import read_preparation
from linmap.data.images import read_image
from linmap.data.models import load_trained
from linmap.data.vectors import VectorFile
from linmap.errors import ArgumentError, DataError, Stopped
from linmap.recipes.job import ApplyJob
from linmap.recipes.token_transforming import apply as applying
from linmap.recipes.token_transforming.apply import apply
from linmap.recipes.token_transforming.flags import Apply
from recipes.finetuning.tiny import encoder_tokenizer, write_jsonl

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
IMAGES = {"image_size": 56, "patch_size": 14}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "cow"}, "label2id": {"cat": 0, "dog": 1, "cow": 2}}
PREPARATION = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 56, "width": 56}, "resample": 2,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
    "image_std": [0.2] * 3,
}  # fmt: skip


def save_classifier(folder: Path, name: str, **changes: Any) -> Path:
    import transformers as t

    torch.manual_seed(0)
    with contextlib.redirect_stderr(io.StringIO()):
        if name == "bert":
            words = {"vocab_size": 259, "intermediate_size": 48, "max_position_embeddings": 64}
            model = t.BertForSequenceClassification(t.BertConfig(**SIZES, **words, **LABELS, **changes))
            encoder_tokenizer().save_pretrained(folder)
        elif name == "vit":
            model = t.ViTForImageClassification(
                t.ViTConfig(**SIZES, **IMAGES, intermediate_size=48, **LABELS, **changes)
            )
        else:
            model = t.Dinov2ForImageClassification(t.Dinov2Config(**SIZES, **IMAGES, **LABELS, **changes))
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(5)
        model.save_pretrained(folder)
    if name != "bert":
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPARATION))
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    for name in ("bert", "vit", "dinov2"):
        save_classifier(folder / name, name)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        values = rng.integers(0, 255, (60 + number, 70, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / "photos" / f"{number}.png")
    texts = ["a few words about the weather of the day", "short", "a longer line on whatever comes to mind, at last"]
    write_jsonl(folder / "texts.jsonl", [{"text": text} for text in texts])
    return folder


def applied(here: Path, name: str, out: Path, **flags: Any) -> tuple[dict[str, Any], pd.DataFrame, np.ndarray]:
    data = here / ("texts.jsonl" if name == "bert" else "photos")
    flags = {"batch_size": 2, "length": 40} | flags
    summary = apply(Apply(model=str(here / name), **flags), ApplyJob(data, out))
    table = pd.read_csv(summary["predictions"], dtype={"id": str})
    return summary, table, np.concatenate(list(VectorFile(out).blocks()))


def pixels(here: Path, name: str, table: pd.DataFrame) -> torch.Tensor:
    preparation = read_preparation(here / name)
    return preparation.batch(read_image(here / "photos" / image) for image in table["id"])


@pytest.mark.parametrize("name", ["vit", "dinov2"])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_classifiers_of_images_predict(name: str, keep: float, here: Path, tmp_path: Path) -> None:
    _, table, vectors = applied(here, name, tmp_path / "a.parquet", keep=keep, features="both")
    assert list(table["id"]) == [f"{number}.png" for number in range(5)]
    model: Any = load_trained(here / name).eval()
    x = pixels(here, name, table)
    with torch.no_grad(), compress(model, stages=(keep, (1, 2, 3))):
        probabilities = model(pixel_values=x).logits.softmax(-1)
    assert list(table["label"]) == [model.config.id2label[k] for k in probabilities.argmax(-1).tolist()]
    np.testing.assert_allclose(table["score"], probabilities.amax(-1), atol=1e-5)
    with torch.no_grad(), compress(model.base_model, stages=(keep, (1, 2, 3))) as handle:
        tokens = model.base_model(pixel_values=x).last_hidden_state
        expected = torch.cat([tokens[:, 0], handle.pool(tokens, skip=1)], 1)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_classifiers_of_texts_predict_in_the_order_of_the_file(here: Path, tmp_path: Path) -> None:
    _, one, vectors = applied(here, "bert", tmp_path / "a.npy", keep=0.8, batch_size=1)
    assert list(one["id"]) == ["1", "2", "3"]
    assert vectors.shape == (3, 24)
    _, table, _ = applied(here, "bert", tmp_path / "b.npy", keep=1.0, batch_size=1)
    _, together, _ = applied(here, "bert", tmp_path / "c.npy", keep=1.0, batch_size=3)
    np.testing.assert_allclose(table["score"], together["score"], atol=1e-5)
    model: Any = load_trained(here / "bert").eval()
    records = [json.loads(line)["text"] for line in (here / "texts.jsonl").read_text().splitlines()]
    for keep, found in ((1.0, table), (0.8, one)):
        for text, label, score in zip(records, found["label"], found["score"], strict=True):
            inputs = encoder_tokenizer()(text, truncation=True, max_length=40, return_tensors="pt")
            with torch.no_grad(), compress(model, keep=keep):
                p = model(**inputs).logits[0].softmax(-1)
            assert model.config.id2label[int(p.argmax())] == label
            assert score == pytest.approx(float(p.max()), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("multi_label_classification", lambda y: y.sigmoid().amax(-1)), ("regression", lambda y: y.amax(-1))],
)
def test_the_score_is_what_the_kind_of_problem_says(kind: str, expected: Any, here: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path / "vit", "vit", problem_type=kind)
    (tmp_path / "photos").symlink_to(here / "photos")
    _, table, _ = applied(tmp_path, "vit", tmp_path / "a.npy", keep=1.0)
    with torch.no_grad():
        logits = load_trained(tmp_path / "vit").eval()(pixel_values=pixels(tmp_path, "vit", table)).logits
    np.testing.assert_allclose(table["score"], expected(logits), atol=1e-5)


def test_predictions_of_an_interrupted_run_go_on(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "BLOCK", 1)
    _, whole, _ = applied(here, "vit", tmp_path / "a.npy", keep=0.5)
    answers_of = applying.answers_of
    with monkeypatch.context() as patch:

        def interrupt(*arguments: Any) -> Any:
            if arguments[-1] == 1:
                raise KeyboardInterrupt
            return answers_of(*arguments)

        patch.setattr(applying, "answers_of", interrupt)
        with pytest.raises(Stopped):
            applied(here, "vit", tmp_path / "b.npy", keep=0.5)
    plan = tmp_path / "b.npy.work" / "plan.json"
    text = plan.read_text()
    plan.write_text(text.replace('"classes": 3', '"classes": null'))  # as before there were predictions
    with pytest.raises(DataError, match="another classes"):
        applied(here, "vit", tmp_path / "b.npy", keep=0.5, resume=True)
    plan.write_text(text)
    summary, table, _ = applied(here, "vit", tmp_path / "b.npy", keep=0.5, resume=True)
    assert summary["resumed"] == 2
    pd.testing.assert_frame_equal(table, whole)


def test_nothing_is_drawn_at_random(here: Path, tmp_path: Path) -> None:
    """An encoder without the weights of a pooler runs without one; other weights must be there."""
    from transformers import ViTModel

    classifier: Any = load_trained(here / "vit")
    with contextlib.redirect_stderr(io.StringIO()):
        ViTModel(classifier.config, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    assert load_trained(tmp_path / "bare").pooler is None
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    config["architectures"] = ["ViTForImageClassification"]
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArgumentError, match="lacks weights of its ViTForImageClassification: classifier"):
        load_trained(tmp_path / "bare")


def test_models_without_blocks_are_refused_by_name(here: Path, tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    with contextlib.redirect_stderr(io.StringIO()):
        ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path / "resnet")
    (tmp_path / "resnet" / "preprocessor_config.json").write_text(json.dumps(PREPARATION))
    with pytest.raises(TypeError, match=r"ResNetModel .* has no blocks that are recognised"):
        apply(Apply(model=str(tmp_path / "resnet")), ApplyJob(here / "photos", tmp_path / "a.npy"))
