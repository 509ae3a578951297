"""A summary as the page shows it: colours, bars, maps of cells, and small pictures of attention."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linmap.interpret.linearscope.language.directions import Direction
from linmap.interpret.linearscope.language.lens import Reading
from linmap.interpret.linearscope.language.summary import Summary
from linmap.interpret.linearscope.language.tokens import Token, direction
from linmap.interpret.linearscope.page import embedded
from linmap.pictures import SEQUENTIAL

COLUMNS = 32
"""Positions of a map, the last ones."""
RANKED = 12
"""Tokens in the list of the strongest."""
SINK = (
    "Attention often rests on the first token of a text, whatever its word (an attention sink: Xiao et al., ICLR "
    "2024). What it adds is then more the model's habit than this word; the lead of one token over another takes out "
    "what raises both."
)
LINES = 96
"""Of a picture of attention at most."""
PIXELS = 480
"""About the side of a picture of attention."""


@dataclass(frozen=True)
class Cell:
    """A figure with its colour: how strong, in per cent, and on which side."""

    text: str
    strength: int
    side: str
    figure: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a map."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Grid:
    """A map of layers and positions."""

    columns: list[Token]
    rows: list[Line]


@dataclass(frozen=True)
class Piece:
    """A token in the coloured text."""

    text: str
    breaks: bool
    strength: int
    side: str
    title: str


@dataclass(frozen=True)
class Bar:
    """A line of a chart of bars."""

    token: Token
    width: float
    figure: str
    side: str = ""
    position: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Row:
    """A singular triplet."""

    gain: str
    here: str
    writes: list[Token]
    writes_against: list[Token]
    reads: list[Token]
    reads_against: list[Token]


@dataclass(frozen=True)
class Group:
    """The triplets of one token."""

    token: Token
    rows: list[Row]


@dataclass(frozen=True)
class Matrix:
    """A matrix as a picture."""

    name: str
    source: str


@dataclass
class Text:
    """What the page's template takes."""

    pieces: list[Piece]
    direction: str
    answer: str
    quantity: str
    strongest: str
    sink: str
    ranked: list[Bar]
    next: list[Bar]
    total: str
    residual_note: str
    layers: Grid
    cut: str
    carried: Grid | None
    lens: Grid | None
    directions: list[Group]
    mixing: list[Matrix] = field(default_factory=list)


def of_text(summary: Summary) -> Text:
    """The view of a summary."""
    found, tokens = summary.contributions, summary.tokens
    values = found.values.tolist()
    reach = max(map(abs, values)) or 1.0
    first = max(0, len(tokens) - COLUMNS)
    layers = summary.layers[:, first:] if summary.layers is not None else found.values[None, first:]
    biases = summary.residuals is not None and float(summary.residuals.abs().max()) > 5e-3
    carried = lens = None
    if summary.lens is not None:
        shown = [tokens[i] for i in summary.lens.positions]
        carried, lens = (_words(shown, read) for read in (summary.lens.carried, summary.lens.logit))
    return Text(
        pieces=[_piece(token, value, reach) for token, value in zip(tokens, values, strict=True)],
        direction=direction("".join(token.text for token in tokens)),
        answer=found.target.plain if found.against is None else f"{found.target.plain} / {found.against.plain}",
        quantity=summary.quantity,
        strongest=f"{reach:.3g}",
        sink=SINK if len(values) > 2 and abs(values[0]) == reach else "",
        ranked=_ranked(tokens, values),
        next=_next(summary),
        total=f"{found.value:.2f}",
        residual_note=" with what the biases behind it add" if biases else "",
        layers=_figures(tokens[first:], layers),
        cut=f"The last {COLUMNS} of {len(tokens)} positions are shown; the tables hold all." if first else "",
        carried=carried,
        lens=lens,
        directions=[Group(tokens[place], [_row(one) for one in rows]) for place, rows in summary.directions.items()],
        mixing=_mixing(summary),
    )


def _side(value: float) -> str:
    return "for" if value >= 0 else "against"


def _strength(value: float, reach: float) -> int:
    return round(100 * min(1.0, abs(value) / reach))


def _piece(token: Token, value: float, reach: float) -> Piece:
    title = f"{token.word} (token {token.id}): {value:+.3f}"
    return Piece(token.shown, "\n" in token.text, _strength(value, reach), _side(value), title)


def _ranked(tokens: Sequence[Token], values: Sequence[float]) -> list[Bar]:
    reach = max(map(abs, values)) or 1.0
    order = sorted(range(len(values)), key=lambda i: -abs(values[i]))[:RANKED]
    return [
        Bar(tokens[i], 100 * abs(values[i]) / reach, f"{values[i]:+.2f}", _side(values[i]), f"{i + 1}")
        for i in sorted(order, key=lambda i: -values[i])
    ]


def _next(summary: Summary) -> list[Bar]:
    found = summary.contributions
    chosen = {token.id for token in (found.target, found.against) if token is not None}
    best = max(p.probability for p in summary.predictions) or 1.0
    return [
        Bar(p.token, 100 * p.probability / best, f"{p.probability:.1%}", chosen=p.token.id in chosen)
        for p in summary.predictions
    ]


def _figures(columns: list[Token], values: Float[Tensor, "layers positions"]) -> Grid:
    """Signed figures, each line in its own colour scale."""
    rows = []
    for layer, line in enumerate(values.tolist()):
        reach = max(map(abs, line)) or 1.0
        cells = [Cell(f"{value:+.2f}", _strength(value, reach), _side(value)) for value in line]
        rows.append(Line(str(layer), cells))
    return Grid(columns, rows)


def _words(columns: list[Token], read: Reading) -> Grid:
    rows = []
    for layer, (tokens, line) in enumerate(zip(read.tokens, read.probabilities.tolist(), strict=True)):
        cells = [
            Cell(t.word, round(100 * p), "sure", f"{p:.0%}" if p >= 0.01 else "")
            for t, p in zip(tokens, line, strict=True)
        ]
        rows.append(Line(str(layer), cells))
    return Grid(columns, rows)


def _row(one: Direction) -> Row:
    return Row(f"{one.gain:.3g}", f"{one.strength * one.gain:+.3g}", one.writes, one.writes_against, one.reads,
               one.reads_against)  # fmt: skip


def _mixing(summary: Summary) -> list[Matrix]:
    if summary.mixing is None or summary.rollout is None or len(summary.tokens) < 2:
        return []
    layers = [_smaller(layer) for layer in summary.mixing]
    pictures = [Matrix("product of all layers", matrix_picture(_smaller(summary.rollout)))]
    return pictures + [Matrix(f"layer {i + 1}", matrix_picture(layer, 120)) for i, layer in enumerate(layers)]


def _smaller(matrix: Tensor) -> np.ndarray:
    """A matrix with no more than `LINES` lines, means of neighbours where there are more."""
    if len(matrix) > LINES:
        matrix = F.adaptive_avg_pool2d(matrix[None], LINES)[0]
    return matrix.float().cpu().numpy()


def matrix_picture(matrix: Float[np.ndarray, "rows columns"], pixels: int = PIXELS) -> str:
    """A matrix of values from 0 on as a picture (a `data:` address), by their roots, so that small ones are seen.

    The first column, where attention rests, does not count for the scale.
    """
    import matplotlib
    from PIL import Image

    most = max(float(matrix[:, 1:].max()), 1e-12)
    scaled: Any = np.sqrt((matrix / most).clip(0, 1))
    colours = (matplotlib.colormaps[SEQUENTIAL](scaled)[..., :3] * 255).round().astype(np.uint8)
    factor = max(1, pixels // len(matrix))
    image = Image.fromarray(colours.repeat(factor, 0).repeat(factor, 1))
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, format="PNG", optimize=True)
    return embedded(buffer.getvalue(), "image/png")
