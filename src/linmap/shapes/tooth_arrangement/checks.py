"""What the estimators refuse: parameters out of range, and pairs that they cannot learn from or arrange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from linmap.errors import ArgumentError, ArgumentTypeError, check_count
from linmap.shapes.tooth_arrangement.meshes import LEAST
from linmap.shapes.tooth_arrangement.network import Encoder, reads_meshes
from linmap.shapes.tooth_arrangement.pairs import ToothPairs
from linmap.shapes.tooth_arrangement.targets import Target

POSITIVE = ("points", "width", "blocks", "epochs", "batch_size")


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Those of an `Arranger`, by their names."""
    for name, least in (dict.fromkeys(POSITIVE, 1) | {"patches": LEAST, "pretrain_epochs": 0}).items():
        check_count(name, parameters[name], least)
    check_target(parameters["target"])
    encoder, pretrain_epochs = parameters["encoder"], parameters["pretrain_epochs"]
    if encoder not in get_args(Encoder):
        raise ArgumentError(f"encoder must be one of {', '.join(get_args(Encoder))}, got {encoder!r}.")
    if pretrain_epochs and not reads_meshes(encoder):
        raise ArgumentError(f"pretrain_epochs={pretrain_epochs} needs encoder='mesh' or encoder='joint'.")


def check_target(target: str) -> None:
    if target not in get_args(Target):
        raise ArgumentError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}.")


def check_pairs(pairs: ToothPairs, points: int, encoder: Encoder, patches: int) -> None:
    """Cases for an `Arranger` of these parameters, whether they are learnt from or arranged."""
    if not isinstance(pairs, ToothPairs):
        raise ArgumentTypeError(f"pairs must be ToothPairs, got {type(pairs).__name__}.")
    if pairs.points != points:
        raise ArgumentError(f"pairs have {pairs.points} points a tooth, and points={points}; make them alike.")
    if not len(pairs) or not pairs.mask.any(1).all():
        raise ArgumentError("pairs have no case, or a case without teeth; leave it out.")
    if reads_meshes(encoder):
        _check_meshes(pairs, encoder, patches)
    for name in ("before", "after", "centroid", "after_centroid", "rotation"):
        if not getattr(pairs, name)[pairs.mask].isfinite().all():
            raise ArgumentError(f"pairs.{name} holds values that are not finite for a tooth that is there.")


def _check_meshes(pairs: ToothPairs, encoder: Encoder, patches: int) -> None:
    needed = f"encoder={encoder!r} reads meshes"
    if pairs.meshes is None:
        raise ArgumentError(
            f"pairs hold points alone, and {needed}: make them with patches={patches} "
            "(`DentitionSimulator.sample`, `load_pairs`)."
        )
    if pairs.meshes.patches != patches:
        raise ArgumentError(f"pairs have meshes of {pairs.meshes.patches} patches, and patches={patches}.")
    if not (pairs.meshes.kind != 0)[pairs.mask].all():
        raise ArgumentError(f"pairs have a tooth without a mesh, and {needed}; leave the tooth out of the mask.")
    if not pairs.meshes.vertices[pairs.mask].isfinite().all():
        raise ArgumentError("pairs.meshes has vertices that are not finite for a tooth that is there.")
