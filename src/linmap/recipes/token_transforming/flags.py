"""The flags of `linmap compare token_transforming` and `linmap apply token_transforming`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, flags


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A model, and how its inputs are made of files."""

    model: str | None = None
    """A folder that Transformers loads, an id on the Hub, dinov2-small, minilm-l6 or smollm2-135m; dinov2-small for
    images and minilm-l6 for texts when left out."""
    size: int | None = None
    """Images: cut to their largest centred square and resized to this many pixels; as the model's own
    preprocessor_config.json says when left out."""
    length: int = 256
    """Texts: tokens at most."""
    batch_size: int = 8
    """Inputs that go through the model together."""
    at: tuple[int, ...] | None = None
    """Blocks (from 0) in which tokens are merged; when left out, a quarter, half and three quarters of the depth of
    models of images, every block of sentence encoders, and block 2 of language models."""

    def __post_init__(self) -> None:
        for name in ("size", "length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name}={value} must be 1 or more.")


@flags
class Transforming(Inputs, Derived):
    """How tokens are merged."""

    OF = "linmap.compress.token_transforming:TokenTransform"
    LEAVE = ("protect",)


@dataclass(frozen=True, kw_only=True)
class Compare(Transforming):
    """What `linmap compare token_transforming` measures."""

    keep: tuple[float, ...] | None = None
    """Budgets: shares of the tokens that stay at each of the blocks of --at (of the prompt's middle in language
    models); .75 .65 .5 .35 for images, .85 .7 for sentences and .75 .5 .25 for prompts when left out."""
    limit: int = 64
    """Inputs that are measured, spread over those of --data."""
    repeats: int = 3
    """Times that each way is timed, in turn with the model as it is."""
    lost: float | None = None
    """What may be lost of the measure that decides, when the verdict says which budget to take: .02 of a cosine, .01 of
    an accuracy, .2 nats when left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("limit", "repeats"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} must be 1 or more.")
        if wrong := [keep for keep in self.keep or () if not 0 < keep < 1]:
            raise ArgumentError(f"keep={wrong[0]:g} must be a share between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class Apply(Transforming):
    """What `linmap apply token_transforming` writes: a vector for each input, and beside the vectors of OUT.parquet
    the answers of a classifier of Transformers (...ForImageClassification, ...ForSequenceClassification) in
    OUT.predictions.csv: id, label, score."""

    keep: float | None = None
    """Share of the tokens that stays at each of the blocks of --at; .65 when neither this nor another budget is
    given."""
    target_flops: float | None = None
    """In place of --keep: multiply-adds, as a share of those of the model as it is."""
    target_speedup: float | None = None
    """In place of --keep: how many times as fast the model should be, measured on this machine with the first batch."""
    features: Literal["class", "mean", "both"] = "class"
    """Images: the class token (or what the model pools), the mean over the patches, or one behind the other."""
    resume: bool = False
    """Go on with an interrupted run of the same flags."""

    BUDGETS: ClassVar = ("keep", "target_flops", "target_speedup")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in self.BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ArgumentError(f"{given[0]} and {given[1]} are both budgets; give one.")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ArgumentError(f"keep={self.keep:g} must be a share above 0 and at most 1.")
        if self.target_flops is not None and not 0 < self.target_flops <= 1:
            raise ArgumentError(f"target_flops={self.target_flops:g} must be a share above 0 and at most 1.")
        if self.target_speedup is not None and not self.target_speedup > 1:
            raise ArgumentError(f"target_speedup={self.target_speedup:g} must be above 1.")
        if self.at is not None and len(given) and given[0] != "keep":
            raise ArgumentError(f"{given[0]} chooses the blocks itself; leave at out.")
