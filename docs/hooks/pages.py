"""A Markdown extension: formulas as MathML, and what a page takes from the package and the repository.

It knows nothing of the site's generator or theme. MkDocs loads it through `docs/hooks/into_mkdocs.py`; another
generator that uses Python-Markdown, such as Zensical, names `pages` among its extensions, with `docs/hooks` on the
Python path.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from textwrap import indent

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor

from linmap.app.matrices import picture
from linmap.app.methods import METHODS
from linmap.recipes import SYSTEMS

ROOT = Path(__file__).parents[2]
READY = [system for system in SYSTEMS.values() if system.ready]
_PICTURES = ROOT / "docs" / "pictures" / "gallery" / "pictures.json"
DRAWN: dict[str, dict] = json.loads(_PICTURES.read_text(encoding="utf-8")) if _PICTURES.exists() else {}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


class Formulas(Postprocessor):
    """Formulas as MathML, which browsers draw without scripts or a network."""

    def run(self, text: str) -> str:
        return FORMULA.sub(_formula, text)


def _formula(match: re.Match[str]) -> str:
    return convert(html.unescape(match[3]), display="block" if match[2] == "[" else "inline")


class Marks(Preprocessor):
    """Puts in the place of a line `<!-- NAME -->` what NAME of `MARKS` gives."""

    def run(self, lines: list[str]) -> list[str]:
        out = []
        for line in lines:
            fill = MARKS.get(line.strip().removeprefix("<!-- ").removesuffix(" -->"))
            out += fill().splitlines() if fill and line.startswith("<!--") else [line]
        return out


def gallery() -> str:
    """A card for each system: what `make demo` draws of it, and for whom it is; a link to the page of its room."""
    cards = "".join(
        f'<a href="{system.room}/">{_drawn(system.slug)}<b>{escape(system.title)}</b>'
        f"<span>{escape(METHODS[system.slug].whom)}</span></a>"
        for system in READY
    )
    return f'<div class="gallery">{cards}</div>'


def _drawn(slug: str) -> str:
    """The picture of a system for either theme, from `docs/hooks/gallery.py`; its matrix where there is none."""
    if slug not in DRAWN:
        return picture(slug)
    said, (width, height) = DRAWN[slug]["title"], DRAWN[slug]["size"]
    return "".join(
        f'<img src="pictures/gallery/{slug}-{scheme}.webp#only-{scheme}" alt="{escape(said, quote=True)}" '
        f'width="{width}" height="{height}" loading="lazy">'
        for scheme in ("light", "dark")
    )


def idea() -> str:
    """The idea in one picture: the five places that a matrix is put in, each with a matrix of a system."""
    cards = "".join(
        f"<div>{picture(slug)}<b>{place}</b><span>{what}</span></div>" for slug, (place, what) in PLACES.items()
    )
    return f'<div class="idea">{cards}</div>'


PLACES = {
    "bone": ("beside a weight", "W + ΔW"),
    "flatquant": ("between inverses", "(x P)(P⁻¹ W)"),
    "token_transforming": ("across tokens", "P · tokens"),
    "hippo": ("along time", "c ← A c + B u"),
    "acm": ("as the data", "cov(x)"),
}


def where_the_matrix_goes() -> str:
    """A row for each system: its picture, its formula, and what the matrix does."""
    rows = "".join(
        f"<tr><td>{picture(system.slug)}</td><td><b>{escape(system.title)}</b><br>{METHODS[system.slug].written}"
        f"</td><td>{escape(METHODS[system.slug].sentences[0])} {escape(METHODS[system.slug].sentences[1])}</td></tr>"
        for system in READY
    )
    return f'<table class="matrices"><tbody>{rows}</tbody></table>'


def _measured() -> dict[str, str]:
    """The sections of benchmarks/RESULTS.md by name, and what stands before the first under the name ""."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").split("\n", 1)[1]
    before, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    return {"": before} | dict(section.split("\n", 1) for section in sections)


def benchmarks() -> str:
    """All that was measured, each section folded under its first line."""
    sections = _measured()
    parts = [sections.pop("")]
    for body in sections.values():
        title, rest = body.strip().split("\n", 1)
        parts.append(f'??? info "{title.replace(chr(34), chr(39))}"\n\n{indent(rest.strip(), "    ")}\n')
    return "\n".join(parts)


def behind() -> str:
    """How many bars of the benchmarks are met, and the rows of those that are missed."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for body in _measured().values()
        for line in body.splitlines()
        if line.startswith("| ") and line.count("|") == 10
    ]
    met, missed = ([row for row in rows if row[6] == word] for word in ("yes", "**no**"))
    head = "| what | ratio | bar | linmap | peer | peer's time |\n| --- | --- | --- | --- | --- | --- |\n"
    table = "".join(
        f"| {' | '.join((row[0], row[4], _few_digits(row[5]), row[1], row[2], row[3]))} |\n" for row in missed
    )
    return f"Of {len(met) + len(missed)} bars {len(met)} are met. Missed are:\n\n{head}{table}"


def _few_digits(bar: str) -> str:
    """A bar that is a quotient, such as 1 / 1.35, with three digits."""
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.3g}", bar)


def examples() -> str:
    """A list of the programs in examples/, with what each does."""
    programs = sorted((ROOT / "examples").glob("*.py"))
    titles = {program.stem: _title(program) for program in programs}
    return "".join(f"- [`{name}`](../examples/{name}.md): {title}\n" for name, title in titles.items())


def _title(program: Path) -> str:
    """The first sentence of a program's docstring, without its command line."""
    text = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or ""
    return re.split(r": (?:`)?python |\. |;|\n", text, maxsplit=1)[0].rstrip(".:") + "."


MARKS: dict[str, Callable[[], str]] = {
    "gallery": gallery,
    "idea": idea,
    "matrices": where_the_matrix_goes,
    "benchmarks": benchmarks,
    "behind": behind,
    "examples": examples,
}


class Pages(Extension):
    """Both processors."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(Marks(md), "linmap-marks", 175)
        md.postprocessors.register(Formulas(md), "linmap-formulas", 0)


def makeExtension(**options: object) -> Pages:
    """By this name Python-Markdown finds the extension."""
    return Pages(**options)
