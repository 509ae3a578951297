"""One pose for every copy of a point set: `python examples/tinvnn.py points.csv`; without a file, an LDraw shape."""

import sys

import numpy as np
import torch
from torch import nn

from linmap.data.clouds import ldraw_shapes, load_clouds
from linmap.shapes.tinvnn import TinvEmbedding, TinvWrapper, invariance_error

clouds = load_clouds(sys.argv[1]) if len(sys.argv) > 1 else ldraw_shapes().take([0])
X = torch.as_tensor(clouds.clouds[0])
print(f"{clouds.names[0]}: {len(X)} points of {clouds.dim} coordinates")

embedding = TinvEmbedding()
H, frame = embedding(X, return_frame=True)
turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((clouds.dim, clouds.dim)))
moved = 5 * X.double() @ torch.as_tensor(turn) + 100
print(f"largest change of H under a turn, a shift and a scale: {(embedding(moved) - H.double()).abs().max():.1e}")
print(f"mirror-symmetric axes: {frame.ambiguous.tolist()}, axes of a turn symmetry: {frame.degenerate.tolist()}")
print(f"back in place: {(frame.from_canonical(H) - X).abs().max():.1e}")


class Net(nn.Module):
    """Any network of points."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.points, self.head = nn.Linear(dim, 32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.points(x).relu().amax(-2))


net = Net(clouds.dim)
print(f"the network alone: {invariance_error(net, X[None], generator=torch.Generator().manual_seed(0)):.1e}")
wrapped = TinvWrapper(net, embedding)
print(f"behind one line:   {invariance_error(wrapped, X[None], generator=torch.Generator().manual_seed(0)):.1e}")
