"""Pre-training of the mesh encoder: a masked autoencoder of single teeth (Liang et al., MeshMAE, ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from linmap.errors import ArgumentError
from linmap.geometry.points import square_distances
from linmap.shapes.tooth_arrangement.blocks import Block
from linmap.shapes.tooth_arrangement.encoders import MeshEncoder
from linmap.shapes.tooth_arrangement.features import PATCH, PATCH_VERTICES, patch_features, patch_vertices
from linmap.training import TrainingConfig, TrainingHistory, parts, private, train
from linmap.training.randomness import Dropout, Source

VERTICES_WEIGHT = 0.5
ANGLE = math.pi / 6  # of the random rotations
STRETCH = 0.1  # standard deviation of the random scale of each axis
ORDERS = list(permutations(range(3)))


class AutoencoderLoss(NamedTuple):
    """Mean errors over the masked patches, and 0.5 vertices + features."""

    vertices: Tensor
    """Chamfer-L1."""
    features: Tensor
    """Mean squared error."""
    total: Tensor


class Patches(NamedTuple):
    """Meshes as padded patches."""

    features: Float[Tensor, "batch patches 64 10"]
    centers: Float[Tensor, "batch patches 64 3"]
    vertices: Float[Tensor, "batch patches 45 3"]
    mask: Bool[Tensor, "batch patches"]


class MeshAutoencoder(nn.Module):
    """Guesses the masked patches of a mesh from the others.

    Parameters
    ----------
    encoder
        To be pre-trained.
    width, depth, heads
        Of the decoder.
    mask_ratio
        Share of the patches that are masked.
    """

    def __init__(
        self, encoder: MeshEncoder, width: int = 512, depth: int = 6, heads: int = 16, mask_ratio: float = 0.5
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ArgumentError(f"mask_ratio must lie between 0 and 1, got {mask_ratio}.")
        self.encoder, self.mask_ratio = encoder, mask_ratio
        self.embed, self.masked = nn.Linear(encoder.width, width), nn.Parameter(0.02 * torch.randn(width))
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.blocks = nn.ModuleList(Block(width, heads, bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.vertices = nn.Linear(width, 3 * PATCH_VERTICES)
        self.features = nn.Linear(width, 10 * PATCH)
        self.draws = Dropout(0.5)  # holds the generator of the run, which `train` lends it

    def choose(self, mask: Bool[Tensor, "batch patches"], generator: Generator | None) -> Bool[Tensor, "batch patches"]:
        """Patches to mask: that share of those that are there, at least one, and not all where there are two."""
        order = torch.rand(mask.shape, generator=generator, device=mask.device).masked_fill(~mask, 2.0)
        rank = order.argsort(1).argsort(1)
        there = mask.sum(1, keepdim=True)
        count = (self.mask_ratio * there).round().long().clamp_min(1).minimum((there - 1).clamp_min(1))
        return mask & (rank < count)

    def forward(self, patches: Patches, hidden: Bool[Tensor, "batch patches"]) -> AutoencoderLoss:
        """The errors of the patches `hidden`, which the encoder does not see."""
        features, centers, vertices, mask = patches
        seen = mask & ~hidden
        absent = ~seen[..., None, None]
        tokens = self.encoder.tokens(features.masked_fill(absent, 0), centers.masked_fill(absent, 0), seen)
        x = torch.where(seen[..., None], self.embed(tokens), self.masked) + self.position(centers.mean(2))
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)[hidden]
        middle = centers[hidden].mean(1)
        guessed = self.vertices(x).unflatten(-1, (PATCH_VERTICES, 3))
        error = _chamfer(guessed, vertices[hidden] - middle[:, None])
        feature_error = (self.features(x) - features[hidden].flatten(1)).square().mean()
        return AutoencoderLoss(error, feature_error, VERTICES_WEIGHT * error + feature_error)


def pretrain(
    encoder: MeshEncoder,
    meshes: Sequence[Any],
    *,
    epochs: int = 500,
    batch_size: int = 512,
    lr: float = 1e-4,
    weight_decay: float = 0.05,
    warmup_epochs: int = 20,
    mask_ratio: float = 0.5,
    width: int = 512,
    depth: int = 6,
    heads: int = 16,
    random_state: int = 0,
    checkpoints: Path | str | None = None,
    resume: bool = False,
) -> TrainingHistory:
    """Train a mesh encoder to guess masked patches, by AdamW with a cosine schedule.

    In every step each mesh is turned by angles in +-30 degrees about the axes in random order, and its axes are scaled
    by factors from normal(1, 0.1).

    Parameters
    ----------
    encoder
        Trained in place.
    meshes
        (vertices, faces) each, with 64 n faces in the order of three subdivisions, in network units (mm / 40).
    epochs, batch_size, lr, weight_decay, warmup_epochs
        Of the training.
    mask_ratio, width, depth, heads
        As in `MeshAutoencoder`.
    random_state
        Seed.
    checkpoints, resume
        Folder for checkpoints, and whether to go on from the last one.

    Raises
    ------
    ValueError
        If there is no mesh, or one is not of 64 n faces, or a setting is out of its range.
    """
    if not len(meshes):
        raise ArgumentError("meshes is empty: give (vertices, faces) of one tooth or more.")
    pairs = [(torch.as_tensor(V).float(), torch.as_tensor(F).long()) for V, F in meshes]
    for vertices, faces in pairs:
        patch_features(vertices, faces)
    with private(random_state):
        model = MeshAutoencoder(encoder, width, depth, heads, mask_ratio)
    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer="adamw",
        weight_decay=weight_decay,
        schedule="cosine",
        warmup_epochs=warmup_epochs,
        seed=random_state,
    )
    return train(
        model,
        partial(_loss, model),
        _Meshes(pairs),
        config=config,
        out=checkpoints,
        resume=resume,
        description="mesh autoencoder",
        seed_globally=False,
        settings={"mask_ratio": mask_ratio, "heads": heads},
    )


def as_patches(meshes: Sequence[tuple[Tensor, Tensor]]) -> Patches:
    """Meshes of different sizes as one batch."""
    parts = [(*patch_features(V, F), patch_vertices(V, F)) for V, F in meshes]
    most = max(len(part[0]) for part in parts)
    columns = [torch.stack([_padded(part[i], most) for part in parts]) for i in range(3)]
    mask = torch.tensor([[p < len(part[0]) for p in range(most)] for part in parts], device=columns[0].device)
    return Patches(columns[0], columns[1], columns[2], mask)


class _Meshes(Dataset):
    """A batch is the tuple of its meshes, of whatever sizes."""

    def __init__(self, meshes: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.meshes = meshes

    def __len__(self) -> int:
        return len(self.meshes)

    def fingerprinted(self) -> Sequence[tuple[Tensor, Tensor]]:
        return list(self.meshes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.meshes[index]

    def __getitems__(self, indices: list[int]) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple(self.meshes[index] for index in indices)


def _loss(network: MeshAutoencoder, model: nn.Module, batch: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """`model` is the network as Accelerate has prepared it."""
    generator = cast(Source, network.draws.source).on(batch[0][0].device)
    patches = as_patches([(_varied(V, generator), F) for V, F in batch])
    hidden = network.choose(patches.mask, generator)
    return model(patches, hidden).total * parts.share(hidden.sum())


def _varied(vertices: Tensor, generator: Generator) -> Tensor:
    """Turned about the three axes in random order, and stretched along them."""
    angles = (2 * torch.rand(3, generator=generator, device=vertices.device) - 1) * ANGLE
    order = ORDERS[int(torch.randint(len(ORDERS), (1,), generator=generator, device=vertices.device))]
    for axis in order:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3, device=vertices.device)
        turn[i, i] = turn[j, j] = angles[axis].cos()
        turn[j, i], turn[i, j] = angles[axis].sin(), -angles[axis].sin()
        vertices = vertices @ turn.T
    stretch = 1 + STRETCH * torch.randn(3, generator=generator, device=vertices.device)
    return vertices * stretch.clamp_min(0.5)


def _chamfer(A: Tensor, B: Tensor) -> Tensor:
    """The mean distance of points to the nearest of the other set, both ways."""
    squared = square_distances(A, B)
    distances = torch.where(squared > 0, torch.where(squared > 0, squared, 1).sqrt(), 0)
    return (distances.amin(-1).mean() + distances.amin(-2).mean()) / 2


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])
