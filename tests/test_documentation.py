"""The Python examples of the README and the documentation run as they are printed, top to bottom, page by page."""

import ast
import importlib.util
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from linmap.recipes import SYSTEMS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guides").glob("*.md"))]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MADE = {Path("tutorials", f"{path.stem}.md") for path in TUTORIALS} | {
    Path("examples", f"{path.stem}.md") for path in EXAMPLES
}
"""Pages that are made when the site is built, relative to docs/."""
WRITTEN = [path for path in (ROOT / "docs").rglob("*.md") if path.relative_to(ROOT / "docs") not in MADE]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_examples_run_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "__main__"}
    for block in BLOCK.finditer(page.read_text()):
        line = page.read_text().count("\n", 0, block.start()) + 1
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)


def _whole(page: Path) -> str:
    """The text of a page with the files that it takes in."""
    taken = re.compile(r'^--8<-- "([^":]+)[^"]*"$', re.MULTILINE)
    return taken.sub(lambda match: (ROOT / match[1]).read_text("utf-8"), page.read_text(encoding="utf-8"))


def test_links_to_other_pages_lead_somewhere_on_the_site() -> None:
    for page in WRITTEN:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", _whole(page), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            found = (page.parent / target).resolve()
            assert found.is_relative_to(ROOT / "docs"), f"{page.name} links to {target}, which the site lacks"
            assert found.exists() or found.relative_to(ROOT / "docs") in MADE, f"{page.name} links to {target}"


def test_a_list_stands_apart_from_the_paragraph_before_it() -> None:
    """Else Python-Markdown takes its items for text."""
    wrong = []
    for page in WRITTEN:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        blocks = [block for block in re.split(r"\n\s*\n", text) if not re.match(r"\s*(- |\d+\. |[ |<])", block)]
        wrong += [f"{page.name}: {block[:60]}" for block in blocks if re.search(r"^- ", block, re.MULTILINE)]
    assert wrong == []


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:", 1)[1]
    listed = re.findall(r"[\w/]+\.md", text)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in WRITTEN} | {
        path.as_posix() for path in MADE if path.parent.name == "tutorials"
    }
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_types_no_results(tutorial: Path) -> None:
    """What was measured is printed by the code; the text around it holds no decimal numbers of its own."""
    told, code, fenced = [], True, False
    for line in tutorial.read_text(encoding="utf-8").splitlines():
        code = line != "# %% [markdown]" if line.startswith("# %%") else code
        fenced ^= not code and line.startswith("# ```")
        told += [] if code or fenced else [re.sub(r"`[^`]*`|\([^)]*\)", "", line)]
    assert len(told) > 20
    assert [line for line in told if re.search(r"\d*\.\d|\d %", line)] == []


def test_there_is_a_tutorial_for_every_room() -> None:
    rooms = {path.name for path in (ROOT / "src" / "linmap" / "recipes").parent.iterdir()} & set(
        _loaded(ROOT / "docs" / "hooks" / "systems.py").READERS
    )
    assert [path.stem for path in TUTORIALS] == sorted(rooms)


@pytest.mark.slow  # 10 to 25 s each
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_as_a_program(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    done = subprocess.run([sys.executable, str(tutorial)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n") >= 3


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what the site is built with, importable."""
    pytest.importorskip("latex2mathml")  # of the extra `docs`
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    return ROOT / "docs" / "hooks"


def test_formulas_become_mathml_and_code_stays(hooks: Path) -> None:
    import markdown

    extensions = ["pymdownx.arithmatex", "pymdownx.superfences", "pages"]
    options = {"pymdownx.arithmatex": {"generic": True}}
    page = markdown.markdown(
        "$F x$\n\n$$y = 1$$\n\n```text\n$F x$\n```\n", extensions=extensions, extension_configs=options
    )
    assert page.count("<math") == 2
    assert 'display="block"' in page
    assert "$F x$" in page


def test_a_page_shows_every_missed_bar_and_every_system(hooks: Path) -> None:
    pages = _loaded(hooks / "pages.py")
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    shown = pages.behind()
    met, missed = results.count("| yes |"), results.count("| **no** |")
    assert shown.startswith(f"Of {met + missed} bars {met} are met")
    assert shown.count("\n| ") == missed + 2  # and the two lines of the head
    assert pages.benchmarks().count('\n??? info "') == results.count("\n## ")
    assert pages.gallery().count("<a ") == pages.where_the_matrix_goes().count("<tr>") == 17
    assert pages.examples().count("\n") == len(EXAMPLES)


def test_pictures_of_a_page_share_no_names_and_each_names_its_own_parts(hooks: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("jupytext")
    notebooks = _loaded(hooks / "notebooks.py")
    parts = '<g id="a"/><use xlink:href="#a"/><clipPath id="p1"/><g clip-path="url(#p1)"/>'
    svg = f'<svg width="9pt" height="9pt">{parts}</svg>'
    output = nbformat.v4.new_output("display_data", {"image/svg+xml": svg})
    cells = [nbformat.v4.new_markdown_cell("# Two\n\nid=")]
    cells += [nbformat.v4.new_code_cell("plot()", outputs=[output] * count) for count in (2, 1)]
    page = notebooks.page(nbformat.v4.new_notebook(cells=cells), Path("two.py"))
    pictures = re.findall("<svg.*?</svg>", page)
    named = [re.findall(r'\bid="(.*?)"', picture) for picture in pictures]
    assert len(named) == 3
    assert len({name for names in named for name in names}) == 6
    assert [re.findall(r"#([^\")]+)", picture) for picture in pictures] == named


@pytest.mark.slow  # starts a kernel
def test_a_notebook_is_executed_again_when_it_or_its_code_changed(
    hooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jupytext")
    notebooks = _loaded(hooks / "notebooks.py")
    program = tmp_path / "program.py"
    program.write_text('"""Adds."""\n\nimport linmap.errors\n\nprint(1 + 1)\n')
    monkeypatch.setattr(notebooks, "KEPT", tmp_path / "kept")
    runs = []
    run = notebooks.run
    monkeypatch.setattr(notebooks, "run", lambda notebook: runs.append(1) or run(notebook))
    first = notebooks.executed(program)
    assert "2" in notebooks.page(first, program)
    assert "src/linmap/errors.py" in first.metadata["used"]
    assert notebooks.page(notebooks.executed(program), program) == notebooks.page(first, program)
    assert len(runs) == 1
    program.write_text(program.read_text().replace("1 + 1", "1 + 2"))
    notebooks.executed(program)
    assert len(runs) == 2
    assert not notebooks.current({"src/linmap/errors.py": "another"})


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


def test_a_section_of_parameters_holds_names_only() -> None:
    """What `make docs` refuses in strict mode, without building the site."""
    wrong = [
        f"{source}:{node.lineno}: {node.name} lists as a parameter: {name}"
        for source in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for name in _documented_parameters(ast.get_docstring(node) or "")
        if not name.isidentifier()
    ]
    assert wrong == []


def test_no_docstring_draws_a_table_that_the_pages_do_not_read() -> None:
    drawn = re.compile(r"^ *={3,} +={3,}", re.MULTILINE)
    assert [path.name for path in (ROOT / "src").rglob("*.py") if drawn.search(path.read_text(encoding="utf-8"))] == []


def _decimals(text: str) -> set[str]:
    """The decimal numbers of a text, all without a leading zero."""
    return {number.removeprefix("0") for number in re.findall(r"(?<![\d.])\d*\.\d+", text)}


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/studies/index.md"])
def test_figures_beside_a_link_to_a_study_stand_there(page: str) -> None:
    paragraphs = re.split(r"\n\n|(?<=\|)\n", (ROOT / page).read_text(encoding="utf-8"))
    to_study = re.compile(rf"[/(]({'|'.join(SYSTEMS)})\.md\)")
    linked = [(text, slug[1]) for text in paragraphs if (slug := to_study.search(text))]
    assert linked
    for text, slug in linked:
        study = (ROOT / "studies" / "RESULTS" / f"{slug}.md").read_text(encoding="utf-8")
        told = _decimals(re.sub(r"\[[\d.]+\]\(https://arxiv\.org[^)]*", "", text))
        assert told, text
        assert told - _decimals(study) == set(), text


def test_every_study_has_its_page() -> None:
    written = {path.name for path in (ROOT / "studies" / "RESULTS").glob("*.md")}
    assert {path.name for path in (ROOT / "docs" / "studies").glob("*.md")} == written | {"index.md"}


def test_figures_of_the_page_on_choosing_are_those_of_the_studies() -> None:
    """What `make demo` measured says so; every other figure stands in a table of `studies/RESULTS` or of the
    benchmarks."""
    pages = [*(ROOT / "studies" / "RESULTS").glob("*.md"), ROOT / "benchmarks" / "RESULTS.md"]
    known = _decimals(" ".join(page.read_text(encoding="utf-8") for page in pages))
    rows = [line.split("|") for line in (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").splitlines()]
    told = [row[3] for row in rows if len(row) == 6 and "demo" not in row[3] and "---" not in row[3]]
    figures = _decimals(" ".join(told))
    assert len(figures) > 40
    assert figures - known == set()


def test_costs_follow_from_what_the_benchmarks_measured() -> None:
    """What the pages make of a billion records, and of the memory of a block, from `benchmarks/RESULTS.md`."""
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    costs, scale = ((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("guides/costs.md", "scale.md"))

    def measured(row: str, figure: str) -> float:
        (line,) = re.findall(rf"^\| {row}.*$", results, re.MULTILINE)
        found = re.search(figure, line)
        assert found, line
        return float(found[1].replace(",", ""))

    records = measured("apply mbat, local, 1 worker", r"\(([\d,]+) documents/s")
    vectors = measured("apply bt2 to .* local, 1 worker", r"\(([\d,]+) vectors/s")
    size = measured("apply mbat, local, 1 worker", r"([\d,]+) B a document")
    alone = measured(r"encode patients, warm, n_jobs=1 \|", r"\(([\d,]+) documents/s")
    block = measured("linmap fit flatquant --stream, 6 blocks", r"\| (\d+) MiB")
    for page in (costs, scale):
        for figure in (f"{round(records, -2):,.0f} ", f"{round(vectors, -4):,.0f} vectors/s"):
            assert figure in page
        assert f"{1e9 / records / 3600:.0f} core-hours" in page
        assert f"{1e9 / vectors / 3600:.1f} core-hours" in page
        assert f"{1e9 * size / 1e12:.1f} TB" in page
    assert f"| {size:,.0f} bytes |" in costs
    assert f"{round(alone, -3):,.0f} documents/s" in scale
    times = block * 2**20 / 55e6
    assert f"about ten times a block in float32 ({block:.0f} MiB" in costs
    assert round(times) == 10
    assert f"| {round(times) * 4 * 856e6 / 1e9:.0f} GB |" in costs
