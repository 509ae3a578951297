"""Pictures inside the page: SVG as elements that follow its theme, other images as data.

An SVG file is a document of its own. Put beside others in one page its ids would collide, its style rules would reach
out of it, and scripts or links in it would run; so it is parsed, and only what draws is let through.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from linmap.recipes.result import Picture

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)
FORBIDDEN = {f"{{{SVG}}}{name}" for name in ("script", "foreignObject", "metadata", "a", "animate", "set")}
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
        If it is no image that a browser shows.
    """
    path = folder / picture.file
    if path.suffix == ".svg":
        return Inlined(*_svg(path, prefix, picture.title), picture.title, picture.caption)
    kind, _ = mimetypes.guess_type(path.name)
    if kind not in ("image/png", "image/jpeg", "image/webp", "image/gif"):
        raise ValueError(f"{path} is no SVG, PNG, JPEG, WebP or GIF image; write one of these.")
    data = base64.b64encode(path.read_bytes()).decode()
    element = ElementTree.Element("img", src=f"data:{kind};base64,{data}", alt=f"{picture.title}. {picture.caption}")
    markup = ElementTree.tostring(element, encoding="unicode")
    return Inlined(markup, _raster_width(path), picture.title, picture.caption)


def _svg(path: Path, prefix: str, title: str) -> tuple[str, int]:
    try:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not well-formed SVG ({error}); write it again.") from None
    width = _width(root)
    _clean(root, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("id", f"{prefix}root")
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode"), width


def _clean(element: ElementTree.Element, prefix: str) -> None:
    """Prefix ids and references, keep style rules inside, drop all that does not draw."""
    for child in list(element):
        if child.tag in FORBIDDEN or not isinstance(child.tag, str):
            element.remove(child)
        else:
            _clean(child, prefix)
    if element.tag == f"{{{SVG}}}style":
        rules = re.sub(r"@import[^;]*;", "", element.text or "")
        element.text = f"#{prefix}root {{ {_local(rules, prefix)} }}"
    for name, value in list(element.attrib.items()):
        if name == "id":
            element.set(name, prefix + value)
        elif name.rpartition("}")[2] == "href":
            _reference(element, name, value, prefix)
        elif name.startswith("on"):
            del element.attrib[name]
        else:
            element.set(name, _local(value, prefix))


def _reference(element: ElementTree.Element, name: str, value: str, prefix: str) -> None:
    """A reference goes to an element of the same file or carries its data: nothing else is reachable offline."""
    if value.startswith("#"):
        element.set(name, f"#{prefix}{value[1:]}")
    elif not value.startswith("data:image/"):
        del element.attrib[name]


def _local(text: str, prefix: str) -> str:
    """Style references to this file's ids get the prefix; those that would leave the page are cut."""
    text = re.sub(r"url\(\s*(['\"]?)#", rf"url(\1#{prefix}", text)
    return re.sub(r"url\(\s*['\"]?(?!#|['\"]|data:)[^)]*\)", "none", text)


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

    with Image.open(path) as image:
        return image.width
