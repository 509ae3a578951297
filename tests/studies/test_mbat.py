"""Every protocol of MBAT runs at a tiny size; and what the memory of a vector must be."""

from pathlib import Path

import numpy as np
import pytest
from studies.mbat import PROTOCOLS
from studies.mbat.memory import KINDS, bound
from studies.study import Job, Protocol

from linmap.experiment import Trial
from protocols import check_goes_on

CHECKS = {"patients": 3, "resources": 3, "countries": 3, "depth": 1, "capacity": 1, "decoding": 1}

SLOW = {"patients", "resources", "countries"}  # whose documents are large


@pytest.mark.parametrize(
    "protocol",
    [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in SLOW else []) for p in PROTOCOLS],
)
def test_a_protocol_runs_and_goes_on_from_what_is_done(protocol: Protocol, tmp_path: Path) -> None:
    job = Job(tmp_path, seeds=(0,), tiny=True)
    try:
        first = protocol.run(job)
    except FileNotFoundError as missing:
        pytest.skip(f"{protocol.name} needs {protocol.needs}: {missing}")
    assert len(first.checks) == CHECKS[protocol.name]
    assert first.tables
    check_goes_on(protocol, job, first)


def test_gaussian_binding_loses_what_orthogonal_binding_keeps(tmp_path: Path) -> None:
    levels, trials = np.arange(1, 9), [Trial(None, seed, None, False, tmp_path) for seed in range(8)]
    for kind in KINDS:
        found = [bound(kind, 256, len(levels))(trial).details for trial in trials]
        norms, cosines = (np.array([details[what] for details in found]) for what in ("norms", "cosines"))
        if kind != "Gaussian":
            np.testing.assert_allclose(norms, 1, atol=1e-12)
            np.testing.assert_allclose(cosines, 1, atol=1e-12)
        else:
            np.testing.assert_allclose(cosines.mean(0), 1 / np.sqrt(1 + levels), atol=0.06)
            np.testing.assert_allclose(norms.std(0, ddof=1), np.sqrt(levels / 512), rtol=0.8)
