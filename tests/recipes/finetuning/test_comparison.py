"""The comparisons of Bone and TriAdaptLoRA: equal budgets, honest controls, and what is made of the numbers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from linmap.adapt import RankAllocator
from linmap.data.tokens import UNLEARNT
from linmap.errors import DataError
from linmap.experiment.result import Result
from linmap.recipes.finetuning import arms, banking, gsm8k
from linmap.recipes.finetuning.arms import (
    RandomGrowth,
    UniformGrowth,
    banking_bone_arms,
    gsm8k_bone_arms,
    triadapt_arms,
)
from linmap.recipes.finetuning.banking import ACCURACY, TRAINING, Banking, FewShot, split
from linmap.recipes.finetuning.comparison import (
    BONE_PRESETS,
    TRIADAPT_PRESETS,
    BoneComparison,
    TriAdaptComparison,
    at_or_below,
    compare_bone,
    compare_triadaptlora,
)
from linmap.recipes.finetuning.experiments import Arm, Run
from linmap.recipes.finetuning.gsm8k import GSM8K, VALIDATION, GSM8KSettings
from linmap.recipes.finetuning.models import TextClassifier
from linmap.recipes.finetuning.study import Study
from linmap.recipes.job import CompareJob
from recipes.finetuning.tiny import llama, moods, save_encoder, save_llama, sums, write_jsonl

FEW: dict[str, Any] = {
    "shots": 6, "steps": 20, "batch_size": 4, "validation_per_class": 2, "test_per_class": 4, "seeds": 2,
    "lrs": (5e-3, 2e-2),
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("models")
    monkeypatch.setattr(banking, "bundled_model", lambda name: save_encoder(folder / "encoder"))
    monkeypatch.setattr(gsm8k, "bundled_model", lambda name: save_llama(folder / "language"))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "moods.jsonl", moods(40))


# -- budgets ---------------------------------------------------------------------------------------------------------


def trained(model: nn.Module, inside: str = "") -> int:
    return sum(weight.numel() for name, weight in model.named_parameters() if weight.requires_grad and inside in name)


@pytest.mark.parametrize("name", [name for name in banking_bone_arms() if name not in ("head", "full")])
def test_adapters_on_minilm_have_equal_parameters(name: str) -> None:
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=8, vocab_size=9)
    model = TextClassifier(BertModel(config, add_pooling_layer=False), 3)
    adapted = banking_bone_arms()[name].adapt(model, 10)
    assert trained(adapted, "encoder") == 73_728
    assert trained(adapted, "head") == 385 * 3


@pytest.mark.parametrize("name", [name for name in gsm8k_bone_arms() if name not in ("frozen", "full")])
def test_adapters_on_smollm2_have_equal_parameters_within_two_percent(name: str) -> None:
    config = LlamaConfig(
        hidden_size=576, num_hidden_layers=1, num_attention_heads=9, num_key_value_heads=3, intermediate_size=8,
        vocab_size=9,
    )  # fmt: skip
    assert trained(gsm8k_bone_arms()[name].adapt(LlamaForCausalLM(config), 10)) == pytest.approx(36_864, rel=0.02)


def test_head_only_and_frozen_train_nothing_else() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    model = TextClassifier(BertModel(config, add_pooling_layer=False), 3)
    assert trained(arms.HEAD_ONLY.adapt(model, 10)) == 33 * 3
    assert trained(arms.FROZEN.adapt(llama(), 10)) == 0


def test_the_penalty_of_adalora_is_what_peft_adds_to_the_loss_of_a_model() -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(
        llama(),
        AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    ids = torch.arange(12)[None]
    found = adapted(input_ids=ids, labels=ids)
    plain = nn.functional.cross_entropy(found.logits[0, :-1], ids[0, 1:])
    classifier = nn.Module()
    classifier.encoder = adapted
    penalty = arms.orthogonal(classifier)
    torch.testing.assert_close(found.loss - plain, penalty, rtol=1e-4, atol=1e-5)
    assert float(penalty.detach()) > 0


# -- data ------------------------------------------------------------------------------------------------------------


def test_the_parts_are_the_first_of_each_class_and_share_nothing(labelled: Path) -> None:
    parts = split(FewShot(shots=3, validation_per_class=2, test_per_class=4), labelled)
    assert [len(part) for part in parts] == [6, 4, 8]
    places = [{record.place for record in part} for part in parts]
    assert not places[0] & places[1]
    assert not places[0] & places[2]
    assert not places[1] & places[2]
    assert [record.text for record in parts[0] if record.answer == "good"] == [m["text"] for m in moods(6)[::2]]
    with pytest.raises(DataError, match="lower --shots"):
        split(FewShot(shots=20), labelled)


def test_banking77_is_split_by_its_own_files() -> None:
    train, validation, test = split(FewShot(shots=5, validation_per_class=2, test_per_class=4), None)
    assert (len(train), len(validation), len(test)) == (385, 154, 308)
    assert not {r.place for r in train} & {r.place for r in validation}
    assert all("banking77_test" in record.place for record in test)
    assert all("banking77_train" in record.place for record in [*train, *validation])


def test_long_problems_are_left_out_and_counted_and_the_last_ones_held_out(tmp_path: Path) -> None:
    records = [*sums(20), {"prompt": "x" * 90, "completion": "y"}, *sums(4)]
    task = GSM8K(GSM8KSettings(gsm8k_held_out=4, gsm8k_max_length=40), write_jsonl(tmp_path / "a.jsonl", records))
    assert (len(task.train), len(task.validation), task.left_out) == (20, 4, 1)
    batch: Any = task.batches(0)[0]
    assert len(batch["input_ids"]) == 4
    model = task.model(0)
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    learnt = batch["labels"][:, 1:] != UNLEARNT
    whole = nn.functional.cross_entropy(logits[learnt], batch["labels"][:, 1:][learnt], reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), whole / batch["divisor"])
    with pytest.raises(DataError, match="raise --gsm8k-max-length"):
        GSM8K(GSM8KSettings(gsm8k_held_out=4, gsm8k_max_length=2), tmp_path / "a.jsonl")


# -- whole comparisons -----------------------------------------------------------------------------------------------


def test_compare_bone_on_own_labels_and_again_from_its_runs(labelled: Path, tmp_path: Path) -> None:
    settings = BoneComparison(**FEW, arms=("head", "lora", "miss", "bat", "add", "full"))
    job = CompareJob(data=labelled, out=tmp_path / "out")
    result = compare_bone(settings, job)
    assert [row.name for row in result.rows] == ["Bone bat", "head only", "LoRA", "MiSS", "Bone add", "full tuning"]
    assert [metric.name for metric in result.metrics] == [TRAINING, ACCURACY]
    rows = {row.name: row for row in result.rows}
    assert all(len(row.values[TRAINING]) == 2 for row in result.rows)
    assert all(0 <= value <= 1 for row in result.rows for value in row.values[ACCURACY])
    assert rows["Bone add"].values[TRAINING] == pytest.approx(rows["MiSS"].values[TRAINING], rel=1e-3)
    assert rows["Bone bat"].mean(TRAINING) < rows["head only"].mean(TRAINING)
    assert rows["Bone bat"].parameters == rows["Bone add"].parameters
    assert all((job.out / picture.file).stat().st_size > 1000 for picture in result.pictures)
    assert {check.statement.split(": ")[1] for check in result.checks} == {
        "the training loss of Bone bat is at or below that of LoRA",
        "the training loss of Bone add is at or below that of LoRA",
        "Bone add is what PEFT calls MiSS",
    }
    result.save(job.out)
    assert Result.load(job.out).rows == result.rows
    again = compare_bone(settings, replace(job, resume=True))
    assert again.rows == result.rows  # with the times of the first


def test_compare_triadaptlora_spends_one_budget_in_several_ways(labelled: Path, tmp_path: Path) -> None:
    job = CompareJob(data=labelled, out=tmp_path / "out")
    few = FEW | {"steps": 40, "seeds": 1, "lrs": (1e-2,)}
    result = compare_triadaptlora(TriAdaptComparison(**few, arms=("linear", "random", "uniform", "adalora")), job)
    (spent,) = [check for check in result.checks if "budget" in check.statement]
    assert spent.passed
    assert "8 x 4 = 32 ranks" in spent.statement
    assert [picture.file for picture in result.pictures][-1] == "banking77-ranks.svg"
    rows = {row.name: row for row in result.rows}
    assert rows["TriAdaptLoRA"].kind == "system"
    assert rows["random growth"].kind == rows["uniform growth"].kind == "ablation"
    head = 2 * 33
    assert rows["uniform growth"].parameters == head + 4 * (8 * 64 + 8 * 9)


def test_a_language_task_is_compared_by_its_validation_loss(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "sums.jsonl", sums(30))
    settings = BoneComparison(
        gsm8k_arms=("frozen", "lora"), gsm8k_steps=9, gsm8k_pilot_steps=3, gsm8k_seeds=2, gsm8k_lrs=(1e-3, 1e-2),
        gsm8k_held_out=5,
    )  # fmt: skip
    result = compare_bone(settings, CompareJob(data=data, out=tmp_path / "out"))
    assert [metric.name for metric in result.metrics] == [VALIDATION]
    frozen, lora = result.rows
    assert frozen.values[VALIDATION][0] == pytest.approx(frozen.values[VALIDATION][1])
    assert lora.mean(VALIDATION) < frozen.mean(VALIDATION)
    assert result.tables[0].columns == ["method", "step 3", "step 6", "step 9"]
    assert all((tmp_path / "out" / picture.file).stat().st_size > 1000 for picture in result.pictures)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"shots": 0}, "shots must be positive, got 0"),
        ({"lrs": ()}, "lrs is empty"),
        ({"lrs": (1e-3, -1.0)}, "lrs must be positive"),
        ({"gsm8k_steps": -1}, "gsm8k_steps must be positive"),
        ({"arms": ()}, "arms is empty"),
    ],
)
def test_flags_that_mean_nothing_are_refused(flag: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoneComparison(**flag)
    with pytest.raises(ValueError, match="seeds must be positive"):
        TriAdaptComparison(seeds=0)
    with pytest.raises(ValueError, match="gsm8k_held_out must be positive"):
        GSM8KSettings(gsm8k_held_out=0)


# -- controls and checks ---------------------------------------------------------------------------------------------


def test_controls_grow_as_many_layers_as_importance_does_at_every_step() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    traces: dict[str, list[int]] = {}
    chosen: dict[str, list[list[str]]] = {}
    for kind in (RankAllocator, RandomGrowth, UniformGrowth):
        torch.manual_seed(0)
        model = TextClassifier(BertModel(config, add_pooling_layer=False), 2)
        arm = arms.triadapt(["query", "value"], kind.__name__, "ablation", "linear", kind, "")
        steering = arm.steer(arm.adapt(model, 40), 40, 0)  # pyright: ignore[reportOptionalCall]
        sums_of_ranks = []
        for step in range(1, 41):
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.requires_grad:
                        weight.add_(0.01 * torch.randn_like(weight))
            steering.callback(model, step)
            ranks = steering.ranks()  # pyright: ignore[reportOptionalCall]
            sums_of_ranks.append(sum(ranks.values()))
            if kind is UniformGrowth:
                assert max(ranks.values()) - min(ranks.values()) <= 1
        traces[kind.__name__] = sums_of_ranks
        chosen[kind.__name__] = [event.grown for event in steering.callback.history]  # pyright: ignore
    assert traces["RankAllocator"] == traces["RandomGrowth"] == traces["UniformGrowth"]
    assert traces["RankAllocator"][-1] == 8 * 6
    assert chosen["RankAllocator"] != chosen["RandomGrowth"]


def test_a_check_compares_means_and_counts_seeds(labelled: Path) -> None:
    task = Banking(FewShot(**FEW), labelled)
    runs = {
        name: [
            Run(name, 1e-3, seed, 20, [loss] * 20, [(20, loss)], {ACCURACY: 0.5}) for seed, loss in enumerate(losses)
        ]
        for name, losses in {"ours": (1.0, 2.0), "theirs": (1.5, 1.9), "broken": (1.0, math.nan)}.items()
    }
    found = Study(task, [Arm(name, "baseline", lambda model, steps: model) for name in runs], {}, runs)
    (check,) = at_or_below(found, "ours", "theirs")
    assert check.passed
    assert check.figures == "1.5000 against 1.7000 (-0.2000); at or below with 1 of 2 seeds"
    assert not at_or_below(found, "theirs", "ours")[0].passed
    assert not at_or_below(found, "broken", "ours")[0].passed  # NaN is not below
    assert at_or_below(found, "ours", "absent") == []


def test_the_full_presets_have_what_a_claim_about_accuracy_needs() -> None:
    for preset in (BONE_PRESETS["full"], TRIADAPT_PRESETS["full"]):
        assert preset.shots >= 40
        assert preset.steps >= 300
        assert preset.seeds == 3
        assert preset.test_per_class == 40
    assert set(triadapt_arms()) == set(TRIADAPT_PRESETS["full"].arms)
    assert set(banking_bone_arms()) == set(BONE_PRESETS["full"].arms)


@pytest.mark.slow
def test_the_quick_comparisons_run_on_the_real_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    short: dict[str, Any] = {"steps": 20, "seeds": 1, "lrs": (5e-3,), "test_per_class": 1}
    result = compare_bone(replace(BONE_PRESETS["quick"], **short), CompareJob(out=tmp_path / "bone"))
    losses = {row.name: row.mean(TRAINING) for row in result.rows}
    assert max(losses, key=lambda name: losses[name]) == "head only"
    result = compare_triadaptlora(replace(TRIADAPT_PRESETS["quick"], **short), CompareJob(out=tmp_path / "triadapt"))
    losses = {row.name: row.mean(TRAINING) for row in result.rows}
    assert max(losses, key=lambda name: losses[name]) == "head only"
    settings = BoneComparison(
        tasks=("gsm8k",), gsm8k_steps=3, gsm8k_pilot_steps=1, gsm8k_seeds=1, gsm8k_lrs=(1e-3,), gsm8k_held_out=4,
        gsm8k_batch_size=1, gsm8k_arms=("frozen", "bat"),
    )  # fmt: skip
    bat, frozen = compare_bone(settings, CompareJob(out=tmp_path / "gsm8k")).rows
    assert bat.mean(VALIDATION) < frozen.mean(VALIDATION)
