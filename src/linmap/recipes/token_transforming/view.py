"""A photograph whose tokens merge, block by block: which patches a token holds, and where a patch flows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linmap.compress.token_transforming import TokenTransform, Transform, compose
from linmap.compress.token_transforming.evaluation.images import Images
from linmap.errors import UsageError
from linmap.recipes.pixels import embedded_png
from linmap.recipes.token_transforming.apply import KEEP
from linmap.recipes.token_transforming.flags import Apply, Transforming
from linmap.recipes.token_transforming.loading import model_of, subject_of
from linmap.recipes.view import Asked, Seen, number, whole

NAMED = 200
"""Images that can be chosen."""
BY_TARGET = "The run chose its blocks by a target; here the share that stays is chosen by hand."


@dataclass(frozen=True)
class Stage:
    """The tokens behind a block that merges."""

    block: int
    """-1 before all."""
    made_of: Tensor
    """(tokens, all): how each is made of those that the model began with."""
    flows: Tensor
    """(all, tokens): where each of these flows."""
    mass: Tensor
    """(tokens,): how many each stands for."""


class MergingView:
    """Images of a run, or the embedded photographs."""

    def __init__(self, seen: Seen) -> None:
        settings = replace(seen.settings(Apply), batch_size=1)
        model = model_of(settings, seen.data)
        if model.reads != "images":
            raise UsageError(f"{model.name} reads texts; tokens are shown merging in photographs.")
        subject = subject_of(settings, model, seen.data, None)
        assert isinstance(subject, Images)  # of a model that reads images
        self.subject, self.settings = subject, settings
        self.keep = settings.keep or KEEP
        self.note = BY_TARGET if settings.target_flops or settings.target_speedup else ""
        self._latest: tuple[tuple[int, float], list[Stage]] | None = None

    def start(self) -> dict[str, Any]:
        """The names, and the first image."""
        about = {"names": list(self.subject.names[:NAMED]), "keep": self.keep, "note": self.note}
        return {**about, "blocks": self.subject.depth, **self.answer({"image": 0})}

    def answer(self, asked: Asked) -> dict[str, Any]:
        """An `image` with the tokens of every stage at a share `keep`; or, where a `stage` is named, its token into
        which a `patch` flows."""
        image = whole(asked, "image", min(len(self.subject), NAMED))
        stages = self._stages(image, number(asked, "keep", 0.05, 1, self.keep))
        prefix, patches = self.subject.prefix, self.subject.patches
        if "stage" in asked:
            stage = stages[whole(asked, "stage", len(stages))]
            flows = stage.flows[prefix + whole(asked, "patch", patches)]
            token = int(flows.argmax())
            made_of = stage.made_of[token, prefix:]
            share = {"share": float(flows[token]), "others": int((flows > 0.01).sum()) - 1}
            return {"token": token, **share, "mass": float(stage.mass[token]), "made_of": made_of}
        shown = self.subject.preparation.shown(self.subject.images[image])
        return {
            "photo": embedded_png(shown),
            "grid": list(self.subject.grid),
            "stages": [self._told(stage, _patch_colours(shown, self.subject.grid)) for stage in stages],
        }

    def _told(self, stage: Stage, colours: Tensor) -> dict[str, Any]:
        """The token of every patch, and each token's mass and mean colour."""
        prefix = self.subject.prefix
        weights = stage.made_of[:, prefix:]
        mean = weights @ colours / weights.sum(1, keepdim=True).clamp_min(1e-9)
        return {
            "block": stage.block,
            "tokens": len(stage.mass),
            "owner": stage.flows[prefix:].argmax(1),
            "mass": stage.mass,
            "colours": mean.round().int(),
        }

    def _stages(self, image: int, keep: float) -> list[Stage]:
        """The stages of a pass of one image; those of the latest are kept."""
        if self._latest is None or self._latest[0] != (image, keep):
            transform = self.settings.at, self.settings.options(Transforming)
            self._latest = (image, keep), stages_of(self.subject, image, keep, *transform)
        return self._latest[1]


def stages_of(
    subject: Images, image: int, keep: float, at: tuple[int, ...] | None, options: dict[str, Any]
) -> list[Stage]:
    """Run an image with tokens merged, and compose what happened up to each block that merges."""
    subject.inputs(image)
    with subject.compressed(TokenTransform(**options), keep, at) as handle:
        subject.forward(image)
        done = handle.transforms
    one = torch.eye(subject.tokens)
    stages = [Stage(-1, one, one, torch.ones(subject.tokens))]
    so_far: list[Transform] = []
    for block in sorted(done):
        so_far.append(done[block])
        W, R = compose(so_far)
        stages.append(Stage(block, W[0].cpu(), R[0].cpu(), done[block].mass_out[0].cpu()))
    return stages


def _patch_colours(image: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """The mean colour of every patch, row by row."""
    rows, columns = grid
    height, width = image.shape[0] // rows, image.shape[1] // columns
    cut = image[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    return torch.as_tensor(cut.mean((1, 3)).reshape(-1, 3), dtype=torch.float32)
