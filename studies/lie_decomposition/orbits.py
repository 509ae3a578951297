"""The change of a trained network's logits along orbits, with other numbers of samples than it was trained with."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from linmap.experiment import Check, Table, draw_all
from linmap.recipes.lie_decomposition.pictures import draw_errors, errors_of
from linmap.recipes.lie_decomposition.pictures import orbits as all_orbits
from linmap.shapes.lie_decomposition import LieClassifier, LieResNet
from studies.lie_decomposition.digits import for_testing
from studies.lie_decomposition.robustness import options
from studies.study import Findings, Job

COUNTS = (4, 8, 16, 32)
SHOWN = 16  # images


def orbits(job: Job) -> Findings:
    """One SL(2) network, trained with samples that are drawn anew; then fixed samples of each number."""
    data, own = for_testing(job.tiny), options(job.tiny)
    counts = COUNTS[:2] if job.tiny else COUNTS
    own |= {"deterministic": False, "radius": 0.2}
    classifier = LieClassifier("sl2", **own, random_state=job.seeds[0])
    classifier.fit(data.canvas.seen(data.x), data.y, checkpoints=job.out / "training", resume=job.resume)
    x = data.canvas.seen(data.x_test[:SHOWN])
    found: dict[str, dict[str, Any]] = {}
    for count in counts:
        errors = [errors_of(partial(net), x) for net in networks(classifier, count, job.seeds)]
        found[f"N = {count}"] = {label: np.mean([one[label] for one in errors], 0) for label in all_orbits()}
    (turning, (angles, _)), (stretching, (stretches, _)) = all_orbits().items()
    rows: list[list[str | float | int]] = [
        [name, f"{np.mean(along[turning]):.3f}", *(f"{along[stretching][i]:.3f}" for i in (2, 4, 8, 12))]
        for name, along in found.items()
    ]
    columns = ["samples", "rotations", *(f"stretch {stretches[i]:.1f}" for i in (2, 4, 8, 12))]
    drawn, notes = draw_all([(job.out / "orbits.svg", partial(draw_errors, found))])
    first, last = (np.mean(found[f"N = {count}"][turning]) for count in (counts[0], counts[-1]))
    check = Check("more samples make the logits more invariant to rotations", bool(last < first),
                  f"{first:.3f} with {counts[0]}, {last:.3f} with {counts[-1]}",
                  "the error does not come from the number of samples")  # fmt: skip
    said = (
        f"An SL(2) network on 2,000 digits, {own['epochs']} passes, samples within {own['radius']} drawn anew at each "
        f"step; |z(moved) - z| / |z| of {len(x)} test digits, {len(angles)} angles, mean over {len(job.seeds)} sets of "
        "samples"
    )
    return Findings(said, [Table("Change of the logits", columns, rows)], [check], notes, drawn)


def networks(classifier: LieClassifier, count: int, seeds: Any) -> list[LieResNet]:
    """The trained weights with fixed samples of another number."""
    made = []
    for seed in seeds:
        other = LieClassifier(**classifier.get_params() | {"num_samples": count, "deterministic": True,
                                                           "random_state": seed})  # fmt: skip
        other.classes_, other._shape = classifier.classes_, classifier._shape
        net = other.build()
        net.load_state_dict(classifier.model_.state_dict())
        made.append(net.eval())
    return made
