"""The Python examples of the README and the documentation run as they are printed, top to bottom, page by page."""

import re
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
