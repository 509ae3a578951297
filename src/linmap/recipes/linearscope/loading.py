"""The network that `--model` names, and the images that it is given."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from linmap.data.images import embedded_image, luminance, square, window
from linmap.data.pretrained import efficientnet_lite0, fsrcnn
from linmap.errors import UsageError
from linmap.interpret.linearscope import LinearScope, class_names
from linmap.interpret.linearscope.deletion import logits
from linmap.recipes.linearscope.flags import Reading
from linmap.recipes.linearscope.kinds import CHOICES
from linmap.recipes.networks import PICKLED, imported_network, is_import_path

SIDE = 224
"""Pixels on a side of what EfficientNet-lite0 reads."""
LABELS = {285: "Egyptian cat", 967: "espresso", 698: "palace", 985: "daisy", 281: "tabby", 282: "tiger cat"}
"""ImageNet classes that the embedded photographs meet."""


def scope(model: nn.Module, settings: Reading) -> LinearScope:
    """What reads the network; of an answer with `logits`, as Transformers gives them, these."""
    return LinearScope(model, output=logits, **settings.options())


def output_names(model: nn.Module, name: str, count: int) -> dict[int, str]:
    """Names of the outputs, as the model that `--model` names or as what it carries says."""
    return dict(LABELS) if name == "efficientnet-lite0" else class_names(model, count)


def model_input(settings: Reading, image: np.ndarray | None, grey: bool) -> Tensor:
    """An image, or an embedded one, as (1, 3, side, side), (pixel - mean) / std, or luminance (1, 1, side, side)."""
    side = settings.side or (32 if grey else SIDE)
    if grey:
        image = window(embedded_image("camera"), 60, 200, 128, 128) if image is None else image
        return torch.from_numpy(luminance(square(image, side)))[None, None].float()
    return normalised(square(embedded_image("chelsea") if image is None else image, side), settings.mean, settings.std)


def in_its_dtype(model: nn.Module, x: Tensor) -> Tensor:
    """An input in the number format of the network."""
    return x.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32))


def taken(model: nn.Module, x: Tensor, settings: Reading) -> Tensor:
    """An input in the number format of the network, which has answered it once.

    Raises
    ------
    UsageError
        If the network cannot take it, because it is of another size or has other channels; with what it says.
    """
    x = in_its_dtype(model, x)
    if model.training:  # refused elsewhere; an answer would move its running statistics
        return x
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:  # whatever somebody's forward raises
        said = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"--model {settings.model} cannot take an input of the shape {tuple(x.shape)} ({type(error).__name__}: "
            f"{said:.300}); --side is for its size, --grey for one channel."
        ) from error
    return x


def normalised(image: np.ndarray, mean: float = 127.0, std: float = 128.0) -> Tensor:
    """(height, width, 3) 8-bit values as (1, 3, height, width), (pixel - mean) / std."""
    return (torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None].contiguous() - mean) / std


def load_model(name: str) -> tuple[nn.Module, bool]:
    """A network by name or by import path, and whether it takes one luminance channel.

    Raises
    ------
    UsageError
        If the name is unknown, the import fails, or what it names does not build an `nn.Module`.
    """
    if name == "efficientnet-lite0":
        return efficientnet_lite0(), False
    if known := re.fullmatch(r"fsrcnn-(small-)?x([234])", name):
        if known[1] and known[2] != "2":
            raise UsageError("--model: the small FSRCNN is there at x2 only: fsrcnn-small-x2.")
        return fsrcnn(int(known[2]), small=bool(known[1])), True
    if not name.endswith(PICKLED) and not is_import_path(name):
        raise UsageError(f"--model {name!r}: there are {CHOICES}.")
    return imported_network(name), False
