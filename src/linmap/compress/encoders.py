"""Where a transformer encoder keeps its blocks, and a block its norms, its attention and its MLP, whatever the model.

`find_encoder(model)` looks through a model, and through what it wraps, for an encoder of a family in `FAMILIES`, and
says where its parts are:

    encoder = find_encoder(model)                  # a classifier, a SentenceTransformer, a segmenter, a plain encoder
    encoder.module, encoder.path                   # the encoder itself, and its path in the model ("" = the model)
    encoder.blocks                                 # its blocks in order
    encoder.part(encoder.blocks[0], "query")       # parts of a block by role: see `EncoderFamily`
    encoder.dim, encoder.heads, encoder.hidden     # widths
    encoder.class_token, encoder.prefix_tokens     # whether token 0 is one; tokens before the patches
    encoder.embeddings, encoder.patches, encoder.final_norm

A new family is one more entry of `FAMILIES`. A block is recognised by its parts and refused when it has others: what
these would do is not known. (The blocks of decoders: `linmap.compress.architecture`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from linmap.errors import ArgumentTypeError


@dataclass(frozen=True)
class EncoderFamily:
    """Paths of the parts of one family of encoders; "a|b" are alternatives, "" is a part that the family lacks.

    Parameters
    ----------
    name
        For messages.
    model_types
        `config.model_type` of the models of Transformers that are meant. A model without a config is judged by its
        parts alone.
    blocks
        Path of the blocks in the encoder.
    order
        "pre": x + attention(norm(x)), then x + mlp(norm(x)). "post": norm(x + attention(x)), then norm(x + mlp(x)).
    attention, query, key, value, output
        Paths in a block: the module that is called to attend, its projections, and the one after the heads are joined.
    qkv
        Instead of query, key and value: the one projection whose rows are q, k, v, each (heads, head_dim).
    query_norm, key_norm
        Norms over the head dimension.
    attention_norm, mlp_norm
        Before the branches ("pre"); in "post" they are inside `attention` and `mlp_output`.
    after_attention, after_mlp
        What a branch's output passes before it is added: layer scale, dropout, stochastic depth.
    mlp
        The MLP; in "post" its first part, and `mlp_output` the second, which is called with (hidden, residual).
    mlp_linears
        The linear layers of the MLP whose number of outputs is the hidden width.
    heads
        Attribute of the module at `heads_of` (a path in the block) that counts the heads.
    class_token, prefix
        Attributes of the encoder: the class token, and the other tokens that stand before the patches.
    embeddings, patches, final_norm
        Paths in the encoder.
    required
        Paths in the encoder without which it is not of the family.
    known_attention
        Further children of the attention, which change nothing here.
    refused
        Attributes of a block with which it is not supported.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    order: Literal["pre", "post"]
    attention: str
    output: str
    mlp: str
    heads: str
    heads_of: str
    mlp_linears: str
    query: str = ""
    key: str = ""
    value: str = ""
    qkv: str = ""
    query_norm: str = ""
    key_norm: str = ""
    attention_norm: str = ""
    mlp_norm: str = ""
    mlp_output: str = ""
    after_attention: tuple[str, ...] = ()
    after_mlp: tuple[str, ...] = ()
    class_token: str = ""
    prefix: tuple[str, ...] = ()
    embeddings: str = ""
    patches: str = ""
    final_norm: str = ""
    required: tuple[str, ...] = ()
    known_attention: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


_TRANSFORMERS_VIT = {
    "order": "pre",
    "attention": "attention",
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "output": "attention.o_proj",
    "heads": "num_attention_heads",
    "heads_of": "attention",
    "mlp": "mlp",
    "mlp_linears": "mlp.fc1|mlp.up_proj",
    "embeddings": "embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "class_token": "embeddings.cls_token",
    "final_norm": "layernorm",
}
_TRANSFORMERS_TOWER = {
    "blocks": "encoder.layers",
    "order": "pre",
    "attention_norm": "layer_norm1",
    "attention": "self_attn",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.out_proj",
    "heads": "num_heads",
    "heads_of": "self_attn",
    "mlp_norm": "layer_norm2",
    "mlp": "mlp",
    "mlp_linears": "mlp.fc1",
    "embeddings": "embeddings",
    "patches": "embeddings.patch_embedding",
    "required": ("embeddings.patch_embedding",),
}

FAMILIES: tuple[EncoderFamily, ...] = (
    EncoderFamily(
        name="timm-like ViT",
        model_types=(),
        blocks="blocks",
        order="pre",
        attention_norm="norm1",
        attention="attn",
        qkv="attn.qkv",
        query_norm="attn.q_norm",
        key_norm="attn.k_norm",
        output="attn.proj",
        heads="num_heads",
        heads_of="attn",
        after_attention=("ls1", "drop_path1"),
        mlp_norm="norm2",
        mlp="mlp",
        mlp_linears="mlp.fc1",
        after_mlp=("ls2", "drop_path2"),
        class_token="cls_token",
        prefix=("dist_token", "reg_token"),
        embeddings="patch_embed",
        patches="patch_embed.proj",
        final_norm="norm",
        known_attention=("attn_drop", "norm", "proj_drop"),
        refused=("attn.relative_position_bias_table", "attn.rel_pos", "attn.rope", "gamma_1", "window_size"),
    ),
    EncoderFamily(
        name="ViT and DeiT of Transformers",
        model_types=("vit", "deit"),
        blocks="layers",
        attention_norm="layernorm_before",
        after_attention=("dropout",),
        mlp_norm="layernorm_after",
        after_mlp=("dropout",),
        prefix=("embeddings.distillation_token",),
        **cast(Any, _TRANSFORMERS_VIT),
    ),
    EncoderFamily(
        name="DINOv2 of Transformers",
        model_types=("dinov2", "dinov2_with_registers"),
        blocks="encoder.layer",
        attention_norm="norm1",
        after_attention=("layer_scale1", "drop_path"),
        mlp_norm="norm2",
        after_mlp=("layer_scale2", "drop_path"),
        prefix=("embeddings.register_tokens",),
        **cast(Any, _TRANSFORMERS_VIT),
    ),
    EncoderFamily(
        name="vision tower of CLIP in Transformers",
        model_types=("clip_vision_model",),
        class_token="embeddings.class_embedding",
        **cast(Any, _TRANSFORMERS_TOWER),
    ),
    EncoderFamily(
        name="vision tower of SigLIP in Transformers",
        model_types=("siglip_vision_model",),
        final_norm="post_layernorm",
        **cast(Any, _TRANSFORMERS_TOWER),
    ),
    EncoderFamily(
        name="BERT encoder of Transformers",
        model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra", "data2vec-text"),
        blocks="encoder.layer",
        order="post",
        attention="attention",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
        heads="num_attention_heads",
        heads_of="attention.self",
        mlp="intermediate",
        mlp_output="output",
        mlp_linears="intermediate.dense",
        embeddings="embeddings",
        required=("embeddings.word_embeddings",),
    ),
)
BLOCK_PATHS = ("attention", "qkv", "query", "key", "value", "output", "attention_norm", "mlp_norm", "mlp", "mlp_output")


@dataclass(frozen=True)
class Encoder:
    """An encoder that was found in a model.

    Attributes
    ----------
    family
        What it was recognised as.
    path
        Its path in the model; "" where the model is the encoder.
    module
        The encoder.
    blocks
        Its blocks in order.
    dim, heads, hidden
        Width of the tokens, number of attention heads, width of the hidden layer of the MLP.
    class_token
        Whether token 0 is a class token.
    prefix_tokens
        Tokens before the patches: class token, distillation token, registers.
    """

    family: EncoderFamily
    path: str
    module: nn.Module
    blocks: Sequence[nn.Module]
    dim: int
    heads: int
    hidden: int
    class_token: bool
    prefix_tokens: int

    def part(self, block: nn.Module, role: str) -> nn.Module | None:
        """The module of a block that has a role (a field of `EncoderFamily`), or None if the block has none."""
        return _module(block, getattr(self.family, role))

    def branch_end(self, block: nn.Module, role: Literal["after_attention", "after_mlp"]) -> list[nn.Module]:
        """What a branch's output passes before it is added, in order."""
        found = (_module(block, path) for path in getattr(self.family, role))
        return [module for module in found if module is not None]

    @property
    def embeddings(self) -> nn.Module | None:
        """What makes the tokens."""
        return _module(self.module, self.family.embeddings)

    @property
    def patches(self) -> nn.Conv2d | None:
        """The projection of patches, where there is one."""
        module = _module(self.module, self.family.patches)
        return module if isinstance(module, nn.Conv2d) else None

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm after the last block, where it applies to all tokens."""
        return _module(self.module, self.family.final_norm)


def find_encoder(model: nn.Module) -> Encoder:
    """Find the transformer encoder in a model.

    Parameters
    ----------
    model
        An encoder, or a module that holds one at any depth. Of several, the vision tower.

    Returns
    -------
    Encoder
        Where its parts are.

    Raises
    ------
    TypeError
        If there is none, with what was looked for and why the nearest candidate is none; or if there are several.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model is a {type(model).__name__}, and an nn.Module is expected.")
    found: list[Encoder] = []
    reasons: list[str] = []
    for path, module in model.named_modules():
        for family in FAMILIES:
            result = _recognise(family, path, module)
            if isinstance(result, Encoder):
                found.append(result)
            elif result is not None:
                reasons.append(result)
    if len(found) > 1:
        towers = [encoder for encoder in found if encoder.patches is not None]
        found = towers if len(towers) == 1 else found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(encoder.path or "the model itself" for encoder in found)
        raise ArgumentTypeError(f"{type(model).__name__} holds several encoders ({names}); give the one that is meant.")
    raise ArgumentTypeError(_not_found(model, reasons))


def _not_found(model: nn.Module, reasons: list[str]) -> str:
    looked = "; ".join(
        f"{family.name}: `{family.blocks}` of blocks with {', '.join(_required_paths(family))}" for family in FAMILIES
    )
    kind = getattr(getattr(model, "config", None), "model_type", None)
    of_kind = f" (model_type {kind!r})" if kind else ""
    why = f" {reasons[0]}" if reasons else ""
    return f"{type(model).__name__}{of_kind} has no blocks that are recognised.{why} Looked for {looked}."


def _recognise(family: EncoderFamily, path: str, module: nn.Module) -> Encoder | str | None:
    """The encoder, or why it is none though it has a list of blocks, or None if it is not of this family."""
    blocks = _module(module, family.blocks)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
        return None
    if not all(_module(module, part) is not None for part in family.required):
        return None
    if any(_module(blocks[0], name) is None for name in _required_paths(family)):
        return None
    kind = getattr(getattr(module, "config", None), "model_type", None)
    if kind is not None and kind not in family.model_types:
        known = ", ".join(sorted({kind for family in FAMILIES for kind in family.model_types}))
        return (
            f"The blocks of {type(module).__name__} look like {family.name}, but its model_type {kind!r} is none of "
            f"{known}."
        )
    for index, block in enumerate(blocks):
        if (problem := _problem(family, block)) is not None:
            return f"Block {index} of {type(module).__name__} looks like {family.name}, but {problem}."
    return _encoder(family, path, module, list(blocks))


def _required_paths(family: EncoderFamily) -> list[str]:
    return [path for role in BLOCK_PATHS if (path := getattr(family, role))]


def _problem(family: EncoderFamily, block: nn.Module) -> str | None:
    """Why a block cannot be taken for one of the family: a part is missing, or there is one of unknown effect."""
    for path in _required_paths(family):
        if _module(block, path) is None:
            return f"it has no {path}"
    for path in family.refused:
        if isinstance(value := _attribute(block, path), Tensor | nn.Module) or value:
            return f"it has {path} (positions inside the attention, or windows), which is not supported"
    paths = [*_required_paths(family), *family.after_attention, *family.after_mlp]
    unknown = _unknown(block, {path.split(".")[0] for path in paths})
    if unknown:
        return f"it has {', '.join(unknown)}, and what these do is not known"
    attention = _module(block, family.attention)
    assert attention is not None
    inside = {path.split(".")[1] for path in (*paths, family.query_norm, family.key_norm) if path.count(".")}
    unknown = _unknown(attention, inside | set(family.known_attention))
    if unknown:
        return f"its attention has {', '.join(unknown)}, and what these do is not known"
    return None


def _unknown(module: nn.Module, known: set[str]) -> list[str]:
    children = module.named_children()
    return [name for name, child in children if name not in known and not isinstance(child, nn.Identity)]


def _encoder(family: EncoderFamily, path: str, module: nn.Module, blocks: list[nn.Module]) -> Encoder:
    heads = getattr(_module(blocks[0], family.heads_of), family.heads)
    output = cast(Any, _module(blocks[0], family.output))
    hidden = next(
        linear.out_features for name in family.mlp_linears.split("|") if (linear := cast(Any, _module(blocks[0], name)))
    )
    prefix = [_attribute(module, name) for name in (family.class_token, *family.prefix) if name]
    declared = getattr(module, "num_prefix_tokens", None)
    counted = sum(_count(token) for token in prefix)
    return Encoder(
        family=family,
        path=path,
        module=module,
        blocks=blocks,
        dim=output.out_features,
        heads=int(heads),
        hidden=int(hidden),
        class_token=bool(family.class_token) and _attribute(module, family.class_token) is not None,
        prefix_tokens=counted if declared is None else int(declared),
    )


def _count(token: Any) -> int:
    """Tokens that a parameter (1, n, dim) or (dim,) stands for."""
    if not isinstance(token, Tensor):
        return 0
    return 1 if token.ndim < 3 else token.shape[1]


def _module(module: nn.Module, path: str) -> nn.Module | None:
    found = _attribute(module, path)
    return found if isinstance(found, nn.Module) else None


def _attribute(module: Any, path: str) -> Any:
    """What stands at a path, or None. "" is nowhere."""
    if not path:
        return None
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
