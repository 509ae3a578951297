"""The segmenter: EfficientNet-lite0 with adapters as encoder, and a small decoder that is the same for all of them."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.data.pretrained import efficientnet_lite0

TARGETS = r".*(_expand_conv|_project_conv|_conv_head)"  # the 32 ungrouped 1 x 1 convolutions
SKIPS = {2: 24, 4: 40, 10: 112}  # blocks whose output goes to the decoder, at 1/4, 1/8 and 1/16, and its channels
WIDTH = 24


class Decoder(nn.Module):
    """From 1/32 to 1/4 of the resolution in three steps: up, plus a skip connection, 3 x 3 convolution; one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(1280, WIDTH, 1)
        self.skips = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels in reversed(SKIPS.values()))
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.GroupNorm(4, WIDTH), nn.ReLU())
            for _ in SKIPS
        )
        self.logit = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, top: Tensor, skips: list[Tensor]) -> Tensor:
        y = self.top(top)
        for skip, lateral, step in zip(reversed(skips), self.skips, self.steps, strict=True):
            y = step(F.interpolate(y, size=skip.shape[-2:], mode="nearest") + lateral(skip))
        return self.logit(y)


class Segmenter(nn.Module):
    """Logits of the mask of grey images from 0 to 1, at their size.

    The running statistics of the encoder's batch norms stay as they are: batches are too small to move them well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder: Any = plain_pointwise(efficientnet_lite0()).requires_grad_(False)
        self.decoder = Decoder()

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        encoder = self.encoder
        x = ((255 * images - 127) / 128).expand(-1, 3, -1, -1)  # as the encoder was trained
        y, skips = encoder._swish(encoder._bn0(encoder._conv_stem(x))), []
        for i, block in enumerate(encoder._blocks):
            y = block(y)
            if i in SKIPS:
                skips.append(y)
        top = encoder._swish(encoder._bn1(encoder._conv_head(y)))
        return F.interpolate(self.decoder(top, skips), size=images.shape[-2:], mode="bilinear", align_corners=False)

    def train(self, mode: bool = True) -> Segmenter:
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def trainable(self) -> tuple[list[Tensor], list[Tensor]]:
        """The trainable parameters of the encoder and of the decoder."""
        encoder: list[Tensor] = [p for p in self.encoder.parameters() if p.requires_grad]
        decoder: list[Tensor] = [p for p in self.decoder.parameters() if p.requires_grad]
        return encoder, decoder


def plain_pointwise(encoder: nn.Module) -> nn.Module:
    """The encoder with its 1 x 1 convolutions as plain `nn.Conv2d`, which PEFT's LoRA can copy; they pad nothing."""
    for name, module in list(encoder.named_modules()):
        if re.fullmatch(TARGETS, f".{name}") and isinstance(module, nn.Conv2d):
            plain = nn.Conv2d(module.in_channels, module.out_channels, 1, bias=False)
            plain.weight = module.weight
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, plain)
    del encoder._fc  # the classifier
    return encoder


@torch.no_grad()
def probabilities(
    model: nn.Module, images: Float[Tensor, "samples 1 height width"]
) -> Float[Tensor, "samples 1 height width"]:
    """Of every pixel, in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).sigmoid().cpu() for part in images.split(8)])
