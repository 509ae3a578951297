"""Bone: its modes on sentences and on worked answers, beside what PEFT has, with equally many parameters."""

from __future__ import annotations

from functools import partial

from peft import MissConfig

from linmap.data import find
from linmap.experiment import Check, Runs
from linmap.recipes.bone.compare import SIZES, bone
from linmap.recipes.finetuning.arms import FULL, Way, adapters, lora, untouched_model
from linmap.recipes.finetuning.flags import Completions, Labelled
from linmap.recipes.finetuning.tasks import LOSS, TRAINING, Task, completion_task, documents_of
from studies.study import Findings, Job, Protocol
from studies.texts import LARGE, SMALL, TINY, TRAIN, agree, at_or_below, banking, compared, validation_at_steps

GSM8K = "bone/gsm8k_train2000.jsonl.gz"
WORKED = Completions(steps=300, pilot_steps=100, rates=(3e-4, 1e-3, 3e-3))
HELD_OUT = 200  # problems at the end of the file


def ways_of(task: Task) -> list[Way]:
    """All modes, LoRA and its kin, and PEFT's MiSS; LoRA's alpha is 2 r, PiSSA's is r."""
    r = SIZES[task.kind]
    miss = partial(MissConfig, r=r["add"], target_modules=task.targets)
    return [
        *(bone(task, mode, r[mode]) for mode in ("bat", "bat-row", "add")),
        *([bone(task, "mini", 64, 96)] if task.classes else []),
        untouched_model(task),
        lora(task, r["lora"], 2 * r["lora"]),
        lora(task, r["lora"], 2 * r["lora"], "rsLoRA", ", scaled by 1/sqrt(r)", use_rslora=True),
        lora(task, r["lora"], r["lora"], "PiSSA", ", principal components trained", init_lora_weights="pissa"),
        adapters("MiSS", "baseline", miss, f"PEFT, r = {r['add']}"),
        *([FULL] if task.classes else []),
    ]


def checks(loss: str, runs: Runs) -> list[Check]:
    """What the paper says of the modes, and that ours are the published ones."""
    modes = [check for mode in ("bat", "bat-row", "add") for check in at_or_below(runs, loss, f"Bone {mode}", "LoRA")]
    return [*modes, *agree(runs, loss, "Bone add", "MiSS", within=0.01)]


def sentences(settings: Labelled, job: Job) -> Findings:
    """Intents of bank customers."""
    settings = TINY if job.tiny else settings
    task = banking(settings, job.tiny)
    return compared(job, task, ways_of(task), settings, TRAIN, partial(checks, TRAINING))


def gsm8k(job: Job) -> Findings:
    """Grade-school problems and SmolLM2-135M: the loss on the last problems' answers, which also chooses rates."""
    settings = Completions(steps=2, pilot_steps=1, batch_size=1, rates=(1e-3,)) if job.tiny else WORKED
    documents = documents_of(find(GSM8K, "Reinstall linmap."))
    training, held_out = documents[:-HELD_OUT], documents[-HELD_OUT:]
    if job.tiny:
        training, held_out = (sorted(part, key=lambda document: len(document.ids))[:4] for part in (training, held_out))
    task = completion_task("GSM8K", [training, held_out, held_out], settings)
    return compared(job, task, ways_of(task), settings, GSM8K, partial(checks, LOSS), validation_at_steps)


PROTOCOLS = [
    Protocol("few-sentences", "Does Bone learn faster than LoRA at equal parameters, from five sentences a class?",
             partial(sentences, SMALL)),
    Protocol("more-sentences", "And from 40 sentences a class in 300 steps, where accuracies can differ?",
             partial(sentences, LARGE)),
    Protocol("gsm8k", "Does Bone end at a lower loss than LoRA on worked answers, with a language model?", gsm8k),
]  # fmt: skip
