"""What the tests of all studies check in the same way."""

from pathlib import Path

from studies.study import Findings, Job, Protocol


def finished(folder: Path) -> dict[Path, int]:
    """The files of finished runs, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}


def check_goes_on(protocol: Protocol, job: Job, found: Findings) -> None:
    """A second call finds the same, and runs nothing again."""
    before = finished(job.out)
    again = protocol.run(job)
    assert (again.tables, again.checks) == (found.tables, found.checks)
    assert finished(job.out) == before
