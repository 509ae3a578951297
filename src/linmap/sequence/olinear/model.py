"""OLinear: forecasting with linear layers in an orthogonally transformed domain (section 2 of the method).

B: batch, T: seq_len, P: pred_len, N: variates, E: embedding copies, D: d_model, F: d_ff.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.sequence.olinear.normlin import CorrelationMixing, Norm, NormLin, TokenMixing, WeightTransform
from linmap.sequence.olinear.orthotrans import BasisHolder, check_window, orthogonal
from linmap.sequence.olinear.revin import RevIN
from linmap.training.randomness import Dropout

LossKind = Literal["l1", "l2", "l1l2"]


def weighted_loss(
    prediction: Float[Tensor, "batch horizon variate"],
    target: Float[Tensor, "batch horizon variate"],
    alpha: float | int = 0.5,
    kind: LossKind | str = "l1",
) -> Float[Tensor, ""]:
    """Mean of (k + 1)^-alpha |error|  over batch, steps k = 0 .. horizon-1 and variates.

    The weights are not divided by their sum, so values depend on the horizon; alpha = 0 is the mean absolute error.
    `"l2"` takes squared errors, `"l1l2"` the sum of both. Source: section 4.
    """
    if kind not in get_args(LossKind):
        raise ArgumentError(f"kind must be one of {', '.join(map(repr, get_args(LossKind)))}, got {kind!r}.")
    error = prediction - target
    penalty = error.new_zeros(())
    if kind != "l2":
        penalty = penalty + error.abs()
    if kind != "l1":
        penalty = penalty + error.square()
    steps = torch.arange(1, error.shape[1] + 1, dtype=error.dtype, device=error.device)
    return (steps[:, None] ** -alpha * penalty).mean()


class Block(nn.Module):
    """Cross-series learning (token mixing), then intra-series learning (two linear layers); post-norm."""

    def __init__(self, mixing: TokenMixing, d_ff: int, dropout: float | int) -> None:
        super().__init__()
        d_model = mixing.d_model
        self.mixing = mixing
        self.norm1 = nn.LayerNorm(d_model)
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, h: Float[Tensor, "batch variate features"]) -> Float[Tensor, "batch variate features"]:
        h = self.norm1(h + self.dropout(self.mixing(h)))
        inner = self.dropout(F.gelu(self.linear1(h)))
        return self.norm2(h + self.dropout(self.linear2(inner)))


class OLinear(BasisHolder):
    """Forecast the next `pred_len` steps of `n_variates` series from their last `seq_len` steps.

    The number of variates is part of the weights (NormLin, the shifts, RevIN), as are both lengths.

    Parameters
    ----------
    n_variates, seq_len, pred_len
        N, T and P.
    d_model, d_ff
        Widths D and F; F = D when None.
    embed
        Scaled copies E of each series; 1 leaves the scaling vector phi out.
    layers
        Blocks L.
    dropout
        On A, after both halves of a block, inside the second, and on the normalised forecast.
    Q_in, Q_out
        Bases of the input and output windows, (T, T) and (P, P) with basis vectors in rows, or one basis per variate,
        (N, T, T) and (N, P, P), which excludes `learn_shift`. Identity when None. They are buffers: never trained,
        saved in the state dict. `OrthoTrans(T).fit(X_train).Q_` is the method's choice.
    learn_shift
        Train the shifts delta1, delta2 that are added after each change of basis.
    weight_transform, norm, prior
        Of the mixing of variates; see `NormLin`.

    Raises
    ------
    ValueError
        If a size is not positive, or a basis has the wrong shape or is not orthogonal.

    Source: OLinear (arXiv 2505.08550), section 4 and figure 2.
    """

    Q_in: Tensor
    Q_out: Tensor

    def __init__(
        self,
        n_variates: int,
        seq_len: int,
        pred_len: int,
        d_model: int = 512,
        d_ff: int | None = None,
        embed: int = 16,
        layers: int = 2,
        dropout: float | int = 0.2,
        *,
        Q_in: ArrayLike | Tensor | None = None,
        Q_out: ArrayLike | Tensor | None = None,
        learn_shift: bool = True,
        weight_transform: WeightTransform | str = "softplus",
        norm: Norm | str = "l1",
        prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        N, T, P, D, E = self.n_variates, self.seq_len, self.pred_len, self.d_model, self.embed = (
            n_variates,
            seq_len,
            pred_len,
            d_model,
            embed,
        )
        d_ff = D if d_ff is None else d_ff
        sizes = {"n_variates": N, "seq_len": T, "pred_len": P, "d_model": D, "d_ff": d_ff, "embed": E, "layers": layers}
        for name, size in sizes.items():
            if size < 1:
                raise ArgumentError(f"{name} must be at least 1, got {size}.")
        self.hold("Q_in", orthogonal("Q_in", np.eye(T) if Q_in is None else Q_in, T, N))
        self.hold("Q_out", orthogonal("Q_out", np.eye(P) if Q_out is None else Q_out, P, N))
        if self.Q_in.ndim != self.Q_out.ndim:
            raise ArgumentError(
                "Q_in and Q_out must both be shared by the variates, or both have one basis per variate."
            )
        self.revin = RevIN(N)
        self.phi = nn.Parameter(torch.randn(E)) if E > 1 else None
        shift = learn_shift and self.Q_in.ndim == 2
        self.delta1 = nn.Parameter(torch.zeros(N, T)) if shift else None
        self.delta2 = nn.Parameter(torch.zeros(N, P)) if shift else None
        self.encoder = nn.Linear(E * T, D)
        self.blocks = nn.ModuleList(
            Block(NormLin(N, D, weight_transform, norm, prior, dropout), d_ff, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(D)
        self.decoder = nn.Linear(D, E * P)
        self.head1 = nn.Linear(E * P, d_ff)
        self.head2 = nn.Linear(d_ff, P)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        """Forecast (B, P, N) of windows (B, T, N), in the units of the windows.

        Raises
        ------
        ValueError
            If x is not (B, T, N).
        """
        check_window(x, self.seq_len, self.n_variates)
        x_BTN, statistics = self.revin.normalise(x)
        h_BND = self.encode(x_BTN.mT)
        for block in self.blocks:
            h_BND = block(h_BND)
        y_BNP = self.decode(self.norm(h_BND))
        return self.revin.denormalise(self.dropout(y_BNP).mT, statistics)

    def encode(self, x_BNT: Float[Tensor, "B N T"]) -> Float[Tensor, "B N D"]:
        """Steps 2 to 4: E copies scaled by phi, change of basis, shift, and a linear layer of all E T coefficients.

        W [phi_e Q x + delta1]_e = (sum_e phi_e W_e) Q x + (sum_e W_e) delta1: equal, also in its gradients, and E times
        cheaper than the copies.
        """
        z_BNT = torch.einsum("...kt,b...t->b...k", self.Q_in, x_BNT) if self.Q_in.ndim == 3 else x_BNT @ self.Q_in.mT
        W_DET = self.encoder.weight.unflatten(1, (self.embed, self.seq_len))
        W_DT = W_DET.squeeze(1) if self.phi is None else torch.einsum("e,det->dt", self.phi, W_DET)
        h_BND = F.linear(z_BNT, W_DT, self.encoder.bias)
        return h_BND if self.delta1 is None else h_BND + F.linear(self.delta1, W_DET.sum(1))

    def decode(self, h_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N P"]:
        """Steps 6 and 7: E P coefficients, back to time, shift, and two linear layers."""
        z_BNEP = self.decoder(h_BND).unflatten(-1, (self.embed, self.pred_len))
        y_BNEP = z_BNEP @ self.Q_out
        y_BNEP = y_BNEP if self.delta2 is None else y_BNEP + self.delta2[:, None]
        return self.head2(F.gelu(self.head1(y_BNEP.mT.flatten(-2))))

    @property
    def foldable(self) -> bool:
        """Whether the variates share their bases, which `linmap.sequence.olinear.fold` needs."""
        return self.Q_in.ndim == 2


class OLinear_C(OLinear):
    """OLinear whose variates are mixed by softmax(C), their fixed correlation: cheaper, best for many variates.

    Parameters
    ----------
    n_variates, seq_len, pred_len
        As in `OLinear`.
    correlation
        C, (N, N), of the training rows: `variate_correlation(X_train)`. Rows that are NaN (a constant variate) count as
        the identity's.
    **options
        The other parameters of `OLinear`.

    Raises
    ------
    ValueError
        If C is not (N, N).
    """

    def __init__(
        self, n_variates: int, seq_len: int, pred_len: int, correlation: ArrayLike | Tensor, **options: Any
    ) -> None:
        C = torch.as_tensor(correlation, dtype=torch.float64)
        if tuple(C.shape) != (n_variates, n_variates):
            raise ArgumentError(f"correlation must have shape ({n_variates}, {n_variates}), got {tuple(C.shape)}.")
        super().__init__(n_variates, seq_len, pred_len, **options)
        C = torch.where(C.isnan(), torch.eye(n_variates, dtype=C.dtype), C)
        for block in self.blocks:
            block.mixing = CorrelationMixing(C, self.d_model, self.dropout.p)


OFFICIAL_NAMES = {
    r"embeddings": "phi",
    r"revin_layer\.affine_weight": "revin.gain",
    r"revin_layer\.affine_bias": "revin.shift",
    r"ortho_trans\.0\.(\w+)": r"encoder.\1",
    r"ortho_trans\.1\.attn_layers\.(\d+)\.v_proj\.(\w+)": r"blocks.\1.mixing.value.\2",
    r"ortho_trans\.1\.attn_layers\.(\d+)\.out_proj\.(\w+)": r"blocks.\1.mixing.output.\2",
    r"ortho_trans\.1\.attn_layers\.(\d+)\.weight_mat": r"blocks.\1.mixing.mix.weight",
    r"ortho_trans\.1\.attn_layers\.(\d+)\.conv([12])\.(\w+)": r"blocks.\1.linear\2.\3",
    r"ortho_trans\.1\.attn_layers\.(\d+)\.norm([12])\.(\w+)": r"blocks.\1.norm\2.\3",
    r"ortho_trans\.1\.norm\.(\w+)": r"norm.\1",
    r"ortho_trans\.2\.(\w+)": r"decoder.\1",
    r"fc\.0\.(\w+)": r"head1.\1",
    r"fc\.2\.(\w+)": r"head2.\1",
    r"delta([12])": r"delta\1",
}


def load_official(model: OLinear, state: dict[str, Tensor]) -> None:
    """Load the authors' weights into a model that was built with their Q matrices and sizes.

    The orders of the flattened indices agree, so each tensor is renamed and loses its dimensions of length 1. Their
    state dict holds the blocks twice (`encoder.` repeats `ortho_trans.1.`); the repetition is left out.

    Raises
    ------
    ValueError
        If a name is not one of the authors'.
    RuntimeError
        If a tensor is missing or has another shape, as in `load_state_dict`.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renamed = {"Q_in": model.Q_in, "Q_out": model.Q_out}
    for name, tensor in state.items():
        if name.startswith("encoder."):
            continue
        pattern = next((pattern for pattern in OFFICIAL_NAMES if re.fullmatch(pattern, name)), None)
        if pattern is None:
            raise ArgumentError(
                f"{name!r} is no tensor of the authors' OLinear; expected names like ortho_trans.0.weight."
            )
        ours = re.sub(pattern, OFFICIAL_NAMES[pattern], name)
        same_size = ours in shapes and tensor.numel() == shapes[ours].numel()
        renamed[ours] = tensor.reshape(shapes[ours]) if same_size else tensor
    model.load_state_dict(renamed)
