"""What people can see of an image, as numbers, and what a direction changes of it.

An effect is the mean change of an attribute by one standard deviation along the direction, in standard deviations of
the attribute over the generator's own images. Attributes go together (a bright background makes a bright image), so the
effects are taken after ZCA-cor whitening, which leaves every attribute as near to itself as it can while no two are
correlated any more (Kessy, Lewin, Strimmer, "Optimal Whitening and Decorrelation", The American Statistician 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.data.image_tensors import LUMA
from linmap.errors import ArgumentError
from linmap.interpret.householder_projector.changes import in_batches, stepped
from linmap.interpret.householder_projector.directions import DirectionSet
from linmap.interpret.householder_projector.features import Features
from linmap.interpret.householder_projector.generators import Generator, draw_codes

POPULATION, SAMPLES, SEMANTIC = 192, 16, 8
"""Images whose attributes are the scale, codes that effects are measured at, and those of them whose features are."""
PURE = 0.5
"""From this share of the effect on, a direction is named by one attribute alone."""
STEADY = 0.5
"""Below this steadiness, the label says that the direction does different things to different images."""

Images = Float[Tensor, "batch channels height width"]


@dataclass(frozen=True)
class Attribute:
    """A number of an image, and the words for more and less of it."""

    name: str
    more: str
    less: str
    of: Callable[[Images], Float[Tensor, " batch"]]
    """From images in [0, 1]."""


@dataclass(frozen=True)
class Profile:
    """What one direction changes."""

    label: str
    """In words, for a step to the positive side."""
    opposite: str
    """The same for the negative side."""
    purity: float
    """Share of the strongest attribute in the squared effects, from 1 / attributes to 1."""
    steadiness: float
    """|mean| over mean | | of that attribute's change over the images: 1 where it goes one way in all of them."""
    effects: Mapping[str, float]
    """By attribute, whitened, in its standard deviations."""
    semantic: float
    """How far one deviation moves the features, in units of their mean distance between images."""
    semantic_steadiness: float
    """|mean| over mean | | of the change of the features: 1 where it is the same change for all images."""


# -- attributes --------------------------------------------------------------------------------------------------------


def _box(rows: tuple[float, float], columns: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """A region by shares of the height and of the width."""

    def cut(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        top, bottom = int(rows[0] * h), max(int(rows[0] * h) + 1, round(rows[1] * h))
        left, right = int(columns[0] * w), max(int(columns[0] * w) + 1, round(columns[1] * w))
        return x[..., top:bottom, left:right]

    return cut


def _background(x: Tensor) -> Tensor:
    """The upper outer columns, where a portrait has its background."""
    left, right = _box((0, 0.45), (0, 0.14)), _box((0, 0.45), (0.86, 1))
    return torch.cat([left(x), right(x)], -1)


_TOP, _ROWS = _box((0.02, 0.2), (0.32, 0.68)), _box((0.25, 0.85), (0, 1))


def _light(x: Tensor) -> Tensor:
    """Luminance, (batch, height, width)."""
    weights = torch.tensor(LUMA, dtype=x.dtype, device=x.device)
    return x[:, 0] if x.shape[1] == 1 else torch.einsum("c,bchw->bhw", weights, x)


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _warmth(x: Tensor) -> Tensor:
    """Red less blue."""
    return _mean(x[:, 0] - x[:, 2])


def _green(x: Tensor) -> Tensor:
    return _mean(x[:, 1] - (x[:, 0] + x[:, 2]) / 2)


def _sides(x: Tensor) -> Tensor:
    """Luminance of the left half less that of the right half."""
    light = _light(x)
    half = light.shape[-1] // 2
    return _mean(light[..., :half]) - _mean(light[..., -half:])


def _axis(x: Tensor) -> Tensor:
    """The upright line about which the middle rows are most symmetric, from the middle, in widths of the image."""
    rows = _light(_ROWS(x))
    width = rows.shape[-1]
    reach, half = max(1, round(0.19 * width)), max(1, round(0.22 * width))
    places = range(-reach, reach + 1)
    errors = []
    for place in places:
        middle = width // 2 + place
        left, right = rows[..., middle - half : middle], rows[..., middle : middle + half].flip(-1)
        errors.append(_mean((left - right).abs()))
    near = torch.softmax(-40 * torch.stack(errors, 1), 1)
    return near @ torch.tensor(list(places), dtype=x.dtype, device=x.device) / width


def _detail(x: Tensor) -> Tensor:
    light = _light(x)
    return _mean(light.diff(dim=-1).abs()) + _mean(light.diff(dim=-2).abs())


def colour_attributes(portraits: bool = False) -> tuple[Attribute, ...]:
    """Of colour images; with `portraits`, the regions are called hair, background and face."""
    top, outer = ("hair", "background") if portraits else ("upper middle", "upper corners")
    turn = ("turned to the right", "turned to the left") if portraits else ("axis to the right", "axis to the left")
    return (
        Attribute("brightness", "brighter", "darker", lambda x: _mean(_light(x))),
        Attribute("contrast", "more contrast", "less contrast", lambda x: _light(x).flatten(1).std(1)),
        Attribute("light from a side", "light from the left", "light from the right", _sides),
        Attribute("pose" if portraits else "axis of symmetry", *turn, _axis),
        Attribute(top, f"lighter {top}", f"darker {top}", lambda x: _mean(_light(_TOP(x))) - _mean(_light(x))),
        Attribute(f"colour of the {top}", f"redder {top}", f"bluer {top}", lambda x: _warmth(_TOP(x)) - _warmth(x)),
        Attribute(
            outer, f"lighter {outer}", f"darker {outer}", lambda x: _mean(_light(_background(x))) - _mean(_light(x))
        ),
        Attribute(
            f"colour of the {outer}",
            f"warmer {outer}",
            f"bluer {outer}",
            lambda x: _warmth(_background(x)) - _warmth(x),
        ),
        Attribute("warmth", "warmer colours", "colder colours", _warmth),
        Attribute("green", "greener", "more purple", _green),
        Attribute("detail", "more detail", "smoother", _detail),
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mass, spread along x and slant of bright strokes."""
    light = _light(x)
    mass = light.sum((1, 2)).clamp_min(1e-6)
    h, w = light.shape[-2:]
    ys = torch.linspace(-1, 1, h, dtype=x.dtype, device=x.device)[:, None]
    xs = torch.linspace(-1, 1, w, dtype=x.dtype, device=x.device)
    cx, cy = (light * xs).sum((1, 2)) / mass, (light * ys).sum((1, 2)) / mass
    dx, dy = xs - cx[:, None, None], ys - cy[:, None, None]
    along = (light * dx * dy).sum((1, 2)) / (light * dy**2).sum((1, 2)).clamp_min(1e-6)
    return mass / (h * w), ((light * dx**2).sum((1, 2)) / mass).sqrt(), -along


def stroke_attributes() -> tuple[Attribute, ...]:
    """Of bright strokes on black, such as digits."""
    return (
        Attribute("thickness", "thicker", "thinner", lambda x: _moments(x)[0]),
        Attribute("width", "wider", "narrower", lambda x: _moments(x)[1]),
        Attribute("slant", "leaning to the right", "leaning to the left", lambda x: _moments(x)[2]),
        Attribute("upper half", "more above", "more below", lambda x: _mean(_box((0, 0.5), (0, 1))(x)) - _mean(x)),
        Attribute("left half", "more on the left", "more on the right", _sides),
        Attribute("middle", "fuller middle", "emptier middle", lambda x: _mean(_box((0.35, 0.65), (0.35, 0.65))(x))),
    )


def measured(attributes: tuple[Attribute, ...], images: Images) -> Float[Tensor, "batch attributes"]:
    """All attributes of images in [-1, 1], in float64."""
    x = images.double().clamp(-1, 1) / 2 + 0.5
    return torch.stack([attribute.of(x) for attribute in attributes], 1)


# -- what directions change --------------------------------------------------------------------------------------------


def profiles(
    generator: Generator,
    directions: DirectionSet,
    attributes: tuple[Attribute, ...],
    features: Features | None = None,
    *,
    seed: int = 0,
) -> list[Profile]:
    """What every direction changes, by steps of one standard deviation to either side.

    Parameters
    ----------
    generator, directions
        In evaluation mode, and its directions.
    attributes
        To name them by.
    features
        Of images; without, the semantic figures are NaN.
    seed
        Of the codes.
    """
    codes = draw_codes(generator, POPULATION, seed)
    scale = measured(attributes, in_batches(generator, codes))
    deviation, whiten = scale.std(0).clamp_min(1e-9), zca_cor(scale)
    w = generator.mapping(codes[:SAMPLES]).detach()
    spread = _mean_distance(features(in_batches(generator, codes[: 2 * SAMPLES]))) if features else 1.0
    few = slice(SEMANTIC)
    found = []
    for number in range(1, len(directions) + 1):
        ahead, back = (in_batches(generator.synthesis, stepped(w, *directions.step(number, by))) for by in (1.0, -1.0))
        change = (measured(attributes, ahead) - measured(attributes, back)) / 2 / deviation
        shift = (features(ahead[few]) - features(back[few])) / 2 / spread if features else None
        found.append(_profile(attributes, change, whiten, shift))
    return found


def zca_cor(values: Float[Tensor, "n a"]) -> Float[Tensor, "a a"]:
    """The matrix that decorrelates standardised attributes and leaves each as near to itself as it can."""
    eigenvalues, vectors = torch.linalg.eigh(_correlation(values))
    return (vectors * eigenvalues.clamp_min(1e-3).rsqrt()) @ vectors.T


def _correlation(values: Float[Tensor, "n a"]) -> Float[Tensor, "a a"]:
    if len(values) < 2:
        raise ArgumentError(f"values must hold 2 samples at least, got {len(values)}.")
    z = (values - values.mean(0)) / values.std(0).clamp_min(1e-9)
    return z.T @ z / (len(z) - 1)


def _mean_distance(features: Float[Tensor, "n d"]) -> float:
    return float(torch.pdist(features.double()).mean().clamp_min(1e-12))


def _profile(
    attributes: tuple[Attribute, ...], change: Float[Tensor, "n a"], whiten: Float[Tensor, "a a"], shift: Tensor | None
) -> Profile:
    each = change @ whiten
    effects = each.mean(0)
    shares = effects.square() / effects.square().sum().clamp_min(1e-30)
    order = shares.argsort(descending=True).tolist()
    top = order[0]
    steadiness = float(effects[top].abs() / each[:, top].abs().mean().clamp_min(1e-30))
    purity = float(shares[top])
    signs = [bool(effect >= 0) for effect in effects]
    named = order[:1] if purity >= PURE else [i for i in order[:3] if shares[i] >= 0.15] or order[:2]

    def words(positive: bool) -> str:
        return ", ".join(attributes[i].more if signs[i] == positive else attributes[i].less for i in named)

    semantic = steady = float("nan")
    if shift is not None:
        lengths = shift.double().norm(dim=1).mean()
        semantic = float(lengths)
        steady = float(shift.double().mean(0).norm() / lengths.clamp_min(1e-12))
    effect = {attribute.name: float(value) for attribute, value in zip(attributes, effects, strict=True)}
    return Profile(words(True), words(False), purity, steadiness, effect, semantic, steady)


def said(profile: Profile) -> str:
    """A direction in a line: what a step to the positive side changes most, and how purely."""
    mixed = "" if profile.purity >= PURE else "mixed: "
    unsteady = "; not the same way in every image" if profile.steadiness < STEADY else ""
    return f"{mixed}{profile.label} ({profile.purity:.0%} of the measured change{unsteady})"
