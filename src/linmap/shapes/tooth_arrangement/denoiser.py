"""The network that predicts the motions y_0 from noised ones: a small U-ViT over the 32 slots."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.blocks import Block, expect_shape, present
from linmap.shapes.tooth_arrangement.diffusion import time_embedding
from linmap.shapes.tooth_arrangement.slots import TEETH

MOTION = 9  # numbers of y
HEADS = {True: 9, False: 4}


class ToothDenoiser(nn.Module):
    """Predicts y_0 (a centroid and six numbers for each slot).

    Parameters
    ----------
    context_features
        Numbers of the context of a slot.
    faithful
        The authors' network: tokens of 27 numbers, of which 9 are time, other ones for each tooth; a LayerNorm at the
        end, which fixes mean and variance of the nine numbers up to a factor and a shift that all teeth share. Without,
        tokens are wider, teeth share the time, and there is no such LayerNorm.
    width
        Of the tokens, where not faithful: a multiple of 4.
    depth
        Blocks on the way in and on the way out; one stands between them.
    """

    def __init__(
        self, context_features: int = 1827, *, faithful: bool = False, width: int = 128, depth: int = 6
    ) -> None:
        super().__init__()
        self.faithful = faithful
        self.width = width = 3 * MOTION if faithful else width
        heads = HEADS[faithful]
        if width < heads or width % heads:
            raise ArgumentError(f"width must be a multiple of {heads}, got {width}.")
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, TEETH, width))
        self.in_blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.mid_block = Block(width, heads)
        self.out_blocks = nn.ModuleList(Block(width, heads, skip=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        if faithful:
            self.context_mlp = _mlp(context_features, 1024, 512, 256, MOTION)
            self.decoder_pred = nn.Linear(width, 64)
            self.mlp = _mlp(64, MOTION, MOTION)
            self.final_layer = nn.LayerNorm(MOTION)
        else:
            self.context_mlp = _mlp(context_features, 2 * width, width)
            self.motion, self.time = nn.Linear(MOTION, width), _mlp(width, width, width)
            self.decoder_pred = nn.Linear(width, MOTION)

    def forward(
        self,
        y: Float[Tensor, "batch 32 9"],
        t: Tensor,
        context: Float[Tensor, "batch 32 features"],
        mask: Bool[Tensor, "batch 32"] | None = None,
    ) -> Float[Tensor, "batch 32 9"]:
        """y_0 for noised motions y at times t (B,). With a mask, absent teeth are no keys, and their inputs and
        outputs are zeros.

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        expect_shape("y", y, "B", TEETH, MOTION)
        first = next((layer for layer in self.context_mlp.modules() if isinstance(layer, nn.Linear)), None)
        expect_shape("context", context, len(y), TEETH, "features" if first is None else first.in_features)
        mask = present("mask", mask, len(y), TEETH)
        if t.shape != y.shape[:1]:
            raise ArgumentError(f"t must be ({len(y)},), one time for each of the batch, got {tuple(t.shape)}.")
        if mask is not None:
            y, context = y.masked_fill(~mask[..., None], 0), context.masked_fill(~mask[..., None], 0)
        x = (self._faithful_tokens if self.faithful else self._tokens)(y, t.to(y), self.context_mlp(context))
        x = x + self.pos_embed
        skips = []
        for block in self.in_blocks:
            x = block(x, mask)
            skips.append(x)
        x = self.mid_block(x, mask)
        for block in self.out_blocks:
            x = block(x, mask, skips.pop())
        x = self.decoder_pred(self.norm(x))
        x = self.final_layer(self.mlp(x)) if self.faithful else x
        return x if mask is None else x.masked_fill(~mask[..., None], 0)

    def _faithful_tokens(self, y: Tensor, t: Tensor, context: Tensor) -> Tensor:
        time = time_embedding(t, TEETH * MOTION).unflatten(-1, (TEETH, MOTION))
        return torch.cat([time, context, y], -1)

    def _tokens(self, y: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.motion(y) + context + self.time(time_embedding(t, self.width))[:, None]


def load_official(denoiser: ToothDenoiser, state: Mapping[str, Tensor]) -> ToothDenoiser:
    """Take over weights with the names of the authors' code; the context MLP keeps its own where there are none.

    Raises
    ------
    ValueError
        If the denoiser is not the faithful one, or a weight is missing, unknown, or of another shape.
    """
    if not denoiser.faithful:
        raise ArgumentError("denoiser must be ToothDenoiser(faithful=True) to take the authors' weights.")
    own = denoiser.state_dict()
    needed = {name for name in own if not name.startswith("context_mlp.")}
    if missing := sorted(needed - state.keys()):
        raise ArgumentError(f"state lacks {len(missing)} weights, first {missing[0]}.")
    if unknown := sorted(state.keys() - own.keys()):
        raise ArgumentError(f"state has {len(unknown)} weights that the denoiser has not, first {unknown[0]}.")
    for name, value in state.items():
        if tuple(value.shape) != tuple(own[name].shape):
            raise ArgumentError(f"state has {name} of {tuple(value.shape)}, expected {tuple(own[name].shape)}.")
    denoiser.load_state_dict({**own, **state})
    return denoiser


def _mlp(*widths: int) -> nn.Sequential:
    """Linear layers with a GELU between each two."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])
