"""NormLin: one learned row-stochastic matrix over the tokens in the place of self-attention (section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.maps.row_stochastic import RowStochastic

Weight = Literal["softplus", "softmax", "sigmoid", "relu", "identity"]
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
        self.dropout = nn.Dropout(dropout)

    def matrix(self) -> Float[Tensor, "tokens tokens"]:
        """A, before dropout."""
        raise TypeError(f"{type(self).__name__} defines no mixing matrix; use NormLin or CorrelationMixing.")

    def forward(self, h: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        if h.shape[1:] != (self.n_tokens, self.d_model):
            raise ValueError(
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
    weight
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
        If `weight` or `norm` is unknown, or `prior` has another shape.

    Source: OLinear (arXiv 2505.08550), section 4.
    """

    prior: Tensor | None

    def __init__(
        self,
        n_tokens: int,
        d_model: int,
        weight: Weight | str = "softplus",
        norm: Norm | str = "l1",
        prior: Tensor | None = None,
        dropout: float | int = 0.0,
    ) -> None:
        super().__init__(n_tokens, d_model, dropout)
        for name, value, choices in (("weight", weight, get_args(Weight)), ("norm", norm, get_args(Norm))):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
        if prior is not None and tuple(prior.shape) != (n_tokens, n_tokens):
            raise ValueError(f"prior must have shape ({n_tokens}, {n_tokens}), got {tuple(prior.shape)}.")
        self.transform = weight
        self.norm = norm
        self.mix = RowStochastic(n_tokens)  # holds W, and computes A in log space for the default f and norm
        self.register_buffer("prior", None if prior is None else prior.to(self.weight))

    @property
    def weight(self) -> nn.Parameter:
        """W, (n_tokens, n_tokens)."""
        return self.mix.weight

    def matrix(self) -> Float[Tensor, "tokens tokens"]:
        if self.transform == "softplus" and self.norm == "l1" and self.prior is None:
            return self.mix.matrix()
        A = TRANSFORMS[self.transform](self.weight)
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
    """NormLin with the call of `nn.MultiheadAttention` (batch first): the drop-in for transformers over variates.

    softmax(QKᵀ/√d) is replaced by A; the value and output projections stay. Queries, keys and masks are not used.
    """

    batch_first = False  # what nn.TransformerEncoderLayer asks before its fused path, which needs real attention

    def __init__(self, mixing: TokenMixing) -> None:
        super().__init__()
        self.mixing = mixing

    @classmethod
    def from_attention(cls, attention: nn.MultiheadAttention, n_tokens: int) -> Self:
        """Take over the value and output projections of an attention whose tokens are `n_tokens` variates.

        Raises
        ------
        ValueError
            If the attention is not batch first or its values have a width of their own.
        """
        d_model = attention.embed_dim
        if not attention.batch_first or attention.in_proj_weight is None or attention.in_proj_bias is None:
            raise ValueError(
                "NormLinAttention replaces an nn.MultiheadAttention with batch_first=True, bias=True and values as "
                "wide as its queries."
            )
        mixing = NormLin(n_tokens, d_model, dropout=attention.dropout).to(attention.in_proj_weight)
        with torch.no_grad():
            mixing.value.weight.copy_(attention.in_proj_weight[2 * d_model :])
            mixing.value.bias.copy_(attention.in_proj_bias[2 * d_model :])
            mixing.output.load_state_dict(attention.out_proj.state_dict())
        return cls(mixing)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        return self.mixing(value), None


def replace_attention(model: nn.Module, n_tokens: int) -> nn.Module:
    """Replace every `nn.MultiheadAttention` inside `model`, in place, by NormLin over `n_tokens` tokens.

    Raises
    ------
    ValueError
        If the model has none.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.MultiheadAttention)
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.MultiheadAttention to replace.")
    for parent, name, child in found:
        setattr(parent, name, NormLinAttention.from_attention(child, n_tokens))
    return model
