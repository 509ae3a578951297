"""Where a decoder keeps its blocks, and a block its linear layers and norms, whatever the model.

A `module_map` names the parts of a block by their paths inside it, for models whose names are not known here:
`{"q": "attn.query", "k": ..., "v": ..., "o": ..., "gate": ..., "up": ..., "down": ...}`, and optionally
"attention_norm" and "mlp_norm" (norms whose output is the input of the attention and of the MLP), and "blocks", the
path of the list of blocks in the model. (Encoders, of images and of text: `linmap.compress.encoders`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from linmap.errors import ArgumentError, ArgumentTypeError

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
ADVICE = (
    "name its parts in Python: FlatQuantConfig(module_map={'blocks': 'path.of.the.list', 'q': 'path.in.block', ...})"
)
KNOWN = {
    "q": ("self_attn.q_proj",),
    "k": ("self_attn.k_proj",),
    "v": ("self_attn.v_proj",),
    "o": ("self_attn.o_proj",),
    "gate": ("mlp.gate_proj",),
    "up": ("mlp.up_proj",),
    "down": ("mlp.down_proj",),
    "attention_norm": ("input_layernorm",),
    "mlp_norm": ("pre_feedforward_layernorm", "post_attention_layernorm"),
}
"""Paths in the blocks of Llama, Mistral, Qwen2, Qwen3, Gemma and their like; the first that is there counts."""


class CarriesAdapter(TypeError):
    """A layer that would be quantised is wrapped by an adapter."""


@dataclass(frozen=True)
class BlockPaths:
    """Paths of the parts inside a decoder block."""

    q: str
    k: str
    v: str
    o: str
    gate: str
    up: str
    down: str
    attention_norm: str | None = None
    mlp_norm: str | None = None

    @property
    def attention(self) -> str:
        """The module that attends: it holds the query projection and receives the hidden states."""
        return self.q.rpartition(".")[0]

    @property
    def mlp(self) -> str:
        return self.up.rpartition(".")[0]


@dataclass(frozen=True)
class BlockSizes:
    """d, h, h_kv, e and f of the paper."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


def block_paths(block: nn.Module, module_map: Mapping[str, str] | None = None) -> BlockPaths:
    """Find the parts of a decoder block.

    Raises
    ------
    TypeError
        If a linear layer is not found, with the names that were looked for, or attention and MLP are no modules.
    ValueError
        If a linear layer stands at two places, or `module_map` has a name that means nothing.
    """
    module_map = dict(module_map or {})
    module_map.pop("blocks", None)
    unknown = set(module_map) - set(KNOWN)
    if unknown:
        raise ArgumentError(
            f"module_map has {', '.join(sorted(unknown))}; the parts of a block are {', '.join(KNOWN)}."
        )
    modules = dict(block.named_modules(remove_duplicate=False))
    found: dict[str, str] = {}
    for part, names in KNOWN.items():
        candidates = (module_map[part],) if part in module_map else names
        path = next((name for name in candidates if name in modules), None)
        if path is not None:
            found[part] = path
        elif part in LINEARS or part in module_map:
            raise ArgumentTypeError(
                f"a block of class {type(block).__name__} has no {', '.join(candidates)} (its {part}); it has "
                f"{', '.join(_linear_names(modules)) or 'no linear layers'}; {ADVICE}."
            )
    linears = [modules[found[part]] for part in LINEARS]
    for part, linear in zip(LINEARS, linears, strict=True):
        if isinstance(getattr(linear, "base_layer", None), nn.Module):
            raise CarriesAdapter(
                f"{found[part]} carries an adapter of PEFT; merge it first: model = peft_model.merge_and_unload()."
            )
        if not isinstance(linear, nn.Linear):
            raise ArgumentTypeError(
                f"{found[part]} is a {type(linear).__name__}, and FlatQuant quantises nn.Linear layers; if another "
                f"layer is meant, {ADVICE}."
            )
    if len({id(linear) for linear in linears}) < len(linears):
        raise ArgumentError("a linear layer stands at two places of the block; give each place its own.")
    paths = BlockPaths(**found)
    if not paths.attention or not paths.mlp or paths.attention == paths.mlp:
        raise ArgumentTypeError(
            f"{paths.q} and {paths.up} must be inside two modules of the block, the attention and the MLP: what these "
            f"receive is transformed; if other layers are meant, {ADVICE}."
        )
    return paths


def _linear_names(modules: Mapping[str, nn.Module]) -> list[str]:
    return [name for name, module in modules.items() if isinstance(module, nn.Linear)]


def block_sizes(block: nn.Module, paths: BlockPaths) -> BlockSizes:
    """Read the sizes off the linear layers; the head dimension is the attention module's.

    Raises
    ------
    TypeError
        If the attention module does not say its head dimension.
    """
    attention = block.get_submodule(paths.attention)
    head_dim = getattr(attention, "head_dim", None)
    if not isinstance(head_dim, int):
        raise ArgumentTypeError(
            f"{type(attention).__name__} has no integer `head_dim`, which the cache and its heads need."
        )
    linear = {part: cast(nn.Linear, block.get_submodule(getattr(paths, part))) for part in LINEARS}
    return BlockSizes(
        hidden=linear["q"].in_features,
        heads=linear["o"].in_features // head_dim,
        kv_heads=linear["v"].out_features // head_dim,
        head_dim=head_dim,
        intermediate=linear["down"].in_features,
    )


def decoder_blocks(model: nn.Module, module_map: Mapping[str, str] | None = None) -> tuple[str, nn.ModuleList]:
    """The path and the list of the decoder blocks of a model.

    Raises
    ------
    TypeError
        If no list of recognised blocks is found.
    """
    path = (module_map or {}).get("blocks")
    if path is not None:
        blocks = dict(model.named_modules()).get(path)
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            raise ArgumentTypeError(f"module_map['blocks'] = {path!r} is no list of blocks of {type(model).__name__}.")
        if (problem := _problem(blocks, module_map)) is not None:
            raise problem
        return path, blocks
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    why: TypeError | None = None
    for name, blocks in sorted(lists, key=lambda item: -len(item[1])):
        problem = _problem(blocks, module_map)
        if problem is None:
            return name, blocks
        if isinstance(problem, CarriesAdapter):
            raise problem
        why = problem
    reason = f"{type(model).__name__} has no list of blocks; {ADVICE}." if why is None else str(why)
    raise ArgumentTypeError(f"this model's decoder blocks are not recognised: {reason}") from why


def _problem(blocks: nn.ModuleList, module_map: Mapping[str, str] | None) -> TypeError | None:
    """Why the first of these blocks is not recognised; None if any is."""
    problem = None
    for block in blocks:
        try:
            block_paths(block, module_map)
        except TypeError as error:
            problem = problem or error
        else:
            return None
    return problem


def replace(block: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at `path` of `block`."""
    parent, _, name = path.rpartition(".")
    setattr(block.get_submodule(parent), name, module)
