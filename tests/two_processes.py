"""Run a script of the tests in two or more processes that PyTorch joins, and end such a script."""

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
    processes: int = 2,
) -> None:
    """All processes must end well; what they printed, a crash's stack too, is in the failure.

    They are started by torchrun, or with the variables that it sets, which spares a third process.
    """
    variables = {"OMP_NUM_THREADS": "1", **(environment or {})}
    if torchrun:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        words, variables = [*launcher, str(script), *arguments], os.environ | variables
        done = subprocess.run(words, timeout=timeout, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    count = str(processes)
    variables |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    all_ = [Fresh(script, *arguments, environment=variables | of_rank) for of_rank in own]
    end = time.monotonic() + timeout
    while time.monotonic() < end and any(one.poll() is None for one in all_) and not any(one.poll() for one in all_):
        time.sleep(0.02)
    codes = [one.poll() for one in all_]
    for one in all_:
        one.kill()
    assert codes == [0] * processes, "\n".join(one.stderr for one in all_)


def free_port() -> str:
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
