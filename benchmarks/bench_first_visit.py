"""Ten things that a first visitor does, each as the command that the documentation shows, from Enter to the end.

The data are those of the package, given as files of the visitor's own. The app is asked over its address: until its
first page is there, and until the example of a system has been run and its result page is there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Measurement
from linmap.data import EMBEDDED

LINMAP = [sys.executable, "-m", "linmap"]
PORT = 7877
COMMANDS = {
    "see what there is": "list",
    "turn points into their canonical pose": "apply tinvnn --data points.csv --out canonical.csv",
    "JSON records as vectors": "apply mbat --data records.jsonl --out vectors.parquet",
    "search them, with reasons": "search vectors.parquet --id p0003",
    "why a photograph was classified so": "apply linearscope --data photo.png --out reading",
    "fit a forecaster to a file": "fit olinear --data my.csv --horizon 96 --epochs 1 --out run",
    "forecast with it": "apply run --data my.csv --out forecast.csv",
    "one page of a comparison": "compare mbat --out comparison",
}


def run() -> list[Measurement]:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        (folder / "points.csv").write_text("x,y\n0,0\n3,0\n0,1\n2,2\n")
        for name, of in (
            ("records.jsonl", "fhir_patients.jsonl"),
            ("photo.png", "chelsea.png"),
            ("my.csv", "ETTh1.csv"),
        ):
            (folder / name).symlink_to(EMBEDDED / of)
        found = [_row(what, f"linmap {words}", _command(words.split(), folder)) for what, words in COMMANDS.items()]
        with _app(folder) as (address, seconds):
            found.append(_row("open the app", "linmap app", seconds))
            found.append(_row("run an example in it", "TinvNN, Apply", _seconds(lambda: _example(address))))
    return found


def _row(what: str, how: str, seconds: float) -> Measurement:
    return Measurement(what, seconds, note=how)


def _command(words: list[str], folder: Path) -> float:
    return _seconds(lambda: subprocess.run([*LINMAP, *words], cwd=folder, capture_output=True, check=True))


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# -- the app -----------------------------------------------------------------------------------------------------------


@contextmanager
def _app(folder: Path) -> Iterator[tuple[str, float]]:
    """The app, and the seconds until its first page was there."""
    start, address = time.perf_counter(), f"http://127.0.0.1:{PORT}"
    server = subprocess.Popen([*LINMAP, "app", "--port", str(PORT)], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        _until(lambda: bool(_page(address)))
        yield address, time.perf_counter() - start
    finally:
        server.terminate()
        server.wait()


def _example(address: str) -> None:
    """What the Apply button of a page does, and waiting for the result."""
    boundary = "visitor"
    head = 'Content-Disposition: form-data; name="data"; filename=""\r\nContent-Type: application/octet-stream'
    body = f"--{boundary}\r\n{head}\r\n\r\n\r\n--{boundary}--\r\n"
    asked = urllib.request.Request(
        f"{address}/run/apply/tinvnn",
        body.encode(),
        {"Content-Type": f"multipart/form-data; boundary={boundary}", "Origin": address},
    )
    with urllib.request.urlopen(asked) as answer:
        page = answer.geturl()
    _until(lambda: 'class="state done"' in _page(page))


def _page(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _until(there: Callable[[], bool], patience: float = 120) -> None:
    end = time.perf_counter() + patience
    while not there():
        if time.perf_counter() > end:
            raise TimeoutError("the app does not answer.")
        time.sleep(0.05)
