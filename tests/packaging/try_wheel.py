"""What a stranger does with the wheel, in an environment that holds it and the core dependencies alone.

`python tests/packaging/try_wheel.py BIN` runs the commands of that environment's folder `bin`; `make wheel` builds the
wheel and the environment first. Nothing of the checkout is imported.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIT = "fit olinear --epochs 1 --horizon 24 --lookback 48 --d-model 16 --d-ff 16 --embed 2 --layers 1 --out run"
STEPS: tuple[tuple[str, int, str], ...] = (
    ("list", 0, "olinear"),
    ("--help", 0, "completion"),
    ("completion bash", 0, "complete -o default -F _linmap linmap"),
    (FIT, 0, "olinear is fitted"),
    ("apply run --out forecast.csv", 0, "olinear is applied"),
    ("apply mbat --out vectors.npy", 0, "mbat is applied"),
    ("search vectors.npy --id p0003", 0, "nearest records"),
    ("apply mbat", 2, "pip install 'linmap[retrieve]'"),
    ("app", 2, "pip install 'linmap[app]'"),
    ("fit bone", 2, "pip install 'linmap[adapt]'"),
    ("compare flatquant", 2, "pip install 'linmap[compress]'"),
    ("compare gbwbn", 2, "pip install 'linmap[signals]'"),
    ("compare linearscope", 2, "pip install 'linmap[interpret]'"),
    ("tour --systems bone acm --out tour", 1, "pip install 'linmap[adapt,signals]'"),
)
"""Words after `linmap`, the exit code, and what must be said."""
IMPORTS = """
import importlib, importlib.util, sys
from pathlib import Path
root = Path(importlib.util.find_spec("linmap").origin).parent
for path in sorted(root.rglob("*.py")):
    parts = ("linmap", *path.relative_to(root).with_suffix("").parts)
    name = ".".join(part for part in parts if part != "__init__")
    if parts[-1] == "__main__":
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.startswith("linmap"):
            raise
"""
"""Every module, with warnings as errors; only packages of the extras may be missing."""
PACKED = "import linmap; from pathlib import Path; print(Path(linmap.__file__).parent)"


def main(folder: Path) -> int:
    """Run everything and say how long each took; the number of failures."""
    failures = sum(not tried(folder, *step) for step in STEPS)
    failures += not said("all modules, warnings as errors", python(folder, "-W", "error", "-c", IMPORTS), 0, "")
    failures += not packed(Path(python(folder, "-c", PACKED).stdout.strip()))
    return failures


def tried(folder: Path, words: str, code: int, wanted: str) -> bool:
    return said(f"linmap {words}", run([str(folder / "linmap"), *words.split()]), code, wanted)


def said(title: str, done: subprocess.CompletedProcess, code: int, wanted: str) -> bool:
    """Whether a command ended as it should, without a traceback."""
    text = re.sub(r"\s+", " ", done.stdout + done.stderr)
    good = done.returncode == code and wanted in text and "Traceback" not in text
    print(f"{'ok' if good else 'FAILED'}  {done.args[-1]:5.1f} s  {title}", flush=True)
    if not good:
        print(f"    exit {done.returncode}, wanted {code} and {wanted!r}:\n{done.stdout}{done.stderr}")
    return good


def packed(installed: Path) -> bool:
    """Whether every file of the package in the checkout was packed: sources in C++, templates, data."""
    source = Path(__file__).parents[2] / "src" / "linmap"
    files = {
        path.relative_to(source) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    missing = sorted(str(path) for path in files if not (installed / path).is_file())
    print(f"{'FAILED' if missing else 'ok'}  {len(files)} files are packed", *missing, sep="\n    " if missing else "")
    return not missing


def python(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return run([str(folder / "python"), *words])


def run(words: list[str]) -> subprocess.CompletedProcess:
    """A command away from the checkout; the seconds that it took stand last in `args`."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    start = time.perf_counter()
    done = subprocess.run(words, cwd=WORK, env=environment, capture_output=True, text=True, check=False)
    done.args = (*words, time.perf_counter() - start)
    return done


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        WORK = temporary
        sys.exit(min(main(Path(sys.argv[1]).absolute()), 100))
