"""The catalogue of the 17 systems, and for each that is ready a recipe: how it meets files, baselines and metrics.

`linmap.recipes.<slug>` holds `RECIPE`, a `Recipe`: for each verb its flags and where its work is. Read in this order:
`recipe.py` (the contract), `job.py` (the flags that all systems share), `derived.py` (flags that are an estimator's own
parameters), and then one system: `flags.py`, `fit.py`, `apply.py`, `compare.py`, `pictures.py`.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

from linmap.errors import UsageError
from linmap.recipes.recipe import Recipe


@dataclass(frozen=True)
class System:
    """One line of the catalogue."""

    slug: str
    room: str
    title: str
    purpose: str
    paper: str
    ready: bool = False
    fitted: bool = True
    """Whether it is fitted before it is applied."""
    seconds: float = 0.0
    """What its comparison takes on two cores, as measured."""


SYSTEMS = {
    system.slug: system
    for system in (
        System(
            "bone",
            "adapt",
            "Bone",
            "fine-tune with one trainable block shared across a weight",
            "arXiv 2409.15371",
            True,
            seconds=204,
        ),
        System(
            "triadaptlora",
            "adapt",
            "TriAdaptLoRA",
            "fine-tune with ranks that grow where they help",
            "arXiv 2501.08008",
            True,
            seconds=141,
        ),
        System(
            "salt",
            "adapt",
            "SALT",
            "adapt a segmenter through its singular values",
            "arXiv 2503.16055",
            True,
            seconds=98,
        ),
        System(
            "flatquant",
            "compress",
            "FlatQuant",
            "4-bit weights, activations and cache",
            "arXiv 2410.09426",
            True,
            seconds=210,
        ),
        System(
            "token_transforming",
            "compress",
            "Token Transforming",
            "fewer tokens in a ViT, no training",
            "arXiv 2506.05709",
        ),
        System(
            "learngene_pool", "compress", "Learngene Pool", "one model in, a family of sizes out", "arXiv 2312.05743"
        ),
        System("bt2", "retrieve", "BT²", "change the embedder, keep the index", "arXiv 2211.03989", True, seconds=9),
        System(
            "mbat",
            "retrieve",
            "MBAT for JSON",
            "one vector per JSON record, no schema, no training",
            "arXiv 2202.04771",
            True,
            fitted=False,
            seconds=36,
        ),
        System(
            "hippo",
            "sequence",
            "HiPPO and S4",
            "model long sequences with state spaces",
            "arXiv 2206.12037",
            True,
            seconds=103,
        ),
        System("olinear", "sequence", "OLinear", "forecast many series at once", "arXiv 2505.08550", True, seconds=68),
        System("acm", "signals", "Augmented covariance", "classify EEG trials", "arXiv 2302.04508", True, seconds=65),
        System(
            "gbwbn",
            "signals",
            "Bures-Wasserstein batch norm",
            "normalise covariance features",
            "arXiv 2504.00660",
            True,
            seconds=128,
        ),
        System(
            "lie_decomposition",
            "shapes",
            "Lie group decompositions",
            "see shapes whatever the affine warp",
            "arXiv 2310.11366",
        ),
        System("tinvnn", "shapes", "TinvNN", "make any network blind to rigid motion", "arXiv 2112.12345"),
        System("tooth_arrangement", "shapes", "Tooth arrangement", "plan where teeth go", "arXiv 2312.15139"),
        System(
            "linearscope",
            "interpret",
            "LinearScope",
            "read a network as one affine map",
            "arXiv 1908.05168",
            True,
            fitted=False,
            seconds=5,
        ),
        System(
            "householder_projector", "interpret", "Householder Projector", "find a GAN's directions", "arXiv 2307.08012"
        ),
    )
}


def find(slug: str) -> System:
    """The catalogue entry of `slug`.

    Raises
    ------
    UsageError
        If there is no such system, with the nearest name.
    """
    if slug in SYSTEMS:
        return SYSTEMS[slug]
    near = difflib.get_close_matches(slug, SYSTEMS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`linmap list` names them all."
    raise UsageError(f"there is no system {slug!r}; {hint}")


def load(slug: str) -> Recipe:
    """The recipe of a system that is ready.

    Raises
    ------
    UsageError
        If the system is unknown, not built yet, or needs an extra that is not installed.
    """
    system = find(slug)
    if not system.ready:
        raise UsageError(f"{slug} is planned, not built yet; `linmap list` shows what is ready.")
    try:
        return importlib.import_module(f"linmap.recipes.{slug}").RECIPE
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("linmap"):
            raise UsageError(f"{slug} needs {error.name}: pip install 'linmap[{system.room}]'.") from error
        raise
