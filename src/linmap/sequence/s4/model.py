"""`SequenceModel`: a stack of state-space layers from series to classes, numbers or series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.sequence.s4.diagonal import S4D
from linmap.sequence.s4.layers import StateSpaceLayer, TiedDropout, optimiser_groups
from linmap.sequence.s4.low_rank import S4
from linmap.sequence.s4.padding import sample_mask

Pooling = Literal["mean", "last"]


class SequenceModel(nn.Module):
    """Linear, n_layers x [norm, layer, dropout, residual], pooling over time, Linear.

    Parameters
    ----------
    d_in, d_out
        Channels of the input, and outputs.
    n_layers, d_model, d_state
        Layers, their features and their states.
    layer
        "s4d" or "s4".
    init, dt
        Of the layers; "lin" for S4D and "legs" for S4 when `init` is None.
    norm, prenorm
        "layer" or "batch" (over the samples of all sequences, not their padding), before the layer or after the sum.
    dropout
        Inside and after the layers, of whole features.
    bidirectional
        Layers that also read the future; there is no `step` then.
    pooling
        "mean" over time, "last" sample, or None for an output at every sample.
    layer_options
        Further arguments of `S4D` or `S4`.
    generator
        Source of the random draws of the state spaces.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n_layers: int = 4,
        d_model: int = 128,
        d_state: int = 64,
        *,
        layer: Literal["s4d", "s4"] = "s4d",
        init: str | None = None,
        dt: tuple[float, float] = (1e-3, 0.1),
        norm: Literal["layer", "batch"] = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        pooling: Pooling | None = "mean",
        layer_options: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("d_in", d_in), ("d_out", d_out), ("n_layers", n_layers)):
            if value < 1:
                raise ArgumentError(f"{name}={value} must be positive.")
        kinds: dict[str, tuple[type[StateSpaceLayer], str]] = {"s4d": (S4D, "lin"), "s4": (S4, "legs")}
        for name, value, choices in (
            ("layer", layer, tuple(kinds)),
            ("norm", norm, ("layer", "batch")),
            ("pooling", pooling, ("mean", "last", None)),
        ):
            if value not in choices:
                raise ArgumentError(f"{name}={value} must be one of {choices}.")
        kind, usual = kinds[layer]
        options: dict[str, Any] = {"init": init or usual, "dt": dt, "bidirectional": bidirectional, "dropout": dropout}
        options |= dict(layer_options or {})
        self.prenorm = prenorm
        self.pooling: Pooling | None = pooling
        self.encoder = nn.Linear(d_in, d_model)
        self.layers = nn.ModuleList(kind(d_model, d_state, generator=generator, **options) for _ in range(n_layers))
        norms = nn.LayerNorm if norm == "layer" else nn.BatchNorm1d
        self.norms = nn.ModuleList(norms(d_model) for _ in range(n_layers))
        self.dropout = TiedDropout(dropout)
        self.decoder = nn.Linear(d_model, d_out)

    def forward(
        self, x: Float[Tensor, "B L d_in"], lengths: Int[Tensor, " B"] | None = None, rate: float = 1.0
    ) -> Float[Tensor, "B ..."]:
        """(B, d_out), or (B, L, d_out) without pooling; arguments as in the layers."""
        self._check(x, 3)
        mask = None if lengths is None else sample_mask(lengths, x.shape[0], x.shape[1], x.device)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        x = self.encoder(x)
        for norm, layer in self.blocks():
            y = layer(_normed(norm, x, mask) if self.prenorm else x, lengths=lengths, rate=rate)
            x = x + self.dropout(y)
            if not self.prenorm:
                x = _normed(norm, x, mask)
        return self.decoder(_pooled(x, self.pooling, mask, lengths))

    def step(self, x: Float[Tensor, "B d_in"], state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One sample of each sequence: the output as `forward` gives it for all samples so far, and the next state.

        Raises
        ------
        ValueError
            If the model is bidirectional, or a batch norm is in training mode.
        """
        self._check(x, 2)
        after, x = {}, self.encoder(x)
        for i, (norm, layer) in enumerate(self.blocks()):
            if isinstance(norm, nn.BatchNorm1d) and norm.training:
                raise ArgumentError("step: batch norm takes its statistics from whole batches; call .eval() first.")
            y, after[f"layer{i}"] = layer.step(norm(x) if self.prenorm else x, state[f"layer{i}"])
            x = x + y
            if not self.prenorm:
                x = norm(x)
        if self.pooling == "mean":
            after["sum"], after["count"] = state["sum"] + x, state["count"] + 1
            x = after["sum"] / after["count"].to(x.dtype)
        return self.decoder(x), after

    def initial_state(self, batch_size: int = 1) -> dict[str, Tensor]:
        """Of `step`, before the first sample: tensors by name, which safetensors can keep."""
        state = {f"layer{i}": layer.initial_state(batch_size) for i, (_, layer) in enumerate(self.blocks())}
        if self.pooling == "mean":
            weight = self.decoder.weight
            state["sum"] = weight.new_zeros(batch_size, weight.shape[1])
            state["count"] = torch.zeros((), dtype=torch.int64, device=weight.device)
        return state

    def optim_groups(self, lr: float, weight_decay: float = 0.01) -> list[dict[str, Any]]:
        """As in the layers, for the whole model."""
        return optimiser_groups(self, [layer for _, layer in self.blocks()], lr, weight_decay)

    def blocks(self) -> list[tuple[nn.Module, StateSpaceLayer]]:
        """Each norm and its layer."""
        return list(zip(self.norms, cast(list[StateSpaceLayer], list(self.layers)), strict=True))

    def _check(self, x: Tensor, dimensions: int) -> None:
        layout = "(B, L, d_in)" if dimensions == 3 else "(B, d_in)"
        if x.ndim != dimensions or x.shape[-1] != self.encoder.in_features:
            raise ArgumentError(
                f"x must be {layout} with d_in = {self.encoder.in_features}, got shape {tuple(x.shape)}."
            )


def _normed(norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        return norm(x)
    if mask is None:
        return norm(x.flatten(0, 1)).view_as(x)
    y = torch.zeros_like(x)
    y[mask] = norm(x[mask])
    return y


def _pooled(x: Tensor, pooling: Pooling | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
    if pooling is None:
        return x
    if mask is None or lengths is None:
        return x.mean(1) if pooling == "mean" else x[:, -1]
    lengths = lengths.to(x.device)
    if pooling == "mean":
        return (x * mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(-1)
    return x[torch.arange(len(x), device=x.device), lengths - 1]
