"""The change of a network's logits along orbits by number of samples: what sampling costs, before any training."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linmap.experiment import Check, Table, draw_all
from linmap.recipes.lie_decomposition.pictures import draw_errors, errors_of
from linmap.recipes.lie_decomposition.pictures import orbits as all_orbits
from linmap.shapes.lie_decomposition import GroupSamples, HaarSampler, LieResNet, SLn
from studies.lie_decomposition.digits import for_testing
from studies.study import Findings, Job

COUNTS = (4, 8, 16, 32, 64)
RADIUS = 0.3
SHOWN = 8  # images


def orbits(job: Job) -> Findings:
    """SL(2) networks with their initial weights, and samples by the Haar measure."""
    data, counts = for_testing(job.tiny), COUNTS[:2] if job.tiny else COUNTS
    x = data.canvas.seen(data.x_test[: 2 if job.tiny else SHOWN])
    found: dict[str, dict[str, Any]] = {}
    for count in counts:
        errors = [errors_of(network(count, seed), x) for seed in job.seeds]
        found[f"N = {count}"] = {label: np.mean([one[label] for one in errors], 0) for label in all_orbits()}
    (turning, (angles, _)), (stretching, (stretches, _)) = all_orbits().items()
    shown = (2, 4, 6, 8, 12)
    rows: list[list[str | float | int]] = [
        [name, f"{np.mean(along[turning]):.3f}", *(f"{along[stretching][i]:.3f}" for i in shown)]
        for name, along in found.items()
    ]
    columns = ["samples", "rotations, mean", *(f"stretch {stretches[i]:.1f}" for i in shown)]
    drawn, notes = draw_all([(job.out / "orbits.svg", partial(draw_errors, found))])
    first, last = (np.mean(found[f"N = {count}"][turning]) for count in (counts[0], counts[-1]))
    check = Check("more samples make the logits more invariant to rotations", bool(last < first),
                  f"{first:.3f} with {counts[0]}, {last:.3f} with {counts[-1]}",
                  "the error does not come from the number of samples")  # fmt: skip
    said = (
        f"Untrained SL(2) networks of 8 channels, samples within the radius {RADIUS}; |z(moved) - z| / |z| of {len(x)} "
        f"test digits, over {len(angles)} angles and four axes of stretches, mean over {len(job.seeds)} seeds"
    )
    return Findings(said, [Table("Change of the logits", columns, rows)], [check], notes, drawn)


def network(count: int, seed: int) -> Any:
    """Logits by a network whose weights depend on the seed alone, on so many samples."""
    group = SLn(2)
    net = LieResNet(group, channels=8, hidden=32, head=32, dropout=0.0, separable=True, early_pool=True,
                    generator=torch.Generator().manual_seed(seed)).eval()  # fmt: skip
    samples = HaarSampler(group, RADIUS).sample(count, torch.Generator().manual_seed(seed))
    return partial(_logits, net, samples)


def _logits(net: LieResNet, samples: GroupSamples, x: Tensor) -> Tensor:
    return net(x, samples)
