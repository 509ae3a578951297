"""Pools on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from linmap import artifacts
from linmap.compress.learngene_pool.descendant import (
    check_signed,
    empty_member,
    is_descendant,
    signed,
    sizes_of,
    unshared,
)
from linmap.compress.learngene_pool.members import as_member
from linmap.errors import ArgumentError, ArtifactError

if TYPE_CHECKING:
    from linmap.compress.learngene_pool.pool import LearngenePool

SYSTEM = "learngene_pool"
CHECKED = {
    "num_heads": "heads",
    "embed_dim": "width",
    "depth": "depth",
    "n_tokens": "tokens",
    "n_classes": "classes",
    "patch_features": "numbers in a patch",
}
"""What a member must have in common with the stored one, and its words."""
SIGNED = ("options", "members", "sizes")
"""What says which models there are, and what their weights compute."""


def save(pool: LearngenePool, folder: Path | str) -> None:
    """As of `LearngenePool.save`."""
    config = {
        "options": pool.options,
        "members": [measures(member) for member in pool.members],
        "sizes": [sizes_of(member) for member in pool.members],
        "active": pool.active,
        "accuracy": {str(id): value for id, value in pool.accuracy.items()},
    }
    artifacts.save(folder, SYSTEM, signed(config, SIGNED), unshared(pool.state_dict()))


def measures(member: Any) -> dict[str, int]:
    """What is checked of a member."""
    return {name: len(member.blocks) if name == "depth" else int(getattr(member, name)) for name in CHECKED}


def load(cls: type, folder: Path | str, members: Sequence[Any] | None) -> Any:
    """As of `LearngenePool.load`."""
    config, tensors = artifacts.load(folder, SYSTEM)
    if is_descendant(config):
        raise ArtifactError(f"{folder} holds one model of a pool; Descendant.load reads it.")
    try:
        check_signed(config, SIGNED)
        stored = [{name: int(member[name]) for name in CHECKED} for member in config["members"]]
        sizes = [None if own is None else dict(own) for own in config["sizes"]]
        options = dict(config["options"])
        accuracy = {int(id): float(value) for id, value in config["accuracy"].items()}
        active = int(config["active"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{folder} holds no readable pool ({error}); fit it again.") from None
    if members is None and None in sizes:
        raise ArgumentError(
            f"member {sizes.index(None)} of the pool in {folder} is no VisionTransformer of linmap; give members, "
            "models of its sizes that take the stored weights."
        )
    try:
        found = [empty_member(own) for own in sizes if own] if members is None else [as_member(m) for m in members]
        _check(found, stored, folder)
        pool = cls(found, **options)
    except TypeError as error:
        if members is not None:
            raise
        raise ArtifactError(f"{folder} holds no readable pool ({error}); fit it again.") from None
    _fill(pool, tensors, folder, own=members is None)
    if unknown := {active, *accuracy} - set(range(len(pool.configs))):
        raise ArtifactError(f"{folder} names model {min(unknown)}; the pool has 0..{len(pool.configs) - 1}.")
    pool.active, pool.accuracy = active, accuracy
    return pool.eval()


def _check(members: Sequence[Any], stored: Sequence[Mapping[str, int]], folder: Path | str) -> None:
    if len(members) != len(stored):
        raise ArgumentError(f"the pool in {folder} has {len(stored)} members, got {len(members)}.")
    for number, (member, expected) in enumerate(zip(members, stored, strict=True)):
        found = measures(member)
        for name, words in CHECKED.items():
            if found[name] != expected[name]:
                raise ArgumentError(
                    f"member {number} has {found[name]} {words} ({name}), and that of the pool in {folder} "
                    f"{expected[name]}; its weights would compute something else."
                )


def _fill(pool: LearngenePool, tensors: Mapping[str, Tensor], folder: Path | str, own: bool) -> None:
    """Give the pool its weights; members that linmap made take the stored type of numbers, too."""
    try:
        pool.load_state_dict(tensors, assign=own)
    except RuntimeError as error:
        raise ArtifactError(f"{folder}: the weights do not fit the pool ({error}).") from None
