"""Fine-tuning a pretrained model from the command line: from a file of texts to a folder that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peft import PeftConfig

from linmap.adapt.finetuning import DEFAULT_MODELS, fine_tune
from linmap.adapt.finetuning.training import Penalty
from linmap.artifacts import check_free, read_config
from linmap.compress.registration import METHOD
from linmap.data import find
from linmap.data.models import config_of, model_folder
from linmap.data.text import Task, read_training_texts
from linmap.errors import ArtifactError, UsageError
from linmap.recipes.finetuning.flags import EMBEDDED, FineTuning, Tuning
from linmap.recipes.job import FitJob

NO_WEIGHT: Mapping[str, float] = MappingProxyType({})


def fit_texts(
    settings: FineTuning,
    job: FitJob,
    embedded: Task,
    adapter: Callable[[int], PeftConfig],
    penalty: Penalty | None = None,
    weight: Mapping[str, float] = NO_WEIGHT,
) -> dict[str, Any]:
    """Train an adapter on a file, or on the embedded data of a task, and save it; with --resume, go on.

    `weight` is the flag that weighs the penalty, with its value.
    """
    training = settings.training(job.seed)  # refuses what does not go together before any work
    check_free(job.out)
    path = job.data or find(EMBEDDED[embedded], "Reinstall linmap.")
    texts = read_training_texts(path, None if settings.task == "auto" else settings.task)
    name = settings.model or DEFAULT_MODELS[texts.task]
    check_adaptable(model_folder(name), name)
    tuned = fine_tune(texts, adapter, training, **settings.options(Tuning), penalty=penalty, settings=weight,
                      checkpoints=job.out / "training", resume=job.resume)  # fmt: skip
    tuned.save(job.out, asdict(settings), job.seed)
    summary = {"artifact": str(job.out), **tuned.report}
    return summary | ({"merged": str(tuned.write_merged(job.out / "merged"))} if settings.merge else {})


def check_adaptable(folder: Path, name: str) -> None:
    """Refuse a model that flatquant quantised: its layers keep no weight that an adapter could change.

    Raises
    ------
    UsageError
        With the model that it was made from, where its run says so.
    """
    config = config_of(folder)
    if (config.get("quantization_config") or {}).get("quant_method") != METHOD:
        return
    try:
        original = f": {read_config(folder)['config']['result']['model']}"
    except (ArtifactError, KeyError, TypeError):
        original = ""
    raise UsageError(f"--model {name} is quantised by flatquant, and only the original can be adapted{original}.")
