"""Pools on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

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
from linmap.data.schema import Count, Range, check_parameters, typed
from linmap.errors import ArgumentError, ArtifactError

if TYPE_CHECKING:
    from linmap.compress.learngene_pool.pool import LearngenePool

SYSTEM = "learngene_pool"


class Measures(TypedDict):
    """What a member must have in common with the stored one."""

    num_heads: Count
    embed_dim: Count
    depth: Count
    n_tokens: Count
    n_classes: Count
    patch_features: Count


class Saved(TypedDict):
    """What a folder says of a pool."""

    options: dict[str, Any]
    members: list[dict[str, int]]
    sizes: list[dict[str, Any] | None]
    active: int
    accuracy: dict[str, Annotated[float, Range(0, 1)]]
    checksum: str


CHECKED = {
    "num_heads": "heads",
    "embed_dim": "width",
    "depth": "depth",
    "n_tokens": "tokens",
    "n_classes": "classes",
    "patch_features": "numbers in a patch",
}
"""The words of `Measures`."""
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
    with artifacts.reading(folder):
        saved = _checked(cls, config)
    sizes = saved["sizes"]
    if members is None and None in sizes:
        raise ArgumentError(
            f"member {sizes.index(None)} of the pool in {folder} is no VisionTransformer of linmap; give members, "
            "models of its sizes that take the stored weights."
        )
    if members is None:
        with artifacts.reading(folder):
            pool = _built(cls, [empty_member(own) for own in sizes if own], saved, folder)
    else:
        pool = _built(cls, [as_member(member) for member in members], saved, folder)
    _fill(pool, tensors, folder, own=members is None)
    accuracy = {int(id): float(value) for id, value in saved["accuracy"].items()}
    if unknown := {saved["active"], *accuracy} - set(range(len(pool.configs))):
        raise ArtifactError(f"{folder} names model {min(unknown)}; the pool has 0..{len(pool.configs) - 1}.")
    pool.active, pool.accuracy = saved["active"], accuracy
    return pool.eval()


def _checked(cls: type, config: Any) -> Saved:
    """What a folder says of a pool, of the types that it should be."""
    saved = typed(Saved, config, "config")
    check_signed(config, SIGNED)
    check_parameters(cls, saved["options"])
    for number, member in enumerate(saved["members"]):
        typed(Measures, member, f"members: {number}")
    if named := [name for name in saved["accuracy"] if not re.fullmatch("[0-9]{1,9}", name)]:
        raise ArgumentError(f"accuracy has {named[0]!r:.40}, which is no number of a model")
    if len(saved["sizes"]) != len(saved["members"]):
        raise ArgumentError(f"there are {len(saved['sizes'])} sizes of {len(saved['members'])} members")
    return saved


def _built(cls: type, members: Sequence[Any], saved: Saved, folder: Path | str) -> Any:
    _check(members, saved["members"], folder)
    return cls(members, **saved["options"])


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
        raise ArtifactError(f"{folder}: the weights do not fit the pool ({artifacts.said(error)[:240]}).") from None
