"""The gallery of the first page: a card for each system, with its matrix and for whom it is."""

from __future__ import annotations

from html import escape
from typing import Any

from linmap.app.matrices import picture
from linmap.app.methods import METHODS
from linmap.recipes import SYSTEMS

MARK = "<!-- gallery -->"
STYLE = """\
<style>
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
.gallery a { color: inherit; border: 1px solid var(--md-default-fg-color--lightest, #ddd); border-radius: 8px; }
.gallery a { padding: .6rem .8rem; }
.gallery b, .gallery span { display: block; line-height: 1.35; }
.gallery span { font-size: .8em; opacity: .8; }
.gallery svg { display: block; height: 6rem; margin: .2rem auto .7rem; max-width: 100%; }
.gallery .plus { fill: #0072b2; }
.gallery .minus { fill: #d55e00; }
</style>
"""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the gallery in the place of its mark."""
    return markdown.replace(MARK, gallery()) if MARK in markdown else markdown


def gallery() -> str:
    """The cards as HTML, each a link to the page of its room."""
    cards = "".join(
        f'<a href="{system.room}/">{picture(system.slug)}<b>{escape(system.title)}</b>'
        f"<span>{escape(METHODS[system.slug].whom)}</span></a>"
        for system in SYSTEMS.values()
        if system.ready
    )
    return f'{STYLE}<div class="gallery">{cards}</div>'
