"""The handle of a compressed encoder: its budget, and what its blocks and those that read its tokens ask of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from linmap.compress.encoders import Encoder
from linmap.compress.token_transforming.budget import Budget, ModelSize
from linmap.compress.token_transforming.flow import Flow
from linmap.compress.token_transforming.handle import Compressed, Pruned, Restore
from linmap.compress.token_transforming.latency import Measured
from linmap.compress.token_transforming.readers import Reading
from linmap.compress.token_transforming.token_transform import TokenTransform
from linmap.errors import ArgumentError


class CompressedEncoder(Compressed):
    """A compressed encoder; see `Compressed`.

    Attributes
    ----------
    encoder
        Where its blocks were found.
    debug
        As given to `compress`.
    measured
        With a target of speed: what was measured; else None.
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: Encoder,
        budget: Budget,
        size: ModelSize,
        transform: TokenTransform,
        score: str,
        *,
        restores: Restore,
        hard_restore: bool,
        pruned: Pruned,
        reading: Reading,
        debug: bool,
    ) -> None:
        super().__init__(model, transform, restores=restores, hard_restore=hard_restore, pruned=pruned)
        self.encoder, self.budget, self.size = encoder, budget, size
        self.score, self.reading, self.debug = score, reading, debug
        self.measured: Measured | None = None
        self._padding: Tensor | None = None

    def schedule(self, n_tokens: int) -> dict[int, int]:
        """{layer: M} for so many tokens."""
        return self.budget.schedule(n_tokens, self.size, self.transform.protect)

    def macs(self, n_tokens: int) -> int:
        """MACs of one sample of so many tokens, the transformations included."""
        return self.size.macs(n_tokens, self.schedule(n_tokens))

    @property
    def gives_all(self) -> bool:
        """Whether the model hands out its tokens restored already."""
        return self.reading == "restored"

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_padding": None}

    # What follows is for the replaced methods.

    def expect_padding(self, mask: Tensor | None, tokens: Any) -> None:
        """Keep the attention mask for the pass that begins."""
        padding = None if mask is None else padding_masses(mask, tokens)
        if torch.compiler.is_compiling():
            self._padding = padding
        else:
            self._thread.padding = padding

    def enter(self, layer: int, x: Tensor) -> Flow:
        """The pass that a block's input belongs to; the first block begins one."""
        if layer == 0:
            return self._begin(x)
        flow = self.flow()
        if flow is None or flow.count != x.shape[1] or flow.batch != x.shape[0]:
            here = f"(B, N) = {tuple(x.shape[:2])}"
            raise ArgumentError(
                f"layer {layer} got tokens {here} that do not come from the layer before; run a compressed model from "
                "its first block on."
            )
        return flow

    def _begin(self, x: Tensor) -> Flow:
        compiling = torch.compiler.is_compiling()
        padding = self._padding if compiling else getattr(self._thread, "padding", None)
        if padding is not None and padding.shape != x.shape[:2]:
            raise ArgumentError(
                f"attention_mask must have the shape (B, N) = {tuple(x.shape[:2])}, got {tuple(padding.shape)}."
            )
        if self.debug:
            self.check_numbers(x, "layer 0 gets")
        flow = Flow(x, padding, self.schedule(x.shape[1]), self.transform)
        self._last = flow
        if compiling:
            self._padding = None
        else:
            self._thread.flow, self._thread.padding = flow, None
        return flow

    def check_numbers(self, x: Tensor, where: str) -> None:
        """That there are no NaNs."""
        if bool(x.isnan().any()):
            raise ArgumentError(f"{where} NaN tokens (sample {int(x.isnan().flatten(1).any(1).nonzero()[0])} first).")


def padding_masses(mask: Tensor, tokens: Any) -> Tensor:
    """An attention mask as masses.

    Raises
    ------
    ValueError
        If it is not (B, N), or a sample is all padding.
    """
    expected = tuple(tokens.shape[:2]) if isinstance(tokens, Tensor) and tokens.ndim < 4 else None
    if mask.ndim != 2 or (expected is not None and tuple(mask.shape) != expected):
        raise ArgumentError(
            f"attention_mask must have the shape (B, N){'' if expected is None else f' = {expected}'}, 1 for tokens "
            f"and 0 for padding; got {tuple(mask.shape)}."
        )
    real = mask != 0
    if not torch.compiler.is_compiling() and not bool(real.any(-1).all()):
        raise ArgumentError(f"sample {int((~real.any(-1)).nonzero()[0])} of attention_mask is all padding.")
    return real.to(torch.float32)
