"""The two points of a cloud that are farthest from each other, against all pairs, also where few fit into memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.shapes.tinvnn import scales
from linmap.shapes.tinvnn.scales import farthest_pairs


@pytest.mark.parametrize("at_once", [1, 40, 2**22])
@given(n=st.integers(2, 60), d=st.integers(1, 5), seed=st.integers(0, 999), whole=st.booleans())
def test_the_farthest_pair_is_that_of_all_pairs(at_once: int, n: int, d: int, seed: int, whole: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(2, d, n, generator=random, dtype=torch.float64)
    points = points.round() if whole else points  # on a grid, many pairs are equally far
    points = points - points.mean(2, keepdim=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scales, "AT_ONCE", at_once)
        pairs = farthest_pairs(points)
    for cloud, (a, b) in zip(points.mT, pairs, strict=True):
        torch.testing.assert_close((a - b).norm(), torch.cdist(cloud, cloud).max(), rtol=1e-12, atol=1e-12)
        assert all((cloud == end).all(1).any() for end in (a, b))
