"""Help and lists answer at once: what each door of the command line imports."""

import json
import subprocess
import sys

from linmap.artifacts import write_config
from linmap.recipes import SYSTEMS

HEAVY = {"torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "transformers", "peft", "pyarrow", "PIL"}
READY = [slug for slug, system in SYSTEMS.items() if system.ready]
VERBS = ("fit", "apply", "compare", "index", "search", "tour", "report", "bench")
DOORS = [["--help"], ["--version"], ["list"], ["list", "--json"], ["fit"], *([verb, "--help"] for verb in VERBS)]
DOORS += [[verb, slug, "--help"] for slug in READY for verb in ("fit", "apply", "compare")]

EACH_DOOR = """
import contextlib, io, json, os, sys
import rich.console, rich.table, tyro  # which every door takes
from linmap.cli import main
heavy, doors = json.loads(sys.argv[1])
answers = {}
for words in doors:
    reading, writing = os.pipe()
    if os.fork() == 0:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(words)
        os.write(writing, " ".join(sorted(set(heavy) & set(sys.modules))).encode())
        os._exit(0)
    os.close(writing)
    answers[" ".join(words)] = reading
print(json.dumps({door: os.read(answer, 1000).decode() for door, answer in answers.items()}))
"""


def test_no_door_imports_what_only_work_needs(tmp_path):
    runs = [slug for slug in READY if SYSTEMS[slug].fitted]
    for slug in runs:
        write_config(tmp_path / slug, slug, {})
    doors = [*DOORS, *(["apply", str(tmp_path / slug), "--help"] for slug in runs)]
    words = [sys.executable, "-c", EACH_DOOR, json.dumps([sorted(HEAVY), doors])]
    imported = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert len(imported) == len(doors)
    assert {door: modules for door, modules in imported.items() if modules} == {}
