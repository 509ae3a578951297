"""What the library's doors import: PyTorch and NumPy, and nothing heavy that only some call of them needs."""

import json
import subprocess
import sys

import pytest

DOORS = (
    "linmap.maps",
    "linmap.geometry.spd",
    "linmap.geometry.delays",
    "linmap.artifacts",
    "linmap.pictures",
    "linmap.experiment",
    "linmap.interpret.linearscope",
)
HEAVY = {"torch.distributed.tensor", "sympy", "scipy", "sklearn", "pandas", "transformers", "matplotlib", "accelerate"}
PROGRAM = """
import importlib, json, sys
import torch
before, found = set(sys.modules), {}
for door in sys.argv[1:]:
    importlib.import_module(door)
    found[door], before = sorted(set(sys.modules) - before), set(sys.modules)
print(json.dumps(found))
"""


def test_doors_import_nothing_heavy_beside_torch():
    done = subprocess.run([sys.executable, "-c", PROGRAM, *DOORS], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    assert {door: sorted(HEAVY & set(modules)) for door, modules in found.items()} == {door: [] for door in DOORS}
    others = {name.partition(".")[0] for name in found["linmap.maps"]} - {"linmap", "numpy", "jaxtyping"}
    assert others <= set(sys.stdlib_module_names)
    assert len([name for name in found["linmap.maps"] if name.startswith("linmap.")]) < 35


def test_the_first_page_of_the_app_waits_for_no_pytorch():
    program = "import sys, linmap.app.site; print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


EVERY_MODULE = """
import importlib, linmap
from pathlib import Path
root = Path(linmap.__file__).parent
for path in sorted(root.rglob("*.py")):
    parts = ("linmap", *path.relative_to(root).with_suffix("").parts)
    if parts[-1] != "__main__":
        importlib.import_module(".".join(part for part in parts if part != "__init__"))
"""


@pytest.mark.slow  # a new interpreter imports all libraries, for 10 s
def test_no_module_warns_when_it_is_imported():
    done = subprocess.run([sys.executable, "-W", "error", "-c", EVERY_MODULE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
