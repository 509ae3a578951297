"""Run a script of the tests in two processes of `torch.distributed.run`, and end such a script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch


def launch(script: Path, *arguments: str, timeout: float = 300, environment: Mapping[str, str] | None = None) -> None:
    """Both processes must end well; what they printed, a crash's stack too, is in the failure."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | dict(environment or {})
    done = subprocess.run(
        [*command, *arguments], timeout=timeout, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def end() -> None:
    """The last line of a script: leave together, and without the interpreter's teardown.

    A process that destroys its group while the other still sends, or while threads of gloo still run, may abort after
    all its work was done.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
