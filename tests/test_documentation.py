"""The Python examples of the README and the documentation run as they are printed, top to bottom, page by page."""

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

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


def test_every_system_stands_in_the_readme_with_its_state() -> None:
    from linmap.recipes import SYSTEMS

    readme = (ROOT / "README.md").read_text()
    for system in SYSTEMS.values():
        row = next((line for line in readme.splitlines() if line.startswith("|") and f"`{system.slug}`" in line), None)
        assert row is not None, f"README.md does not list {system.slug}"
        assert ("ready" in row) == system.ready


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
