"""The front door: `linmap list | fit | apply | compare | search | tour | report | app`.

Exit codes: 0 done; 1 failed; 2 called the wrong way, or with data that cannot be used; 130 interrupted.
Nothing heavy is imported before a verb needs it, so that help and the list answer at once.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import linmap
from linmap.cli import tour, verbs
from linmap.cli.completion import ASKED, candidates
from linmap.cli.errors import DONE, FAILED, INTERRUPTED, WRONG_USE, explain, nearest
from linmap.cli.flags import OUTPUT_FLAGS, HelpShown, own
from linmap.cli.printing import stdout_console
from linmap.cli.program import go_on
from linmap.cli.wording import FLAGS
from linmap.errors import Stopped, UsageError
from linmap.processes import ENDS_WITH, check_launched, end_with_parent, is_first
from linmap.recipes import SYSTEMS

VERBS = {
    "list": (verbs.list_systems, "the 17 systems, and which are ready"),
    "fit": (verbs.fit, "SYSTEM: train it on your file and write a folder"),
    "apply": (verbs.apply, "DIR|SYSTEM: use what was fitted, or a system that needs no training"),
    "compare": (verbs.compare, "SYSTEM: measure it against its baselines on the same data"),
    "index": (verbs.index, "VECTORS: store them in FAISS, Qdrant, LanceDB, USearch or PostgreSQL"),
    "search": (verbs.search, "INDEX: find the nearest records, and why they match"),
    "tour": (tour.tour, "compare every system that is ready and write the report"),
    "report": (verbs.report, "RUNS: write one HTML page about every comparison in a folder"),
    "app": (verbs.app, "try every system in a browser, on this machine alone"),
    "completion": (verbs.completion, "SHELL: print what completes commands in bash, zsh or fish"),
    "bench": (verbs.bench, "run the benchmarks of a checkout"),
}
PATIENCE = 15.0  # seconds in which a command whose app has ended may keep what it has done
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
HELP = """\
usage: linmap VERB ... [--json] [--debug]

{purpose}

{verbs}

Every verb takes --json (one JSON document on standard output, everything else on standard error) and --debug
(show a traceback if something fails). `linmap VERB SYSTEM --help` lists the flags of a system.

Start with `linmap tour`, or with your own data: `linmap fit olinear --data my.csv --horizon 96 --out run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` leaves out the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show ± still gets its table
    FLAGS.forget()
    return _flushed(_outcome(words))


def _outcome(words: list[str]) -> int:
    """The exit code of a command, which has said whatever it has to say."""
    as_json, debug = "--json" in words, "--debug" in words
    verb_first = own(words) + [word for word in words if word in OUTPUT_FLAGS]
    stops: list[int] = []
    try:
        with _signals_minded(stops), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("default", UserWarning)  # notes are for the user, whatever Python was told to ignore
            if words[: len(ASKED)] == ASKED:
                print("\n".join(candidates(words[len(ASKED) :], VERBS)))
                return DONE
            return _run(verb_first, as_json)
    except HelpShown:
        return DONE
    except KeyboardInterrupt as stop:
        return _end(INTERRUPTED, _stopped(stop, words), as_json)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return DONE
        if debug:
            traceback.print_exc()
        code, message = explain(error, _room(verb_first))
        if stops and code == FAILED:  # what a library made of the KeyboardInterrupt
            return _end(INTERRUPTED, _stopped(KeyboardInterrupt(), words), as_json)
        hint = " (--debug shows the traceback)" if code == FAILED and not debug else ""
        return _end(code, message + hint, as_json)


def _unread() -> bool:
    """Whether the reader of standard output has gone, as in `linmap list | head -1`."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(told & (select.POLLERR | select.POLLHUP) for _, told in asked.poll(0))


def _flushed(code: int) -> int:
    """The exit code, once standard output has taken everything, or never will: Python would try again at its end."""
    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code if code or isinstance(error, BrokenPipeError) else _end(*explain(error), as_json=False)


@contextmanager
def _signals_minded(stops: list[int]) -> Iterator[None]:
    """SIGTERM, or the end of its terminal (SIGHUP), ends a command as Ctrl-C does, and one that the app started keeps
    what it has done and ends with the app.

    Not where a launcher started several processes: they stop together at Ctrl-C, and a launcher that sends SIGTERM has
    lost one of them. `stops` gets what raised a KeyboardInterrupt, of which libraries may make another error.
    """
    alone = "RANK" not in os.environ and threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def noted(number: int, frame: Any) -> None:
        stops.append(number)
        raise KeyboardInterrupt

    by_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_default:
        signal.signal(signal.SIGINT, noted)
    ends = [number for number in ENDS if signal.getsignal(number) is signal.SIG_DFL]  # `nohup` has SIGHUP ignored
    for number in ends:
        signal.signal(number, _interrupt)
    if (parent := os.environ.pop(ENDS_WITH, None)) is not None:
        end_with_parent(int(parent), signal.SIGTERM, PATIENCE)
    try:
        yield
    finally:
        for number in ends:
            signal.signal(number, signal.SIG_DFL)
        if by_default:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(*_: object) -> None:
    if callable(signal.getsignal(signal.SIGINT)):
        signal.raise_signal(signal.SIGINT)
    else:  # ignored, as in what a shell starts in the background
        raise KeyboardInterrupt


def _run(words: list[str], as_json: bool) -> int:
    if not own(words) or words[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {verb:<10} {line}" for verb, (_, line) in VERBS.items())
        print(HELP.format(purpose=linmap.__doc__ or "linmap", verbs=lines))  # `python -OO` leaves docstrings out
        return DONE
    if words[0] in ("-V", "--version", "version"):
        print(json.dumps({"linmap": linmap.__version__}) if as_json else f"linmap {linmap.__version__}")
        return DONE
    if words[0] not in VERBS:
        raise UsageError(f"there is no verb {words[0]!r}; {nearest(words[0], VERBS, 'linmap --help')}")
    check_launched()
    _check_here()
    answer = VERBS[words[0]][0](words[1:])
    if is_first():  # under torchrun, one process speaks for all
        if as_json:
            print(json.dumps(answer.document, indent=2, ensure_ascii=False, allow_nan=False))
        else:
            answer.show(stdout_console())
    return answer.code


def _check_here() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the folder that this was started in is not there any more; go to another one.") from None


def _room(words: list[str]) -> str:
    """The room of the system that a command names, or nothing."""
    return next((SYSTEMS[word].room for word in words[1:2] if word in SYSTEMS), "")


def _stopped(stop: KeyboardInterrupt, words: list[str]) -> str:
    """One sentence: what is done and kept, and the line that goes on, where there is one."""
    done = f"; {stop.done}" if isinstance(stop, Stopped) else ""
    if "resume" in FLAGS and (not isinstance(stop, Stopped) or stop.kept):
        return f"stopped{done}; go on with: {go_on(words)}"
    return f"stopped{done or '; nothing of this run is kept'}."


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """One line, without the place in the source that Python names."""
    print(f"linmap: note: {FLAGS.spoken(' '.join(str(message).split()))}", file=sys.stderr)


def _end(code: int, message: str, as_json: bool) -> int:
    """One line on standard error and, where a machine listens, the same as JSON."""
    message = FLAGS.spoken(message)
    print(f"linmap: {message}", file=sys.stderr)
    if as_json:
        kind = {WRONG_USE: "wrong use", INTERRUPTED: "interrupted"}.get(code, "failed")
        with suppress(OSError):  # a full disk, or nobody who reads: the code says it too
            print(json.dumps({"error": message, "kind": kind, "code": code}, ensure_ascii=False), flush=True)
    return code
