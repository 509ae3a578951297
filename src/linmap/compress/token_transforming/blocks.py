"""Blocks of encoders that run on fewer tokens: the transformation stands between the attention and the MLP.

Pre-LN:   x + attention(norm(x)),  then the transformation,  then x + mlp(norm(x)).
Post-LN:  norm(x + attention(x)),  then the transformation,  then norm(x + mlp(x)).

A block that nothing has been merged before and that merges nothing runs as it was written, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.token_transforming.flow import Flow, Roles, key_bias, needs
from linmap.compress.token_transforming.patches import Patch
from linmap.errors import ArgumentError

if TYPE_CHECKING:
    from linmap.compress.token_transforming.encoder_handle import CompressedEncoder

IMPLEMENTATIONS = ("eager", "sdpa")


class Capture:
    """A forward hook that keeps what a projection gives, for the block that is running."""

    def __init__(self, handle: CompressedEncoder, role: str) -> None:
        self.handle, self.role = handle, role

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        flow = self.handle.flow()
        if flow is not None:
            flow.captured[self.role] = output


class BlockForward(Patch):
    """The forward of one block of a compressed encoder."""

    def __init__(self, handle: CompressedEncoder, layer: int, block: nn.Module) -> None:
        super().__init__(block)
        self.handle, self.layer = handle, layer
        encoder = self.encoder = handle.encoder
        self.attention = cast(nn.Module, encoder.part(block, "attention"))
        self.after_attention = encoder.branch_end(block, "after_attention")
        self.after_mlp = encoder.branch_end(block, "after_mlp")
        holder = block.get_submodule(encoder.family.heads_of)
        scale = getattr(holder, "scaling", getattr(holder, "scale", None))
        self.scale = float(scale) if isinstance(scale, int | float) else None
        self.needs = needs(handle.transform, handle.score)
        inside = getattr(self.attention, "self", None)
        self.config = getattr(self.attention, "config", getattr(inside, "config", None))

    def __call__(self, x: Float[Tensor, "batch tokens channels"], *args: Any, **kwargs: Any) -> Tensor:
        flow = self.handle.enter(self.layer, x)
        M = flow.wanted(self.layer)
        whole = self.handle.restores == "block"
        if flow.count <= M and (whole or not flow.transforms):
            y = self.plain(x, *args, **kwargs)
            flow.captured = {}
        else:
            rest = self._arguments(flow, args, kwargs)
            if whole:
                y = self._whole(flow, x, M, rest)
            elif self.encoder.family.order == "pre":
                y = self._pre(flow, x, M, rest)
            else:
                y = self._post(flow, x, M, rest)
        if self.handle.debug:
            self.handle.check_numbers(y, f"layer {self.layer} gives")
        return y

    def _arguments(self, flow: Flow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the attention; what cannot be honoured with fewer tokens is refused."""
        block, rest = self.module, {name: value for name, value in kwargs.items() if value is not None}
        if args:
            rest["attention_mask"] = args[0]
        if any(value is not None for value in args[1:]):
            raise ArgumentError(f"a compressed {type(block).__name__} takes tokens and their mask by place, no more.")
        for name in ("attn_mask", "encoder_hidden_states", "encoder_attention_mask", "past_key_values", "head_mask"):
            if rest.pop(name, None) is not None:
                raise ArgumentError(f"a compressed {type(block).__name__} takes no {name}.")
        if rest.pop("is_causal", False):
            raise ArgumentError(f"a compressed {type(block).__name__} cannot be causal.")
        mask = rest.get("attention_mask")
        if mask is not None and flow.padding is None and (mask.dtype == torch.bool or not _is_zero(mask)):
            raise ArgumentError(
                f"an attention_mask of shape {tuple(mask.shape)} reached a block; give the model one of shape (B, N), "
                "1 for tokens and 0 for padding: other masks cannot be kept when tokens become fewer."
            )
        self._check_settings()
        return rest

    def _check_settings(self) -> None:
        """Refuse what the block may be set to and fewer tokens do not go with."""
        block = self.module
        if getattr(block, "gradient_checkpointing", False) and block.training:
            raise ArgumentError("gradient checkpointing does not work in a compressed model; switch it off.")
        if getattr(block, "chunk_size_feed_forward", 0):
            raise ArgumentError("chunk_size_feed_forward does not work in a compressed model; set it to 0.")
        used = getattr(self.config, "_attn_implementation", "sdpa")
        if used not in IMPLEMENTATIONS:
            raise ArgumentError(
                f"attention implementation {used!r} takes no bias for the masses of tokens; load the model with "
                "attn_implementation='sdpa' or 'eager'."
            )

    def _pre(self, flow: Flow, x: Tensor, M: int, rest: dict[str, Any]) -> Tensor:
        x = self._attended(flow, x, rest)
        x = self._merge(flow, x, M)
        return self._fed(x)

    def _post(self, flow: Flow, x: Tensor, M: int, rest: dict[str, Any]) -> Tensor:
        x = self._attend(x, rest | self._mask(flow, x, rest))
        x = self._merge(flow, x, M)
        return self._part("mlp_output")(self._part("mlp")(x), x)

    def _attended(self, flow: Flow, x: Tensor, rest: dict[str, Any]) -> Tensor:
        y = self._attend(self._part("attention_norm")(x), rest | self._mask(flow, x, rest))
        for module in self.after_attention:
            y = module(y)
        return x + y

    def _fed(self, x: Tensor) -> Tensor:
        y = self._part("mlp")(self._part("mlp_norm")(x))
        for module in self.after_mlp:
            y = module(y)
        return x + y

    def _merge(self, flow: Flow, x: Tensor, M: int) -> Tensor:
        captured, flow.captured = flow.captured, {}
        if flow.count <= M:
            return x
        projections = {role: self._heads(captured[role]) for role in self.needs}
        transform = flow.build(x, M, projections, self.scale, self.handle.score)
        if transform.is_identity:
            return x
        flow.record(self.layer, transform)
        return transform.apply(x)

    def _whole(self, flow: Flow, x: Tensor, M: int, rest: dict[str, Any]) -> Tensor:
        """x + R (block(W x) - W x), with W from the block's input."""
        projections = self._project(self._part("attention_norm")(x))
        transform = flow.build(x, M, projections, self.scale, self.handle.score)
        flow.record(self.layer, transform, follows=False)
        inside = Flow(x[:, : transform.shape[1]], flow.padding, {}, flow.transform)
        inside.mass = transform.mass_out
        before = transform.apply(x)
        after = self._fed(self._attended(inside, before, rest))
        change = transform.restore(after - before, hard=self.handle.hard_restore, pruned=self.handle.pruned)
        return x + change

    def _mask(self, flow: Flow, x: Tensor, rest: dict[str, Any]) -> dict[str, Tensor | None]:
        """The bias for the masses once tokens have become fewer; until then the model's own mask."""
        if flow.mass is flow.padding:
            return {"attention_mask": rest.get("attention_mask")}
        kind = x.device.type
        autocast = torch.is_autocast_enabled(kind)
        return {"attention_mask": flow.bias(torch.get_autocast_dtype(kind) if autocast else x.dtype)}

    def _attend(self, x: Tensor, rest: dict[str, Any]) -> Tensor:
        if self.encoder.family.qkv:
            return self._attend_joined(x, rest["attention_mask"])
        return self.attention(x, **rest)[0]

    def _attend_joined(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Attention of timm's form, in fused attention, with log s as its mask."""
        attention = cast(Any, self.attention)
        q, k, v = self._split(attention.qkv(x))
        flow = self.handle.flow()
        if flow is not None and self.needs:
            flow.captured = {"query": q, "key": k, "value": v}
        dropout = attention.attn_drop.p if self.module.training and hasattr(attention, "attn_drop") else 0.0
        bias = None if bias is None else bias.to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=self.scale)
        y = y.transpose(1, 2).flatten(2)
        for name in ("norm", "proj", "proj_drop"):
            y = getattr(attention, name)(y) if hasattr(attention, name) else y
        return y

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, N, d) of one joined projection, normed where the model does."""
        batch, tokens, _ = qkv.shape
        q, k, v = qkv.reshape(batch, tokens, 3, self.encoder.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q_norm, k_norm = self.encoder.part(self.module, "query_norm"), self.encoder.part(self.module, "key_norm")
        return q if q_norm is None else q_norm(q), k if k_norm is None else k_norm(k), v

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, H d) as (B, H, N, d)."""
        return x if x.ndim == 4 else x.reshape(*x.shape[:2], self.encoder.heads, -1).transpose(1, 2)

    def _project(self, x: Tensor) -> Roles:
        """The projections of a block's input that a transformation is built from, before the block runs."""
        if not self.needs:
            return {}
        if self.encoder.family.qkv:
            return dict(zip(("query", "key", "value"), self._split(cast(Any, self.attention).qkv(x)), strict=True))
        first = x[:, :1] if self.handle.score == "cls" else x
        return {role: self._heads(self._part(role)(first if role == "query" else x)) for role in self.needs}

    def _part(self, role: str) -> nn.Module:
        return cast(nn.Module, self.encoder.part(self.module, role))


def _is_zero(mask: Tensor) -> bool:
    return torch.compiler.is_compiling() or not bool(mask.any())


def bias_of(flow: Flow, dtype: torch.dtype) -> Tensor | None:
    """The bias of the keys after the last block, for heads that attend to the tokens."""
    if flow.mass is None:
        return None
    bias = key_bias(flow.mass, flow.transform.proportional, flow.padding is not None)
    return None if bias is None else bias.to(dtype)
