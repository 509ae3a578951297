"""The Python examples of the README and the documentation run as they are printed, top to bottom, page by page."""

import ast
import importlib.util
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_examples_run_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "__main__"}
    for block in BLOCK.finditer(page.read_text()):
        line = page.read_text().count("\n", 0, block.start()) + 1
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)


def _loaded(script: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(script.stem, script)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_tables_of_systems_are_those_of_the_catalogue() -> None:
    script = _loaded(ROOT / "docs" / "hooks" / "systems.py")
    for page, table in script.TABLES.items():
        assert [found[0] for found in script.BLOCK.finditer(page.read_text())] == [table()], (
            f"{page.name} is behind the catalogue: run `python docs/hooks/systems.py`"
        )


def test_the_architecture_names_every_part_of_the_package() -> None:
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    parts = {path.stem for path in (ROOT / "src" / "linmap").iterdir() if path.suffix in ("", ".py")}
    parts -= {"__init__", "__main__", "__pycache__", "version"}
    assert {part for part in parts if not re.search(rf"\b{part}\b", architecture)} == set()


def _documented_parameters(docstring: str) -> Iterator[str]:
    """The names, or whatever stands in their place, in the section Parameters of a docstring."""
    lines = inspect.cleandoc(docstring).splitlines()
    if "Parameters" not in lines:
        return
    for line, under in itertools.pairwise([*lines[lines.index("Parameters") + 2 :], ""]):
        if under and set(under) == {"-"}:
            return
        if line and not line.startswith(" "):
            yield from (name.strip("* ") for name in line.split(" : ")[0].split(","))


@pytest.mark.parametrize("source", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_a_section_of_parameters_holds_names_only(source: Path) -> None:
    """What `make docs` refuses in strict mode, without building the site."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            wrong = [name for name in _documented_parameters(ast.get_docstring(node) or "") if not name.isidentifier()]
            assert not wrong, f"{source}:{node.lineno}: {node.name} lists as parameters: {wrong}"


def test_figures_of_the_page_on_choosing_are_those_of_the_studies() -> None:
    """What `make demo` measured says so; every other figure stands in a table of `studies/RESULTS`."""
    measured = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "studies" / "RESULTS").glob("*.md"))
    found = set(re.findall(r"(?<![\d.])\d*\.\d+", measured))
    known = found | {number.removeprefix("0") for number in found}
    rows = [line.split("|") for line in (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").splitlines()]
    told = [row[3] for row in rows if len(row) == 6 and "demo" not in row[3] and "---" not in row[3]]
    figures = {figure for cell in told for figure in re.findall(r"(?<![\d.])\d*\.\d+", cell)}
    assert len(figures) > 40
    assert figures - known == set()
