"""Fine-tuning in Python: train, use, save, load."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from linmap.adapt import BoneConfig, TriAdaptLoraConfig
from linmap.adapt.finetuning import FineTuned, fine_tune
from linmap.data.text import read_prompts, read_training_texts
from linmap.errors import ArgumentError, ArgumentTypeError, ArtifactError
from linmap.training import TrainingConfig
from recipes.finetuning.tiny import moods, save_encoder, save_llama, sums, write_jsonl

TRAINING = TrainingConfig(epochs=2, batch_size=4, lr=2e-2, optimizer="adamw")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {"language": str(save_llama(folder / "llama")), "classification": str(save_encoder(folder / "encoder"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "language": write_jsonl(folder / "sums.jsonl", sums(12)),
        "classification": write_jsonl(folder / "moods.jsonl", moods(12)),
    }


def bone() -> BoneConfig:
    return BoneConfig(r=8, mode="add")


def test_a_language_model_completes_the_same_before_and_after_it_was_saved(
    models: dict[str, str], data: dict[str, Path], tmp_path: Path
) -> None:
    steps: list[int] = []
    tuned = fine_tune(
        data["language"], bone(), TRAINING, model=models["language"], callbacks=[lambda _, step: steps.append(step)]
    )
    assert steps == list(range(1, tuned.report["steps"] + 1))
    assert tuned.method == "bone"
    records = read_prompts(data["language"], "language")[:3]
    written = tuned.complete(records, max_new_tokens=4)
    tuned.save(tmp_path, seed=3)
    again = FineTuned.load(tmp_path)
    assert again.complete(records, max_new_tokens=4, batch_size=1) == written
    assert (again.labels, again.base, again.report) == ([], models["language"], tuned.report)
    with pytest.raises(ArgumentError, match="call complete"):
        again.classify(records)


def test_a_classifier_answers_with_one_of_its_classes(
    models: dict[str, str], data: dict[str, Path], tmp_path: Path
) -> None:
    texts = read_training_texts(data["classification"])
    tuned = fine_tune(texts, bone(), TRAINING, model=models["classification"], validation=0.0)
    records = read_prompts(data["classification"], "classification")
    answers = tuned.classify(records)
    assert {name for name, _ in answers} <= {"good", "bad"} == set(tuned.labels)
    assert all(0.5 <= probability <= 1 for _, probability in answers)
    tuned.save(tmp_path)
    for one, other in zip(FineTuned.load(tmp_path).classify(records, batch_size=5), answers, strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], abs=1e-5)
    with pytest.raises(ArgumentError, match="call classify"):
        tuned.complete(records)


def test_an_adapter_is_told_the_steps_of_the_run_and_its_ranks_grow(
    models: dict[str, str], data: dict[str, Path], tmp_path: Path
) -> None:
    told: list[int] = []

    def config(steps: int) -> TriAdaptLoraConfig:
        told.append(steps)
        return TriAdaptLoraConfig(reference_rank=2, init_warmup=0, incre_interval=2, total_step=steps)

    tuned = fine_tune(data["language"], config, TRAINING, model=models["language"], validation=0.2)
    assert told == [tuned.report["steps"]] == [6]
    tuned.save(tmp_path)
    again = FineTuned.load(tmp_path)
    assert again.growth == tuned.growth
    assert sum(again.growth["ranks"].values()) > len(again.growth["ranks"])


def test_a_penalty_counts_in_training_and_not_in_what_is_reported(
    models: dict[str, str], data: dict[str, Path]
) -> None:
    def size(model: Any) -> torch.Tensor:
        return 1e3 * torch.stack([p.square().sum() for p in model.parameters() if p.requires_grad]).sum()

    free, held = (
        fine_tune(data["language"], bone(), TRAINING, model=models["language"], penalty=penalty)
        for penalty in (None, size)
    )
    norm = [
        sum(float(p.detach().square().sum()) for p in t.model.parameters() if p.requires_grad) for t in (free, held)
    ]
    assert norm[1] < norm[0] / 2
    assert held.report["validation_loss"] < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "max_length=1"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"warmup": -0.1}, "warmup=-0.1"),
        ({"head_lr": 0.0}, "head_lr=0.0 must be positive"),
    ],
)
def test_what_is_out_of_range_is_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        fine_tune("there-is-no-such-file.jsonl", bone(), **options)


def test_what_this_does_not_train_is_refused(models: dict[str, str], data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="BoneConfig, SaltConfig, TriAdaptLoraConfig, got a LoraConfig"):
        fine_tune(data["language"], LoraConfig(), model=models["language"])
    with pytest.raises(ArtifactError, match="not a saved run"):
        FineTuned.load(tmp_path)
