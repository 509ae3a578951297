"""Generators as the rest of the system meets them: codes to styles to images, and folders that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap import artifacts
from linmap.data.built import no_larger_than, weights_in
from linmap.data.door import load_json
from linmap.data.generators import CONFIG_FILE, DCGAN, MODEL_FILE
from linmap.data.schema import check_parameters, unstated
from linmap.errors import ArgumentError, ArgumentTypeError, ArtifactError, DataError
from linmap.interpret.householder_projector.projector import HouseholderProjector
from linmap.interpret.householder_projector.stylegan2 import StyleGAN2Like

ARCHITECTURES: Mapping[str, type[DCGAN | StyleGAN2Like]] = {"dcgan": DCGAN, "stylegan2-like": StyleGAN2Like}
"""By the name that stands in config.json."""
MOST_WIDTHS = 10
"""Images of 4096 pixels on a side."""


@runtime_checkable
class Generator(Protocol):
    """A module that makes images (batch, channels, height, width) in [-1, 1] of codes z ~ N(0, I)."""

    latent_dim: int
    """Length of z."""

    @property
    def style_layers(self) -> Mapping[str, int]:
        """The layers to project or to read, by dotted name, and the slot of `synthesis` that each reads."""
        ...

    def mapping(self, z: Tensor) -> Tensor:
        """Codes (batch, latent) to styles (batch, slots, style)."""
        ...

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles to images."""
        ...

    def __call__(self, z: Tensor) -> Tensor:
        """`synthesis(mapping(z))`."""
        ...


class PlainGenerator(nn.Module):
    """Any network from a code to an image, whose first layer reads the code.

    Parameters
    ----------
    model
        Its first linear layer, convolution or projector is that which is read; it takes codes (batch, latent),
        or (batch, latent, 1, 1) where that layer is a convolution.

    Raises
    ------
    ValueError
        If it has no such layer.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, HouseholderProjector)
        first = next(((name, part) for name, part in model.named_modules() if isinstance(part, kinds)), None)
        if first is None:
            raise ArgumentError(f"{type(model).__name__} has no linear layer and no convolution that reads a code.")
        self.model = model
        layer = first[1]
        self.flat = isinstance(layer, nn.Linear) or (isinstance(layer, HouseholderProjector) and layer.dim == -1)
        self.latent_dim = int(getattr(layer, "in_features", 0) or getattr(layer, "in_channels", 0))
        self.style_layers = {f"model.{first[0]}".rstrip("."): 0}

    def mapping(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 1 latent"]:
        """One slot, the code itself."""
        return z[:, None]

    def synthesis(self, w: Float[Tensor, "batch 1 latent"]) -> Tensor:
        """Images of codes."""
        z = w.squeeze(1)
        return self.model(z if self.flat else z[..., None, None])

    def forward(self, z: Float[Tensor, "batch latent"]) -> Tensor:
        return self.synthesis(self.mapping(z))


def as_generator(model: object) -> Generator:
    """A generator in evaluation mode, of a module that is one or of any that makes images of codes.

    Raises
    ------
    TypeError
        If `model` is no module.
    ValueError
        If it reads no code, or does not make images of 1 or 3 channels.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be an nn.Module, got {type(model).__name__}.")
    found: Any = model if isinstance(model, Generator) else PlainGenerator(model)
    found.eval()
    code = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(())).new_zeros(
        2, found.latent_dim
    )
    try:
        with torch.no_grad():
            images = found(code)
    except Exception as error:  # whatever a module of the user's does with a code that it does not expect
        reason = " ".join(str(error).split())
        raise ArgumentError(
            f"{type(model).__name__} makes no images of codes of shape {tuple(code.shape)}: {reason}"
        ) from error
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != 2 or images.shape[1] not in (1, 3):
        got = f"the shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentError(
            f"{type(model).__name__} must give images (batch, 1 or 3, height, width), got {got} of 2 codes."
        )
    return found


def slots_of(generator: Generator, layers: list[str] | tuple[str, ...] = ()) -> dict[str, int]:
    """The slot of every layer named, by its name in `generator.named_modules()`; its `style_layers` without names.

    Raises
    ------
    ValueError
        If a name is none of the layers that read a style.
    """
    known: Mapping[str, int] = getattr(generator, "slots", generator.style_layers)
    if not layers:
        return dict(generator.style_layers)
    prefix = "model." if isinstance(generator, PlainGenerator) else ""
    found: dict[str, int] = {}
    for name in layers:
        full = name if name in known else prefix + name
        if full not in known:
            there = ", ".join(one.removeprefix(prefix) for one in known)
            raise ArgumentError(f"layers names {name!r}, which reads no style of this generator; there are {there}.")
        found[full] = known[full]
    return found


def draw_codes(generator: Generator, n: int, seed: int) -> Float[Tensor, "n latent"]:
    """Standard normal codes from a generator of their own, in the dtype and on the device of the module."""
    like = next((p for p in cast(nn.Module, generator).parameters() if p.is_floating_point()), torch.zeros(()))
    drawn = torch.randn(n, generator.latent_dim, generator=torch.Generator().manual_seed(seed))
    return drawn.to(like.device, like.dtype)


# -- folders -----------------------------------------------------------------------------------------------------------


def save_generator(folder: Path | str, generator: nn.Module) -> None:
    """Write a generator as `load_generator` reads it: config.json (architecture and sizes) and model.safetensors.

    Raises
    ------
    TypeError
        If it is of no named architecture.
    """
    name = next((name for name, kind in ARCHITECTURES.items() if type(generator) is kind), None)
    if name is None:
        raise ArgumentTypeError(f"{type(generator).__name__} is none of {', '.join(ARCHITECTURES)}.")
    artifacts.write_tensors(Path(folder) / MODEL_FILE, generator.state_dict())
    artifacts.write_json(Path(folder) / CONFIG_FILE, {"architecture": name} | cast(Any, generator).settings)


def load_generator(folder: Path | str) -> DCGAN | StyleGAN2Like:
    """The generator of a folder with config.json and model.safetensors, in evaluation mode.

    Raises
    ------
    DataError
        If a file is missing or cannot be read, the architecture or a setting is unknown, or a tensor is missing, not
        expected, of another shape or not finite; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; expected one with {CONFIG_FILE} and {MODEL_FILE}.")
    config = _config(folder / CONFIG_FILE)
    try:
        with no_larger_than(weights_in(folder)):
            model = built(config, folder / CONFIG_FILE)
    except ArtifactError as error:
        raise DataError(f"{folder / CONFIG_FILE}: {error}.") from None
    fill(model, _tensors(folder / MODEL_FILE), folder / MODEL_FILE, config)
    return cast(Any, model.eval())


def built(config: Mapping[str, Any], source: Path) -> nn.Module:
    """A generator of a named architecture with weights that `fill` must set; `source` is for messages."""
    settings = dict(config)
    name = settings.pop("architecture", None)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise DataError(f"{source}: architecture is {name!r}; there are {', '.join(ARCHITECTURES)}.")
    try:
        check_parameters(ARCHITECTURES[name], settings)
        if len(settings.get("widths", ())) > MOST_WIDTHS:
            raise ArgumentError(
                f"{len(settings['widths'])} widths, each of which doubles the image; {MOST_WIDTHS} at most"
            )
        with torch.device("meta"):  # nothing is drawn
            return ARCHITECTURES[name](**settings).to_empty(device="cpu")
    except (TypeError, ArgumentError) as error:
        reason = str(error).partition("__init__() ")[2] or str(error)
        raise DataError(f"{source}: {name} cannot be built of it: {reason.rstrip('.')}.") from None


def fill(model: nn.Module, tensors: Mapping[str, Tensor], source: Path, config: Mapping[str, Any]) -> None:
    """Give a module, built of a configuration, its tensors by name.

    Raises
    ------
    DataError
        If one is missing, not expected, of another shape or not finite.
    """
    expected = model.state_dict()
    default = unstated(ARCHITECTURES.get(config.get("architecture", ""), object), config, CONFIG_FILE)
    if missing := sorted(set(expected) - set(tensors)):
        raise DataError(f"{source} has no tensor {missing[0]!r} (of {len(missing)} that are missing){default}.")
    if more := sorted(set(tensors) - set(expected)):
        raise DataError(f"{source} holds {more[0]!r}, which the architecture of config.json does not have{default}.")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise DataError(
                f"{source}: {name} has the shape {tuple(tensor.shape)}, config.json asks for "
                f"{tuple(expected[name].shape)}{default}."
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(f"{source}: {name} holds values that are not finite.")
    model.load_state_dict(dict(tensors))


def _config(path: Path) -> dict[str, Any]:
    try:
        config = load_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; it names the architecture, such as 'dcgan'.") from None
    if not isinstance(config, dict):
        raise DataError(f"{path} must hold an object with the key architecture.")
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise DataError(f"{path}: there is no such file; weights are read from safetensors alone.")
    try:
        return artifacts.read_tensors(path)
    except ArtifactError as error:
        raise DataError(str(error)) from None
