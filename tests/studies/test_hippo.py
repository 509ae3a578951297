"""The studies of HiPPO and S4: every protocol at a tiny size, and the laws of what states remember."""

from pathlib import Path

import numpy as np
import pytest
from studies.hippo import PROTOCOLS
from studies.hippo.memory import band_limited, delays, readout_error, reconstructions, systems
from studies.hippo.tasks import part
from studies.results import section
from studies.study import Job, Protocol

from linmap.errors import DataError
from linmap.sequence.hippo import discretize
from protocols import check_goes_on

SLOW = ("memory", "pixels", "pixels-784")


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(p, marks=pytest.mark.slow if p.name in ("memory", "pixels", "pixels-784") else ())
        for p in PROTOCOLS
    ],
    ids=lambda protocol: protocol.name,
)
def test_every_protocol_runs(protocol: Protocol, tmp_path: Path) -> None:
    job = Job(tmp_path, range(1), tiny=True)
    try:
        found = protocol.run(job)
    except DataError as error:
        pytest.skip(str(error))
    assert found.checks
    for picture in found.pictures:
        assert (tmp_path / picture.file).read_text().startswith("<?xml")
    text = section(protocol, found, "today", tmp_path)
    assert all(table.title in text for table in found.tables)
    check_goes_on(protocol, job, found)


def test_the_digits_are_divided_as_published() -> None:
    task = part("mnist-small", tiny=False).data
    assert (len(task.train), len(task.validation), len(task.test)) == (2250, 250, 500)


@pytest.mark.slow
def test_the_published_small_setting_and_the_timescale(tmp_path: Path) -> None:
    """S4D-Lin on 6,000 pixel sequences: at least .83 in six epochs; with a timescale far too long, near chance."""
    protocol = next(protocol for protocol in PROTOCOLS if protocol.name == "pixels")
    try:
        found = protocol.run(Job(tmp_path, range(1)))
    except DataError as error:
        pytest.skip(str(error))
    assert all(check.passed for check in found.checks), [check for check in found.checks if not check.passed]


def test_the_delay_table_is_that_of_the_timescale_rule() -> None:
    found = delays(seed=1)
    assert found["LegT"][2] < -5
    assert found["LegT"][4] < -3
    assert found["LegS"][2] < -6
    assert found["LegS"][4] > -0.5
    assert -3.5 < found["FouT"][2] < -2
    for name in ("S4D-Real", "random", "LegT, dt ten times too small", "LegT, dt ten times too large"):
        assert found[name][2] > -0.5


def test_a_perfect_memory_has_no_readout_error() -> None:
    rng = np.random.default_rng(0)
    u = np.stack([band_limited(4000, 20, rng) for _ in range(3)])
    assert u[:, 0].max() == 0
    np.testing.assert_allclose(u.std(1), 1)
    spectrum = np.abs(np.fft.rfft(u))
    assert spectrum[:, 21:].max() < 1e-8 * spectrum.max()
    late = np.roll(u, 500, 1)[..., None]
    assert readout_error(late, u) < -10
    assert readout_error(rng.normal(size=late.shape), u) > -0.1
    A, B, dt = systems(0)["LegT"]
    assert discretize(A, B, dt)[0].shape == (64, 64)


def test_more_numbers_keep_more_of_the_past() -> None:
    found = {(r.signal, r.method, r.N): r.error for r in reconstructions((8, 32), seed=0)}
    for (signal, method, N), error in found.items():
        if N == 32 and signal.startswith("white"):
            assert error < found[signal, method, 8] / 2
    assert found["white up to 2 Hz", "LegS, all of the past", 32] < 0.05
