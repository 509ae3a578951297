"""The catalogue of the 17 systems, and for each that is ready a recipe: how it meets files, baselines and metrics.

`linmap.recipes.<slug>` holds `RECIPE`, a `Recipe`: for each verb its flags and where its work is. Read in this order:
`recipe.py` (the contract), `job.py` (the flags that all systems share), `derived.py` (flags that are an estimator's own
parameters), and then one system: `flags.py`, `fit.py`, `apply.py`, `compare.py`, `pictures.py`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass

from linmap.errors import UsageError
from linmap.recipes.packages import missing, remedy
from linmap.recipes.recipe import Recipe


@dataclass(frozen=True)
class System:
    """One line of the catalogue."""

    slug: str
    room: str
    title: str
    purpose: str
    arxiv: str
    """Number of the paper on arXiv."""
    seconds: float = 0.0
    """What its comparison takes on two cores, as measured; 0 while it is only planned."""
    fitted: bool = True
    """Whether it is fitted before it is applied."""

    @property
    def ready(self) -> bool:
        """Whether it can be used."""
        return self.seconds > 0

    def takes(self, verb: str) -> bool:
        """Whether `fit`, `apply` or `compare` may be followed by its name."""
        return verb == "compare" or self.fitted == (verb == "fit")

    @property
    def paper(self) -> str:
        """Where the method was published."""
        return f"arXiv {self.arxiv}"


_CATALOGUE = (
    System("bone", "adapt", "Bone", "fine-tune with one trainable block shared across a weight", "2409.15371", 204),
    System(
        "triadaptlora", "adapt", "TriAdaptLoRA", "fine-tune with ranks that grow where they help", "2501.08008", 141
    ),
    System("salt", "adapt", "SALT", "adapt a segmenter through its singular values", "2503.16055", 98),
    System("flatquant", "compress", "FlatQuant", "4-bit weights, activations and cache", "2410.09426", 210),
    System(
        "token_transforming",
        "compress",
        "Token Transforming",
        "fewer tokens in a transformer, no training",
        "2506.05709",
        100,
        fitted=False,
    ),
    System("learngene_pool", "compress", "Learngene Pool", "one model in, a family of sizes out", "2312.05743", 112),
    System("bt2", "retrieve", "BT²", "change the embedder, keep the index", "2211.03989", 9),
    System(
        "mbat",
        "retrieve",
        "MBAT for JSON",
        "one vector per JSON record, no schema, no training",
        "2202.04771",
        36,
        False,
    ),
    System("hippo", "sequence", "HiPPO and S4", "model long sequences with state spaces", "2206.12037", 103),
    System("olinear", "sequence", "OLinear", "forecast many series at once", "2505.08550", 68),
    System("acm", "signals", "Augmented covariance", "classify EEG trials", "2302.04508", 65),
    System("gbwbn", "signals", "Bures-Wasserstein batch norm", "normalise covariance features", "2504.00660", 128),
    System(
        "lie_decomposition",
        "shapes",
        "Lie group decompositions",
        "see shapes whatever the affine warp",
        "2310.11366",
        71,
    ),
    System("tinvnn", "shapes", "TinvNN", "make any network blind to rigid motion", "2112.12345", 126),
    System("tooth_arrangement", "shapes", "Tooth arrangement", "plan where teeth go", "2312.15139", 96),
    System(
        "linearscope", "interpret", "LinearScope", "read a network as one affine map", "1908.05168", 5, fitted=False
    ),
    System("householder_projector", "interpret", "Householder Projector", "find a GAN's directions", "2307.08012", 92),
)
SYSTEMS = {system.slug: system for system in _CATALOGUE}


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
            raise UsageError(f"{slug} needs {error.name}: {remedy([error.name], system.room)}.") from error
        raise


def require(slug: str, modules: Iterable[str]) -> None:
    """Refuse what needs modules of packages that are not installed, before any work.

    Raises
    ------
    UsageError
        With what to type to have them.
    """
    if lacking := missing(modules):
        raise UsageError(f"{slug} needs {', '.join(lacking)}: {remedy(lacking, SYSTEMS[slug].room)}.")
