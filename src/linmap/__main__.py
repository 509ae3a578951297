"""The program `linmap`, which `python -m linmap` is too: what holds before the command line is imported.

A standard stream that is closed leads nowhere, so that no file of the command gets its number, into which libraries
print. What cannot be written on standard error is left out, and the work goes on.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130


class Notes(io.TextIOWrapper):
    """Standard error, whose reader may go, or whose disk may be full."""

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def main() -> int:
    """Run one command and return its exit code."""
    _open_streams()
    try:
        from linmap.cli import main as command_line

        return command_line()
    except KeyboardInterrupt:  # while it is imported, or a second one at its very end
        print("linmap: stopped.", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on it ends what Python and libraries clean up


def _open_streams() -> None:
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # it has taken the number of a stream that was closed
    os.close(number)
    sys.stdin, sys.stdout = sys.stdin or os.fdopen(0), sys.stdout or os.fdopen(1, "w")
    raw = os.fdopen(2, "wb", buffering=0, closefd=False)
    sys.stderr = Notes(raw, getattr(sys.stderr, "encoding", None), "backslashreplace", write_through=True)


if __name__ == "__main__":
    raise SystemExit(main())
