"""One target under atheris, which changes inputs so that they reach new lines: `guided.py TARGET SECONDS FOLDER`.

Ends with 0 after so many seconds, and with another code at the first input that fails; it lies in FOLDER then.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz.targets import Target


def guide(name: str, seconds: int, folder: Path, feeder: Callable[[Target], Callable[[bytes], Any]]) -> None:
    """Let atheris choose what `feeder(target)` is called with; does not return."""
    atheris: Any = importlib.import_module("atheris")

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["linmap"]):
        from fuzz.targets import feed, targets

        target = targets()[name]
        for seed in target.seeds:  # readers import what they need
            feed(target, seed, folder / "fed")
    begun = folder / "begun"
    begun.mkdir(parents=True)
    for number, seed in enumerate(target.seeds):
        (begun / str(number)).write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-timeout=300", "-rss_limit_mb=6000", "-max_len=65536"]
    words = [sys.argv[0], *limits, "-print_final_stats=1", f"-artifact_prefix={folder}/", str(begun)]
    atheris.Setup(words, feeder(target))
    atheris.Fuzz()


def main(name: str, seconds: int, folder: Path) -> None:
    from fuzz.targets import feed

    guide(name, seconds, folder, lambda target: lambda data: feed(target, data, folder / "fed"))


if __name__ == "__main__":
    main(sys.argv[1], int(float(sys.argv[2])), Path(sys.argv[3]))
