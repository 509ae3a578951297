"""One setting changed at a time, judged on clean training images that were set aside; the test file is not opened."""

from __future__ import annotations

from typing import Any

from linmap.data.image_warps import WarpRanges
from linmap.experiment import Arm, Check, Experiment, Part
from linmap.recipes.lie_decomposition.compare import CLEAN, Task, grouped
from studies.lie_decomposition.digits import for_choosing
from studies.lie_decomposition.robustness import SPLIT, options
from studies.study import Findings, Job, table_of

CHOSEN = "chosen"
CHANGES: dict[str, dict[str, Any]] = {
    "samples drawn anew at each step": {"deterministic": False},
    "lr 5e-4": {"lr": 5e-4},
    "lr 1e-3": {"lr": 1e-3},
    "lr 1e-2": {"lr": 1e-2},
    "4 samples": {"num_samples": 4},
    "12 samples": {"num_samples": 12},
    "12 channels": {"channels": 12},
    "radius 0.5": {"radius": 0.5},
    "raw angle": {"angle": "radians"},
    "dropout 0.3": {"dropout": 0.3},
}


def settings(job: Job) -> Findings:
    """SL(2) networks, 12 passes."""
    own = options(job.tiny)
    changes = dict(list(CHANGES.items())[:1]) if job.tiny else CHANGES
    arms: list[Arm] = [grouped("sl2", "system", own, name=CHOSEN)]
    arms += [grouped("sl2", "ablation", own | change, name=name) for name, change in changes.items()]
    data = for_choosing(job.tiny)
    experiment = Experiment("lie_decomposition settings", job.out / "runs", own | {"images": len(data.x)}, job.resume)
    runs = experiment.run(arms, [Part("", Task.of(data, WarpRanges(), SPLIT))], job.seeds)
    said = (
        f"SL(2) networks on {len(data.x)} clean digits, {own['epochs']} passes; accuracy on {len(data.x_test)} other "
        f"clean digits of the training file; {len(job.seeds)} seeds"
    )
    clean = runs.mean(CHOSEN, CLEAN.name)
    best = max(runs.mean(name, CLEAN.name) for name in changes)
    check = Check("no change makes it better by more than 1 point", best - clean <= 0.01,
                  f"{clean:.3f} chosen, {best:.3f} the best change", "a better setting was missed")  # fmt: skip
    return Findings(said, [table_of("Accuracy on clean images set aside", runs.rows([CLEAN]), [CLEAN])], [check])
