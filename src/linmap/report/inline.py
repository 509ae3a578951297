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

from linmap.data.door import read_bytes, read_text, understood
from linmap.errors import ArgumentError
from linmap.experiment.result import Picture
from linmap.ownership import real
from linmap.report.sanitizing import SVG, XLINK, sanitize

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)
LENGTH = re.compile(r"([\d.]+)\s*(pt|px|in|cm|mm)?")
MOST_BYTES = 2**26
"""Of a picture."""
PIXELS = {"pt": 4 / 3, "px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, None: 1.0}


@dataclass(frozen=True)
class Inlined:
    """A picture as markup, ready for the page, and its natural width in CSS pixels."""

    markup: str
    width: int
    title: str
    caption: str
    id: str
    """Of the picture's element, so that a smaller one elsewhere can show it again."""


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
    if not real(path).is_relative_to(real(folder)):
        raise ArgumentError(f"{picture.file} lies outside the folder of its result; pictures stand beside result.json.")
    if path.suffix.lower() == ".svg":
        return _shown(*_svg(path, prefix), picture, prefix)
    kind, _ = mimetypes.guess_type(path.name)
    if kind not in ("image/png", "image/jpeg", "image/webp", "image/gif"):
        raise ArgumentError(f"{path} is no SVG, PNG, JPEG, WebP or GIF image; write one of these.")
    width, height = _raster_size(path)
    data = f"data:{kind};base64,{base64.b64encode(read_bytes(path, MOST_BYTES)).decode()}"
    root = ElementTree.Element(f"{{{SVG}}}svg", {"id": f"{prefix}root", "viewBox": f"0 0 {width} {height}"})
    ElementTree.SubElement(root, f"{{{SVG}}}image", {"href": data, "width": str(width), "height": str(height)})
    return _shown(root, width, picture, prefix)


def _shown(root: ElementTree.Element, width: int, picture: Picture, prefix: str) -> Inlined:
    root.set("role", "img")
    root.set("aria-label", f"{picture.title}. {picture.caption}")
    markup = ElementTree.tostring(root, encoding="unicode")
    return Inlined(markup, width, picture.title, picture.caption, f"{prefix}root")


def _svg(path: Path, prefix: str) -> tuple[ElementTree.Element, int]:
    try:
        root = ElementTree.fromstring(read_text(path, MOST_BYTES))
        width = _width(root)
        sanitize(root, prefix)
    except (ElementTree.ParseError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise ArgumentError(f"{path} is no SVG that can be shown ({error}); write it again.") from None
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    return root, width


def _width(root: ElementTree.Element) -> int:
    """Natural width in CSS pixels, from the width or else from the view box, which is made where it is missing."""
    sizes = [LENGTH.fullmatch(root.get(name, "")) for name in ("width", "height")]
    if "viewBox" in root.attrib:
        if sizes[0] is None:
            return round(float(root.attrib["viewBox"].replace(",", " ").split()[2]))
    elif all(sizes):
        root.set("viewBox", "0 0 " + " ".join(match[1] for match in sizes if match))
    return round(float(sizes[0][1]) * PIXELS[sizes[0][2]]) if sizes[0] else 640


def _raster_size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with understood(path, "an image that can be shown"), Image.open(path) as image:
        return image.size
