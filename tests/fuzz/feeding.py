"""One target, fed for so many seconds in a process of its own: `feeding.py TARGET SECONDS FOLDER guided|drawn`.

FOLDER then holds `fed.json` (inputs, seconds, and how each kind of failure ended) and the inputs that failed. It is
written all the while, and `current` is the input that is fed: nothing is lost if that one ends the process.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from fuzz.guided import guide
from fuzz.targets import Target, feed, mutated
from fuzz.test_fuzz import check

LONGEST = 30
"""Seconds of the processor that one input may take."""
ASLEEP = 300
"""Seconds that it may take at all, on a machine that is busy otherwise."""
MEMORY = 8 << 30
"""Bytes of the process's addresses."""


class Fed:
    """What came of the inputs of a target.

    Parameters
    ----------
    target
        What is fed.
    folder
        Where that is kept.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.inputs, self.failures = 0, dict[str, str]()
        self.begun, self.written = time.process_time(), time.monotonic()
        faulthandler.register(signal.SIGPROF, chain=True)  # tells where it is, and ends the process

    @property
    def seconds(self) -> float:
        """Of the processor, since the first input."""
        return time.process_time() - self.begun

    def __call__(self, data: bytes) -> None:
        """Feed an input, and keep it if it is the first that ends in such an error."""
        (self.folder / "current").write_bytes(data)
        faulthandler.dump_traceback_later(ASLEEP, exit=True)
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        try:
            check(self.target, data, self.folder / "fed")
        except Exception as error:
            kind = kind_of(error)
            if kind not in self.failures:
                self.failures[kind] = name = f"failed-{len(self.failures)}"
                (self.folder / name).write_bytes(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
        self.inputs += 1
        if time.monotonic() - self.written > 1:
            self.write()

    def write(self) -> None:
        """Bring `fed.json` up to date."""
        self.written = time.monotonic()
        told = {"inputs": self.inputs, "seconds": self.seconds, "failures": self.failures}
        (self.folder / "fed.json").write_text(json.dumps(told))


def kind_of(error: BaseException) -> str:
    """The type of an error and where it was raised: two of one kind are one fault, most likely."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/linmap/" in frame.filename] or frames
    return f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def draw(target: Target, fed: Callable[[bytes], None], seconds: float) -> None:
    """Feed inputs that are changed at random, or drawn by the target's grammar."""
    rng, end = random.Random(), time.monotonic() + seconds
    while time.monotonic() < end:
        fed(mutated(target, rng))


def main(name: str, seconds: float, folder: Path, way: str) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if way == "guided":
        guide(name, int(seconds), folder, lambda target: Fed(target, folder))
    from fuzz.targets import targets

    target = targets()[name]
    for seed in target.seeds:  # readers import what they need
        feed(target, seed, folder / "fed")
    fed = Fed(target, folder)
    draw(target, fed, seconds)
    fed.write()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
