"""A start of a student from the blocks of a teacher of its width; ours, the paper's students start at random."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from linmap.compress.learngene_pool.members import AdaptedMember, TransformersBlock, as_member
from linmap.compress.vision_transformer import VisionTransformer
from linmap.errors import ArgumentError, ArgumentTypeError

SCALES = ("lambda1", "gamma")  # of layer scale, in Transformers and timm


@torch.no_grad()
def teacher_blocks(student: Any, teacher: Any) -> Any:
    """Give a student evenly spaced blocks of a teacher of its width, and its embedding, norm and head.

    Block i of D gets block ceil((i + 1) L / D) - 1 of the teacher's L, so that the last is the last. From a timm or
    Transformers model to a `VisionTransformer`, layer scale goes into the layers before it, and positions are those
    that the teacher gives an image of the student's size: a student as deep as the teacher computes what that does.

    Parameters
    ----------
    student, teacher
        Members, or what `as_member` makes one of: of one class, or the student a `VisionTransformer` and the teacher
        pre-norm with plain MLPs.

    Returns
    -------
    student
        The student itself.

    Raises
    ------
    ValueError
        If widths or other sizes differ, or the student is deeper.
    TypeError
        If the weights of the teacher's class do not fit the student's.
    """
    ours, theirs = as_member(student), as_member(teacher)
    for name in ("embed_dim", "num_heads", "n_tokens", "n_classes", "patch_features"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ArgumentError(
                f"blocks of the teacher fit a student of its sizes; {name} is {getattr(ours, name)} of the student and "
                f"{getattr(theirs, name)} of the teacher."
            )
    depth, source_depth = len(ours.blocks), len(theirs.blocks)
    if depth > source_depth:
        raise ArgumentError(f"the student has {depth} blocks, the teacher {source_depth}; it cannot be deeper.")
    if isinstance(ours, VisionTransformer) and isinstance(theirs, AdaptedMember):
        state, convert = _plain_state(ours, theirs), _plain_block
    elif type(ours) is type(theirs):
        state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("blocks.")}
        convert = nn.Module.state_dict
    else:
        raise _unfit(ours, theirs)
    for i in range(depth):
        block = theirs.blocks[math.ceil((i + 1) * source_depth / depth) - 1]
        state |= {f"blocks.{i}.{name}": value for name, value in convert(block).items()}
    try:
        ours.load_state_dict(state)
    except RuntimeError as error:
        raise ArgumentTypeError(f"the teacher's weights do not fit the student: {error}") from None
    return student


def _unfit(ours: Any, theirs: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"student and teacher are a {type(ours).__name__} and a {type(theirs).__name__}; weights go from one class to "
        "the same, or from a timm or Transformers vision transformer to linmap's VisionTransformer."
    )


def _plain_state(ours: VisionTransformer, theirs: AdaptedMember) -> dict[str, Tensor]:
    """Embedding, norm and head; positions are read off the tokens of a black image."""
    projection = next((part for part in theirs.embedding.modules() if isinstance(part, nn.Conv2d)), None)
    if projection is None or not isinstance(theirs.head, nn.Linear):
        raise _unfit(ours, theirs)
    weight = projection.weight
    bias = weight.new_zeros(len(weight)) if projection.bias is None else projection.bias
    black = weight.new_zeros(1, ours.in_channels, ours.image_size, ours.image_size)
    training = theirs.embedding.training
    try:
        tokens = theirs.embedding.eval()(black)
    finally:
        theirs.embedding.train(training)
    tokens[:, 1:] -= bias
    state = {"patch_embed.proj.weight": weight, "patch_embed.proj.bias": bias}
    state |= {"cls_token": torch.zeros_like(tokens[:, :1]), "pos_embed": tokens}
    for name, part in (("norm", theirs.norm), ("head", theirs.head)):
        state |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    return state


def _plain_block(block: Any) -> dict[str, Tensor]:
    """The weights of a pre-norm block by the names of ours."""
    if not isinstance(block, TransformersBlock):
        state = {name: value for name, value in block.state_dict().items() if not name.startswith(("ls1.", "ls2."))}
        return _scaled(state, [getattr(block, "ls1", None)], [getattr(block, "ls2", None)])
    layer, family = block.layer, block.family
    roles = {"norm1": family.attention_norm, "attn.proj": family.output, "norm2": family.mlp_norm}
    roles |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    state = {
        f"{name}.{key}": value
        for name, path in roles.items()
        for key, value in layer.get_submodule(path).state_dict().items()
    }
    parts: list[Any] = [layer.get_submodule(path) for path in (family.query, family.key, family.value)]
    state["attn.qkv.weight"] = torch.cat([part.weight for part in parts])
    biases = [part.weight.new_zeros(part.out_features) if part.bias is None else part.bias for part in parts]
    state["attn.qkv.bias"] = torch.cat(biases)
    after = ([getattr(layer, name, None) for name in names] for names in (family.after_attention, family.after_mlp))
    return _scaled(state, *after)


def _scaled(state: dict[str, Tensor], after_attention: list[Any], after_mlp: list[Any]) -> dict[str, Tensor]:
    """Layer scale, which multiplies the output of a linear layer, put into that layer."""
    for layer, parts in (("attn.proj", after_attention), ("mlp.fc2", after_mlp)):
        for scale in (getattr(part, name, None) for part in parts for name in SCALES):
            if isinstance(scale, Tensor):
                state[f"{layer}.weight"] = scale[:, None] * state[f"{layer}.weight"]
                state[f"{layer}.bias"] = scale * state[f"{layer}.bias"]
    return state
