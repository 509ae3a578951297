"""The layer that all methods share."""

import torch
from torch import nn

from linmap.adapt import BoneLinear


def test_a_weight_kept_in_evaluation_is_forgotten_when_training_goes_on(generator) -> None:
    layer, x = BoneLinear(nn.Linear(8, 8), r=4, mode="bat"), torch.randn(2, 8, generator=generator)
    layer.eval()
    with torch.no_grad():
        before = layer(x)  # keeps W'
    # its kernel changes weights without counting up their versions
    optimizer = torch.optim.AdamW(layer.adapters.parameters(), lr=0.1, fused=True)
    layer(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        kept = layer(x)
    trained = layer(x)
    torch.testing.assert_close(kept, trained)
    assert (kept - before).abs().max() > 1e-3
