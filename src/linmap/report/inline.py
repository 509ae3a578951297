"""Pictures inside the page: SVG as elements that follow its theme, other images as data.

A folder of results may be a stranger's: an SVG is parsed and only what draws is let through (`sanitizing`), and no
file outside the folder of its result is read.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from linmap.errors import ArgumentError
from linmap.experiment.result import Picture
from linmap.report.sanitizing import SVG, XLINK, sanitize

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)
LENGTH = re.compile(r"([\d.]+)\s*(pt|px|in|cm|mm)?")
PIXELS = {"pt": 4 / 3, "px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, None: 1.0}


@dataclass(frozen=True)
class Inlined:
    """A picture as markup, ready for the page, and its natural width in CSS pixels."""

    markup: str
    width: int
    title: str
    caption: str


def inline(folder: Path, picture: Picture, prefix: str) -> Inlined:
    """Read `folder/picture.file`; `prefix` makes the ids of an SVG unique in the page.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If it is no image that a browser shows, or lies outside `folder`.
    """
    path = folder / picture.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArgumentError(f"{picture.file} lies outside the folder of its result; pictures stand beside result.json.")
    if path.suffix.lower() == ".svg":
        return Inlined(*_svg(path, prefix, picture.title), picture.title, picture.caption)
    kind, _ = mimetypes.guess_type(path.name)
    if kind not in ("image/png", "image/jpeg", "image/webp", "image/gif"):
        raise ArgumentError(f"{path} is no SVG, PNG, JPEG, WebP or GIF image; write one of these.")
    width = _raster_width(path)
    data = base64.b64encode(path.read_bytes()).decode()
    element = ElementTree.Element("img", src=f"data:{kind};base64,{data}", alt=f"{picture.title}. {picture.caption}")
    markup = ElementTree.tostring(element, encoding="unicode")
    return Inlined(markup, width, picture.title, picture.caption)


def _svg(path: Path, prefix: str, title: str) -> tuple[str, int]:
    try:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        width = _width(root)
        sanitize(root, prefix)
    except (ElementTree.ParseError, ValueError, IndexError, OverflowError) as error:
        raise ArgumentError(f"{path} is no SVG that can be shown ({error}); write it again.") from None
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode"), width


def _width(root: ElementTree.Element) -> int:
    """Natural width in CSS pixels, from the width or else from the view box, which is made where it is missing."""
    sizes = [LENGTH.fullmatch(root.get(name, "")) for name in ("width", "height")]
    if "viewBox" in root.attrib:
        if sizes[0] is None:
            return round(float(root.attrib["viewBox"].replace(",", " ").split()[2]))
    elif all(sizes):
        root.set("viewBox", "0 0 " + " ".join(match[1] for match in sizes if match))
    return round(float(sizes[0][1]) * PIXELS[sizes[0][2]]) if sizes[0] else 640


def _raster_width(path: Path) -> int:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.width
    except (OSError, Image.DecompressionBombError) as error:
        raise ArgumentError(f"{path} is no image that can be shown: {error}") from None
