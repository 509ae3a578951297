"""The products of Bone's modes "bat" and "bat-row", with only x, W and D kept for the backward pass.

Legend: a = 1..na block rows, b = 1..nb block columns, r block size, t tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from linmap.adapt.kept import has_values
from linmap.maps.numbers import autocast, transformed


def bat_forward(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    """x W'^T + bias with W'_ab = W_ab (I + D_a) + D_a."""
    return _without_autocast(_bat_composed if transformed() else BatProduct.apply, x, W, bias, D)


def bat_row_forward(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    """x W'^T + bias with W'_ab = W_ab (I + D_b) + D_b."""
    return _without_autocast(_bat_row_composed if transformed() else BatRowProduct.apply, x, W, bias, D)


def _bat_composed(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    """The same in PyTorch's own operations, of which it knows every derivative and a way for many at once."""
    W = bat_weight(*at_least_float32(W, D))
    return F.linear(x, W.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _bat_row_composed(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    W, bias = W.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return bat_row_around(x, partial(F.linear, weight=W, bias=bias), D)


def few_tokens(x: Tensor, D: Tensor) -> bool:
    """Whether the ways for few tokens pay; on accelerators, comparing D with zero would wait for them.

    They do not where the number is open, as in an exported program.
    """
    tokens = math.prod(x.shape[:-1])
    known = x.device.type == "cpu" and not isinstance(tokens, torch.SymInt)
    return known and tokens <= D.shape[-1] and (torch.compiler.is_compiling() or has_values(D))


def _is_changed(D: Tensor) -> bool:
    return torch.compiler.is_compiling() or not torch.equal(D, D.new_zeros(()).expand_as(D))


def bat_row_around(x: Tensor, base: Callable[[Tensor], Tensor], D: Tensor) -> Tensor:
    """The same from base(x) = x W^T + bias, whatever keeps W.

    y_a = sum_b (x_b + t_b) W_ab^T + sum_b t_b with t_b = x_b D_b^T.
    """
    z, s = _without_autocast(_row_transform, x, D)
    y = base(z)
    return (y.reshape(-1, y.shape[-1] // s.shape[-1], s.shape[-1]) + s).view(y.shape).to(y.dtype)


def _row_transform(x: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """x_b + t_b in the shape of x, and sum_b t_b as (t, 1, r)."""
    nb, r, _ = D.shape
    x_tb = x.reshape(-1, nb, r)
    if x.dtype is not D.dtype:
        x_tb, D = at_least_float32(x_tb, D)
    t_bt = torch.bmm(x_tb.transpose(0, 1), D.mT)
    z = torch.add(x_tb, t_bt.transpose(0, 1)).view(x.shape)
    return z if z.dtype is x.dtype else z.to(x.dtype), t_bt.sum(0).unsqueeze_(1)


class BatRowProduct(torch.autograd.Function):
    """x W'^T + bias with W'_ab = W_ab (I + D_b) + D_b, by the activations; one node of the graph instead of a dozen.

    On few tokens the products with W go block by block, in one batch, which is a quarter faster there than the whole
    product; a D of zeros is skipped then, so that a fresh adapter changes no bit of the layer. Every operation counts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
        ctx.save_for_backward(x, W, D)
        ctx.changed = _is_changed(D) if few_tokens(x, D) else True
        if few_tokens(x, D) and x.dtype is W.dtype is D.dtype:
            return _no_view(_row_output_of_few(x, W, bias, D) if ctx.changed else F.linear(x, W, bias))
        z, s = _row_transform(x, D)
        if W.dtype is not x.dtype:
            W, bias = W.to(x.dtype), None if bias is None else bias.to(x.dtype)
        y = F.linear(z, W, bias)
        y.view(-1, W.shape[0] // s.shape[2], s.shape[2]).add_(s)
        return _no_view(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W, D = ctx.saved_tensors
        blockwise = few_tokens(x, D) and grad.dtype is W.dtype and (ctx.changed or torch.is_grad_enabled())
        with _autocast_off(x):
            return _row_gradients(x, W, D, grad, blockwise, *ctx.needs_input_grad)


def _no_view(y: Tensor) -> Tensor:
    """y, not as a view: autograd lets nobody write in place to a view that a Function returns, as models do."""
    return torch.ops.aten._unsafe_view.default(y, y.shape)


def _row_output_of_few(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    nb, r, _ = D.shape
    n_out, n_in = W.shape
    x_bt = x.reshape(-1, nb, r).transpose(0, 1)
    t_bt = torch.bmm(x_bt, D.mT)
    z = torch.add(x_bt, t_bt).transpose(0, 1).reshape(-1, n_in)
    y_at = torch.bmm(z.expand(n_out // r, *z.shape), W.reshape(-1, r, n_in).mT).add_(t_bt.sum(0))
    y = y_at.transpose(0, 1).reshape(*x.shape[:-1], n_out)
    return y if bias is None else y.add_(bias)


def _row_gradients(
    x: Tensor, W: Tensor, D: Tensor, grad: Tensor, blockwise: bool,
    need_x: bool, need_W: bool, need_bias: bool, need_D: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    nb, r, _ = D.shape
    n_out, n_in = W.shape
    g = grad.reshape(-1, n_out)
    grad_W = g.mT @ _row_transform(x, D)[0].reshape(-1, n_in) if need_W else None
    grad_bias = g.sum(0) if need_bias else None
    if not (need_x or need_D):
        return None, grad_W, grad_bias, None
    if blockwise:
        grad_z = torch.bmm(g.expand(nb, *g.shape), W.reshape(n_out, nb, r).permute(1, 0, 2))  # (nb, t, r)
    else:
        grad_z = torch.mm(g, W if W.dtype is g.dtype else W.to(g.dtype)).view(-1, nb, r).transpose(0, 1)
    x_bt, D32 = x.reshape(-1, nb, r).transpose(0, 1), D
    if g.dtype is not D.dtype:
        g, grad_z, x_bt, D32 = at_least_float32(g, grad_z, x_bt, D)
    grad_t = torch.add(grad_z, g.view(-1, n_out // r, r).sum(1))
    grad_D = torch.bmm(grad_t.mT, x_bt) if need_D else None
    grad_x = torch.baddbmm(grad_z, grad_t, D32).transpose(0, 1).reshape(x.shape) if need_x else None
    return grad_x, grad_W, grad_bias, grad_D  # autograd casts them to the dtypes of the inputs


def _autocast_off(x: Tensor) -> AbstractContextManager[Any]:
    """Entering `torch.autocast` takes as long as a product of few tokens."""
    return torch.autocast(x.device.type, enabled=False) if autocast(x) else nullcontext()


def _without_autocast(product: Callable[..., Any], x: Tensor, *arguments: Any) -> Any:
    """What D does keeps its precision; the activations get the dtype that autocast asks for."""
    if not autocast(x):
        return product(x, *arguments)
    device = x.device.type
    with torch.autocast(device, enabled=False):
        return product(x.to(torch.get_autocast_dtype(device)), *arguments)


class BatProduct(torch.autograd.Function):
    """x W'^T + bias with W'_ab = W_ab (I + D_a) + D_a.

    Many tokens: W' is built, in * out * r multiplications whatever their number, and again for the gradient; forward
    and backward take 3 (t + r) in * out. Few tokens: y_a = sum_b x_b (I + D_a)^T W_ab^T + s D_a^T with s = sum_b x_b,
    no W' at all, and 5 t in * out; a D of zeros is skipped there, so that a fresh adapter changes no bit of the layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
        ctx.save_for_backward(x, W, D)
        ctx.few = few = few_tokens(x, D)
        ctx.changed = _is_changed(D) if few else True
        if few and ctx.changed:
            return _output_of_few(x, W, bias, D)
        W = bat_weight(*at_least_float32(W, D)) if ctx.changed else W
        return _no_view(F.linear(x, W.to(x.dtype), None if bias is None else bias.to(x.dtype)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W, D = ctx.saved_tensors
        need_x, need_W, need_bias, need_D = ctx.needs_input_grad
        with _autocast_off(x):
            grad_bias = grad.reshape(-1, W.shape[0]).sum(0) if need_bias else None
            if ctx.few and not need_W:
                changed = ctx.changed or torch.is_grad_enabled()  # a second derivative needs the terms of D
                grad_x, grad_D = _gradients_of_few(x, W, D, grad, need_x, need_D, changed)
                return grad_x, None, grad_bias, grad_D
            grad_x, grad_W, grad_D = _gradients_of_many(x, W, D, grad, need_x, need_W, need_D)
            return grad_x, grad_W, grad_bias, grad_D


def _output_of_few(x: Tensor, W: Tensor, bias: Tensor | None, D: Tensor) -> Tensor:
    """sum_b x_b (I + D_a)^T W_ab^T + s D_a^T + bias."""
    na, r, _ = D.shape
    n_out, n_in = W.shape
    x_tb, W, D = at_least_float32(x.reshape(-1, r), W, D)
    z_a = torch.bmm(x_tb.expand(na, *x_tb.shape), _identity_plus(D).mT)  # (na, t * nb, r)
    y_a = torch.bmm(z_a.view(na, -1, n_in), W.reshape(na, r, n_in).mT)  # (na, t, r)
    s, D_rows = x_tb.view(-1, n_in // r, r).sum(1), D.reshape(n_out, r)
    y = torch.mm(s, D_rows.mT) if bias is None else torch.addmm(bias.to(s.dtype), s, D_rows.mT)
    y.view(-1, na, r).add_(y_a.transpose(0, 1))
    y = y if x.ndim == 2 else torch.ops.aten._unsafe_view.default(y, (*x.shape[:-1], n_out))  # as `_no_view`
    return y if y.dtype is x.dtype else y.to(x.dtype)


def _gradients_of_few(
    x: Tensor, W: Tensor, D: Tensor, grad: Tensor, need_x: bool, need_D: bool, changed: bool
) -> tuple[Tensor | None, Tensor | None]:
    na, r, _ = D.shape
    n_out, n_in = W.shape
    grad_x = grad_D = None
    if need_x and not changed:
        grad_x = grad @ W.to(grad.dtype)
    x_tb, W, g, D = at_least_float32(x.reshape(-1, r), W, grad.reshape(-1, n_out), D)
    g_a = g.view(-1, na, r).transpose(0, 1)  # (na, t, r)
    w_a = torch.bmm(g_a, W.reshape(na, r, n_in)).view(na, -1, r)  # dL/dy_a W_ab, (na, t * nb, r)
    if need_x and changed:
        through_blocks = torch.bmm(w_a, _identity_plus(D)).sum(0)  # sum_a dL/dy_a W_ab (I + D_a), (t * nb, r)
        through_blocks.view(-1, n_in // r, r).add_((g @ D.reshape(n_out, r)).unsqueeze(1))
        grad_x = through_blocks.view(x.shape)
    if need_D:
        s = x_tb.view(-1, n_in // r, r).sum(1)
        through_blocks = torch.bmm(w_a.mT, x_tb.expand(na, *x_tb.shape))
        grad_D = torch.addmm(through_blocks.view(n_out, r), g.mT, s).view(na, r, r)
    return grad_x, grad_D


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
    return _add_block(torch.bmm(W_a, _identity_plus(D)), D).view(W.shape)


def _identity_plus(D: Tensor) -> Tensor:
    """I + D_a."""
    return D + torch.eye(D.shape[-1], dtype=D.dtype, device=D.device)


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
