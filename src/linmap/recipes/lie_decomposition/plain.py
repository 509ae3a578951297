"""What one would take instead of a group network: the same network with plain convolutions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from linmap.training import Dropout


class PlainResNet(nn.Module):
    """The topology of `LieResNet` with `Conv2d` in the place of its layers: one element of the group, the identity.

    Parameters
    ----------
    in_channels, num_classes, channels, kernel_size, head, dropout, early_pool
        As of `LieResNet`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        kernel_size: int = 5,
        head: int = 128,
        dropout: float = 0.0,
        early_pool: bool = True,
    ) -> None:
        super().__init__()
        same, self.early_pool = kernel_size // 2, early_pool
        self.lift = nn.Conv2d(in_channels, channels, kernel_size, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size, padding=same, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size, padding=same, bias=False)
        self.conv3 = nn.Conv2d(channels, channels, kernel_size, bias=False)
        self.head = nn.Sequential(
            nn.Linear(channels, head, bias=False),
            nn.LayerNorm(head),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(head, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, height, width)."""
        y = _normed(self.lift(x))
        y = F.max_pool2d(y, 2) if self.early_pool else y
        z = _normed(self.conv2(_normed(self.conv1(y))))
        y = F.gelu(z + y)
        y = F.layer_norm(y, y.shape[1:])
        y = F.gelu(y if self.early_pool else F.max_pool2d(y, 2))
        return self.head(_normed(self.conv3(y)).amax((-2, -1)))


def parameters(in_channels: int, num_classes: int, channels: int, kernel_size: int, head: int) -> int:
    """Of a `PlainResNet`."""
    return sum(p.numel() for p in PlainResNet(in_channels, num_classes, channels, kernel_size, head).parameters())


def channels_of(size: int, in_channels: int, num_classes: int, kernel_size: int, head: int) -> int:
    """The number of channels with which a `PlainResNet` comes nearest to so many parameters."""
    counts = {c: parameters(in_channels, num_classes, c, kernel_size, head) for c in range(1, 129)}
    return min(counts, key=lambda c: abs(counts[c] - size))


def _normed(y: Tensor) -> Tensor:
    return F.gelu(F.layer_norm(y, y.shape[1:]))
