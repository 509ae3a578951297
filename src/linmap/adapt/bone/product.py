"""x W'^T for Bone's mode "bat", W'_ab = W_ab (I + D_a) + D_a, with only x, W and D kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from linmap.maps.block_affine import fold, tile

# Legend: a block rows, b block columns, r block size, t tokens; W_a is (na, r * nb, r), its rows run over (o, b).


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in their widest dtype, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def bat_change(W: Tensor, D: Tensor) -> Tensor:
    """W_ab D_a + D_a, in one batched product."""
    W_a = W.reshape(D.shape[0], -1, D.shape[-1])
    return _plus_block(torch.bmm(W_a, D), D).view(W.shape)


def bat_weight(W: Tensor, D: Tensor) -> Tensor:
    """W_ab + W_ab D_a + D_a, in one batched product."""
    W_a = W.reshape(D.shape[0], -1, D.shape[-1])
    return _plus_block(torch.baddbmm(W_a, W_a, D), D).view(W.shape)


def _plus_block(M_a: Tensor, D: Tensor) -> Tensor:
    """D_a added to every block of M_ab, in place."""
    r = D.shape[-1]
    M_a.unflatten(1, (r, -1)).add_(D.unsqueeze(2))
    return M_a


class BatProduct(torch.autograd.Function):
    """x W'^T + bias.

    Many tokens: W' is built (in * out * r multiplications, whatever the number of tokens), and again for the gradient.
    Few tokens: y_a = sum_b x_b W_ab^T + sum_b x_b D_a^T W_ab^T + s D_a^T, each term in * out multiplications a token.
    Forward and backward count 3 (tokens + r) against 7 tokens of them, hence `few`.
    """

    generate_vmap_rule = True

    @staticmethod
    def few(x: Tensor, D: Tensor) -> bool:
        return 4 * x.shape[:-1].numel() <= 3 * D.shape[-1]

    @staticmethod
    def forward(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
        bias = None if bias is None else bias.to(x.dtype)
        if not BatProduct.few(x, D):
            return F.linear(x, bat_weight(*at_least_float32(W, D)).to(x.dtype), bias)
        y = F.linear(x, W.to(x.dtype), bias)
        return (y + _bat_output(*at_least_float32(x, W, D))).to(y.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, W, bias, D = inputs
        ctx.save_for_backward(x, W, D)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W, D = ctx.saved_tensors
        few = BatProduct.few(x, D) and not ctx.needs_input_grad[1]
        gradients = _gradients_few if few else _gradients_many
        with torch.autocast(x.device.type, enabled=False):
            grad_x, grad_W, grad_D = gradients(x, W, D, grad, ctx.needs_input_grad)
            grad_bias = grad.flatten(0, -2).sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_W, grad_bias, grad_D


def _bat_output(x: Tensor, W: Tensor, D: Tensor) -> Tensor:
    """sum_b x_b D_a^T W_ab^T + s D_a^T."""
    na, r = D.shape[:2]
    n_out, n_in = W.shape
    z_a = (x.reshape(-1, r) @ D.mT).view(na, -1, n_in)  # x_b D_a^T, (na, t, in)
    y_a = torch.bmm(z_a, W.reshape(na, r, n_in).mT)  # (na, t, r)
    return y_a.transpose(0, 1).reshape(*x.shape[:-1], n_out) + fold(x, r) @ D.reshape(n_out, r).mT


def _gradients_few(
    x: Tensor, W: Tensor, D: Tensor, grad: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    na, r = D.shape[:2]
    n_out, n_in = W.shape
    rows = D.reshape(n_out, r)
    x_dtype, D_dtype = x.dtype, D.dtype
    base = grad @ W.to(grad.dtype) if needed[0] else None
    x, W, grad, rows = at_least_float32(x, W, grad, rows)
    flat = grad.reshape(-1, n_out)
    g_a = flat.unflatten(1, (na, r)).transpose(0, 1)  # (na, t, r)
    w_a = torch.bmm(g_a, W.reshape(na, r, n_in)).view(na, -1, r)  # sum_o g_ao W_ab, (na, t * nb, r)
    grad_x = grad_D = None
    if base is not None:
        products = w_a.transpose(0, 1).reshape(-1, n_out) @ rows
        grad_x = (base + products.view(x.shape) + tile(grad @ rows, n_in)).to(x_dtype)
    if needed[3]:
        s = fold(x, r).reshape(-1, r)
        grad_D = ((w_a.mT @ x.reshape(-1, r)) + (flat.mT @ s).view(na, r, r)).to(D_dtype)
    return grad_x, None, grad_D


def _gradients_many(
    x: Tensor, W: Tensor, D: Tensor, grad: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    grad_x = grad_W = grad_D = None
    if needed[0]:
        grad_x = grad @ bat_weight(*at_least_float32(W, D)).to(grad.dtype)
    if needed[1] or needed[3]:
        na, r = D.shape[:2]
        G = grad.reshape(-1, W.shape[0]).mT @ x.reshape(-1, W.shape[1])  # dL/dW'
        G, W32, D32 = at_least_float32(G, W, D)
        G_a = G.view(na, -1, r)
        if needed[1]:
            grad_W = torch.baddbmm(G_a, G_a, D32.mT).view(W.shape).to(W.dtype)
        if needed[3]:
            products = torch.bmm(W32.reshape(na, -1, r).mT, G_a)
            grad_D = (products + G.view(na, r, -1, r).sum(2)).to(D.dtype)  # sum_b W_ab^T G_ab + G_ab
    return grad_x, grad_W, grad_D
