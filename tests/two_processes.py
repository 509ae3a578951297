"""Run a script of the tests in two processes that PyTorch joins, and end such a script."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from fresh import Fresh


def launch(
    script: Path,
    *arguments: str,
    timeout: float = 300,
    environment: Mapping[str, str] | None = None,
    torchrun: bool = False,
) -> None:
    """Both processes must end well; what they printed, a crash's stack too, is in the failure.

    They are started by torchrun, or with the variables that it sets, which spares a third process.
    """
    variables = {"OMP_NUM_THREADS": "1", **(environment or {})}
    if torchrun:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        words, variables = [*launcher, str(script), *arguments], os.environ | variables
        done = subprocess.run(words, timeout=timeout, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    variables |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    both = [Fresh(script, *arguments, environment=variables | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    end = time.monotonic() + timeout
    while time.monotonic() < end and any(one.poll() is None for one in both) and not any(one.poll() for one in both):
        time.sleep(0.02)
    codes = [one.poll() for one in both]
    for one in both:
        one.kill()
    assert codes == [0, 0], "\n".join(one.stderr for one in both)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


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
