"""What of a foreign SVG may stand in the page: an allow-list of elements, attributes, style properties and functions.

An SVG file is a document of its own, and may be a stranger's. Inside an HTML page a browser reads its tags whatever
their case and namespace, runs scripts and handlers, follows links, loads what styles name and applies rules to
everything around. So only what is known to draw is let through, and everything else goes; text is kept as text.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from linmap.errors import ArgumentError

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
GROUPS = {"svg", "g", "defs", "symbol", "use", "clipPath", "mask", "pattern", "marker"}
SHAPES = {"path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "image"}
PAINT = {"linearGradient", "radialGradient", "stop"}
TEXT = {"text", "tspan", "textPath"}
WORDS = {"title", "desc", "style"}
"""Elements that hold text alone: an HTML parser would read what is inside the first two as HTML."""
ELEMENTS = {f"{{{SVG}}}{name}": name for name in GROUPS | SHAPES | PAINT | TEXT | WORDS}

PROPERTIES = frozenset(
    """alignment-baseline baseline-shift clip-path clip-rule color color-interpolation direction display
    dominant-baseline fill fill-opacity fill-rule font font-family font-size font-size-adjust font-stretch font-style
    font-variant font-weight image-rendering isolation letter-spacing line-height marker marker-end marker-mid
    marker-start mask mix-blend-mode opacity overflow paint-order shape-rendering stop-color stop-opacity stroke
    stroke-dasharray stroke-dashoffset stroke-linecap stroke-linejoin stroke-miterlimit stroke-opacity stroke-width
    text-anchor text-decoration text-rendering transform transform-origin vector-effect visibility white-space
    word-spacing writing-mode""".split()  # noqa: SIM905
)
GEOMETRY = frozenset(
    """class clipPathUnits cx cy d dx dy fx fy gradientTransform gradientUnits height id lengthAdjust markerHeight
    markerUnits markerWidth mask-type maskContentUnits maskUnits offset orient pathLength patternContentUnits
    patternTransform patternUnits points preserveAspectRatio r refX refY rotate rx ry spreadMethod startOffset
    textLength version viewBox width x x1 x2 y y1 y2""".split()  # noqa: SIM905
)
FUNCTIONS = frozenset(
    """var calc min max clamp rgb rgba hsl hsla hwb lab lch oklab oklch color-mix matrix translate translatex translatey
    scale scalex scaley rotate skewx skewy""".split()  # noqa: SIM905
)
DEEPEST = 200
RASTER = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")
OWN_URL = re.compile(r"""url\(\s*(['"]?)#([\w.:-]+)\1\s*\)""")
SELECTOR = re.compile(r"""[\w\s.#:*>+~,()="'\[\]^$|-]+""")
BESIDE = re.compile(r"(^|,)\s*[>+~]")  # what stands beside the picture in the page, not inside
SCHEME = re.compile(r"@media\s+(?:screen\s+and\s+)?\(\s*prefers-color-scheme\s*:\s*(?:dark|light)\s*\)")


def sanitize(root: ElementTree.Element, prefix: str) -> None:
    """Keep what draws of an SVG tree, in place.

    Parameters
    ----------
    root
        An `svg` element in the SVG namespace.
    prefix
        Goes before every id and reference, so that several pictures share a page; the root gets the id
        `prefix + "root"`, and style rules hold inside it. An id that comes again goes.

    Raises
    ------
    ValueError
        If the root is not an `svg` element, or elements lie in each other more than `DEEPEST` deep.
    """
    if ELEMENTS.get(root.tag) != "svg":
        raise ArgumentError(f"the outermost element is <{_shown(root.tag)}>, not <svg> in the namespace {SVG}")
    _clean(root, prefix, DEEPEST)
    root.set("id", f"{prefix}root")
    seen = set()
    for element in root.iter():  # of several with one id a reference finds the first
        id = element.get("id")
        if id in seen:
            del element.attrib["id"]
        elif id is not None:
            seen.add(id)


def _clean(element: ElementTree.Element, prefix: str, deeper: int) -> None:
    name = ELEMENTS[element.tag]
    if not deeper:
        raise ArgumentError(f"its elements lie in each other more than {DEEPEST} deep")
    for child in list(element):
        if name in WORDS or child.tag not in ELEMENTS:
            _drop(element, child)
        else:
            _clean(child, prefix, deeper - 1)
    if name == "style":
        element.text = f"#{prefix}root {{ {rules(element.text or '', prefix)} }}"
    for attribute, value in list(element.attrib.items()):
        del element.attrib[attribute]
        kept = _attribute(name, attribute, value, prefix)
        if kept is not None:
            element.set(*kept)


def _drop(element: ElementTree.Element, child: ElementTree.Element) -> None:
    """Remove a child; the text that follows it belongs to its parent and stays."""
    place = list(element).index(child)
    if child.tail and place:
        before = element[place - 1]
        before.tail = (before.tail or "") + child.tail
    elif child.tail:
        element.text = (element.text or "") + child.tail
    element.remove(child)


def _attribute(element: str, name: str, value: str, prefix: str) -> tuple[str, str] | None:
    """The attribute as it may stand, or None."""
    if name in ("href", f"{{{XLINK}}}href"):
        if value.startswith("#"):
            return name, f"#{prefix}{value[1:]}"
        return (name, value) if element == "image" and RASTER.fullmatch(value) else None
    if name == "id":
        return name, prefix + value
    if name == "style":
        return name, declarations(value, prefix)
    if name in PROPERTIES or name in GEOMETRY:
        safe = _value(value, prefix)
        return None if safe is None else (name, safe)
    return None


def rules(text: str, prefix: str) -> str:
    """Style rules with what is allowed of them: plain selectors, and the reader's light or dark scheme."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    kept, place = [], 0
    while (brace := re.compile(r"[{;]").search(text, place)) is not None:
        head, start = text[place : brace.start()].strip(), brace.end()
        if brace[0] == ";":  # a statement such as @import
            place = start
            continue
        place = _end_of_block(text, start)
        body = text[start : place - 1]
        if SCHEME.fullmatch(head):
            kept.append(f"{head} {{ {rules(body, prefix)} }}")
        elif SELECTOR.fullmatch(head) and not BESIDE.search(head) and "{" not in body:
            own = head.replace("#", f"#{prefix}")
            kept.append(f"{own} {{ {declarations(body, prefix)} }}")
    return " ".join(kept)


def _end_of_block(text: str, start: int) -> int:
    """The place after the brace that closes the block; the end of the text where there is none."""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    return len(text) + 1


def declarations(text: str, prefix: str) -> str:
    """`property: value; ...` with the properties that draw, each with a value that reaches nothing outside."""
    kept = []
    for part in text.split(";"):
        name, colon, value = part.partition(":")
        name = name.strip()
        safe = (
            _value(value, prefix) if colon and (name.lower() in PROPERTIES or re.fullmatch(r"--[\w-]+", name)) else None
        )
        if safe is not None:
            kept.append(f"{name}: {safe}")
    return "; ".join(kept)


def _value(value: str, prefix: str) -> str | None:
    """A value with references to this file's ids prefixed; None if it could load, run or end anything."""
    own = OWN_URL.sub(lambda match: f"url({match[1]}#{prefix}{match[2]}{match[1]})", value.strip())
    called = re.findall(r"([^\s(),:/]*)\s*\(", OWN_URL.sub("", value))
    if re.search(r"[\\@<>{}]|/\*|//|javascript:", value, re.IGNORECASE) or value.count('"') % 2 or value.count("'") % 2:
        return None
    return own if all(name.lower() in FUNCTIONS for name in called) else None


def _shown(tag: object) -> str:
    return str(tag).rpartition("}")[2][:40]
