"""Linear operations of ATen, each as a function of an image (1, 4, 8, 8) in double precision."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten
ones = functools.partial(torch.ones, dtype=torch.float64)
MASK = torch.arange(256).reshape(1, 4, 8, 8) % 3 == 0
PLACES = (torch.arange(36) // 2).view(1, 1, 6, 6)
ZERO = torch.zeros(1, dtype=torch.long)
ZEROS = torch.zeros(1, 4, 8, 8, dtype=torch.long)
TRIANGLE = ones(8, 8).tril() + torch.eye(8)

LINEAR_OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1).flatten(1),
    "as_strided": lambda x: x.as_strided((1, 4, 3), (6, 1, 7)) + x.clone().as_strided_((1, 4, 3), (1, 2, 3)),
    "moved": lambda x: x.take(torch.tensor([[0, 7], [3, 3]])).sum() + torch.masked_select(x, MASK) + x[MASK],
    "written": lambda x: torch.zeros_like(x).masked_scatter(MASK, x) + x.masked_scatter(MASK, x.flip(3)),
    "put": lambda x: (
        x.put(torch.tensor([3, 9]), x[0, 0, 0, :2]) + torch.ones_like(x).put(torch.tensor([1]), x[0, 0, 0, :1])
    ),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([2]), x[:, :1]).index_fill(2, torch.tensor([0]), 3.0),
    "as_strided_scatter": lambda x: torch.as_strided_scatter(x, x[0, 0, 0, :3], (3,), (2,)),
    "reduced": lambda x: x.scatter_reduce(1, ZEROS, x, "mean") + x.index_reduce(1, ZERO, x[:, :1], "mean"),
    "index_add": lambda x: x.index_add(1, ZERO, x[:, :1]).index_put((ZERO,), x[0], accumulate=True),
    "parts of slices": lambda x: torch.slice_scatter(x, x[:, :2], 1, 1, 3).select_scatter(x[:, 0], 1, 2),
    "diagonals": lambda x: x.diagonal_scatter(x[:, :, 0], 0, 2, 3) + torch.diag_embed(x[:, :, 0]) + x.tril() + x.triu(),
    "block_diag": lambda x: torch.block_diag(x[0, 0], 2 * x[0, 1]) + x[0, 0].trace(),
    "unsafe splits": lambda x: torch.cat([*x.unsafe_split(3, 1), *x.unsafe_split_with_sizes([1, 3], 1)][::-1], 1),
    "rotated": lambda x: (
        x.rot90(1, (2, 3)) + torch.neg(x) + x.roll(1, 2) + x.flip(3) + x.unfold(3, 3, 1).sum(-1)[..., :1]
    ),
    "degrees": lambda x: x.deg2rad() + x.rad2deg() / 1000 + torch.ldexp(x, torch.tensor(3)),
    "bilinear layer": lambda x: F.bilinear(x, ones(1, 4, 8, 2), ones(3, 8, 2)),
    "outer": lambda x: torch.addr(ones(8, 2), x[0, 0, 0], ones(2), alpha=3),
    "products with sums": lambda x: (
        torch.addbmm(x[0, 1], x[0], ones(4, 8, 8), beta=2)
        + torch.addmm(x[0, 1], x[0, 2], ones(8, 8), alpha=2)
        + torch.baddbmm(x[0], ones(4, 8, 8), x[0])[0]
        + torch.addmv(x[0, 1, 0], ones(8, 8), x[0, 3, 0])
    ),
    "addcmul": lambda x: (
        torch.addcmul(x, torch.arange(8.0).to(x), x.flip(1), value=2) + torch.addcdiv(x, x, x.new_tensor(3))
    ),
    "vectors": lambda x: torch.dot(x[0, 0, 0], ones(8)) + torch.vdot(ones(8), x[0, 1, 0]) + x[0] @ ones(8),
    "xlogy": lambda x: torch.xlogy(x, x.new_tensor(3)) + torch.lerp(x, 2 * x, 0.3),
    "conv_tbc": lambda x: torch.conv_tbc(x[0], ones(3, 8, 2).cumsum(0), ones(2), 1),
    "embedding of a table of the input": lambda x: F.embedding(torch.tensor([1, 3]), x[0, 0]),
    "grid of a transform": lambda x: F.affine_grid(x[:, 0, :2, :3], [1, 1, 4, 4], align_corners=False),
    "3-D pads": lambda x: F.pad(F.pad(x[:, None], (1,) * 6, "reflect"), (1,) * 6, "replicate"),
    "3-D grid": lambda x: F.grid_sample(x[:, None], ones(1, 2, 2, 2, 3).cumsum(1) * 0.3, align_corners=True),
    "1-D": lambda x: F.interpolate(
        F.pad(F.pad(x[0], (1, 1), "reflect"), (1, 1), "replicate"), scale_factor=2, mode="linear"
    ),
    "1-D nearest": lambda x: (
        F.interpolate(x[0], scale_factor=2) + F.interpolate(x[0], scale_factor=2, mode="nearest-exact")
    ),
    "exact nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "antialiased": lambda x: F.interpolate(x, size=5, mode="bilinear", antialias=True),
    "adaptive pools": lambda x: F.adaptive_avg_pool3d(x[:, None], 3) + F.avg_pool1d(x[0], 2).sum(),
    "crossed": lambda x: torch.linalg.cross(x[0, :3], ones(3, 8, 8).cumsum(1), dim=0),
    "solved": lambda x: (
        torch.linalg.solve(TRIANGLE, x)
        + torch.linalg.solve_triangular(TRIANGLE, x, upper=False)
        + torch.cholesky_solve(x[0], TRIANGLE.expand(4, 8, 8))
        + torch.linalg.lu_solve(*torch.linalg.lu_factor(TRIANGLE), x)
    ),
    "3-D": lambda x: (
        F.interpolate(F.avg_pool3d(x[:, None], 2), scale_factor=2, mode="trilinear")
        + F.interpolate(x[:, None, :2, :4, :4], scale_factor=2)
        + F.interpolate(x[:, None, :2, :4, :4], scale_factor=2, mode="nearest-exact")
    ),
    "ATen's own views": lambda x: reduce(
        torch.add,
        [
            aten.alias(x),
            aten.alias_copy(x),
            aten.detach_copy(x),
            aten.expand_copy(x, (1, 4, 8, 8)),
            aten.lift(x),
            aten.slice_copy(x),
            aten.squeeze_copy(x),
            aten.view_copy(x, (1, 4, 8, 8)),
            aten.as_strided_copy(x, (8, 8), (8, 1)),
            aten.lift_fresh_copy(x),
            aten.select_copy(x, 1, 0),
            aten.split_copy(x, 1, 1)[0],
            aten.unbind_copy(x, 1)[2],
            aten.split_with_sizes_copy(x, [1, 3], 1)[0],
            aten.t_copy(x[0, 0]),
            aten.unsqueeze_copy(x[0], 0),
            aten.unfold_copy(x, 3, 8, 1)[..., 0],
            aten.diagonal_copy(x)[0],
            aten.narrow_copy(x, 1, 0, 1),
            aten._neg_view(x),
            aten._neg_view_copy(x),
            aten._reshape_alias(x[0, 0], (8, 8), (8, 1)),
            aten._reshape_alias_copy(x[0, 1], (8, 8), (8, 1)),
            aten.lift_fresh(x),
            aten.t(x[0, 0]),
            aten._lazy_clone(x),
            aten.split.Tensor(x, 1, 1)[0],
            aten.detach(x),
        ],
    ),
    "ATen's own operations": lambda x: (
        aten._unsafe_index(x, [None, ZERO])
        + aten._unsafe_index_put(x, [ZERO], x[0])
        + aten._index_put_impl(x.clone(), [ZERO], x[0])
        + aten._stack([x, x]).sum(0)
        + x.new_zeros(2).fill_(x[0, 0, 0, 0]).sum()
        + aten._native_batch_norm_legit_no_training(x, None, None, x.new_zeros(4), ones(4), 0.1, 0.1)[0]
        + aten._native_batch_norm_legit_functional(x, None, None, x.new_zeros(4), ones(4), False, 0.1, 0.1)[0]
        + aten.avg_pool1d(x[0], 2).sum()
        + aten.channel_shuffle(x, 2)
    ),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "copies of views": lambda x: torch.permute_copy(x, (0, 2, 1, 3)).contiguous() + torch.transpose_copy(x, 1, 2),
    "put twice": lambda x: x.index_put((ZERO, torch.tensor([1, 1])), x[0, 2:4]),
    "unpooled twice": lambda x: F.max_unpool2d(
        x[..., :6, :6], (torch.arange(36) // 2).expand(1, 4, 36).view(1, 4, 6, 6), [3, 3], [1, 1]
    ),
    "in place": lambda x: (
        x.clone().neg_()
        + x.clone().masked_fill_(MASK, 0.0).cumsum_(1)
        + x.clone().tril_().index_fill_(1, ZERO, 2.0).index_add_(1, ZERO, x[:, :1].clone()).scatter_(1, ZEROS, x)
    ),
    "into a tensor": lambda x: (
        torch.cat([x, x], 1, out=ones(1, 8, 8, 8))[:, :4] + torch.sum(x, 1, keepdim=True, out=ones(1, 1, 8, 8))
    ),
    "packed": lambda x: torch.nn.utils.rnn.pack_padded_sequence(x[0], [8, 5, 2, 1], batch_first=True).data,
    "deep copy": lambda x: copy.deepcopy(x) * 2 + copy.copy(x) + nn.Parameter(x),
    "scattered": lambda x: x.scatter(1, ZEROS, 2 * x).scatter_add(1, ZEROS, x).scatter(1, ZEROS, x, reduce="add"),
}
