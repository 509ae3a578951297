"""The flags of `linmap fit | apply | compare householder_projector`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, Other, flags

if TYPE_CHECKING:
    from linmap.interpret.householder_projector.finetuning import FineTuning

PROJECTION = "linmap.interpret.householder_projector.layers:project_layers"
TRAINING = "linmap.interpret.householder_projector.finetuning:FineTuning"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A generator of images."""

    model: str = "dcgan-faces"
    """dcgan-faces (64 x 64, of the package gan-face-generate), a folder with config.json and model.safetensors
    (architecture dcgan or stylegan2-like), or package.module:function, a function of yours without arguments that
    returns an nn.Module from codes (batch, latent) to images (batch, 1 or 3, height, width) in [-1, 1]."""
    layers: tuple[str, ...] = ()
    """Layers that read the code or its style, by dotted name; when left out the first layer of a dcgan, and in a
    stylegan2-like generator the style layers of the up-sampling convolutions."""


@flags
class Projection(Network, Derived):
    """What layers are replaced by."""

    OF, LEAVE = PROJECTION, ("model", "layers", "w_samples")

    rank: int = 10
    """Directions of each layer."""
    gain: float | Literal["match"] = "match"
    """The singular values of each projected weight, all the same; match: the root mean square of the leading ones of
    the weight that it replaces."""
    n_reflectors: Literal["rank", "full"] = "rank"
    """Reflections on either side of a layer: as many as its rank, which is enough, or as its sides are long, as the
    authors have it."""

    def __post_init__(self) -> None:
        check_some(self.rank)


@flags
class Tuning(Projection):
    """How the projected generator is trained; --steps 0 leaves it as it is projected."""

    OF, LEAVE = TRAINING, ("seed",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.steps < 0:
            raise ArgumentError(f"steps={self.steps} must not be negative.")

    def training(self, seed: int, on_images: bool) -> FineTuning | None:
        """The training that the flags ask for; None without a step."""
        from linmap.interpret.householder_projector.finetuning import FineTuning

        options = self.options(Tuning, seed=seed)
        if options["steps"] is None:
            options["steps"] = FineTuning.steps if on_images else 0
        return FineTuning(**options) if options["steps"] else None


@flags
class Fit(Tuning):
    """Project layers of a generator, fine-tune it, and find, measure and label its directions.

    --data is a folder of images, or an .npz of them, that the generator shall draw; without it, what the generator
    drew before is what it shall draw afterwards.
    """

    OF, LEAVE = TRAINING, ("seed",)
    OTHER: ClassVar = {
        "steps": Other(None, "without images, none of what was tried kept the quality as well as no step at all"),
        "checkpoint_every": Other(50, "steps take a second, and --resume should not lose many"),
    }

    steps: int | None = None
    """Steps of fine-tuning; when left out 300 on images, and none without: the directions are then those of the
    pretrained weight, and only the statistics of batch normalisation are taken anew."""
    order: Literal["change", "jacobian", "layer"] = "change"
    """change: directions by what one standard deviation changes in the image; jacobian: first turned within each layer
    to the basis in which the mean squared Jacobian of the image is diagonal; layer: as the projector has them."""
    measured: int = 256
    """Images that the Frechet distance is measured by; 0: not measured."""
    feature_side: int = 98
    """Pixels on a side of what DINOv2 sees of an image, a multiple of 14."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measured < 0 or self.measured == 1:
            raise ArgumentError(f"measured={self.measured} must be 0, or at least 2.")
        check_side(self.feature_side)


@flags
class Compare(Tuning):
    """Compare the projector with SeFa in the plain generator and in one that is fine-tuned as long, and with itself
    from a random start and at other ranks.

    --data as `fit` takes it.
    """

    OF, LEAVE = TRAINING, ("seed",)
    OTHER: ClassVar = {
        "steps": Other(16, "all methods in three minutes on two cores"),
        "batch_size": Other(16, "all methods in three minutes on two cores"),
        "warmup": Other(4, "of few steps"),
        "average": Other(0.8, "of few steps"),
    }

    ranks: tuple[int, ...] = (5, 10, 20)
    """Other ranks of the projector from the pretrained weight."""
    seeds: int = 1
    """Seeds of every fine-tuning."""
    samples: int = 160
    """Images that the Frechet distance and the diversity are measured by."""
    codes: int = 32
    """Codes that entanglement and path lengths are measured at; chance is counted over these."""
    feature_side: int = 98
    """Pixels on a side of what DINOv2 sees of an image, a multiple of 14."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("seeds", 1), ("samples", 2), ("codes", 2)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name}={getattr(self, name)} must be at least {least}.")
        if min(self.ranks, default=1) < 1:
            raise ArgumentError(f"ranks={self.ranks}: expected positive numbers.")
        if self.rank < 2:
            raise ArgumentError(f"rank={self.rank}: a comparison needs 2 directions at least.")
        check_side(self.feature_side)


def check_some(rank: int) -> None:
    """Refuse to find no direction."""
    if rank < 1:
        raise ArgumentError(f"rank={rank} must be at least 1.")


def check_side(side: int) -> None:
    """Refuse what DINOv2 cannot cut into patches."""
    if side < 14 or side % 14:
        raise ArgumentError(f"feature_side={side} must be a multiple of 14.")


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """How directions are shown, or an edit that is replayed."""

    edit: tuple[str, ...] = ()
    """Instead of sheets, images with these edits: NUMBER=AMOUNT, such as 3=+2.0, a direction of the contact sheet and
    how far, in standard deviations of the codes."""
    samples: int | None = None
    """Images on a sheet; of an edit. 6 and 1 when left out."""
    steps: int = 7
    """Columns of a sheet."""
    n_std: float = 3.0
    """How far the sheets go to either side, in standard deviations of the codes."""

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ArgumentError(f"samples={self.samples} must be at least 1.")
        if self.steps < 2:
            raise ArgumentError(f"steps={self.steps} must be at least 2.")
        if not 0 < self.n_std < float("inf"):
            raise ArgumentError(f"n_std={self.n_std} must be positive.")
        self.edits()

    def edits(self) -> dict[int, float]:
        """Amounts by the number of the direction."""
        found: dict[int, float] = {}
        for given in self.edit:
            text, _, written = given.partition("=")
            try:
                number, amount = int(text), float(written)
            except ValueError:
                raise ArgumentError(f"edit={given!r} must be NUMBER=AMOUNT, such as 3=+2.0.") from None
            if not abs(amount) < float("inf"):
                raise ArgumentError(f"edit={given!r}: the amount must be finite.")
            if number in found:
                raise ArgumentError(f"edit={given!r}: direction {number} is given twice; say once how far.")
            found[number] = amount
        return found


@dataclass(frozen=True, kw_only=True)
class Apply(Sheets):
    """Draw sheets of every direction of a fitted generator, or replay an edit."""


@dataclass(frozen=True, kw_only=True)
class Unfitted(Network, Sheets):
    """Draw sheets of SeFa's directions of a generator as it is; nothing is projected or trained."""

    rank: int = 10
    """Directions of each layer."""
    order: Literal["change", "jacobian", "layer"] = "layer"
    """layer: by singular values; change: by what one standard deviation changes in the image; jacobian: turned within
    each layer to the basis in which the mean squared Jacobian of the image is diagonal, then as change."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_some(self.rank)
