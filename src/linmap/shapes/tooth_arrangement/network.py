"""The network of the estimators: a context of each tooth from its points and its place, and a denoiser."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from linmap.shapes.tooth_arrangement.blocks import Block
from linmap.shapes.tooth_arrangement.denoiser import ToothDenoiser
from linmap.shapes.tooth_arrangement.encoders import GLOBAL, MeshEncoder, PointEncoder
from linmap.shapes.tooth_arrangement.meshes import Patches
from linmap.shapes.tooth_arrangement.slots import TEETH
from linmap.training.randomness import Dropout

RADIUS, SHIFT = 4.0, 1.5  # mm: of a tooth, and by which teeth stand out of place, to bring inputs to about 1
UNIT = 40.0  # mm of a network unit of the paper's encoders
POINT, POOLED = 32, 64  # widths of a point
HEADS = 4
FEATURES = 10  # of a face of a mesh
Encoder = Literal["moments", "points", "mesh", "joint"]


def reads_meshes(encoder: str) -> bool:
    """Whether an encoder needs the meshes of teeth beside their points."""
    return encoder in ("mesh", "joint")


class ToothShape(nn.Module):
    """Unordered points of each tooth as one vector: PointNet with weights of its own for each slot in its first layer,
    and the moments of second and third order, which tell size and form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(TEETH, 3, POINT))
        self.bias = nn.Parameter(torch.randn(TEETH, 1, POINT))
        self.second = nn.Linear(POINT, POOLED)
        self.moments = nn.Parameter(torch.randn(TEETH, 16, width) / 4)
        self.joint = nn.Linear(2 * POOLED + width, width)

    def forward(self, points: Float[Tensor, "batch 32 points 3"]) -> Float[Tensor, "batch 32 width"]:
        x = points / RADIUS
        h = relu(torch.einsum("btpc,tcw->btpw", x, self.first) + self.bias)
        h = relu(self.second(h))
        turned = torch.einsum("btm,tmw->btw", _moments(x), self.moments)
        return self.joint(gelu(torch.cat([h.amax(2), h.mean(2), turned], -1)))


class ArrangementNetwork(nn.Module):
    """Predicts normalised motions.

    Parameters
    ----------
    width
        Of the tokens, a multiple of 4.
    blocks
        Of the context; the denoiser has `blocks // 2` on the way in, one between, and as many on the way out.
    encoder
        "moments": each tooth is read by `ToothShape` alone. "points": both jaws too, by `PointEncoder`, whose vector
        every tooth gets. "mesh": each tooth's mesh too, by a `MeshEncoder` of as many blocks. "joint": both.
    mean_arch
        (32, 3) in mm, from which places count.
    """

    def __init__(self, width: int, blocks: int, encoder: Encoder, mean_arch: Float[Tensor, "32 3"]) -> None:
        super().__init__()
        self.shape = ToothShape(width)
        global_ = encoder in ("points", "joint")
        self.jaws, self.joint = (PointEncoder(), nn.Linear(GLOBAL, width)) if global_ else (None, None)
        self.mesh = MeshEncoder(width, blocks, HEADS) if reads_meshes(encoder) else None
        self.mean_arch = mean_arch.float()
        self.place = nn.Linear(6, width)
        self.slots = nn.Parameter(0.1 * torch.randn(1, TEETH, width))
        self.blocks = nn.ModuleList(Block(width, HEADS, bias=True) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.denoiser = ToothDenoiser(width, width=width, depth=max(1, blocks // 2))
        self.draws = Dropout(0.5)  # holds the generator of the run, which `train` lends it

    def context(
        self,
        points: Float[Tensor, "batch 32 points 3"],
        places: Float[Tensor, "batch 32 6"],
        mask: Bool[Tensor, "batch 32"],
        patches: Patches | None = None,
    ) -> Float[Tensor, "batch 32 width"]:
        """Of points about the centroid of each tooth, of its distances in mm from the mean arch and to the first guess
        of its place, and of its mesh where that is read; absent teeth are no keys."""
        absent = ~mask[..., None]
        points, places = points.masked_fill(absent[..., None], 0), places.masked_fill(absent, 0)
        x = self.shape(points) + self.place(places / SHIFT) + self.slots
        if self.jaws is not None and self.joint is not None:
            center = places[..., :3] + self.mean_arch.to(places)
            x = x + self.joint(self.jaws((points + center[..., None, :]) / UNIT, mask))[:, None]
        if self.mesh is not None and patches is not None:
            x = x + self._of_meshes(self.mesh, patches, mask)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def _of_meshes(self, encoder: MeshEncoder, patches: Patches, mask: Tensor) -> Float[Tensor, "batch 32 width"]:
        """Of the teeth that are there; zeros for the others."""
        numbers = patches.numbers[mask].to(self.slots)
        found = encoder(numbers[..., :FEATURES], numbers[..., FEATURES:], patches.mask[mask])
        whole = self.slots.new_zeros(*mask.shape, found.shape[-1])
        whole[mask] = found
        return whole

    def forward(
        self,
        points: Float[Tensor, "batch 32 points 3"],
        places: Float[Tensor, "batch 32 6"],
        mask: Bool[Tensor, "batch 32"],
        y: Float[Tensor, "draws batch 32 9"],
        t: Float[Tensor, "draws batch"],
        patches: Patches | None = None,
    ) -> Float[Tensor, "draws batch 32 9"]:
        """Several noised motions of each case at once, for the context costs more than the denoiser."""
        draws = len(y)
        context = self.context(points, places, mask, patches)
        context, mask = context.repeat(draws, 1, 1), mask.repeat(draws, 1)
        return self.denoiser(y.flatten(0, 1), t.flatten(), context, mask).unflatten(0, (draws, -1))


def _moments(x: Tensor) -> Tensor:
    """The means of x_i x_j and x_i x_j x_k: 6 and 10 numbers."""
    second = (x[..., :, None] * x[..., None, :]).flatten(-2)[..., [0, 1, 2, 4, 5, 8]]
    third = [second * x[..., :1], second[..., [3, 4, 5]] * x[..., 1:2], second[..., 5:] * x[..., 2:]]
    return torch.cat([second, *third], -1).mean(-2)
