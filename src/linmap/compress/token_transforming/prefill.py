"""`compress_prefill`: the prompt of a decoder becomes shorter at one layer, for all layers and steps that follow."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from linmap.compress.architecture import decoder_blocks
from linmap.compress.token_transforming.encoder_handle import padding_masses
from linmap.compress.token_transforming.handle import Compressed, compressed
from linmap.compress.token_transforming.importance import importance
from linmap.compress.token_transforming.patches import Patch
from linmap.compress.token_transforming.precision import check_share
from linmap.compress.token_transforming.prompts import Prefilled, PromptBudget, PromptFlow, continued_bias
from linmap.compress.token_transforming.token_transform import TokenTransform
from linmap.errors import ArgumentError, ArgumentTypeError, check_count

DECODERS = ("llama", "mistral", "qwen2", "qwen3")
"""`config.model_type` of decoders whose blocks are x + attention(norm(x)), x + mlp(norm(x)), with rotary positions."""
KNOWN_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
STATE = "linmap_prefilled"  # the attribute of a cache


class CompressedPrefill(Compressed):
    """The handle of a decoder whose prompts become shorter; see `Compressed`."""

    def __init__(
        self,
        model: nn.Module,
        decoder: nn.Module,
        blocks: nn.ModuleList,
        layer: int,
        prompt: PromptBudget,
        transform: TokenTransform,
    ) -> None:
        super().__init__(model, transform)
        self.decoder, self.blocks, self.layer, self.prompt = decoder, blocks, layer, prompt

    def schedule(self, n_tokens: int) -> dict[int, int]:
        """{layer: M} for a prompt of so many tokens."""
        M = self.prompt.left(n_tokens)
        return {self.layer: M} if n_tokens > M else {}

    def macs(self, n_tokens: int) -> int:
        """MACs of the blocks for one prompt of so many tokens, the transformation included."""
        n, total = n_tokens, 0
        for layer, block in enumerate(self.blocks):
            attention, mlp = cast(Any, block).self_attn, cast(Any, block).mlp
            projections = sum(_weights(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
            width = attention.o_proj.in_features
            total += n * (projections + _weights(attention.o_proj)) + 2 * n * n * width
            m = self.prompt.left(n) if layer == self.layer else n
            if m < n:
                edges = self.prompt.sink + self.prompt.recent
                total += n * _weights(attention.k_proj) + 2 * (m - edges) * (n - edges) * attention.q_proj.in_features
            n = m
            total += n * sum(_weights(part) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        return total

    def begin(self, flow: PromptFlow | None) -> None:
        """Set the pass that runs in this thread; None for a plain one."""
        self._thread.flow = flow
        if flow is not None:
            self._last = flow

    def expect(self, after: tuple[Prefilled, Tensor | None, int] | None) -> None:
        """Keep what a step after a shortened prompt needs: its state, the attention mask, tokens seen before."""
        self._thread.after = after

    def expected(self) -> tuple[Prefilled, Tensor | None, int] | None:
        """What `expect` kept in this thread."""
        return getattr(self._thread, "after", None)

    def prompt_flow(self) -> PromptFlow | None:
        """The pass of a prompt that runs in this thread."""
        return cast(PromptFlow | None, self.flow())


def _weights(linear: nn.Linear) -> int:
    return linear.in_features * linear.out_features


def compress_prefill(
    model: nn.Module,
    *,
    M: int | None = None,
    keep: float | None = None,
    layer: int = 2,
    sink: int = 4,
    recent: int = 32,
    transform: TokenTransform | None = None,
) -> CompressedPrefill:
    """Shorten prompts inside a decoder, for `generate` and for the logits of the last token.

    At one layer of the prefill, between attention and MLP, the prompt's tokens but the first `sink` and the last
    `recent` are transformed. Later layers run on M tokens and cache M entries; what was merged stays in the bias of the
    keys while decoding. Later turns on the same cache run as they are. Caches are dynamic ones; batches are padded on
    the left.

    A merged token carries later content to an earlier place, which is harmless because nobody reads the logits of the
    prompt: these are M, and `labels` are refused. (`TokenTransform(causal=True)` merges into later places only.)

    Parameters
    ----------
    model
        A Llama, Mistral, Qwen2 or Qwen3 of Transformers, with its language head or without.
    M
        Tokens that are left, all counted; prompts of at most M tokens run as they are, bit for bit.
    keep
        Instead of M: the share of the candidates that is left.
    layer
        At which block, from 0 on.
    sink, recent
        Tokens at the two ends that take no part.
    transform
        None for `TokenTransform(select="importance", min_sim=0.9)`: the candidates that the last token attends to most
        stay, and others are merged into one that is very like them, or dropped. This ties with plain pruning (FastV);
        no gain over it is claimed. Importance is the head-mean attention of the last token in any case.

    Returns
    -------
    CompressedPrefill
        The handle; `handle.transforms[layer].centres` are the kept positions.

    Warns
    -----
    UserWarning
        If the model is in training mode.

    Raises
    ------
    TypeError
        If the model is no decoder of these families.
    ValueError
        If not exactly one of M and keep is given, or a number is out of its range; if the model is compressed already.
        When it runs: if labels are given for a prompt that would be shortened, padding is not on the left, the cache or
        the attention implementation is not supported.
    """
    _check_model(model)
    path, blocks = decoder_blocks(model)
    decoder = model.get_submodule(path.rpartition(".")[0])
    _check_decoder(model, decoder, blocks)
    transform = TokenTransform(select="importance", min_sim=0.9) if transform is None else transform
    if not isinstance(transform, TokenTransform):
        raise ArgumentTypeError(f"transform is a {type(transform).__name__}, and a TokenTransform is expected.")
    prompt = _budget(M, keep, sink, recent)
    layer = check_count("layer", layer, 0)
    if layer >= len(blocks):
        raise ArgumentError(f"layer = {layer} lies beyond the model's depth {len(blocks)} (0 ... {len(blocks) - 1}).")
    if model.training:
        warnings.warn("the model is in training mode; call model.eval() to use it as it is.", stacklevel=2)
    handle = CompressedPrefill(model, decoder, blocks, layer, prompt, transform)
    patches: list[Patch] = [DecoderForward(handle, decoder), PromptBlock(handle, layer, blocks[layer])]
    patches += [LaterBlock(handle, index, blocks[index]) for index in range(layer + 1, len(blocks))]
    if model is not decoder:
        patches.append(LanguageForward(handle, model))
    handle.install(patches)
    return handle


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model is a {type(model).__name__}, and an nn.Module is expected.")
    if compressed(model) is not None:
        raise ArgumentError("the model is already compressed; call handle.remove() first.")


def _check_decoder(model: nn.Module, decoder: nn.Module, blocks: nn.ModuleList) -> None:
    config = cast(Any, getattr(decoder, "config", None))
    kind = getattr(config, "model_type", None)
    parts = {name for name, _ in blocks[0].named_children()}
    if kind not in DECODERS or parts != KNOWN_PARTS:
        raise ArgumentTypeError(
            f"{type(decoder).__name__} (model_type {kind!r}, blocks of {', '.join(sorted(parts))}) is no decoder whose "
            f"prompts can be shortened; {', '.join(DECODERS)} are."
        )
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or []) or (
        kind == "mistral" and getattr(config, "sliding_window", None) is not None
    )
    if sliding:
        raise ArgumentTypeError(f"{type(decoder).__name__} attends in sliding windows, which is not supported.")
    if model is not decoder and not type(model).__name__.endswith("ForCausalLM"):
        raise ArgumentTypeError(
            f"{type(model).__name__} reads the prompt's tokens by their places; give a model ...ForCausalLM or "
            "the decoder."
        )


def _budget(M: Any, keep: Any, sink: Any, recent: Any) -> PromptBudget:
    if (M is None) == (keep is None):
        raise ArgumentError(f"exactly one of M and keep is needed; {'none' if M is None else 'both'} came.")
    sink, recent = check_count("sink", sink, 0), check_count("recent", recent, 1)
    if M is not None and check_count("M", M, 1) <= sink + recent:
        raise ArgumentError(
            f"M = {M} leaves no candidate beside the sink = {sink} first and recent = {recent} last tokens; M counts "
            f"them too and must be at least {sink + recent + 1}."
        )
    return PromptBudget(M, None if keep is None else check_share("keep", keep), sink, recent)


class _Arguments(Patch):
    """A forward whose arguments are read by name, however they came."""

    def __init__(self, handle: CompressedPrefill, module: nn.Module) -> None:
        super().__init__(module)
        self.handle = handle
        self.names = list(self.__signature__.parameters)

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(self.names, args, strict=False)) | kwargs


class LanguageForward(_Arguments):
    """The forward of a model with a language head: refuses what reads the prompt's own places."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self.named(args, kwargs)
        n, M = _length(given), self.handle.prompt.left(_length(given))
        cache = given.get("past_key_values")
        if n > M and (cache is None or cache.get_seq_length() == 0):
            if given.get("labels") is not None:
                raise ArgumentError(
                    f"labels cannot be used with a prompt of {n} tokens that is shortened to {M}; call handle.remove() "
                    "to train or to measure a loss."
                )
            last = given.get("logits_to_keep", 0)
            if isinstance(last, Tensor) or last > self.handle.prompt.recent:
                raise ArgumentError(
                    f"logits_to_keep reads the prompt's places; with a shortened prompt it is at most recent = "
                    f"{self.handle.prompt.recent}."
                )
        return self.plain(*args, **kwargs)


class DecoderForward(_Arguments):
    """The forward of the decoder: tells prompts from what follows them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self.named(args, kwargs)
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        past = 0 if cache is None else int(cache.get_seq_length())
        self.handle.begin(None)
        self.handle.expect(None)
        if past and getattr(cache, STATE, None) is not None:
            self.handle.expect((getattr(cache, STATE), mask, past))
        elif not past and _length(given) > self.handle.prompt.left(_length(given)):
            tokens = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
            padding = None if mask is None else padding_masses(mask, tokens)
            if padding is not None and bool((padding[:, -1] == 0).any()):
                raise ArgumentError("a prompt ends in padding; pad on the left (tokenizer.padding_side = 'left').")
            padding = None if padding is None or bool((padding > 0).all()) else padding
            like = cast(Tensor, tokens)[..., None].float() if cast(Tensor, tokens).ndim == 2 else cast(Tensor, tokens)
            flow = PromptFlow(like, padding, self.handle.prompt, self.handle.layer, self.handle.transform)
            self.handle.begin(flow)
        return self.plain(*args, **kwargs)


class PromptBlock(_Arguments):
    """The block in which the prompt becomes shorter."""

    def __init__(self, handle: CompressedPrefill, layer: int, block: nn.Module) -> None:
        super().__init__(handle, block)
        self.layer = layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flow = self.handle.prompt_flow()
        if flow is None:
            return self.plain(*args, **kwargs)
        given = self.named(args, kwargs)
        block, cache = cast(Any, self.module), given.get("past_key_values")
        _check_runs(block, cache)
        x = given.pop("hidden_states")
        h = block.input_layernorm(x)
        x = x + block.self_attn(hidden_states=h, **given)[0]
        keys = self._keys(h, given["position_embeddings"])
        with torch.no_grad():
            a = self._last_attention(h, keys, given["position_embeddings"], flow.padding)
        k = keys.mean(1) if self.handle.transform.feature == "k" else None
        x = flow.shorten(x, flow.wanted(self.layer), a, k)
        if cache is not None:
            setattr(cache, STATE, Prefilled(flow.n_first, flow.masses(), self.handle.transform.proportional))
            cache.reorder_cache = Reorder(cache)
        return x + block.mlp(block.post_attention_layernorm(x))

    def _keys(self, h: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
        """(B, H_kv, N, d), rotated."""
        attention = cast(Any, self.module).self_attn
        k = attention.k_proj(h).unflatten(-1, (-1, attention.head_dim))
        k = attention.k_norm(k) if hasattr(attention, "k_norm") else k
        return rotate(k.transpose(1, 2), *positions)

    def _last_attention(self, h: Tensor, k: Tensor, positions: tuple[Tensor, Tensor], padding: Tensor | None) -> Tensor:
        """Head-mean attention of the last token."""
        attention = cast(Any, self.module).self_attn
        q = attention.q_proj(h[:, -1:]).unflatten(-1, (-1, attention.head_dim))
        q = attention.q_norm(q) if hasattr(attention, "q_norm") else q
        q = rotate(q.transpose(1, 2), *(part[:, -1:] for part in positions))
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return importance(q, k, kind="cls", mass=padding, scale=attention.scaling)


class LaterBlock(_Arguments):
    """A block after it: runs on the outputs at the places of their centres, or sees the M entries that they left."""

    def __init__(self, handle: CompressedPrefill, layer: int, block: nn.Module) -> None:
        super().__init__(handle, block)
        self.layer = layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flow, after = self.handle.prompt_flow(), self.handle.expected()
        if flow is None and after is None:
            return self.plain(*args, **kwargs)
        given = self.named(args, kwargs)
        x = given["hidden_states"]
        if flow is not None:
            given["attention_mask"] = flow.kept("mask", lambda: flow.causal_bias(x.dtype))
            cos, sin = given["position_embeddings"]
            given["position_embeddings"] = (
                flow.kept("cos", lambda: flow.at_centres(cos)),
                flow.kept("sin", lambda: flow.at_centres(sin)),
            )
            if given.get("position_ids") is not None:
                given["position_ids"] = flow.kept("ids", lambda: flow.at_centres(given["position_ids"]))
        elif after is not None:
            state, mask, past = after
            self._check_cache(given["past_key_values"], state, past, x)
            given["attention_mask"] = continued_bias(state, mask, past, x.shape[1], x)
        return self.plain(**given)

    def _check_cache(self, cache: Any, state: Prefilled, past: int, x: Tensor) -> None:
        entries, M = cache.get_seq_length(self.layer), state.mass.shape[1]
        if x.shape[0] != state.mass.shape[0] or entries != M + past - state.n_tokens:
            raise ArgumentError(
                f"the cache was changed since the prompt was shortened: layer {self.layer} holds {entries} entries, "
                f"and {M + past - state.n_tokens} for a batch of {state.mass.shape[0]} are expected."
            )


class Reorder:
    """A cache's `reorder_cache`, which beams call, with the masses of the prompt following."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __call__(self, order: Tensor) -> None:
        type(self.cache).reorder_cache(self.cache, order)
        getattr(self.cache, STATE).reorder(order)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on (B, H, N, d), the two halves of a head as the coordinates of d / 2 planes."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(1)


def _length(given: dict[str, Any]) -> int:
    tokens = given.get("input_ids")
    tokens = given.get("inputs_embeds") if tokens is None else tokens
    return 0 if tokens is None else int(tokens.shape[1])


def _check_runs(block: Any, cache: Any) -> None:
    used = getattr(block.self_attn.config, "_attn_implementation", "sdpa")
    if used not in ("eager", "sdpa"):
        raise ArgumentError(
            f"attention implementation {used!r} takes no bias for the masses of tokens; load the model with "
            "attn_implementation='sdpa' or 'eager'."
        )
    if cache is not None and (type(cache).__name__ != "DynamicCache" or (cache.is_sliding and any(cache.is_sliding))):
        raise ArgumentError(
            f"a shortened prompt needs a DynamicCache without sliding windows, whose layers may hold different numbers "
            f"of entries; got {type(cache).__name__}."
        )
    if block.training and getattr(block, "gradient_checkpointing", False):
        raise ArgumentError("gradient checkpointing does not work in a compressed model; switch it off.")
