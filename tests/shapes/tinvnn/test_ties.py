"""Equal eigenvalues and columns without a sign: copies of symmetric shapes are the same point sets."""

import pytest
import torch
from torch import Tensor

from linmap.shapes.tinvnn import TinvEmbedding, tinv_frame
from shapes.tinvnn.shapes import REQUIRED, SYMMETRIC, copy_of, orthogonal, polygon, set_distance

shapes = pytest.mark.parametrize("shape", SYMMETRIC.values(), ids=list(SYMMETRIC))


@shapes
@pytest.mark.parametrize("reflections", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_copies_are_equal_as_point_sets(shape: Tensor, reflections: bool, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    embedding = TinvEmbedding(reflections=reflections)
    H = embedding(shape.to(dtype))
    copies = [copy_of(shape, generator, special=not reflections) for _ in range(4)]
    mixed = torch.stack([copy[torch.randperm(len(shape), generator=generator)] for copy in copies]).to(dtype)
    for other in embedding(mixed):
        assert set_distance(H, other) < tolerance


@pytest.mark.parametrize("shape", REQUIRED.values(), ids=list(REQUIRED))
def test_the_shapes_of_equal_axes_are_flagged(shape: Tensor) -> None:
    assert tinv_frame(shape).degenerate.sum() >= 2


def test_unions_of_orbits_are_equal_as_point_sets() -> None:
    generator = torch.Generator().manual_seed(1)
    for k in range(12):
        n, rings = 3 + k % 5, 1 + k % 3
        turns = torch.rand(rings, generator=generator).tolist()
        radii = (torch.rand(rings, generator=generator) + 0.5).tolist()
        heights = torch.randn(rings, generator=generator).tolist()
        shape = torch.cat(
            [
                torch.cat([r * polygon(n, t), torch.full((n, 1), h, dtype=torch.float64)], 1)
                for r, t, h in zip(radii, turns, heights, strict=True)
            ]
        )
        H = TinvEmbedding()(shape)
        for _ in range(3):
            assert set_distance(H, TinvEmbedding()(copy_of(shape, generator))) < 1e-9, k


def test_a_cloud_without_symmetry_in_a_block_gets_radial_axes() -> None:
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    X = X - X.mean(0)
    X = X @ torch.linalg.inv(torch.linalg.cholesky(X.mT @ X)).mT  # all eigenvalues 1
    frame = tinv_frame(X)
    assert not frame.degenerate.any()
    v = [(X.norm(dim=1, keepdim=True) ** p * X).sum(0) for p in (2, 4)]
    first = v[0] / v[0].norm()
    second = v[1] - first * (first @ v[1])
    torch.testing.assert_close((frame.Q[:, 0] @ first).abs(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close((frame.Q[:, 1] @ second).abs(), second.norm())
    H = TinvEmbedding()(X)
    torch.testing.assert_close(H, TinvEmbedding()(X @ orthogonal(3, generator).mT), atol=1e-10, rtol=0)


def test_zero_eigenvalues_are_not_degenerate() -> None:
    generator = torch.Generator().manual_seed(3)
    line = torch.randn(9, 1, generator=generator, dtype=torch.float64) * torch.randn(4, generator=generator)
    for X in (line, line + 1000):
        assert not tinv_frame(X).degenerate.any()
    with pytest.warns(UserWarning, match="equal"):
        assert not tinv_frame(torch.zeros(5, 3)).degenerate.any()
