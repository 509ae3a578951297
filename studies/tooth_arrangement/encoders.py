"""What reading the teeth as meshes brings over points and moments: the same diffusion with other encoders."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from linmap.experiment import Arm, Check, Experiment, Metric, Outcome, Part, Trial
from linmap.recipes.tooth_arrangement import predictors
from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator, ToothPairs
from linmap.shapes.tooth_arrangement.meshes import ToothMeshes
from studies.study import Findings, Job, table_of

MOMENTS, MESH, PRETRAINED = "moments", "mesh", "mesh, pre-trained"
ENCODERS: dict[str, dict[str, Any]] = {
    MOMENTS: {},
    MESH: {"encoder": "mesh"},
    PRETRAINED: {"encoder": "mesh", "pretrain_epochs": 5},
}
FULL: dict[str, Any] = {
    "points": 64,
    "width": 96,
    "blocks": 3,
    "epochs": 6,
    "batch_size": 10,
    "lr": 2e-3,
    "patches": 16,
}
TINY: dict[str, Any] = {"points": 8, "width": 8, "blocks": 1, "epochs": 1, "batch_size": 6, "patches": 4}
CASES, TESTED, SAMPLES = 300, 30, 4
METRICS = [Metric("ADD, one sample", "lower", "mm", 3), Metric(f"ADD, mean of {SAMPLES}", "lower", "mm", 3),
           Metric("ME_rot, one sample", "lower", "°", 2), Metric("unmoved", "lower", "mm", 3)]  # fmt: skip


def encoders(job: Job) -> Findings:
    """Train on simulated pairs with template meshes; test on patients whose teeth are remeshed one by one."""
    options, cases, tested = (TINY, 8, 1) if job.tiny else (FULL, CASES, TESTED)
    simulator = DentitionSimulator(points=options["points"], templates=1 if job.tiny else 4)
    train = simulator.sample(cases, generator=_seeded(1), patches=options["patches"])
    test = _scanned(simulator, tested, options["patches"])
    arms = [Arm(name, "baseline" if name == MOMENTS else "system", partial(_trained, options | own), own)
            for name, own in ENCODERS.items()]  # fmt: skip
    experiment = Experiment("tooth_arrangement encoders", job.out / "runs", options | {"cases": cases}, job.resume)
    runs = experiment.run(arms, [Part("", (train, test))], job.seeds)
    found = {name: runs.mean(name, METRICS[1].name) for name in ENCODERS}
    reading = min(MESH, PRETRAINED, key=lambda name: found[name])
    check = Check("reading meshes lowers ADD", found[reading] < found[MOMENTS],
                  ", ".join(f"{name} {value:.3f} mm" for name, value in found.items()),
                  "moments and a small PointNet tell as much of a tooth in so few steps; take the default",
                  runs.differ(reading, MOMENTS, METRICS[1].name))  # fmt: skip
    said = (
        f"{cases} simulated pairs, {tested} test patients whose teeth were remeshed one by one; {options['points']} "
        f"points and {options['patches']} patches of 64 faces a tooth, width {options['width']}, {options['epochs']} "
        f"epochs, batches of {options['batch_size']}; pre-training: {ENCODERS[PRETRAINED]['pretrain_epochs']} epochs "
        f"on at most 1,000 teeth; {len(job.seeds)} seeds"
    )
    return Findings(said, [table_of("Encoders", runs.rows(METRICS), METRICS)], [check])


def _scanned(simulator: DentitionSimulator, count: int, patches: int) -> ToothPairs:
    """Pairs whose meshes are those of scans: another mesh for every tooth, where the training has templates."""
    sets = [before for before, _ in simulator.sample_sets(count, generator=_seeded(2))]
    pairs = simulator.sample(count, generator=_seeded(2))  # the same patients
    meshes = ToothMeshes.of(sets, patches).to(torch.float32)
    return ToothPairs(
        pairs.before, pairs.after, pairs.centroid, pairs.after_centroid, pairs.rotation, pairs.mask, meshes
    )


def _trained(options: Mapping[str, Any], trial: Trial) -> Outcome:
    train, test = trial.data
    model = TADPM(**options, random_state=trial.seed).fit(train, checkpoints=trial.folder, resume=True)
    drawn = predictors.sampled(model, test, SAMPLES, trial.seed)
    one = predictors.measured(test, drawn[0])
    mean, still = (
        float(predictors.errors(y, test).mean()) for y in (predictors.mean_of(drawn), predictors.identity(test))
    )
    values = dict(zip((metric.name for metric in METRICS), (one["ADD"], mean, one["ME_rot"], still), strict=True))
    history = model.history_
    assert history is not None
    return Outcome(values, sum(p.numel() for p in model.model_.parameters()), seconds=history.seconds)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
