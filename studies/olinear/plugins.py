"""Other libraries' forecasters, with OLinear's parts in them: iTransformer and PatchTST of neuralforecast, DLinear."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from linmap.errors import UsageError


class Library(nn.Module):
    """A library's model as a map of windows (batch, time, variate) to forecasts (batch, horizon, variate)."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.model, x)


def itransformer(
    seq_len: int,
    pred_len: int,
    n_variates: int,
    *,
    d_model: int,
    d_ff: int,
    heads: int,
    seed: int,
    dropout: float = 0.1,
    normalise: bool = True,
) -> nn.Module:
    """iTransformer of neuralforecast: attention over variates; its tokens are the `n_variates`."""
    with _neuralforecast() as models:
        model = models.iTransformer(
            h=pred_len,
            input_size=seq_len,
            n_series=n_variates,
            hidden_size=d_model,
            d_ff=d_ff,
            n_heads=heads,
            e_layers=2,
            dropout=dropout,
            use_norm=normalise,
            random_seed=seed,
        )
    return Library(model, lambda model, x: model({"insample_y": x.clone()}))  # it normalises in place


def patchtst(
    seq_len: int,
    pred_len: int,
    *,
    d_model: int,
    d_ff: int,
    heads: int,
    patch: int,
    seed: int,
    dropout: float = 0.2,
    normalise: bool = True,
) -> nn.Module:
    """PatchTST of neuralforecast: attention over patches of each variate by itself; see `n_patches`."""
    with _neuralforecast() as models:
        model = models.PatchTST(
            h=pred_len,
            input_size=seq_len,
            hidden_size=d_model,
            linear_hidden_size=d_ff,
            n_heads=heads,
            encoder_layers=2,
            patch_len=patch,
            stride=patch // 2,
            dropout=dropout,
            revin=normalise,
            random_seed=seed,
        )
    return Library(model, _each_variate)


def n_patches(seq_len: int, patch: int) -> int:
    """Tokens of `patchtst`: patches half a patch apart, and one more that ends with repeated last values."""
    return (seq_len - patch) // (patch // 2) + 2


def _each_variate(model: nn.Module, x: Tensor) -> Tensor:
    batch, _, variates = x.shape
    y = model({"insample_y": x.mT.flatten(0, 1)[..., None]})
    return y[..., 0].unflatten(0, (batch, variates)).mT


@contextmanager
def _neuralforecast() -> Any:
    """Its models, without the seed that they would set for the whole process and the line that says so."""
    try:
        from neuralforecast import models
    except ModuleNotFoundError as error:
        raise UsageError(f"iTransformer and PatchTST need {error.name}: pip install 'linmap[sequence]'.") from error
    logger = logging.getLogger("lightning_fabric.utilities.seed")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            yield models
    finally:
        logger.setLevel(level)
