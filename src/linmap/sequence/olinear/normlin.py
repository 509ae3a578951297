"""NormLin: one learned row-stochastic matrix over the tokens in the place of self-attention (section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.maps.row_stochastic import RowStochastic
from linmap.training.randomness import Dropout

WeightTransform = Literal["softplus", "softmax", "sigmoid", "relu", "identity"]
Norm = Literal["l1", "l2", "softmax", "none"]

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "softmax": lambda W: F.softmax(W, dim=-1),
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "identity": lambda W: W,
}
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda A: F.normalize(A, p=1, dim=-1),
    "l2": lambda A: F.normalize(A, p=2, dim=-1),
    "softmax": lambda A: F.softmax(A, dim=-1),
    "none": lambda A: A,
}


class TokenMixing(nn.Module):
    """Tokens mixed by a matrix that does not depend on them: output(A value(h)); A itself is the subclass's.

    Parameters
    ----------
    n_tokens, d_model
        Tokens (variates) and their width.
    dropout
        On the entries of A, without renormalisation.
    """

    def __init__(self, n_tokens: int, d_model: int, dropout: float | int = 0.0) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.d_model = d_model
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def matrix(self) -> Float[Tensor, "tokens tokens"]:
        """A, before dropout."""
        raise ArgumentTypeError(f"{type(self).__name__} defines no mixing matrix; use NormLin or CorrelationMixing.")

    def forward(self, h: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        if h.shape[1:] != (self.n_tokens, self.d_model):
            raise ArgumentError(
                f"{type(self).__name__} mixes {self.n_tokens} tokens of width {self.d_model}, "
                f"(batch, {self.n_tokens}, {self.d_model}); got {tuple(h.shape)}."
            )
        return self.output(self.dropout(self.matrix()) @ self.value(h))


class NormLin(TokenMixing):
    """Token mixing by A = norm(prior + f(W)) with a trainable W, drawn as identity plus standard normal noise.

    Parameters
    ----------
    n_tokens, d_model
        Tokens (variates) and their width: the input is (batch, n_tokens, d_model).
    weight_transform
        f: `"softplus"`, `"softmax"` (over the row), `"sigmoid"`, `"relu"` or `"identity"`.
    norm
        Of each row: `"l1"`, `"l2"`, `"softmax"` or `"none"`. With `"l1"` and a positive f, A is row-stochastic.
    prior
        A fixed (n_tokens, n_tokens) matrix added to f(W), e.g. `softmax(variate_correlation(X))`.
    dropout
        On the entries of A, without renormalisation.

    Raises
    ------
    ValueError
        If `weight_transform` or `norm` is unknown, or `prior` has another shape.

    Source: OLinear (arXiv 2505.08550), section 4.
    """

    prior: Tensor | None

    def __init__(
        self,
        n_tokens: int,
        d_model: int,
        weight_transform: WeightTransform | str = "softplus",
        norm: Norm | str = "l1",
        prior: Tensor | None = None,
        dropout: float | int = 0.0,
    ) -> None:
        super().__init__(n_tokens, d_model, dropout)
        for name, value, choices in (
            ("weight_transform", weight_transform, get_args(WeightTransform)),
            ("norm", norm, get_args(Norm)),
        ):
            if value not in choices:
                raise ArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
        if prior is not None and tuple(prior.shape) != (n_tokens, n_tokens):
            raise ArgumentError(f"prior must have shape ({n_tokens}, {n_tokens}), got {tuple(prior.shape)}.")
        self.weight_transform = weight_transform
        self.norm = norm
        self.mix = RowStochastic(n_tokens)  # holds W, and computes A in log space for the default f and norm
        self.register_buffer("prior", None if prior is None else prior.to(self.weight))

    @property
    def weight(self) -> nn.Parameter:
        """W, (n_tokens, n_tokens)."""
        return self.mix.weight

    def matrix(self) -> Float[Tensor, "tokens tokens"]:
        if self.weight_transform == "softplus" and self.norm == "l1" and self.prior is None:
            return self.mix.matrix()
        A = TRANSFORMS[self.weight_transform](self.weight)
        return NORMS[self.norm](A if self.prior is None else A + self.prior)


class CorrelationMixing(TokenMixing):
    """Token mixing by the fixed A = softmax(C), row by row: the variant OLinear-C.

    Parameters
    ----------
    correlation
        C, (n_tokens, n_tokens), of the training rows: `variate_correlation(X)`.
    d_model, dropout
        As in `NormLin`.
    """

    A: Tensor

    def __init__(self, correlation: Tensor, d_model: int, dropout: float | int = 0.0) -> None:
        super().__init__(len(correlation), d_model, dropout)
        self.register_buffer("A", F.softmax(correlation, dim=-1).to(torch.get_default_dtype()))

    def matrix(self) -> Float[Tensor, "tokens tokens"]:
        return self.A


class NormLinAttention(nn.Module):
    """NormLin with the call of a self-attention module: the drop-in for transformers over variates or patches.

    softmax(QKᵀ/√d) is replaced by A; the value and output projections stay. Queries, keys and masks are not used.

    Parameters
    ----------
    mixing
        What mixes the tokens.
    outputs
        Length of the tuple that the replaced module returns: the tokens, then as many times None.
    """

    batch_first = False  # what nn.TransformerEncoderLayer asks before its fused path, which needs real attention

    def __init__(self, mixing: TokenMixing, outputs: int = 2) -> None:
        super().__init__()
        self.mixing = mixing
        self.outputs = outputs

    @classmethod
    def from_attention(cls, attention: nn.Module, n_tokens: int) -> Self:
        """Take over the value and output projections of an attention among `n_tokens` tokens.

        Parameters
        ----------
        attention
            An `nn.MultiheadAttention`, or a module with projections that carry one of the pairs of names in
            `PROJECTIONS`: the attentions of Transformers, of neuralforecast and of the authors of iTransformer and
            PatchTST among them.
        n_tokens
            Tokens of the sequence: variates in iTransformer, patches in PatchTST.

        Raises
        ------
        ValueError
            If the module is none of these, or an `nn.MultiheadAttention` that is not batch first, has no bias or has
            values of another width than its queries.
        """
        if isinstance(attention, nn.MultiheadAttention):
            value, output = _projections_of_multihead(attention)
        else:
            names = _projection_names(attention)
            if names is None:
                raise ArgumentError(
                    f"{type(attention).__name__} is no attention that NormLin knows how to replace: expected an "
                    f"nn.MultiheadAttention or the projections {' or '.join('/'.join(pair) for pair in PROJECTIONS)}."
                )
            value, output = (getattr(attention, name) for name in names)
        mixing = NormLin(n_tokens, value.in_features, dropout=_dropout_of(attention)).to(value.weight)
        mixing.value, mixing.output = value, output
        # PatchTST's attention hands its scores to the next layer
        return cls(mixing, outputs=3 if getattr(attention, "res_attention", False) else 2)

    def forward(self, *tokens: Tensor | None, **options: Any) -> tuple[Tensor | None, ...]:
        """The mixed tokens and None for the attention weights; the arguments are those of the replaced module.

        Raises
        ------
        ValueError
            If keys and values are not the queries themselves: NormLin mixes one sequence.
        """
        named = [options[name] for name in TOKEN_ARGUMENTS if name in options]
        given = [x for x in (*tokens[:3], *named) if x is not None]
        if not given or any(x is not given[0] for x in given):
            raise ArgumentError("NormLin replaces self-attention: query, key and value must be the same tensor.")
        return (self.mixing(given[0]), *[None] * (self.outputs - 1))


PROJECTIONS = (
    ("v_proj", "out_proj"),  # Transformers: PatchTST and others
    ("value_projection", "out_projection"),  # iTransformer, as its authors and neuralforecast have it
    ("W_V", "to_out"),  # PatchTST, as its authors and neuralforecast have it
)
TOKEN_ARGUMENTS = ("hidden_states", "query", "key", "value", "queries", "keys", "values")


def _projection_names(module: nn.Module) -> tuple[str, str] | None:
    """The names of its value and output projections, if it is an attention."""
    return next((pair for pair in PROJECTIONS if isinstance(getattr(module, pair[0], None), nn.Linear)), None)


def _projections_of_multihead(attention: nn.MultiheadAttention) -> tuple[nn.Linear, nn.Linear]:
    d_model = attention.embed_dim
    if not attention.batch_first or attention.in_proj_weight is None or attention.in_proj_bias is None:
        raise ArgumentError(
            "NormLinAttention replaces an nn.MultiheadAttention with batch_first=True, bias=True and values as "
            "wide as its queries."
        )
    value = nn.Linear(d_model, d_model).to(attention.in_proj_weight)
    with torch.no_grad():
        value.weight.copy_(attention.in_proj_weight[2 * d_model :])
        value.bias.copy_(attention.in_proj_bias[2 * d_model :])
    return value, attention.out_proj


def _dropout_of(attention: nn.Module) -> float:
    """The dropout that the module puts on its attention weights, wherever it keeps it."""
    own = getattr(attention, "dropout", None)
    if isinstance(own, int | float):
        return float(own)
    kernels = (getattr(attention, name, None) for name in ("inner_attention", "sdp_attn"))
    inner = [layer for kernel in kernels if kernel is not None for layer in kernel.modules()]
    return next((layer.p for layer in inner if isinstance(layer, nn.Dropout)), 0.0)


def replace_attention(model: nn.Module, n_tokens: int) -> nn.Module:
    """Replace every self-attention inside `model`, in place, by NormLin over `n_tokens` tokens.

    Which modules are found: see `NormLinAttention.from_attention`.

    Raises
    ------
    ValueError
        If the model has none.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.MultiheadAttention) or _projection_names(child) is not None
    ]
    if not found:
        raise ArgumentError(
            f"{type(model).__name__} has no attention to replace: no nn.MultiheadAttention and no module with the "
            f"projections {' or '.join('/'.join(pair) for pair in PROJECTIONS)}."
        )
    for parent, name, child in found:
        setattr(parent, name, NormLinAttention.from_attention(child, n_tokens))
    return model
