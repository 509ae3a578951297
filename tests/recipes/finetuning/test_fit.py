import csv
import json
import shutil
import signal
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

import fresh
from fresh import Fresh
from linmap import artifacts
from linmap.adapt.finetuning import FineTuned, fine_tune
from linmap.artifacts import SHARED, write_config
from linmap.compress.registration import METHOD
from linmap.data.text import read_prompts
from linmap.data.tokens import prompt_tokens
from linmap.errors import ArgumentError, ArtifactError, UsageError
from linmap.recipes.finetuning import fit as fitting
from linmap.recipes.finetuning.apply import apply
from linmap.recipes.finetuning.fit import check_adaptable
from linmap.recipes.finetuning.flags import Answering, FineTuning
from linmap.recipes.job import FitJob, FittedJob
from recipes.finetuning.tiny import moods, save_encoder, save_llama, sums, write_jsonl

METHODS: dict[str, dict[str, Any]] = {
    "bone": {"r": 8, "mode": "add", "lr": 2e-2},
    "triadaptlora": {"reference_rank": 2, "growth_interval": 2, "lr": 3e-2},
    "salt": {"r": 4, "lr": 1e-2},
}
ALIKE = (("bone", "language"), ("triadaptlora", "classification"), ("salt", "language"), ("salt", "classification"))
FIXED: dict[str, Any] = {"epochs": 2, "batch_size": 4, "validation": 0.2}


class Killed(BaseException):
    """Ends a run where it is, as a kill would."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "language": save_llama(folder / "llama"),
        "tied": save_llama(folder / "tied", tied=True),
        "classification": save_encoder(folder / "encoder"),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "language": write_jsonl(folder / "sums.jsonl", sums(20)),
        "classification": write_jsonl(folder / "moods.jsonl", moods(20)),
    }


def settings_of(slug: str, model: Path, **options: Any) -> FineTuning:
    flags = import_module(f"linmap.recipes.{slug}.flags")
    kind = flags.Texts if slug == "salt" else flags.Fit
    return kind(model=str(model), **FIXED | METHODS[slug] | options)


def fit(slug: str, settings: FineTuning, **job: Any) -> dict[str, Any]:
    return import_module(f"linmap.recipes.{slug}.fit").fit(settings, FitJob(**job))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    head = load_file(folder / "head.safetensors") if (folder / "head.safetensors").exists() else {}
    return load_file(folder / "adapter_model.safetensors") | head


def assert_same_weights(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- the folder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", METHODS)
def test_a_language_model_learns_and_its_folder_is_a_peft_adapter(
    slug: str, models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    summary = fit(slug, settings_of(slug, models["language"], epochs=4), data=data["language"], out=tmp_path)
    metrics = [json.loads(line) for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val"] for line in metrics if "val" in line]
    assert losses[-1] < losses[0] < 6
    assert summary["validation_loss"] == min(losses)
    assert (summary["records"], summary["held_out"], summary["steps"]) == (16, 4, 16)
    header = artifacts.read_config(tmp_path)
    assert header["system"] == slug
    assert header["config"]["task"] == "language"
    torch.manual_seed(1)
    ids = torch.randint(2, 250, (2, 7))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(models["language"]), str(tmp_path))
    saved = FineTuned.load(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(models["language"])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, saved.model(input_ids=ids).logits)
        assert (plain(input_ids=ids).logits - base(input_ids=ids).logits).abs().max() > 1e-3
    assert summary["adapter_parameters"] == sum(tensor.numel() for tensor in weights(tmp_path).values())


@pytest.mark.parametrize("slug", ["bone", "triadaptlora", pytest.param("salt", marks=pytest.mark.slow)])
def test_a_classifier_learns_and_names_the_classes(
    slug: str, models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    settings = settings_of(slug, models["classification"], epochs=10, head_lr=0.05)
    summary = fit(slug, settings, data=data["classification"], out=tmp_path)
    assert summary["task"] == "classification"
    assert summary["classes"] == 2
    out = tmp_path / "answers.jsonl"
    found = apply(Answering(batch_size=3), FittedJob(artifact=tmp_path, data=data["classification"], out=out))
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{name: answer[name] for name in ("text", "label")} for answer in answers] == moods(20)
    assert found["accuracy"] == sum(answer["predicted"] == answer["label"] for answer in answers) / 20 > 0.75
    lines = data["classification"].read_text().splitlines()
    for known in (0, 5):  # of classes that the run does not know, nothing is right or wrong
        strange = [json.dumps(json.loads(line) | {"label": "unheard of"}) for line in lines[known:]]
        (tmp_path / "other.jsonl").write_text("\n".join([*lines[:known], *strange]))
        told = apply(Answering(batch_size=3), FittedJob(artifact=tmp_path, data=tmp_path / "other.jsonl", out=out))
        assert ("accuracy" in told) == (known > 0)
        assert "unheard of" in told["notes"][0]
    saved = FineTuned.load(tmp_path)
    for answer in answers[:4]:
        ids = saved.tokenizer(answer["text"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            probabilities = saved.model(ids, torch.ones_like(ids)).softmax(-1)[0]
        assert saved.labels[int(probabilities.argmax())] == answer["predicted"]
        assert answer["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert PeftModel.from_pretrained(AutoModel.from_pretrained(models["classification"]), str(tmp_path))


def test_parts_of_a_step_and_recomputed_activations_change_nothing(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    plain = settings_of("bone", models["language"])
    for name, settings in (
        ("plain", plain),
        ("parts", replace(plain, accumulation=4)),
        ("recomputed", replace(plain, gradient_checkpointing=True)),
    ):
        fit("bone", settings, data=data["language"], out=tmp_path / name)
    one = weights(tmp_path / "plain")
    for name in ("parts", "recomputed"):
        torch.testing.assert_close(weights(tmp_path / name), one, rtol=1e-3, atol=1e-5)


def test_packed_rows_train_on_half_precision_bases(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    settings = settings_of("bone", models["language"], packing=True, base_dtype="bfloat16", max_length=32)
    summary = fit("bone", settings, data=data["language"], out=tmp_path)
    assert summary["rows"] < summary["records"]
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}
    head = FineTuned.load(tmp_path).model.get_submodule("base_model.model.lm_head")
    assert {weight.dtype for weight in head.parameters()} == {torch.bfloat16}


# -- interrupted runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "task"),
    [
        ("bone", "classification"),
        ("triadaptlora", "language"),
        *(pytest.param(slug, task, marks=pytest.mark.slow) for slug, task in ALIKE),
    ],
)
def test_a_run_that_breaks_off_resumes_to_the_same_weights(
    slug: str, task: str, models: dict[str, Path], data: dict[str, Path], tmp_path: Path, monkeypatch
) -> None:
    settings = settings_of(slug, models[task], checkpoint_every=3)
    fit(slug, settings, data=data[task], out=tmp_path / "whole")

    def broken(*args: Any, **options: Any) -> FineTuned:
        return fine_tune(
            *args, **options, callbacks=[lambda _, step: (_ for _ in ()).throw(Killed) if step == 5 else None]
        )

    monkeypatch.setattr(fitting, "fine_tune", broken)
    with pytest.raises(Killed):
        fit(slug, settings, data=data[task], out=tmp_path / "broken")
    monkeypatch.undo()
    assert not (tmp_path / "broken" / "linmap.json").exists()
    torch.rand(3)
    fit(slug, settings, data=data[task], out=tmp_path / "broken", resume=True)
    assert_same_weights(tmp_path / "broken", tmp_path / "whole")
    whole, broken = (artifacts.read_config(tmp_path / name)["config"] for name in ("whole", "broken"))
    assert whole.get("growth") == broken.get("growth")
    assert slug != "triadaptlora" or len(whole["growth"]) > 1


KILLED = """
import os, signal
from functools import partial
from pathlib import Path
from linmap.recipes.finetuning import fit as fitting
from linmap.recipes.{slug}.fit import fit
from linmap.recipes.{slug}.flags import Fit
from linmap.recipes.job import FitJob
def kill(model, step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
fitting.fine_tune = partial(fitting.fine_tune, callbacks=[kill])
fit(Fit(**{settings!r}), FitJob(data=Path({data!r}), out=Path({out!r})))
"""


@pytest.mark.parametrize("slug", ["triadaptlora", pytest.param("bone", marks=pytest.mark.slow)])
def test_a_killed_process_resumes_to_the_same_weights(
    slug: str, models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    options = FIXED | METHODS[slug] | {"model": str(models["language"]), "checkpoint_every": 2}
    script = KILLED.format(slug=slug, settings=options, data=str(data["language"]), out=str(tmp_path / "killed"))
    process = Fresh(script)
    assert process.wait(120) == -signal.SIGKILL, process.stderr[-2000:]
    settings = settings_of(slug, models["language"], checkpoint_every=2)
    fit(slug, settings, data=data["language"], out=tmp_path / "killed", resume=True)
    fit(slug, settings, data=data["language"], out=tmp_path / "whole")
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")


# -- merged models -----------------------------------------------------------------------------------------------------

ALONE = """
import sys
sys.modules["linmap"] = sys.modules["peft"] = None  # importing either fails
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM
ids = torch.arange(14).reshape(2, 7) + 3
for path in sys.argv[1:]:
    auto = AutoModel if path.endswith("encoder") else AutoModelForCausalLM
    output = auto.from_pretrained(path)(input_ids=ids)
    y = output.logits if "logits" in output else output.last_hidden_state
    save_file({"y": y.detach()}, path + ".safetensors")
"""


def test_merged_models_load_without_linmap_and_give_the_same(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    ids = torch.arange(14).reshape(2, 7) + 3
    expected, paths = {}, []
    cases = {
        "bone-language": {"mode": "bat"},
        "bone-tied": {"target_modules": ("embed_tokens", "q_proj")},
        "triadaptlora-tied": {},
        "salt-language": {},
        "bone-classification": {},
    }
    for name, options in cases.items():
        slug, kind = name.split("-")
        task = "classification" if kind == "classification" else "language"
        settings = settings_of(slug, models[kind], merge=True, **options)
        out = tmp_path / name
        fit(slug, settings, data=data[task], out=out)
        path = tmp_path / f"{name}-{'encoder' if task == 'classification' else 'model'}"
        (out / "merged").rename(path)
        paths.append(str(path))
        model: Any = FineTuned.load(out).model
        with torch.no_grad():
            output = model.encoder(input_ids=ids) if task == "classification" else model(input_ids=ids)
        expected[str(path)] = output.last_hidden_state if task == "classification" else output.logits
    fresh.run(ALONE, *paths)
    for path in paths:
        torch.testing.assert_close(load_file(path + ".safetensors")["y"], expected[path], rtol=0, atol=1e-5)
    encoder = Path(paths[-1])
    assert json.loads((encoder / "labels.json").read_text()) == ["bad", "good"]
    assert load_file(encoder / "head.safetensors")["weight"].shape == (2, 32)


def test_an_adapter_is_merged_later_too(models: dict[str, Path], data: dict[str, Path], tmp_path: Path) -> None:
    fit("bone", settings_of("bone", models["language"], merge=True), data=data["language"], out=tmp_path)
    out = tmp_path / "later"
    apply(Answering(merge=True), FittedJob(artifact=tmp_path, out=out))
    one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", out))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(models: dict[str, Path], data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "adapter"
    fit("bone", settings_of("bone", models["language"]), data=data["language"], out=out)
    return out


def test_prompts_answered_together_get_the_answers_that_they_get_alone(adapter: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(
        tmp_path / "prompts.jsonl", [{"id": i, "prompt": "ab c"[: i + 1] * (i + 1)} for i in range(4)]
    )
    out = tmp_path / "answers.jsonl"
    apply(Answering(max_new_tokens=6, batch_size=3), FittedJob(artifact=adapter, data=prompts, out=out))
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    saved = FineTuned.load(adapter)
    for record, answer in zip(read_prompts(prompts, "language"), answers, strict=True):
        ids = prompt_tokens(record, saved.tokenizer)
        written: list[int] = []
        for _ in range(6):
            with torch.no_grad():
                written.append(int(saved.model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax()))
        assert saved.tokenizer.eos_token_id not in written
        assert answer == record.fields | {"generated": saved.tokenizer.decode(written, skip_special_tokens=True)}


def test_answers_are_repeatable_and_written_as_csv_too(adapter: Path, data: dict[str, Path], tmp_path: Path) -> None:
    settings = Answering(max_new_tokens=4, temperature=1.0, limit=3)
    rows = []
    for name in ("a.csv", "b.csv"):
        job = FittedJob(artifact=adapter, data=data["language"], out=tmp_path / name, seed=3)
        apply(settings, job)
        with open(tmp_path / name, newline="", encoding="utf-8") as file:
            rows.append(list(csv.DictReader(file)))
    assert rows[0] == rows[1]
    assert [row["prompt"] for row in rows[0]] == ["0+1=", "1+1=", "2+1="]
    assert rows[0][0].keys() == {"prompt", "completion", "generated"}


def test_what_cannot_be_answered_is_named(adapter: Path, data: dict[str, Path], tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"prompt": ""}])
    cases: list[tuple[dict[str, Any], Path, str, str]] = [
        ({}, empty, "a.jsonl", "line 1: the prompt is empty"),
        ({"max_new_tokens": 200}, data["language"], "a.jsonl", "exceed the 128 positions"),
        ({}, data["language"], "a.txt", "answers are written as .jsonl or .csv"),
    ]
    for options, data_file, out, message in cases:
        job = FittedJob(artifact=adapter, data=data_file, out=tmp_path / out)
        with pytest.raises((UsageError, ValueError), match=message):
            apply(Answering(**options), job)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]
    (broken := tmp_path / "broken").mkdir()
    (broken / "linmap.json").write_bytes((adapter / "linmap.json").read_bytes())
    with pytest.raises(ArtifactError, match="incomplete"):
        FineTuned.load(broken)


def edited(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_strangers_folder_downloads_nothing_unasked(
    adapter: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(name: str, local_files_only: bool = False, **_: object) -> str:
        asked.append((name, local_files_only))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = shutil.copytree(adapter, tmp_path / "stranger")
    config = json.loads((folder / "linmap.json").read_text())["config"]
    edited(folder / "linmap.json", config=config | {"model": "stranger/model"})
    job = FittedJob(artifact=folder, data=data["language"], out=tmp_path / "a.jsonl")
    for settings in (Answering(), Answering(merge=True)):
        with pytest.raises(ArtifactError, match=r"'stranger/model', which is not on this machine.*allow_download=True"):
            apply(settings, job)
    assert all(local for _, local in asked)
    with pytest.raises(ArgumentError, match="the Hub cannot be reached"):
        apply(Answering(allow_download=True), job)
    assert asked[-1] == ("stranger/model", False)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "LORA", "LINMAP_SALT", "nonsense", 3, None])
def test_an_adapter_of_another_method_is_refused_before_anything_is_loaded(
    kind: object, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "stranger")
    edited(folder / "adapter_config.json", peft_type=kind)
    monkeypatch.setattr("linmap.adapt.finetuning.tuned.load_pretrained", None)
    with pytest.raises(ArtifactError, match=r"says peft_type .*'LINMAP_BONE'"):
        FineTuned.load(folder)


def test_settings_are_checked_before_any_work() -> None:
    for options, message in (
        ({"lr": 0.0}, "lr=0.0 must be positive"),
        ({"batch_size": 3, "accumulation": 2}, "batch_size=3 cannot be split"),
        ({"target_modules": ()}, "target_modules=\\(\\) is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            FineTuning(**options).training(0)
    with pytest.raises(ValueError, match="temperature=-1"):
        Answering(temperature=-1.0)
    with pytest.raises(ValueError, match="limit=0"):
        Answering(limit=0)


def test_targets_are_names_or_one_expression() -> None:
    assert FineTuning().targets() == "all-linear"
    assert FineTuning(target_modules=("q_proj",)).targets() == ["q_proj"]
    assert FineTuning(target_modules=("layers.0.q_proj", "v_proj")).targets() == ["layers.0.q_proj", "v_proj"]
    assert FineTuning(target_modules=(r".*\.0\.q_proj",)).targets() == r".*\.0\.q_proj"


def test_a_target_that_fits_no_layer_is_named(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path, logged: list[str]
) -> None:
    settings = settings_of("bone", models["language"], max_steps=1, target_modules=("q_proj", "k_prj"))
    fit("bone", settings, data=data["language"], out=tmp_path)
    assert [message for message in logged if "target_modules" in message] == [
        "target_modules=('k_prj',) fits no layer of the model."
    ]
    none = settings_of("bone", models["language"], max_steps=1, target_modules=("k_prj",))
    with pytest.raises(
        ArgumentError, match=r"^target_modules=\('k_prj',\) fits no layer of the model; .* called .*k_proj"
    ):
        fit("bone", none, data=data["language"], out=tmp_path)


def test_fields_that_no_utf8_has_come_back_as_they_were(adapter: Path, tmp_path: Path) -> None:
    records = write_jsonl(tmp_path / "a.jsonl", [{"id": "a\ud800b", "prompt": "ab"}, {"id": "é", "prompt": "ab"}])
    for name in ("b.jsonl", "b.csv"):
        job = FittedJob(artifact=adapter, data=records, out=tmp_path / name)
        apply(Answering(max_new_tokens=2), job)
    answers = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ["a\ud800b", "é"]
    with open(tmp_path / "b.csv", newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["a\\ud800b", "é"]


def test_a_quantised_model_is_not_adapted_and_its_original_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["language"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    check_adaptable(folder, "model")
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": METHOD}}))
    with pytest.raises(UsageError, match=r"--model m is quantised by flatquant, .* original can be adapted\.$"):
        check_adaptable(folder, "m")
    write_config(folder, "flatquant", {"result": {"model": "/models/llama"}}, 0, SHARED)
    with pytest.raises(UsageError, match=r"can be adapted: /models/llama\.$"):
        check_adaptable(folder, "m")
