"""The products of Bone's modes "bat" and "bat-row", with only x, W and D kept for the backward pass.

Legend: a = 1..na block rows, b = 1..nb block columns, r block size, t tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from linmap.maps.block_affine import fold, tile


def bat_forward(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    """x W'^T + bias with W'_ab = W_ab (I + D_a) + D_a."""
    return _without_autocast(BatProduct.apply, x, W, bias, D)


def bat_row_forward(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    """x W'^T + bias with W'_ab = W_ab (I + D_b) + D_b."""
    return _without_autocast(BatRowProduct.apply, x, W, bias, D)


def bat_row_around(x: Tensor, base: Callable[[Tensor], Tensor], D: Tensor) -> Tensor:
    """The same from base(x) = x W^T + bias, whatever keeps W.

    y_a = sum_b (x_b + t_b) W_ab^T + sum_b t_b with t_b = x_b D_b^T.
    """
    z, s = _without_autocast(_row_transform, x, D)
    y = base(z)
    return (y.reshape(-1, y.shape[-1] // s.shape[-1], s.shape[-1]) + s).view(y.shape).to(y.dtype)


def _row_transform(x: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """x_b + t_b in the shape of x, and sum_b t_b as (t, 1, r)."""
    nb, r = D.shape[:2]
    x_tb = x.reshape(x.shape[:-1].numel(), nb, r)
    if x.dtype != D.dtype:
        x_tb, D = at_least_float32(x_tb, D)
    t_bt = torch.bmm(x_tb.transpose(0, 1), D.mT)
    return (x_tb + t_bt.transpose(0, 1)).view(x.shape).to(x.dtype), t_bt.sum(0).unsqueeze(1)


class BatRowProduct(torch.autograd.Function):
    """x W'^T + bias with W'_ab = W_ab (I + D_b) + D_b, by the activations; one node of the graph instead of a dozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
        ctx.save_for_backward(x, W, D)
        ctx.bias_dtype = None if bias is None else bias.dtype
        z, s = _row_transform(x, D)
        if W.dtype != x.dtype:
            W, bias = W.to(x.dtype), None if bias is None else bias.to(x.dtype)
        y = F.linear(z, W, bias)
        y.view(len(s), W.shape[0] // s.shape[-1], s.shape[-1]).add_(s)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W, D = ctx.saved_tensors
        need_x, need_W, need_bias, need_D = ctx.needs_input_grad
        grad_x = grad_W = grad_bias = grad_D = None
        with _autocast_off(x):
            g = grad.reshape(grad.shape[:-1].numel(), W.shape[0])
            if need_x or need_D:
                grad_x, grad_D = _row_gradients(x, W, D, g, need_x, need_D)
            if need_W:
                grad_W = (g.mT @ _row_transform(x, D)[0].reshape(len(g), W.shape[1])).to(W.dtype)
            if need_bias:
                grad_bias = g.sum(0).to(ctx.bias_dtype)
        return grad_x, grad_W, grad_bias, grad_D


def _row_gradients(
    x: Tensor, W: Tensor, D: Tensor, g: Tensor, need_x: bool, need_D: bool
) -> tuple[Tensor | None, Tensor | None]:
    nb, r = D.shape[:2]
    grad_z = g @ W.to(g.dtype)
    x_tb, D32 = x.reshape(len(g), nb, r), D
    if g.dtype != D.dtype:
        g, grad_z, x_tb, D32 = at_least_float32(g, grad_z, x_tb, D)
    grad_z = grad_z.view(len(g), nb, r)
    grad_t = (grad_z + g.view(len(g), W.shape[0] // r, r).sum(1, keepdim=True)).transpose(0, 1)  # (nb, t, r)
    grad_x = grad_z.add_(torch.bmm(grad_t, D32).transpose(0, 1)).view(x.shape).to(x.dtype) if need_x else None
    grad_D = torch.bmm(grad_t.mT, x_tb.transpose(0, 1)).to(D.dtype) if need_D else None
    return grad_x, grad_D


def _autocast_off(x: Tensor) -> AbstractContextManager[Any]:
    """Entering `torch.autocast` takes as long as a product of few tokens."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _without_autocast(product: Callable[..., Any], x: Tensor, *arguments: Any) -> Any:
    """What D does keeps its precision; the activations get the dtype that autocast asks for."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return product(x, *arguments)
    with torch.autocast(device, enabled=False):
        return product(x.to(torch.get_autocast_dtype(device)), *arguments)


class BatProduct(torch.autograd.Function):
    """x W'^T + bias with W'_ab = W_ab (I + D_a) + D_a.

    Many tokens: W' is built, in * out * r multiplications whatever their number, and again for the gradient.
    Few tokens: y_a = sum_b x_b W_ab^T + sum_b x_b D_a^T W_ab^T + s D_a^T with s = sum_b x_b; no W' at all.
    Forward and backward take 3 (t + r) against 7 t times in * out multiplications, hence `few`.
    """

    @staticmethod
    def few(x: Tensor, D: Tensor) -> bool:
        return 4 * x.shape[:-1].numel() <= 3 * D.shape[-1]

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
        ctx.save_for_backward(x, W, D)
        ctx.bias_dtype = None if bias is None else bias.dtype
        bias = None if bias is None else bias.to(x.dtype)
        if not BatProduct.few(x, D):
            return F.linear(x, bat_weight(*at_least_float32(W, D)).to(x.dtype), bias)
        y = F.linear(x, W.to(x.dtype), bias)
        return (y + _change_of_output(*at_least_float32(x, W, D))).to(y.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W, D = ctx.saved_tensors
        need_x, need_W, need_bias, need_D = ctx.needs_input_grad
        few = BatProduct.few(x, D) and not need_W
        gradients = _gradients_of_few if few else _gradients_of_many
        with _autocast_off(x):
            grad_x, grad_W, grad_D = gradients(x, W, D, grad, need_x, need_W, need_D)
            grad_bias = grad.reshape(-1, W.shape[0]).sum(0).to(ctx.bias_dtype) if need_bias else None
        return grad_x, grad_W, grad_bias, grad_D


def _change_of_output(x: Tensor, W: Tensor, D: Tensor) -> Tensor:
    """sum_b x_b D_a^T W_ab^T + s D_a^T."""
    na, r = D.shape[:2]
    n_out, n_in = W.shape
    x_tb = x.reshape(-1, r)
    z_a = torch.bmm(x_tb.expand(na, *x_tb.shape), D.mT)  # x_b D_a^T, (na, t * nb, r)
    y_a = torch.bmm(z_a.view(na, -1, n_in), W.reshape(na, r, n_in).mT)  # (na, t, r)
    return y_a.transpose(0, 1).reshape(*x.shape[:-1], n_out) + fold(x, r) @ D.reshape(n_out, r).mT


def _gradients_of_few(
    x: Tensor, W: Tensor, D: Tensor, grad: Tensor, need_x: bool, need_W: bool, need_D: bool
) -> tuple[Tensor | None, ...]:
    na, r = D.shape[:2]
    n_out, n_in = W.shape
    x32, W32, g, D_rows = at_least_float32(x.reshape(-1, n_in), W, grad.reshape(-1, n_out), D.reshape(n_out, r))
    g_a = g.view(-1, na, r).transpose(0, 1)  # (na, t, r)
    w_a = torch.bmm(g_a, W32.reshape(na, r, n_in)).view(na, -1, r)  # dL/dy_a W_ab, (na, t * nb, r)
    grad_x = grad_D = None
    if need_x:
        through_blocks = w_a.transpose(0, 1).reshape(-1, n_out) @ D_rows  # sum_a dL/dy_a W_ab D_a
        base = grad @ W.to(grad.dtype)
        grad_x = (base + (through_blocks.view_as(x32) + tile(g @ D_rows, n_in)).view(x.shape)).to(x.dtype)
    if need_D:
        x_tb = x32.reshape(-1, r)
        through_blocks = torch.bmm(w_a.mT, x_tb.expand(na, *x_tb.shape))
        grad_D = torch.addmm(through_blocks.view(n_out, r), g.mT, fold(x32, r)).view(na, r, r).to(D.dtype)
    return grad_x, None, grad_D


def _gradients_of_many(
    x: Tensor, W: Tensor, D: Tensor, grad: Tensor, need_x: bool, need_W: bool, need_D: bool
) -> tuple[Tensor | None, ...]:
    na, r = D.shape[:2]
    W32, D32 = at_least_float32(W, D)
    grad_x = grad_W = grad_D = None
    if need_x:
        grad_x = grad @ bat_weight(W32, D32).to(grad.dtype)
    if need_W or need_D:
        G = (grad.reshape(-1, W.shape[0]).mT @ x.reshape(-1, W.shape[1])).to(W32.dtype)  # dL/dW'
        G_a = G.view(na, -1, r)
        if need_W:
            grad_W = torch.baddbmm(G_a, G_a, D32.mT).view(W.shape).to(W.dtype)  # G_ab (I + D_a)^T
        if need_D:
            through_W = torch.bmm(W32.reshape(na, -1, r).mT, G_a)
            grad_D = through_W.add_(G.view(na, r, -1, r).sum(2)).to(D.dtype)  # sum_b W_ab^T G_ab + G_ab
    return grad_x, grad_W, grad_D


def bat_change(W: Tensor, D: Tensor) -> Tensor:
    """W_ab D_a + D_a, in one batched product."""
    W_a = W.reshape(D.shape[0], -1, D.shape[-1])  # (na, r * nb, r), its rows run over (o, b)
    return _add_block(torch.bmm(W_a, D), D).view(W.shape)


def bat_weight(W: Tensor, D: Tensor) -> Tensor:
    """W_ab (I + D_a) + D_a, in one batched product."""
    W_a = W.reshape(D.shape[0], -1, D.shape[-1])
    factor = D.clone()
    factor.diagonal(dim1=1, dim2=2).add_(1)  # I + D_a
    return _add_block(torch.bmm(W_a, factor), D).view(W.shape)


def _add_block(M_a: Tensor, D: Tensor) -> Tensor:
    """M_ab + D_a, in place."""
    na, r = D.shape[:2]
    M_a.view(na, r, -1, r).add_(D.unsqueeze(2))
    return M_a


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their widest dtype, float32 at least."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1 and not dtypes & {torch.float16, torch.bfloat16}:
        return tensors
    dtype = reduce(torch.promote_types, dtypes, torch.float32)
    return tuple(tensor.to(dtype) for tensor in tensors)
