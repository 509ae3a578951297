"""Plans of whole meshes: contacts after ranking, stages, teeth that must not move, and the time of one folder."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch

from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Table, Trial
from linmap.recipes.tooth_arrangement.apply import propose
from linmap.recipes.tooth_arrangement.flags import Apply
from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator, slot_of
from linmap.shapes.tooth_arrangement.cases import load_case
from studies.study import Findings, Job
from studies.tooth_arrangement.tasks import FULL, TINY

COLLISION, SHARE, SECONDS = 0.2, 0.9, 30.0
FIXED = (16, 26)
CASES = 30


def plans(job: Job) -> Findings:
    """Train once, then plan simulated cases as the command line does, one of them from a folder of STL files."""
    cases = 1 if job.tiny else CASES
    experiment = Experiment("tooth_arrangement plans", job.out / "runs", {"cases": cases}, job.resume)
    arms = [Arm("diffusion", "system", _planned)]
    run = experiment.run(arms, [Part("meshes", (job.tiny, cases, job.out))], [min(job.seeds)]).of("diffusion")[0]
    found, seconds = run.details["plans"], run.values["seconds"]
    free = run.values["without contact"]
    ways = sum(not plan["collisions"] for plan in found)
    rows: list[list[str | float | int]] = [
        ["cases whose first plan has no contact over 0.2 mm", f"{100 * free:.0f} %"],
        ["of all proposals", f"{100 * run.values['all without contact']:.0f} %"],
        ["deepest contact of the first plan, mean and worst (mm)",
         f"{np.mean([plan['contact'] for plan in found]):.3f}, {max(plan['contact'] for plan in found):.3f}"],
        ["stages, median and most", f"{np.median([plan['stages'] for plan in found]):.0f}, "
         f"{max(plan['stages'] for plan in found)}"],
        ["first plans without a collision on the way", f"{ways} of {len(found)}"],
        ["one folder of STL files: read, 8 proposals, stages (s)", f"{seconds:.1f}"],
    ]  # fmt: skip
    checks = [
        Check(f"the first plan is free of contacts over {COLLISION} mm in {SHARE:.0%} of the cases", free >= SHARE,
              f"{free:.0%} of {len(found)}", "teeth are proposed inside each other, deeper than shifts can mend"),
        Check("a fixed tooth does not move, exactly", bool(run.values["fixed moved"] == 0),
              f"largest change {run.values['fixed moved']:g}", "the plan cannot be kept by a clinician"),
        Check(f"a folder of 28 teeth is planned in {SECONDS:.0f} s", seconds < SECONDS, f"{seconds:.1f} s",
              "somebody waits longer than a chair-side plan bears"),
    ]  # fmt: skip
    return Findings(
        f"{cases} simulated cases as whole meshes (1,500 vertices a tooth); one is read from STL, with teeth "
        f"{FIXED[0]} and {FIXED[1]} fixed", [Table("Plans", ["what", "found"], rows)], checks,
    )  # fmt: skip


def _planned(trial: Trial) -> Outcome:
    """The model of the small protocol, and plans by it."""
    tiny, cases, folder = trial.data
    numbers = TINY if tiny else FULL
    simulator = DentitionSimulator(points=numbers.points)
    model = TADPM(**numbers.options(random_state=trial.seed))
    pairs = simulator.sample(numbers.cases, 1.0, torch.Generator().manual_seed(trial.seed))
    model.fit(pairs, checkpoints=trial.folder, resume=True)
    sets = simulator.sample_sets(cases, 1.0, torch.Generator().manual_seed(10_000 + trial.seed))
    settings = Apply(proposals=1 if tiny else 8)
    found: list[dict[str, Any]] = []
    every: list[bool] = []
    for before, _ in sets:
        proposals = propose(model, before, settings, trial.seed)
        every += [plan.collision <= COLLISION for plan in proposals]
        first = proposals[0]
        found.append({"contact": first.collision, "stages": first.stages.count,
                      "collisions": len(first.stages.collisions)})  # fmt: skip
    whole = next((before for before, _ in sets if len(before.meshes) == 28), sets[0][0])
    whole.export(folder / "case")
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teeth = load_case(folder / "case")
    fixed = tuple(fdi for fdi in FIXED if fdi in teeth.meshes)
    proposals = propose(model, teeth, Apply(proposals=settings.proposals, fixed=tuple(map(str, fixed))), trial.seed)
    seconds = time.perf_counter() - start
    slots = [slot_of(fdi) for fdi in fixed]
    moved = max(float(np.abs(plan.stages.motions[:, slots] - np.eye(4)).max()) for plan in proposals)
    values = {
        "without contact": float(np.mean([plan["contact"] <= COLLISION for plan in found])),
        "all without contact": float(np.mean(every)), "seconds": seconds, "fixed moved": moved,
    }  # fmt: skip
    return Outcome(values, details={"plans": found})
