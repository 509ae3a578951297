"""One page about a reading, to hand on: self-contained HTML that asks nothing of the network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linmap.artifacts import write_text
from linmap.pictures import THEME_CSS

HERE = Path(__file__).parent
MIME = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Figure:
    """A picture of the page."""

    title: str
    caption: str
    source: str
    """As a `data:` address."""


@dataclass(frozen=True)
class Page:
    """What a page says; every text is escaped when it is written.

    Attributes
    ----------
    title, headline, lead
        Of the browser's tab, above the page, and below that.
    model
        What was read.
    limits
        Paragraphs on how to read the page and what it does not tell.
    facts
        Figures by name.
    notes
        What could not be shown, and why.
    text
        What `language.shown.of_text` makes of a text; None for an image.
    figures
        Pictures, in their order.
    """

    title: str
    headline: str
    lead: str
    model: str
    limits: Sequence[str]
    facts: Mapping[str, str]
    notes: Sequence[str] = ()
    text: Any = None
    figures: Sequence[Figure] = field(default_factory=list)


def write_page(page: Page, path: Path | str) -> Path:
    """Write a page as one HTML file, atomically."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup(THEME_CSS + "\n" + (HERE / "page.css").read_text(encoding="utf-8"))
    path = Path(path)
    write_text(path, environment.get_template("page.html.jinja").render(page=page, style=style))
    return path


def embedded_file(path: Path) -> str:
    """An SVG or PNG file as a `data:` address."""
    return embedded(path.read_bytes(), MIME[path.suffix])


def embedded(content: bytes, kind: str) -> str:
    """The bytes of an image as a `data:` address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
