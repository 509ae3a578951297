"""The vocabulary head in eight bits (`head_bits=8`): a third of the bytes of a small model, all read for every token.

Symmetric codes with one scale a row, rounded to the nearest; inputs stay numbers (W8A16). A head of its own becomes a
`QuantizedHead`. Where head and embedding are tied, the table is stored once, in a `QuantizedEmbedding`, and the
`TiedHead` reads it there.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn
from transformers import PreTrainedModel

from linmap.compress.architecture import replace
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.linear import LinearBits, QuantizedLinear
from linmap.errors import ArgumentError

BITS = LinearBits(8, 16)
ROWS = 2**12  # of the table that are unpacked at once
FEW = 2  # tokens up to which PyTorch's product with codes beats unpacking them, but for bfloat16, where it always does


class Table(QuantizedLinear):
    """y = x W^T + b with W = s q in 8-bit codes, which are never unpacked as a whole.

    The kernels of `native` take it as they take any layer; PyTorch's operations are `table_product`.
    """

    def __init__(self, rows: int, columns: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__(columns, rows, bias, BITS, clip=False, dtype=dtype)

    def _dequantised_product(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        return table_product(x, self.weight, self.weight_scale, self.bias)


class QuantizedHead(Table):
    """A head with a table of its own."""


class QuantizedEmbedding(Table):
    """Rows of s q for token ids; the table is also that of a `TiedHead`.

    Parameters
    ----------
    rows, columns
        Tokens of the vocabulary, and the length of an embedding.
    factor
        What embeddings are multiplied with on their way into the model (Gemma), in the model's format.
    dtype
        Of the embeddings; it follows the model's.
    """

    numbers: Tensor

    def __init__(self, rows: int, columns: int, factor: float, dtype: torch.dtype) -> None:
        super().__init__(rows, columns, False, dtype)
        self.num_embeddings, self.embedding_dim, self.factor = rows, columns, factor
        self.register_buffer("numbers", torch.empty(0, dtype=dtype), persistent=False)  # for its dtype

    def forward(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch n"]:
        rows = F.embedding(ids, self.weight) * F.embedding(ids, self.weight_scale)
        embedded = rows.to(self.numbers.dtype)
        return embedded if self.factor == 1 else embedded * torch.tensor(self.factor, dtype=embedded.dtype)

    def product(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """What a head makes of the table."""
        return super().forward(x)


class TiedHead(nn.Module):
    """The head that reads the table of an embedding."""

    bias: Tensor | None

    def __init__(self, table: QuantizedEmbedding, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.table = [table]  # in a list: not a submodule, so that its tensors have one name
        self.in_features, self.out_features = table.in_features, table.out_features
        self.register_buffer("bias", torch.empty(table.out_features, dtype=dtype) if bias else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        y = self.table[0].product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)


# -- products ----------------------------------------------------------------------------------------------------------


def table_product(
    x: Float[Tensor, "*batch n"], codes: Int8[Tensor, "m n"], scale: Float[Tensor, "m 1"], bias: Tensor | None
) -> Float[Tensor, "*batch m"]:
    """y = (x q^T) s + b, in the dtype of x."""
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and x.requires_grad:
        y = cast(Tensor, _TableProduct.apply(rows, codes, scale))
    else:
        y = _product(rows, codes, scale)
    if bias is not None:
        y = y + bias.to(y.dtype)
    return y.reshape(*x.shape[:-1], len(codes))


def _product(x: Float[Tensor, "tokens n"], codes: Tensor, scale: Tensor) -> Float[Tensor, "tokens m"]:
    """Half precision in bfloat16 as it is, and in float16 in float32, for sums of codes overflow."""
    wide = x.float() if x.dtype == torch.float16 else x
    fast = x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and len(x) <= FEW)
    if fast and x.device.type == "cpu" and len(x) and x.shape[1] % 32 == 0:  # other lengths crash in torch 2.13
        ones = torch.ones(len(codes), dtype=x.dtype)
        return torch._weight_int8pack_mm(x.contiguous(), codes, ones).mul_(scale.mT)
    parts = [(wide @ q.to(wide.dtype).mT).mul_(s.mT) for q, s in zip(codes.split(ROWS), scale.split(ROWS), strict=True)]
    return torch.cat(parts, 1).to(x.dtype)


class _TableProduct(torch.autograd.Function):
    """`_product` with the gradient of its input; the table has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scale)
        return _product(x, codes, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        codes, scale = ctx.saved_tensors
        wide = (grads[0] * scale.mT).to(torch.promote_types(grads[0].dtype, torch.float32))
        total = wide.new_zeros(len(wide), codes.shape[1])
        for part, q in zip(wide.split(ROWS, 1), codes.split(ROWS), strict=True):
            total.addmm_(part, q.to(wide.dtype))
        return total.to(grads[0].dtype), None, None


# -- in a model --------------------------------------------------------------------------------------------------------


class Vocabulary(NamedTuple):
    """Names of the modules at the two ends of a model, and whether they share their weight."""

    embedding: str
    head: str | None
    tied: bool


def vocabulary(model: PreTrainedModel) -> Vocabulary:
    """What a model has, also one without its head."""
    names = {id(module): name for name, module in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    return Vocabulary(names[id(embedding)], None if head is None else names[id(head)], tied)


def checked_vocabulary(model: PreTrainedModel) -> Vocabulary:
    """The vocabulary of a model whose head can have eight bits.

    Raises
    ------
    ValueError
        If there is no head, it is no linear layer, or its weight is tied in a way that the config does not say; with a
        tied head, if the embedding does more than look up rows.
    """
    head: Any = model.get_output_embeddings()
    advice = "leave head_bits at 16"
    if type(head) is not nn.Linear:
        found = "no vocabulary head" if head is None else f"a {type(head).__name__} as its vocabulary head"
        raise ArgumentError(f"head_bits=8 needs a head that is a linear layer, and this model has {found}; {advice}.")
    found, embedding = vocabulary(model), cast(nn.Embedding, model.get_input_embeddings())
    if head.weight.device.type != "meta" and (head.weight is embedding.weight) != found.tied:
        raise ArgumentError(
            f"tie_word_embeddings={found.tied} in the model's config, but head and embedding "
            f"{'have a weight each' if found.tied else 'share a weight'}; set it to {not found.tied}, or {advice}."
        )
    looks_up = type(embedding) is nn.Embedding or hasattr(embedding, "scalar_embed_scale")
    if found.tied and (not looks_up or embedding.max_norm is not None):
        raise ArgumentError(
            f"head_bits=8 stores the table of the tied embedding, and a {type(embedding).__name__} is more than a "
            f"table; {advice}."
        )
    return found


@torch.no_grad()
def install_head(model: PreTrainedModel, config: FlatQuantConfig) -> Table | None:
    """Put a table of codes, whose tensors wait to be loaded, in the place of head or embedding; on any device."""
    if config.head_bits == 16:
        return None
    found = vocabulary(model)
    head, embedding = cast("nn.Linear | None", model.get_output_embeddings()), model.get_input_embeddings()
    table = _embedding(embedding) if found.tied else None
    if table is not None:
        replace(model, found.embedding, table)
    new: Table | TiedHead | None = table
    if head is not None and found.head is not None:
        (rows, columns), bias, dtype = head.weight.shape, cast("Tensor | None", head.bias), head.weight.dtype
        with head.weight.device:
            has_bias = bias is not None
            new = QuantizedHead(rows, columns, has_bias, dtype) if table is None else TiedHead(table, has_bias, dtype)
        if bias is not None and new.bias is not None and bias.device.type != "meta":
            new.bias.copy_(bias)
        replace(model, found.head, new)
        untie(model, f"{found.head}.weight")
    cast(Any, model).resize_token_embeddings = refuse_resizing
    return new if isinstance(new, Table) else table


def _embedding(embedding: Any) -> QuantizedEmbedding:
    factor = float(getattr(embedding, "scalar_embed_scale", 1.0))
    rows, columns = embedding.weight.shape
    with embedding.weight.device:
        return QuantizedEmbedding(rows, columns, factor, embedding.weight.dtype)


def untie(model: Any, target: str) -> None:
    """Transformers no longer gives the head a parameter of the embedding."""
    for name in ("_tied_weights_keys", "all_tied_weights_keys"):
        keys = getattr(model, name, None)
        if isinstance(keys, dict):
            setattr(model, name, {key: source for key, source in keys.items() if key != target})


@torch.no_grad()
def quantise_head(model: PreTrainedModel, config: FlatQuantConfig) -> None:
    """Round the head of a model, and the embedding that is tied to it, to 8-bit codes; nothing for 16 bits."""
    if config.head_bits == 16:
        return
    checked_vocabulary(model)
    W = cast(nn.Linear, model.get_output_embeddings()).weight
    cast(Table, install_head(model, config)).store(W)


def head_tensors(name: str, W: Float[Tensor, "m n"]) -> dict[str, Tensor]:
    """The tensors of a table in a file, for a weight that is called `name`."""
    with torch.no_grad():
        table = QuantizedHead(W.shape[0], W.shape[1], bias=False, dtype=W.dtype)
        table.store(W)
    return {name: table.weight, f"{name}_scale": table.weight_scale}


def refuse_resizing(new_num_tokens: int | None = None, *_: Any, **__: Any) -> NoReturn:
    """In the place of `resize_token_embeddings`."""
    raise ArgumentError(
        "the vocabulary of this model is a table of 8-bit codes (head_bits=8), which has no place for new tokens; "
        "resize the original model and quantise it again."
    )
