"""`linmap compare linearscope`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from linmap.data.images import embedded_image, read_image, square
from linmap.data.pretrained import efficientnet_lite0
from linmap.experiment.result import Check, Metric, Picture, Result, Row, Table
from linmap.pictures import illustrated
from linmap.recipes.job import CompareJob
from linmap.recipes.linearscope.classifier import PHOTOS, Cost, Deletion, column_cost, deletion_test, draw_deletion
from linmap.recipes.linearscope.edges import EdgeReading, draw_edge_net, read_edge_net, train_edge_net
from linmap.recipes.linearscope.enlargement import CROPS, Enlargement, draw_eigen, draw_filters, read_enlargement
from linmap.recipes.linearscope.pictures import draw_votes
from linmap.recipes.linearscope.reading import normalised
from linmap.recipes.linearscope.settings import LABELS, SIDE, Settings


def compare(settings: Settings, job: CompareJob) -> Result:
    """Deletion test, super-resolution filters and an image-to-image network, with their pictures."""
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    status = Console(stderr=True)
    classifier = efficientnet_lite0()
    with status.status("reading the classifier"):
        photos = {photo: normalised(square(embedded_image(photo), SIDE)) for photo in PHOTOS}
        if job.data:
            photos[job.data.stem] = normalised(square(read_image(job.data), SIDE))
        tests = [deletion_test(classifier, photo, x, settings, job.seed) for photo, x in photos.items()]
        cost = column_cost(classifier, photos["chelsea"])
    with status.status("reading the super-resolution networks"):
        readings = [read_enlargement(net, crop, settings) for net in ("fsrcnn-x2", "fsrcnn-small-x2") for crop in CROPS]
    model, digits, error, copying = train_edge_net(settings, job.seed, out / "edge_network", job.resume)
    with status.status("reading the image-to-image network"):
        edges = read_edge_net(model, digits[:1])
    pictures, notes = _draw(tests, readings, edges, out)
    checks = _checks(tests, readings, edges, cost)
    return Result(
        system="linearscope",
        task=(
            f"EfficientNet-lite0 (ImageNet) at {SIDE} x {SIDE} on {len(tests)} photographs: probability of the "
            f"top class after the {settings.deleted:.0%} pixels with the highest scores are set to zero, by score."
        ),
        metrics=[Metric(t.photo, "lower", digits=3) for t in tests],
        rows=_rows(tests),
        shows=_shows(tests, readings, edges),
        limits=(
            "Votes equal gradient × input on this piecewise-linear classifier, so they rank pixels no better than it; "
            "what is added is the residual, the columns, the singular pairs and exactness. Zeroed pixels are an "
            "unusual input, and where the class falls whatever is deleted, the test says nothing. One classifier, two "
            "super-resolution networks on small crops, one small image-to-image network."
            + "".join(f" {note}" for note in notes)
        ),
        checks=checks,
        tables=[
            _bias_table(tests),
            _enlargement_table(readings),
            _edge_table(edges, error, copying),
            _cost_table(cost),
        ],
        pictures=pictures,
        preset=job.preset,
        seeds=[job.seed],
        settings=asdict(settings),
    )


def _draw(
    tests: list[Deletion], readings: list[Enlargement], edges: EdgeReading, out: Path
) -> tuple[list[Picture], list[str]]:
    """The pictures that could be drawn, and a note for each that could not."""
    titles = [(f"{t.photo}: {LABELS.get(t.target, t.target)}", t.x, t.votes) for t in tests]
    drawings: list[tuple[Picture, Callable[[Path], None]]] = [
        (
            Picture(
                "votes.svg", "Pixel votes", "Each photograph, and below it what every pixel adds to the top class."
            ),
            lambda path: draw_votes(titles, path),
        ),
        (
            Picture("deletion.svg", "Deletion test", "Probability of the top class before and after deleting pixels."),
            lambda path: draw_deletion(tests, path),
        ),
        (
            Picture(
                "filters.svg",
                "Super-resolution filters",
                "Rows of F on a flat, an edge and a texture crop, and bicubic's.",
            ),
            lambda path: draw_filters(readings, path),
        ),
        (
            Picture(
                "eigen.svg", "Eigen-inputs and eigen-outputs", "The patterns that fsrcnn-x2 amplifies most on an edge."
            ),
            lambda path: draw_eigen(readings[1], path),
        ),
        (
            Picture(
                "edges.svg",
                "An image-to-image network",
                "A digit, its edge map, the residual (red positive), what one edge pixel looks at, and the share of "
                "each row's energy within 2 pixels of its largest weight (yellow: all of it).",
            ),
            lambda path: draw_edge_net(edges, path),
        ),
    ]
    pictures: list[Picture] = []
    summary: dict[str, Any] = {}
    for picture, draw in drawings:
        with illustrated(summary, out / picture.file) as path:
            draw(path)
            pictures.append(picture)
    return pictures, summary.get("notes", [])


def _rows(tests: list[Deletion]) -> list[Row]:
    before = Row("before deletion", "reference", {t.photo: [t.before] for t in tests}, note="nothing deleted")
    # Gradient × input is what a user would take; random pixels are the level of chance, which nobody would.
    kinds: dict[str, Literal["system", "baseline", "reference"]] = {"votes": "system", "random pixels": "reference"}
    notes = {
        "gradient × input": "what one would use otherwise; equal to votes here, for this network is piecewise linear",
        "random pixels": "the level of chance: mean and spread over random masks",
    }
    methods = [
        Row(
            method, kinds.get(method, "baseline"), {t.photo: t.after[method] for t in tests}, note=notes.get(method, "")
        )
        for method in tests[0].after
    ]
    return [*methods, before]


def _bias_table(tests: list[Deletion]) -> Table:
    rows: list[list[str | float | int]] = [
        [t.photo, f"{t.target} {LABELS.get(t.target, '')}", round(t.logit, 2), round(t.residual, 2),
         round(t.logit - t.residual, 2), f"{t.residual / t.logit:.0%}", f"{t.exactness:.1e}"]
        for t in tests
    ]  # fmt: skip
    columns = ["photograph", "class", "logit", "residual r", "votes", "r / logit", "max |Fx + r − y| / max |y|"]
    return Table("Where the logit comes from (origin: zero input)", columns, rows)


def _enlargement_table(readings: list[Enlargement]) -> Table:
    rows: list[list[str | float | int]] = [
        [r.network, r.crop, ", ".join(f"{gain:.3f}" for gain in r.gains), round(r.interp.bias_share(), 3),
         f"{np.mean(r.similarity):.3f} ({min(r.similarity):.3f}–{max(r.similarity):.3f})",
         ", ".join(f"{s:.3f}" for s in r.singular.S.tolist())]
        for r in readings
    ]  # fmt: skip
    columns = ["network", "crop", "DC gain by phase", "‖r‖ / ‖y‖", "cosine with bicubic rows", "singular values"]
    return Table(
        "Super-resolution ×2 on crops of 24 × 24 pixels", columns, rows, "Bicubic is the same matrix everywhere."
    )


def _edge_table(reading: EdgeReading, error: float, copying: float) -> Table:
    pairs: list[tuple[str, str]] = [
        ("mean squared error on held-out digits (copying the input)", f"{error:.5f} ({copying:.5f})"),
        ("max |Fx + r − y| / max |y|", f"{reading.interp.exactness():.1e}"),
        ("‖r‖ / ‖y‖", f"{reading.interp.bias_share():.3f}"),
        (
            "the same on the stroke, on the background",
            f"{reading.stroke_template:.3f}, {reading.background_template:.3f}",
        ),
        (
            "pixels that copy (over half the energy within 2 pixels)",
            f"{float(reading.copies.copied.double().mean()):.1%}",
        ),
        (
            "probes for all 784 columns (impulses' distance)",
            f"{reading.probes} ({reading.period[0]} × {reading.period[1]})",
        ),
        ("singular values", ", ".join(f"{s:.3f}" for s in reading.singular.tolist())),
        ("eigenvalues", ", ".join(f"{complex(v):.3f}" for v in reading.eigenvalues)),
        ("‖F − Jacobian‖ / ‖Jacobian‖ (frozen statistics)", f"{reading.jacobian_gap:.3f}"),
    ]
    return Table(
        "A digit to its Sobel edges: five convolutions with instance norm",
        ["figure", "value"],
        [list(p) for p in pairs],
    )


def _cost_table(cost: Cost) -> Table:
    rows: list[list[str | float | int]] = [
        [name, round(value, 1), round(value / cost.forward, 2)]
        for name, value in (
            ("forward pass", cost.forward), ("column, 16 at a time", cost.batched_column),
            ("column, alone", cost.single_column), ("row", cost.row),
        )
    ]  # fmt: skip
    return Table("Cost on EfficientNet-lite0", ["work", "milliseconds", "forward passes"], rows)


def _checks(tests: list[Deletion], readings: list[Enlargement], edges: EdgeReading, cost: Cost) -> list[Check]:
    informative = [t for t in tests if t.photo in PHOTOS[:3]]
    others = ("gradient norm", "random pixels")
    lowest = all(t.after["votes"][0] < min(np.mean(t.after[name]) for name in others) for t in informative)
    single, double = max(t.exactness for t in tests), max(r.interp.exactness() for r in readings)
    mean = {r.crop: float(np.mean(r.similarity)) for r in readings if r.network == "fsrcnn-x2"}
    ordered = mean["camera, flat"] > mean["camera, edge"] > mean["camera, texture"]
    return [
        Check("y = F x + r to 1e-5 in float32 on EfficientNet-lite0", single <= 1e-5, f"largest {single:.1e}",
              "the reading is not the network, and no other figure here holds"),
        Check("y = F x + r to 1e-12 in float64 on FSRCNN", double <= 1e-12, f"largest {double:.1e}",
              "the reading is not the network, and no other figure here holds"),
        Check(
            "deleting by votes lowers the top class most on chelsea, coffee and china", lowest,
            "; ".join(f"{t.photo} {t.before:.3f} → {t.after['votes'][0]:.3f} "
                      f"({', '.join(f'{n} {np.mean(t.after[n]):.3f}' for n in others)})" for t in informative),
              "a simpler attribution names the deciding pixels as well"),
        Check("on camera, FSRCNN is most like bicubic on the flat crop and least on texture", ordered,
              ", ".join(f"{crop} {value:.3f}" for crop, value in mean.items()),
              "what the network adds to bicubic does not follow texture"),
        Check("a column costs at most 1.5 forward passes", cost.batched_column <= 1.5 * cost.forward,
              f"{cost.batched_column / cost.forward:.2f} in batches, {cost.single_column / cost.forward:.2f} alone",
              "columns are too dear to read many of them"),
    ]  # fmt: skip


def _shows(tests: list[Deletion], readings: list[Enlargement], edges: EdgeReading) -> str:
    shares = [t.residual / t.logit for t in tests]
    flat, texture = (
        float(np.mean(next(r for r in readings if r.crop == f"camera, {kind}").similarity))
        for kind in ("flat", "texture")
    )
    return (
        f"Biases decide {min(shares):.0%} to {max(shares):.0%} of the top logit; the pixels' votes only the rest. "
        f"Deleting the pixels with the most votes takes the top class from {np.mean([t.before for t in tests]):.2f} to "
        f"{np.mean([t.after['votes'][0] for t in tests]):.2f} on average, random pixels to "
        f"{np.mean([np.mean(t.after['random pixels']) for t in tests]):.2f}. FSRCNN's filters have "
        f"cosine {flat:.2f} with bicubic's on a flat crop and {texture:.2f} on texture. The edge network copies in "
        f"{float(edges.copies.copied.double().mean()):.0%} of its output pixels."
    )
