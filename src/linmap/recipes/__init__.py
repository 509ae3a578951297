"""The catalogue of the 17 systems, and one file per system: how it meets files, baselines and metrics.

A recipe module `linmap.recipes.<slug>` holds:

- `Settings`: one dataclass, the flags of `linmap fit` and `linmap compare`; field docstrings are the help texts;
- `PRESETS`: `{"quick": Settings(...), "full": Settings(...)}`, the defaults of `linmap compare --preset`;
- `fit(settings, job: FitJob) -> dict`: train on the user's file, write an artifact folder, return a summary;
- `apply(settings, job: ApplyJob) -> dict`: use an artifact (or, for systems with nothing to train, the settings);
- `compare(settings, job: CompareJob) -> Result`: the system and its baselines on the same data.

What a system does differently, its module says:

- nothing to train: no `fit`; flags of its own for `apply`: a dataclass `ApplySettings`; for `compare`: in `PRESETS`;
- flags that depend on the kind of data: `settings_for(verb, path)`, the dataclass for the user's file ("fit") or the
  artifact ("apply"; None where only the flags are asked for);
- an `apply` that answers standard input as it comes (`--data -`): `STANDARD_INPUT = True`;
- `--resume` is not honoured in both `fit` and `compare`: where it is, `RESUMES = ("fit",)`;
- flags that have other names than the arguments that its library's messages name: `FLAG_OF = {"argument": "flag"}`;
- flags mean something to one verb alone: `ONLY_FOR = {"fit": ("name",)}`, a class variable of its `Settings`.

Modules import their system lazily enough that `linmap --help` needs none of them.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from types import ModuleType

from linmap.errors import UsageError


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
    """What its quick comparison takes on two cores, as measured."""


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
            seconds=122,
        ),
        System(
            "triadaptlora",
            "adapt",
            "TriAdaptLoRA",
            "fine-tune with ranks that grow where they help",
            "arXiv 2501.08008",
            True,
            seconds=107,
        ),
        System(
            "salt",
            "adapt",
            "SALT",
            "adapt a segmenter through its singular values",
            "arXiv 2503.16055",
            True,
            seconds=82,
        ),
        System(
            "flatquant",
            "compress",
            "FlatQuant",
            "4-bit weights, activations and cache",
            "arXiv 2410.09426",
            True,
            seconds=147,
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
        System("bt2", "retrieve", "BT²", "change the embedder, keep the index", "arXiv 2211.03989", True, seconds=5),
        System(
            "mbat",
            "retrieve",
            "MBAT for JSON",
            "one vector per JSON record, no schema, no training",
            "arXiv 2202.04771",
            True,
            fitted=False,
            seconds=31,
        ),
        System(
            "hippo",
            "sequence",
            "HiPPO and S4",
            "model long sequences with state spaces",
            "arXiv 2206.12037",
            True,
            seconds=33,
        ),
        System("olinear", "sequence", "OLinear", "forecast many series at once", "arXiv 2505.08550", True, seconds=37),
        System("acm", "signals", "Augmented covariance", "classify EEG trials", "arXiv 2302.04508", True, seconds=57),
        System(
            "gbwbn",
            "signals",
            "Bures-Wasserstein batch norm",
            "normalise covariance features",
            "arXiv 2504.00660",
            True,
            seconds=138,
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
            seconds=16,
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


def load(slug: str) -> ModuleType:
    """Import the recipe of a system that is ready.

    Raises
    ------
    UsageError
        If the system is unknown, not built yet, or needs an extra that is not installed.
    """
    system = find(slug)
    if not system.ready:
        raise UsageError(f"{slug} is planned, not built yet; `linmap list` shows what is ready.")
    try:
        return importlib.import_module(f"linmap.recipes.{slug}")
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("linmap"):
            raise UsageError(f"{slug} needs {error.name}: pip install 'linmap[{system.room}]'.") from error
        raise
