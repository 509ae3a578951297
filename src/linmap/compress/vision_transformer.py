"""A plain vision transformer: what the systems of this room are shown on, and what their small models are built from.

Pre-LN blocks, a CLS token, learnt positions, exact GELU, no dropout. Names of parameters are timm's, so that weights of
`deit_*` and `vit_*` models without further tokens load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from linmap.errors import ArgumentError
from linmap.training import Dropout

STD = 0.02  # of the start


class DropPath(Dropout):
    """Leaves out the branch of a residual block for a share `p` of the samples, and scales it by 1 / (1 - p) else."""

    def forward(self, input: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        if not self.training or self.p == 0:
            return input
        return input * self.mask(input[:, :1, :1])


class PatchEmbed(nn.Module):
    """Patches of images, mapped linearly and flattened row by row."""

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = skip_init(nn.Conv2d, in_channels, dim, patch_size, patch_size)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch patches dim"]:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with its projection; the rows of `qkv` are q, k, v, each (heads, head_dim)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.scale = self.head_dim**-0.5
        self.qkv = skip_init(nn.Linear, dim, 3 * dim)
        self.proj = skip_init(nn.Linear, dim, dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        B, N, d = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, d))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = skip_init(nn.Linear, dim, hidden)
        self.fc2 = skip_init(nn.Linear, hidden, dim)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attn(norm1(x)), and to that + mlp(norm2(x))."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, round(mlp_ratio * dim))
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Images to logits.

    Parameters
    ----------
    image_size, patch_size
        Sides of the square images and of their square patches, in pixels.
    in_channels
        Channels of the images.
    n_classes
        Logits.
    dim, depth, heads
        Width d, number of blocks, and attention heads, of d / heads each.
    mlp_ratio
        Width of the hidden layer of the MLPs as a multiple of d.
    drop_path
        Share of samples for which the last block's branches are left out in training; it rises linearly over the
        blocks from zero, as in DeiT.
    eps
        Of the layer norms.
    generator
        Draws the start: weights, CLS token and positions from a normal distribution of deviation 0.02, cut at +-2;
        biases are zero.

    Attributes
    ----------
    embed_dim, num_heads, n_tokens, n_classes, patch_features
        d, heads, 1 + the number of patches, logits, and numbers in a patch (in_channels * patch_size^2).

    Raises
    ------
    ValueError
        If a size is not positive, the patches do not tile the images, or the heads do not divide d.

    References
    ----------
    Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021. Touvron et al., "Training data-efficient image
    transformers", ICML 2021.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int,
        n_classes: int,
        dim: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"image_size": image_size, "patch_size": patch_size, "in_channels": in_channels}
        sizes |= {"n_classes": n_classes, "dim": dim, "depth": depth, "heads": heads}
        for name, value in sizes.items():
            if value < 1:
                raise ArgumentError(f"{name}={value} must be at least 1.")
        if image_size % patch_size:
            raise ArgumentError(f"image_size={image_size} must be a multiple of patch_size={patch_size}.")
        if dim % heads:
            raise ArgumentError(f"dim={dim} must be a multiple of heads={heads}.")
        if not 0 <= drop_path < 1:
            raise ArgumentError(f"drop_path={drop_path} must lie in [0, 1).")
        if round(mlp_ratio * dim) < 1:
            raise ArgumentError(f"mlp_ratio={mlp_ratio} leaves no hidden unit of dim={dim}.")
        self.image_size, self.patch_size, self.in_channels, self.n_classes = (
            image_size,
            patch_size,
            in_channels,
            n_classes,
        )
        self.embed_dim, self.num_heads, self.mlp_ratio, self.drop_path, self.eps = dim, heads, mlp_ratio, drop_path, eps
        self.n_tokens = 1 + (image_size // patch_size) ** 2
        self.patch_features = in_channels * patch_size**2
        self.patch_embed = PatchEmbed(patch_size, in_channels, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.n_tokens, dim))
        rates = [drop_path * j / max(depth - 1, 1) for j in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, rate, eps) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps)
        self.head = skip_init(nn.Linear, dim, n_classes)
        self._start(generator)

    def _start(self, generator: torch.Generator | None) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=STD, generator=generator)

    def embed(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Tokens of images, the CLS token first, with their positions.

        Raises
        ------
        ValueError
            If the images have another size.
        """
        expected = (self.in_channels, self.image_size, self.image_size)
        if tuple(x.shape[1:]) != expected:
            raise ArgumentError(
                f"x has shape {tuple(x.shape)}; this model takes images of shape (batch, {expected[0]}, {expected[1]}, "
                f"{expected[2]})."
            )
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat((cls, self.patch_embed(x)), 1) + self.pos_embed

    def forward_features(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Tokens after the last block and the final norm."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits, from the CLS token."""
        return self.head(self.forward_features(x)[:, 0])
