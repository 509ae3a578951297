"""A linear layer while its transforms are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.passes import RoundedProduct, multiplies_codes
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, fake_quantize
from linmap.compress.flatquant.transforms import SiteTransform


@dataclass(frozen=True)
class LinearBits:
    """Bits of a linear layer's weights and inputs, and whether their codes are symmetric."""

    weight: int
    input: int
    weight_symmetric: bool = True
    input_symmetric: bool = True


class CalibratedLinear(nn.Module):
    """y = Q(x) Q(W~)^T, with the transformed weight W~ computed anew at every step (section 3.2, figure 2).

    Parameters
    ----------
    linear
        The layer; its weights are shared and stay as they are.
    site
        Transform of its input; None for none.
    transforms_input
        Whether x comes untransformed (the only layer at its site) or was transformed for several layers at once.
    values
        P_v: what the output heads are multiplied with (of the value projection) or the input heads were (of the
        output projection).
    bits, clip
        Quantisers, and whether they clip.
    """

    weight_max: Tensor | None
    weight_min: Tensor | None
    input_max: Tensor | None
    input_min: Tensor | None

    def __init__(
        self, linear: nn.Linear, bits: LinearBits, clip: bool, site: SiteTransform | None, transforms_input: bool,
        values: SiteTransform | None = None, is_value: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.bits = bits
        self.site = site
        self.values = values
        self.transforms_input = transforms_input
        self.is_value = is_value
        rows = linear.out_features
        for name, shape, there in (
            ("weight_max", (rows, 1), clip and bits.weight < 16), ("weight_min", (rows, 1), clip and bits.weight < 16),
            ("input_max", (), clip and bits.input < 16), ("input_min", (), clip and bits.input < 16),
        ):  # fmt: skip
            self.register_parameter(name, nn.Parameter(torch.full(shape, CLIP_LOGIT)) if there else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        x = self.transformed_input(x)
        W, bias, W_logits = self._transformed()
        x_logits = self.input_max, self.input_min
        bits = self.bits
        if max(bits.input, bits.weight) < 8 and multiplies_codes(x):
            kinds = (bits.input, bits.input_symmetric, "token"), (bits.weight, bits.weight_symmetric, "row")
            rows = x.flatten(0, -2)
            y = RoundedProduct.apply(rows, *x_logits, kinds[0], W, *W_logits, kinds[1])  # pyright: ignore
            y = y.unflatten(0, x.shape[:-1])
            return y if bias is None else y + bias
        x = fake_quantize(x, bits.input, bits.input_symmetric, *x_logits, per="token")[0]
        W = fake_quantize(W, bits.weight, bits.weight_symmetric, *W_logits, per="row")[0]
        return F.linear(x, W.to(x.dtype), bias)

    def transformed_input(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """What is rounded of an input."""
        return self.site(x) if self.transforms_input and self.site is not None else x

    def unclipped_weight(self) -> Tensor:
        """What the clipping of the weight acts on."""
        return self._transformed()[0]

    def transformed_weight(self) -> tuple[Tensor, Tensor | None]:
        """W~, clipped, with its bias."""
        W, bias, logits = self._transformed()
        return clipped(W, *logits), bias

    def _transformed(self) -> tuple[Tensor, Tensor | None, tuple[Tensor | None, Tensor | None]]:
        """W~, its bias, and the logits by which it is still to be clipped."""
        W, bias = self.linear.weight, self.linear.bias
        if self.site is not None:
            W = self.site.weight(W)
        if self.values is None:
            return W, bias, (self.weight_max, self.weight_min)
        if not self.is_value:  # (P_o ⊗ P_v)^-T = (P_o^-T ⊗ I)(I ⊗ P_v^-T)
            return by_heads(W, self.values.pairs[0].P_inv_T), bias, (self.weight_max, self.weight_min)
        P = self.values.pairs[0].P
        W = by_heads(clipped(W, self.weight_max, self.weight_min).mT, P).mT
        return W, None if bias is None else by_heads(bias, P), (None, None)


def by_heads(x: Tensor, P: Tensor) -> Tensor:
    """Each head of the last dimension times P."""
    return (x.unflatten(-1, (-1, len(P))) @ P.to(x.dtype)).flatten(-2)


def clipped(W: Tensor, max_logit: Tensor | None, min_logit: Tensor | None) -> Tensor:
    """Rows clamped to the learnt share of their range (section 3.1, learnable clipping)."""
    if max_logit is None or min_logit is None:
        return W
    high = max_logit.to(W.dtype).sigmoid() * W.amax(-1, keepdim=True)
    low = min_logit.to(W.dtype).sigmoid() * W.amin(-1, keepdim=True)
    return W.clamp(low, high)
