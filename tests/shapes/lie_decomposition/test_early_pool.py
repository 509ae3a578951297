"""Halving the features before the block changes neither weights nor the exact invariance to quarter turns."""

import torch

from linmap.shapes.lie_decomposition import SO2, GroupSamples, LieResNet, rotation


def network(early_pool: bool) -> LieResNet:
    return LieResNet(SO2(), num_samples=4, channels=4, hidden=8, head=8, dropout=0.0, separable=True, w0=10.0,
                     early_pool=early_pool, generator=torch.Generator().manual_seed(0)).double().eval()  # fmt: skip


def test_weights_are_the_same_and_logits_are_not() -> None:
    early, late = network(True), network(False)
    late.load_state_dict(early.state_dict())
    x = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g = rotation(torch.arange(4, dtype=torch.float64) * torch.pi / 2)
    samples = GroupSamples(g, g.mT.contiguous())
    assert early(x, samples).shape == (2, 10)
    assert not torch.allclose(early(x, samples), late(x, samples))
    torch.testing.assert_close(early(torch.rot90(x, 1, (-2, -1)), samples), early(x, samples), atol=1e-11, rtol=0)
