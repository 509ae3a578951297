"""The tutorials and the examples as executed notebooks and pages.

`python docs/hooks/notebooks.py [NAME ...]` executes those that changed, or that use code of linmap that changed, and
writes a page (Markdown with outputs and pictures) and a notebook for each. MkDocs calls it when the site is built. What
was executed is kept in `build/notebooks`. With LINMAP_DOCS=kept nothing is executed: what is not kept is shown without
outputs, and says so.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from linmap.pictures import THEME, THEME_CSS
from linmap.recipes import SYSTEMS

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "notebooks"
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SECONDS = 1800
"""The longest that one cell may take, on a machine that does other things too."""
AT_ONCE = 2
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
NOT_EXECUTED = "*Built without executing this page: outputs are missing.*"
ARGUMENTS = 'import sys\n\nsys.argv = ["example"]  # and what else stands behind the program on the command line'


# -- execution ---------------------------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    """Of what the file holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(source: Path) -> Any:
    """A program as a notebook: a tutorial has its cells marked, an example has its title and its code."""
    text = source.read_text(encoding="utf-8")
    if source in TUTORIALS:
        return jupytext.reads(text, fmt="py:percent")
    title = ast.get_docstring(ast.parse(text)) or ""
    code = text.split('"""', 2)[2].strip()
    new = nbformat.v4
    cells = [
        new.new_markdown_cell(f"# {named(source.stem)}\n\n{title}"),
        new.new_code_cell(ARGUMENTS),
        new.new_code_cell(code),
    ]
    return new.new_notebook(cells=cells)


def named(stem: str) -> str:
    """The title of an example: that of its system."""
    return SYSTEMS[stem].title if stem in SYSTEMS else stem.replace("_", " ").capitalize()


def executed(source: Path) -> Any:
    """The notebook with its outputs: the kept one, if neither it nor the code of linmap that it used has changed."""
    kept = KEPT / f"{source.stem}.ipynb"
    if kept.exists():
        notebook = nbformat.read(kept, as_version=4)
        if notebook.metadata.source == digest(source) and current(notebook.metadata.used):
            return notebook
    if os.environ.get("LINMAP_DOCS") == "kept":
        notebook = read(source)
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(NOT_EXECUTED))
        return notebook
    print(f"executing {source.parent.name}/{source.name}", file=sys.stderr, flush=True)
    notebook = run(read(source))
    notebook.metadata["source"] = digest(source)
    KEPT.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.replace(kept)
    return notebook


def current(used: dict[str, str]) -> bool:
    """Whether these files, relative to the repository, hold what they did."""
    return all((ROOT / file).exists() and digest(ROOT / file) == found for file, found in used.items())


def run(notebook: Any) -> Any:
    """Executed in a process of its own and an empty folder; an error of a cell is raised here."""
    cells = notebook.cells
    first, last = (
        nbformat.v4.new_code_cell(Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for name in ("first_cell.py", "last_cell.py")
    )
    notebook.cells = [first, *cells, last]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    paths = [
        ROOT / "src",
        *(Path(path).resolve() for path in filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))),
    ]
    environment["PYTHONPATH"] = os.pathsep.join(
        map(str, paths)
    )  # the folder is another, the code is that of this checkout
    with tempfile.TemporaryDirectory() as folder:
        kernel = AsyncKernelManager(transport="ipc", ip=f"{folder}/kernel")  # sockets that are files, not ports
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=SECONDS,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=40"],  # errors only
        )
        client.owns_km = True  # so that the kernel ends with its notebook, and not with the build
        client.execute(env=environment)
    used = ast.literal_eval(last.outputs[0]["text"])
    notebook.metadata["used"] = {os.path.relpath(file, ROOT): found for file, found in used.items()}
    notebook.cells = cells
    for cell in cells:
        cell.metadata.pop("execution", None)  # when it was run
        if cell.cell_type == "code":
            cell["outputs"] = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


# -- pages -------------------------------------------------------------------------------------------------------------


def page(notebook: Any, source: Path) -> str:
    """The notebook in Markdown, with the notebook and the program to download."""
    parts = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```\n\n{_outputs(cell)}"
        for cell in notebook.cells
        if cell.source not in ("", ARGUMENTS)
    ]
    title, _, rest = "\n\n".join(parts).partition("\n")
    links = f"[Notebook]({source.stem}.ipynb){{ download }} · [Python]({source.name}){{ download }}"
    number = itertools.count(1)
    rest = re.sub(r"<svg.*?</svg>", lambda found: _named(found[0], f"picture-{next(number)}-"), rest, flags=re.DOTALL)
    return f"{title}\n\n{links}\n{rest}\n"


def _named(svg: str, prefix: str) -> str:
    """The picture with names of its own, for all pictures of a page share one document."""
    return re.sub(r'(\bid="|href="#|url\(#)', lambda found: found[0] + prefix, svg)


def _outputs(cell: Any) -> str:
    """What the cell printed, then its pictures."""
    outputs = cell.get("outputs", [])
    text = "".join(output["text"] for output in outputs if output.get("name") == "stdout").rstrip()
    printed = f"``` {{ .text .printed }}\n{text}\n```\n\n" if text else ""
    pictures = [output["data"]["image/svg+xml"] for output in outputs if "image/svg+xml" in output.get("data", {})]
    return printed + "\n".join(map(_picture, pictures))


def _picture(svg: str) -> str:
    """The picture as part of the page, so that its colours follow the reader's choice of light or dark."""
    svg = svg[svg.index("<svg") :].replace(THEME_CSS, "")
    svg = re.sub(
        r'width="([\d.]+)pt" height="[\d.]+pt"',
        lambda size: f'style="width: {float(size[1]) / 11:.1f}rem"',
        svg,
        count=1,
    )
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", svg, flags=re.DOTALL)
    svg = re.sub("|".join(THEME), lambda found: f"var({THEME[found[0].lower()]}, {found[0]})", svg, flags=re.IGNORECASE)
    lines = "\n".join(line for line in svg.splitlines() if line.strip())
    return f'<figure class="executed" data-search-exclude>\n{lines}\n</figure>\n'


def write_pages(names: list[str] | None = None) -> None:
    """Pages and notebooks of the tutorials (docs/tutorials) and examples (docs/examples), as far as they changed."""
    sources = [source for source in [*TUTORIALS, *EXAMPLES] if not names or source.stem in names]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for source, notebook in zip(sources, pool.map(executed, sources), strict=True):
            target = ROOT / "docs" / ("tutorials" if source in TUTORIALS else "examples") / source.stem
            plain = nbformat.v4.new_notebook(cells=notebook.cells, metadata={"kernelspec": KERNEL})
            for number, cell in enumerate(plain.cells):
                cell["id"] = str(number)  # the same notebook gives the same bytes
            _write(target.with_suffix(".md"), page(notebook, source))
            _write(target.with_suffix(".ipynb"), nbformat.writes(plain))
            _write(target.with_suffix(".py"), source.read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages(sys.argv[1:])
