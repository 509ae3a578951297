"""Sheets of directions, the files beside them, and edits that are replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from linmap import artifacts
from linmap.errors import UsageError
from linmap.interpret.householder_projector.attributes import Profile, said
from linmap.interpret.householder_projector.changes import in_batches, stepped
from linmap.interpret.householder_projector.directions import DirectionSet
from linmap.interpret.householder_projector.generators import Generator, draw_codes
from linmap.interpret.householder_projector.pictures import as_pixels, draw_contact_sheet, draw_sheet, mosaic
from linmap.pictures import illustrated
from linmap.recipes.householder_projector.flags import Sheets

CONTACT, VECTORS, EDITS = "contact_sheet.svg", "directions.npz", "edits.json"
CONTACT_SAMPLES, CONTACT_STEPS = 3, 5
MOST = 40
"""Directions that sheets are drawn of."""
UNIT = "standard deviations of the codes along the direction"


def shown(
    out: Path, generator: Generator, directions: DirectionSet, profiles: Sequence[Profile], settings: Sheets,
    seed: int, source: str, about: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write the vectors, `edits.json`, a sheet of each direction, and all directions on one page.

    Parameters
    ----------
    out
        A folder.
    generator, directions, profiles
        What is shown.
    settings, seed
        Of the sheets.
    source
        What `linmap apply` was given, for the commands in `edits.json`.
    about
        What else stands in `edits.json`.
    """
    if out.suffix or out.is_file():
        raise UsageError(f"--out {out}: sheets are written into a folder; give one.")
    count = min(len(directions), MOST)
    names = [f"direction_{number:02d}.svg" for number in range(1, count + 1)]
    write_vectors(out / VECTORS, directions)
    listed = [
        _listed(number, directions, profile, source, seed, names[number - 1] if number <= count else None)
        for number, profile in enumerate(profiles, start=1)
    ]
    document = dict(about) | {"seed": seed, "unit": UNIT, "directions": listed}
    artifacts.write_json(out / EDITS, artifacts.plain(document))
    summary: dict[str, Any] = {"sheets": str(out), "directions": len(directions)}
    amounts = np.linspace(-settings.n_std, settings.n_std, settings.steps).tolist()
    w = generator.mapping(draw_codes(generator, settings.samples or 6, seed)).detach()
    for number, name in enumerate(names, start=1):
        with illustrated(summary, out / name) as path:
            title = f"{number}. {said(profiles[number - 1])}"
            draw_sheet(path, along(generator, directions, w, number, amounts), amounts, title)
    with illustrated(summary, out / CONTACT) as path:
        draw_contact(path, generator, directions.first(count), list(map(said, profiles)), settings.n_std, seed)
        summary["picture"] = str(path)
    summary["labels"] = [f"{number} {said(profile)}" for number, profile in enumerate(profiles, start=1)]
    return summary


def _listed(
    number: int, directions: DirectionSet, profile: Profile, source: str, seed: int, sheet: str | None
) -> dict[str, Any]:
    """A direction in `edits.json`."""
    i = number - 1
    return {
        "number": number,
        "layer": directions.layers[i],
        "slot": directions.slots[i],
        "label": profile.label,
        "opposite": profile.opposite,
        "purity": round(profile.purity, 4),
        "steadiness": round(profile.steadiness, 4),
        "effects": {name: round(value, 4) for name, value in profile.effects.items()},
        "semantic": profile.semantic,
        "semantic_steadiness": profile.semantic_steadiness,
        "deviation": float(directions.deviations[i]),
        "image_change": float(directions.changes[i]),
        "sheet": sheet,
        "replay": f"linmap apply {source} --edit {number}=+2.0 --seed {seed} --out edited.png",
    }


def along(
    generator: Generator,
    directions: DirectionSet,
    w: Float[Tensor, "samples slots i"],
    number: int,
    amounts: Sequence[float],
) -> Float[Tensor, "samples steps channels height width"]:
    """Images on the way along one direction."""
    steps = [stepped(w, *directions.step(number, amount)) for amount in amounts]
    return torch.stack([in_batches(generator.synthesis, part) for part in steps], 1)


def draw_contact(
    path: Path, generator: Generator, directions: DirectionSet, said: Sequence[str], n_std: float, seed: int
) -> Path:
    """All directions on one page, at the first samples, each with what is said of it."""
    amounts = np.linspace(-n_std, n_std, CONTACT_STEPS).tolist()
    w = generator.mapping(draw_codes(generator, CONTACT_SAMPLES, seed)).detach()
    numbers = range(1, len(directions) + 1)
    images = torch.stack([along(generator, directions, w, number, amounts) for number in numbers])
    labels = [f"{number}  {one}" for number, one in zip(numbers, said, strict=False)]
    title = f"{len(directions)} directions; steps in {UNIT}"
    return draw_contact_sheet(path, images, amounts, labels, title)


def write_vectors(path: Path, directions: DirectionSet) -> None:
    """Vectors, slots, layers, deviations and image changes as NumPy arrays."""
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in directions.tensors().items()}
    arrays["layers"] = np.array(directions.layers)
    with artifacts.atomic_path(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def replayed(
    out: Path, generator: Generator, directions: DirectionSet, profiles: Sequence[Profile], settings: Sheets, seed: int
) -> dict[str, Any]:
    """Write the edited images of the codes of a seed: a PNG, or a folder of `before.png` and `after.png`."""
    edits = settings.edits()
    for number in edits:
        if not 1 <= number <= len(directions):
            raise UsageError(f"--edit {number}=...: there is no direction {number}; there are 1 to {len(directions)}.")
    if out.suffix not in ("", ".png"):
        raise UsageError(f"--out {out}: edits are written as a .png, or into a folder.")
    w = generator.mapping(draw_codes(generator, settings.samples or 1, seed)).detach()
    images = {"after": in_batches(generator.synthesis, directions.edited(w, edits))}
    if not out.suffix:
        images["before"] = in_batches(generator.synthesis, w)
    written = []
    for name, found in sorted(images.items()):
        path = out if out.suffix else out / f"{name}.png"
        with artifacts.atomic_path(path) as partial:
            Image.fromarray(mosaic(as_pixels(found)[None], gap=0)[..., :3]).save(partial)
        written.append(str(path))
    labels = {number: (profiles[number - 1].label, profiles[number - 1].opposite) for number in edits}
    told = [f"{number}={amount:+g}: {labels[number][amount < 0]}" for number, amount in edits.items()]
    change = float((images["after"] - in_batches(generator.synthesis, w)).square().mean().sqrt())
    return {"images": written, "edits": told, "seed": seed, "root_mean_square_change": round(change, 4)}
