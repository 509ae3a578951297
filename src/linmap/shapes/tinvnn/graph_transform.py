"""`TinvTransform`: the canonical pose as a transform of graphs with positions, as PyTorch Geometric's `Data` is one."""

from __future__ import annotations

import copy
from typing import Any

import torch

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.shapes.tinvnn.embedding import TinvEmbedding


class TinvTransform:
    """Replaces `data.pos` by the canonical coordinates, and turns `data.normal` with them where there is one.

    Parameters
    ----------
    embedding
        `TinvEmbedding()` by default.

    Notes
    -----
    Nothing of PyTorch Geometric is imported: any object with `pos` (n, d), and `batch` (n,) where it holds several
    clouds, will do. What is given stays as it is; a shallow copy is returned.
    """

    def __init__(self, embedding: TinvEmbedding | None = None) -> None:
        if embedding is not None and not isinstance(embedding, TinvEmbedding):
            raise ArgumentTypeError(f"embedding must be a TinvEmbedding, got {type(embedding).__name__}.")
        self.embedding = TinvEmbedding() if embedding is None else embedding

    def __call__(self, data: Any) -> Any:
        """The copy in its canonical pose.

        Raises
        ------
        TypeError, ValueError
            If `pos`, `batch` or `normal` is missing or does not fit.
        """
        position = getattr(data, "pos", None)
        if not isinstance(position, torch.Tensor) or position.ndim != 2:
            raise ArgumentTypeError(f"data.pos must be a tensor (n, d), got {type(position).__name__}.")
        batch = getattr(data, "batch", None)
        if batch is None:
            batch = torch.zeros(len(position), dtype=torch.int64, device=position.device)
        if not isinstance(batch, torch.Tensor):
            raise ArgumentTypeError(f"data.batch must be a tensor (n,), got {type(batch).__name__}.")
        if batch.shape != position.shape[:1]:
            raise ArgumentError(f"data.batch must have shape ({len(position)},), got {tuple(batch.shape)}.")
        if 0 in position.shape:
            raise ArgumentError(f"data.pos must hold at least one point, got shape {tuple(position.shape)}.")
        names, cloud, sizes = batch.unique(return_inverse=True, return_counts=True)
        if len(sizes) > 1 and (alone := sizes < 2).any():
            raise ArgumentError(f"data.batch: cloud {int(names[alone][0])} has one point; a pose needs two or more.")
        order = cloud.argsort(stable=True)
        place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[cloud[order]]
        padded = position.new_zeros(len(sizes), int(sizes.max()), position.shape[1])
        padded[cloud[order], place] = position[order]
        mask = torch.arange(padded.shape[1], device=order.device) < sizes[:, None]
        whole = bool(mask.all())
        H, frame = self.embedding(padded, None if whole else mask, return_frame=True)
        new = copy.copy(data)
        new.pos = H.new_empty(len(position), H.shape[2])
        new.pos[order] = H[cloud[order], place]
        if isinstance(normal := getattr(data, "normal", None), torch.Tensor):
            if normal.shape != position.shape:
                raise ArgumentError(f"data.normal must have shape {tuple(position.shape)}, got {tuple(normal.shape)}.")
            new.normal = (normal.to(frame.Q).unsqueeze(1) @ frame.Q[cloud]).squeeze(1)
        return new
