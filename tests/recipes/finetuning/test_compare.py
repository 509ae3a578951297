"""The comparisons of Bone and TriAdaptLoRA: equal budgets, the same code for labels and completions, and resuming."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from linmap.adapt.texts import TextClassifier
from linmap.data import find
from linmap.data.text import read_training_texts
from linmap.data.tokens import UNLEARNT
from linmap.errors import DataError
from linmap.experiment import Result
from linmap.recipes.bone.compare import SIZES, bone
from linmap.recipes.bone.compare import compare as compare_bone
from linmap.recipes.finetuning import arms, tasks
from linmap.recipes.finetuning.arms import lora, untouched_model
from linmap.recipes.finetuning.flags import EMBEDDED, Comparison, Completions, Labelled, comparing
from linmap.recipes.finetuning.tasks import ACCURACY, LOSS, TRAINING, split, task_of
from linmap.recipes.job import CompareJob
from linmap.recipes.triadaptlora.compare import compare as compare_triadaptlora
from linmap.recipes.triadaptlora.compare import orthogonal
from linmap.recipes.triadaptlora.flags import LabelledTexts
from recipes.finetuning.line import bare_task
from recipes.finetuning.tiny import llama, moods, save_encoder, save_llama, sums, write_jsonl

FEW: dict[str, Any] = {
    "shots": 6,
    "steps": 20,
    "batch_size": 4,
    "validation_per_class": 2,
    "test_per_class": 4,
    "seeds": 2,
    "rates": (5e-3, 2e-2),
}
BUDGETS = {"classification": 73_728, "language": 36_864}


@pytest.fixture(autouse=True)
def tiny_models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("models")
    models = {"minilm-l6": save_encoder(folder / "encoder"), "smollm2-135m": save_llama(folder / "language")}
    monkeypatch.setattr(tasks, "bundled_model", models.__getitem__)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "moods.jsonl", moods(40))


# -- budgets ---------------------------------------------------------------------------------------------------------


def trained(model: nn.Module, inside: str = "") -> int:
    return sum(weight.numel() for name, weight in model.named_parameters() if weight.requires_grad and inside in name)


def real_size(kind: str) -> nn.Module:
    """MiniLM-L6 or a block of SmolLM2, as large as they are where adapters go."""
    if kind == "classification":
        config = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=8, vocab_size=9
        )
        return TextClassifier(BertModel(config, add_pooling_layer=False), 3)
    return LlamaForCausalLM(LlamaConfig(hidden_size=576, num_hidden_layers=1, num_attention_heads=9,
                                        num_key_value_heads=3, intermediate_size=8, vocab_size=9))  # fmt: skip


@pytest.mark.parametrize("kind", BUDGETS)
@pytest.mark.parametrize("name", ["lora", "bat", "bat-row", "add"])
def test_adapters_have_equal_parameters(kind: str, name: str) -> None:
    task, r = bare_task(kind), SIZES[kind][name]
    way = lora(task, r, 2 * r) if name == "lora" else bone(task, name, r)
    model = way.adapt(real_size(kind), 10)
    inside = "encoder" if kind == "classification" else ""
    assert trained(model, inside) == pytest.approx(BUDGETS[kind], rel=0.02)
    assert kind == "language" or trained(model, "head") == 385 * 3


def test_head_only_and_frozen_train_nothing_else() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    model = TextClassifier(BertModel(config, add_pooling_layer=False), 3)
    assert trained(untouched_model(bare_task("classification")).adapt(model, 10)) == 33 * 3
    assert trained(untouched_model(bare_task("language")).adapt(llama(), 10)) == 0


def test_the_penalty_of_adalora_is_what_peft_adds_to_the_loss_of_a_model() -> None:
    torch.manual_seed(0)
    config = AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(llama(), config)
    ids = torch.arange(12)[None]
    found = adapted(input_ids=ids, labels=ids)
    plain = nn.functional.cross_entropy(found.logits[0, :-1], ids[0, 1:])
    penalty = orthogonal(adapted)
    torch.testing.assert_close(found.loss - plain, penalty, rtol=1e-4, atol=1e-5)
    assert float(penalty.detach()) > 0


# -- data ------------------------------------------------------------------------------------------------------------


def test_the_parts_are_the_first_of_each_class_and_share_nothing(labelled: Path) -> None:
    records = read_training_texts(labelled).records
    parts = split(records, Labelled(shots=3, validation_per_class=2, test_per_class=4), labelled)
    assert [len(part) for part in parts] == [6, 4, 8]
    places = [{record.place for record in part} for part in parts]
    assert not places[0] & places[1]
    assert not places[0] & places[2]
    assert not places[1] & places[2]
    assert [record.text for record in parts[0] if record.answer == "good"] == [m["text"] for m in moods(6)[::2]]
    with pytest.raises(DataError, match="lower shots=20"):
        split(records, Labelled(shots=20), labelled)


def test_the_embedded_texts_have_all_their_classes_in_every_part() -> None:
    path = find(EMBEDDED["classification"], "")
    parts = split(read_training_texts(path).records, Labelled(), path)
    assert [len(part) for part in parts] == [5 * 77, 2 * 77, 4 * 77]


def test_long_records_are_left_out_and_counted_and_the_last_ones_held_out(tmp_path: Path) -> None:
    records = [*sums(20), {"prompt": "x" * 90, "completion": "y"}, *sums(5)]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    task = task_of(Completions(max_length=40, held_out=0.15, batch_size=4), path)
    assert (len(task.train), len(task.validation), len(task.test)) == (21, 2, 2)
    assert "(1 longer ones left out)" in task.described
    batch: Any = task.batches(0)[0]
    assert len(batch["input_ids"]) == 4
    model = task.model()
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    learnt = batch["labels"][:, 1:] != UNLEARNT
    whole = nn.functional.cross_entropy(logits[learnt], batch["labels"][:, 1:][learnt], reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), whole / batch["divisor"])
    with pytest.raises(DataError, match="raise max_length=2"):
        task_of(Completions(max_length=2), path)


def test_the_flags_are_those_of_the_records(labelled: Path, tmp_path: Path) -> None:
    assert comparing(None) is comparing(labelled) is Labelled
    assert comparing(write_jsonl(tmp_path / "a.jsonl", sums(2))) is Completions
    assert comparing(tmp_path / "none.jsonl") is Labelled  # the comparison says that there is none


# -- whole comparisons -----------------------------------------------------------------------------------------------


def test_compare_bone_on_own_labels_and_again_from_its_runs(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, job = Labelled(**FEW), CompareJob(data=labelled, out=tmp_path / "out")
    result = compare_bone(settings, job)
    assert {row.name: row.kind for row in result.rows} == {
        "Bone bat": "system",
        "head only": "baseline",
        "LoRA": "baseline",
        "full tuning": "baseline",
        "Bone bat-row": "ablation",
        "Bone add": "ablation",
    }
    assert [metric.name for metric in result.metrics] == [ACCURACY, LOSS, TRAINING]
    rows = {row.name: row for row in result.rows}
    assert all(len(row.values[TRAINING]) == 2 for row in result.rows)
    assert all(0 <= value <= 1 for row in result.rows for value in row.values[ACCURACY])
    assert rows["Bone bat"].mean(TRAINING) < rows["head only"].mean(TRAINING)
    assert rows["Bone bat"].parameters == rows["Bone add"].parameters
    assert "of 2 seeds" in result.verdict
    assert [picture.file for picture in result.pictures] == ["test-accuracy.svg", "training.svg"]
    result.save(job.out)
    assert Result.load(job.out).rows == result.rows

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("it was trained before")

    monkeypatch.setattr(arms, "train", not_again)
    again = compare_bone(settings, replace(job, resume=True))
    assert again.rows == result.rows  # with the times of the first
    with pytest.raises(AssertionError, match="before"):
        compare_bone(replace(settings, steps=21), replace(job, resume=True))


def test_compare_triadaptlora_spends_its_budget(labelled: Path, tmp_path: Path) -> None:
    few = FEW | {"steps": 40, "seeds": 1, "rates": (1e-2,)}
    result = compare_triadaptlora(LabelledTexts(**few), CompareJob(data=labelled, out=tmp_path / "out"))
    assert [row.name for row in result.rows] == ["TriAdaptLoRA", "head only", "LoRA", "AdaLoRA", "full tuning"]
    assert [picture.file for picture in result.pictures][-1] == "ranks.svg"
    ours = result.rows[0].parameters or 0
    assert 2 * 33 + 4 * (8 * 64) < ours <= 2 * 33 + 4 * (8 * 64) + 4 * 16 * 17  # 32 ranks, however they are spread
    assert "one value each" in result.verdict


@pytest.mark.parametrize("compare", [compare_bone, pytest.param(compare_triadaptlora, marks=pytest.mark.slow)])
def test_a_language_task_is_compared_by_its_test_loss(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "language", {"lora": 4, "bat": 8, "bat-row": 8, "add": 8})
    data = write_jsonl(tmp_path / "sums.jsonl", sums(30))
    settings = Completions(steps=20, pilot_steps=3, seeds=1, rates=(1e-3, 1e-2))
    result = compare(settings, CompareJob(data=data, out=tmp_path / "out"))
    assert [metric.name for metric in result.metrics] == [LOSS, TRAINING]
    rows = {row.name: row for row in result.rows}
    frozen, adapted = rows["frozen"], rows["LoRA"]
    assert adapted.mean(LOSS) < frozen.mean(LOSS)
    assert result.tables[0].columns == ["method", "step 5", "step 10", "step 15", "step 20"]
    assert "test-loss.svg" in [picture.file for picture in result.pictures]


@pytest.mark.parametrize(
    ("kind", "flag", "message"),
    [
        (Labelled, {"shots": 0}, "shots=0 must be positive"),
        (Comparison, {"rates": ()}, r"rates=\(\) is empty"),
        (Comparison, {"rates": (1e-3, -1.0)}, "rates=-1.0 must be positive"),
        (Completions, {"steps": -1}, "steps=-1 must be positive"),
        (Completions, {"held_out": 1.0}, "held_out=1.0 must be a share below 1"),
        (LabelledTexts, {"seeds": 0}, "seeds=0 must be positive"),
    ],
)
def test_flags_that_mean_nothing_are_refused(kind: type, flag: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**flag)


@pytest.mark.slow
def test_the_comparisons_run_on_the_real_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    short: dict[str, Any] = {"steps": 20, "seeds": 1, "rates": (5e-3,), "test_per_class": 1}
    for compare, flags in ((compare_bone, Labelled), (compare_triadaptlora, LabelledTexts)):
        result = compare(flags(**short), CompareJob(out=tmp_path / flags.__name__))
        losses = {row.name: row.mean(TRAINING) for row in result.rows if row.name != "full tuning"}
        assert max(losses, key=lambda name: losses[name]) == "head only"
