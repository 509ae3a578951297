"""What a quantised block must be to be computed by `native/block.cpp`, and its tensors as that file takes them.

A block qualifies by its structure: its modules run the code of Llama's block, of its gated MLP with SiLU, of RMSNorm,
and of the attention of Llama, Mistral, Qwen2 or Qwen3, compared instruction by instruction, so that models that share
the code share the way; a decoder by the code of these models too. All that was looked at is remembered (`Facts`): a
block whose modules, hooks, settings or tensors have changed since is looked at anew. Tensors are not copied; their
places are read at each call.
"""

from __future__ import annotations

import ctypes
import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import SiLUActivation
from transformers.integrations import sdpa_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from linmap.compress.flatquant.attention import ConfigView, OnlineCacheTransform, check_queries, wrap_cache
from linmap.compress.flatquant.facts import Facts, instructions, of_transformers, refuse
from linmap.compress.flatquant.kernels import MOST_WIDE_COLUMNS
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.native.layer import groups_fit
from linmap.compress.flatquant.transforms import OnlineTransform, transform_input

BLOCKS = of_transformers(modeling_llama.LlamaDecoderLayer.forward)
NORMED = of_transformers(modeling_qwen3.Qwen3Attention.forward)
"""Attentions with norms of queries and keys."""
ATTENTIONS = NORMED + of_transformers(
    modeling_llama.LlamaAttention.forward,
    modeling_mistral.MistralAttention.forward,
    modeling_qwen2.Qwen2Attention.forward,
)
MLPS = of_transformers(modeling_llama.LlamaMLP.forward)
NORMS = of_transformers(modeling_llama.LlamaRMSNorm.forward)
DECODERS = of_transformers(
    modeling_llama.LlamaModel.forward,
    modeling_mistral.MistralModel.forward,
    modeling_qwen2.Qwen2Model.forward,
    modeling_qwen3.Qwen3Model.forward,
)
FUNCTIONS = {name: of_transformers(getattr(modeling_llama, name)) for name in ("apply_rotary_pos_emb", "rotate_half")}
EAGER = {
    "eager_attention_forward": of_transformers(modeling_llama.eager_attention_forward),
    "repeat_kv": of_transformers(modeling_llama.repeat_kv),
}
SDPA = of_transformers(sdpa_attention_forward)
BENEATH = [
    (names, name, names[name])
    for names, name in (
        (vars(F), "silu"),
        (vars(F), "scaled_dot_product_attention"),
        (vars(sdpa_attention), "repeat_kv"),
        (vars(sdpa_attention), "use_gqa_in_sdpa"),
    )
]
"""What the functions of activations and attention call, and what it is."""
SILU = {kind: of_transformers(kind.forward) for kind in (SiLUActivation, nn.SiLU)}
LINEAR, TRANSFORM = (instructions(QuantizedLinear.forward),), (instructions(OnlineTransform.forward),)
WHOLE_HEADS = {"sliding_window": None, "is_causal": True, "training": False}


# -- the structures of `native/block.cpp` ------------------------------------------------------------------------------


class Transform(ctypes.Structure):
    _fields_ = (
        ("scale", ctypes.c_void_p),
        ("left_matrix", ctypes.c_void_p),
        ("right_matrix", ctypes.c_void_p),
        ("left", ctypes.c_int64),
        ("right", ctypes.c_int64),
    )


class Rounding(ctypes.Structure):
    _fields_ = (
        ("max_logit", ctypes.c_void_p),
        ("min_logit", ctypes.c_void_p),
        ("bits", ctypes.c_int64),
        ("symmetric", ctypes.c_int64),
    )


class Weight(ctypes.Structure):
    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("bits", ctypes.c_int),
    )


class Linear(ctypes.Structure):
    _fields_ = (("weight", Weight), ("input", Rounding), ("multiplies_codes", ctypes.c_int64))


class Norm(ctypes.Structure):
    _fields_ = (("gain", ctypes.c_void_p), ("epsilon", ctypes.c_double))


class Block(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("hidden", "heads", "kv_heads", "head_dim", "intermediate")),
        ("scaling", ctypes.c_double),
        *((name, Norm) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, Transform) for name in ("attention", "output", "mlp", "down")),
        *((name, Linear) for name in ("q", "k", "v", "o", "gate", "up", "down_projection")),
        ("key_matrix", ctypes.c_void_p),
        ("query_matrix", ctypes.c_void_p),
        *((name, Rounding) for name in ("query", "key", "value")),
    )


class Half(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("is_float16", ctypes.c_int64),
    )


class Stack(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.POINTER(ctypes.c_void_p)),
        ("count", ctypes.c_int64),
        ("norm", Norm),
        ("halves", ctypes.POINTER(Half)),
        ("halves_count", ctypes.c_int64),
    )


def halves(facts: Facts) -> ctypes.Array[Half]:
    """What is kept in half precision, to be read at each call as it is then."""
    found = [
        Half(tensor.data_ptr(), wide.data_ptr(), wide.numel(), tensor.dtype is torch.float16)
        for tensor, wide in facts.widened
    ]
    return (Half * len(found))(*found)


# -- from modules to structures ----------------------------------------------------------------------------------------


class Described(NamedTuple):
    """The structure of a block, its attention module, and the name of its attention function."""

    block: Block
    attention: Any
    name: str


def is_decoder(module: nn.Module) -> bool:
    """Whether a module runs the code of a decoder that `native/block.cpp` computes."""
    return instructions(type(module).forward) in DECODERS


def described_decoder(decoder: nn.Module, base: type[nn.Module], facts: Facts) -> tuple[list[Described], Norm]:
    """The blocks of a decoder, which are called one behind the other and nothing else between them, and its last norm.

    Raises
    ------
    Other
        If the decoder, or one of its blocks, is none of those that `native/block.cpp` computes.
    """
    forward = facts.look(vars(base), "forward", base)
    if not facts.runs(forward, *DECODERS):
        refuse("this decoder's forward is not known")
    if facts.look(inspect.unwrap(forward).__globals__, "create_causal_mask") is not create_causal_mask:
        refuse("another mask")
    config, layers = facts.attribute(decoder, "config"), facts.entry(decoder._modules, "layers")
    numbers = [str(i) for i in range(facts.look(vars(config), "num_hidden_layers"))]
    if facts.look(vars(config), "is_causal") is not None or type(layers) is not nn.ModuleList or not numbers:
        refuse("blocks that are called in another way")
    if [*layers._modules] != numbers:
        refuse("more or fewer blocks than the config has")
    for name in ("embed_tokens", "rotary_emb"):
        facts.module(decoder, name)
    found = []
    for number in numbers:
        block = facts.module(layers, number)
        if facts.attribute(block, "training"):
            refuse("a block that is trained")
        found.append(described(block, type(block).__bases__[0], facts))
    hidden, name = found[0].block.hidden, found[0].name
    if any(other.block.hidden != hidden or other.name != name for other in found):
        refuse("blocks that differ")
    if len({facts.attribute(other.attention, "layer_idx") for other in found}) < len(found):
        refuse("blocks that share a place in the cache")
    return found, _norm(facts, decoder, "norm", hidden)


def described(block: nn.Module, base: type[nn.Module], facts: Facts) -> Described:
    """A block.

    Raises
    ------
    Other
        If the block is none of those that `native/block.cpp` computes.
    """
    found = Block()
    if not facts.runs(facts.look(vars(base), "forward", base), *BLOCKS):
        refuse("this block's forward is not known")
    attention, mlp = _inner(facts, block, "self_attn"), _inner(facts, block, "mlp")
    name = _attention(facts, attention, found)
    activation = facts.module(mlp, "act_fn")
    if type(activation) not in SILU:
        refuse("the activation is not SiLU")
    facts.code(activation, SILU[type(activation)])
    for names, function, known in BENEATH:
        if facts.look(names, function) is not known:
            refuse(f"another {function}")
    facts.code(mlp, MLPS)
    for part in ("gate", "up"):
        setattr(found, part, _linear(facts, mlp, f"{part}_proj", found.hidden)[0])
    found.intermediate = found.gate.weight.rows
    found.down_projection, found.down = _linear(facts, mlp, "down_proj", found.intermediate)
    if found.up.weight.rows != found.intermediate or found.down_projection.weight.rows != found.hidden:
        refuse("sizes of the MLP")
    found.mlp = _input_transform(facts, mlp, found.hidden)
    found.attention_norm = _norm(facts, block, "input_layernorm", found.hidden)
    found.mlp_norm = _norm(facts, block, "post_attention_layernorm", found.hidden)
    return Described(found, attention, name)


def _inner(facts: Facts, block: nn.Module, name: str) -> Any:
    """The attention or the MLP, with the hooks that quantisation put there and no others."""
    module = block._modules.get(name)
    hooks = [transform_input] if module is not None and "input_transform" in module._modules else []
    if name == "self_attn":
        hooks += [wrap_cache, check_queries]
    return facts.module(block, name, *hooks)


def _attention(facts: Facts, attention: Any, found: Block) -> str:
    forward = facts.code(attention, ATTENTIONS)
    for attribute, expected in WHOLE_HEADS.items():
        if facts.attribute(attention, attribute) is not expected:
            refuse(f"{attribute} of the attention")
    found.head_dim, found.scaling = facts.attribute(attention, "head_dim"), facts.attribute(attention, "scaling")
    name = _attention_function(facts, attention, getattr(forward, "__globals__", {}))
    found.hidden = int(getattr(attention._modules.get("q_proj"), "in_features", 0))  # `_linear` looks at the layer
    for part in "qkv":
        setattr(found, part, _linear(facts, attention, f"{part}_proj", found.hidden)[0])
    width, key_width = found.q.weight.rows, found.k.weight.rows
    found.heads, found.kv_heads = width // found.head_dim, key_width // found.head_dim
    whole = found.heads * found.head_dim == width and found.kv_heads * found.head_dim == key_width
    groups = facts.attribute(attention, "num_key_value_groups")
    if not whole or found.v.weight.rows != key_width or not found.kv_heads or found.heads != groups * found.kv_heads:
        refuse("sizes of the heads")
    if found.head_dim % 2:
        refuse("an odd head")
    found.o, found.output = _linear(facts, attention, "o_proj", width)
    if found.o.weight.rows != found.hidden:
        refuse("sizes of the output projection")
    if facts.runs(forward, *NORMED):
        found.query_norm = _norm(facts, attention, "q_norm", found.head_dim)
        found.key_norm = _norm(facts, attention, "k_norm", found.head_dim)
    found.attention = _input_transform(facts, attention, found.hidden)
    _cache(facts, facts.module(attention, "cache_transform"), found)
    return name


def _attention_function(facts: Facts, attention: nn.Module, names: dict[str, Any]) -> str:
    """ "sdpa" or "eager", computed as Transformers does."""
    view = facts.attribute(attention, "config")
    if type(view) is not ConfigView:
        refuse("keys and values are not quantised")
    config = facts.look(vars(view), "original")
    name = facts.look(vars(config), "_attn_implementation_internal")
    if facts.look(vars(config), "sliding_window") is not None and "layer_types" not in vars(config):
        refuse("a sliding window")
    own = facts.look(ALL_ATTENTION_FUNCTIONS._local_mapping, name)
    common = facts.look(AttentionInterface._global_mapping, name)
    if own is not None or (name, common) not in (("sdpa", sdpa_attention_forward), ("eager", None)):
        refuse(f"attention by {name}")
    if name == "sdpa" and not facts.runs(common, *SDPA):
        refuse("an attention by sdpa that is not known")
    needed = FUNCTIONS | (EAGER if name == "eager" else {})
    for function, known in needed.items():
        if not facts.runs(facts.look(names, function), *known):
            refuse(f"a {function} that is not known")
    return name


def _linear(facts: Facts, parent: nn.Module, name: str, columns: int) -> tuple[Linear, Transform]:
    """A layer, and what its input passes before."""
    layer = facts.module(parent, name)
    if type(layer) is not QuantizedLinear:
        refuse(f"{name} is no quantised layer")
    facts.code(layer, LINEAR)
    bits = facts.attribute(layer, "bits")
    inner = facts.entry(layer._modules, "transform")
    own = Transform(left=1, right=columns) if inner is None else _transform(facts, layer, "transform", columns)
    rows, packed = layer.out_features, bits.weight <= 4
    if bits.weight == 16 or not layer.in_features == columns <= MOST_WIDE_COLUMNS or layer.weight_scale.dim() != 2:
        refuse(f"{name} of {bits.weight} bits")
    groups = layer.weight_scale.shape[1]
    code = torch.uint8 if packed or not bits.weight_symmetric else torch.int8
    weight = Weight(
        codes=facts.tensor(layer, "weight", rows, -(-columns // 2) if packed else columns, kind=code),
        scale=facts.tensor(layer, "weight_scale", rows, groups),
        zero=facts.tensor(layer, "weight_zero", rows, groups, there=not bits.weight_symmetric),
        bias=facts.tensor(layer, "bias", rows, there=False),
        rows=rows,
        cols=columns,
        groups=groups,
        bits=bits.weight,
    )
    if bool(weight.zero) == bits.weight_symmetric or not groups_fit(columns, groups, bits.weight):
        refuse(f"groups or zeros of {name}")
    rounding = _rounding(facts, layer, "input", bits.input, bits.input_symmetric)
    return Linear(weight=weight, input=rounding, multiplies_codes=layer.multiplies_codes), own


def _rounding(facts: Facts, module: nn.Module, name: str, bits: int, symmetric: bool) -> Rounding:
    logits = [facts.tensor(module, f"{name}_{side}", there=False) for side in ("max", "min")]
    return Rounding(*logits, bits, symmetric)


def _norm(facts: Facts, parent: nn.Module, name: str, n: int) -> Norm:
    norm = facts.module(parent, name)
    facts.code(norm, NORMS)
    return Norm(gain=facts.tensor(norm, "weight", n), epsilon=facts.attribute(norm, "variance_epsilon"))


def _input_transform(facts: Facts, parent: nn.Module, n: int) -> Transform:
    if facts.entry(parent._modules, "input_transform") is None:
        return Transform(left=1, right=n)
    return _transform(facts, parent, "input_transform", n)


def _transform(facts: Facts, parent: nn.Module, name: str, n: int) -> Transform:
    transform = facts.module(parent, name)
    if type(transform) is not OnlineTransform:
        refuse(f"{name} is another transform")
    facts.code(transform, TRANSFORM)
    sizes = facts.attribute(transform, "sizes")
    if transform.n != n or len(sizes) > 2 or (len(sizes) == 2 and sizes[0] * sizes[1] != n) or (sizes and n % sizes[0]):
        refuse(f"factors {sizes} of {n}")
    places = [facts.tensor(transform, f"factor_{i}", size, size) for i, size in enumerate(sizes)]
    scale = facts.tensor(transform, "scale", n, there=False)
    left = sizes[0] if sizes else 1
    first, second = [*places, 0, 0][:2]
    return Transform(scale, first, second, left, n // left)


def _cache(facts: Facts, transform: Any, found: Block) -> None:
    if type(transform) is not OnlineCacheTransform:
        refuse("keys and values are not quantised")
    bits, symmetric = facts.attribute(transform, "bits"), facts.attribute(transform, "symmetric")
    e = found.head_dim
    for name, part in zip("qkv", ("query", "key", "value"), strict=True):
        b, even = facts.entry(bits, name), facts.entry(symmetric, name)
        if name != "q" and b == 16:
            refuse("keys or values of 16 bits")
        setattr(found, part, _rounding(facts, transform, name, b, even))
    found.key_matrix = facts.tensor(transform, "key_matrix", e, e, there=False)
    found.query_matrix = facts.tensor(transform, "query_matrix", e, e, there=False)
