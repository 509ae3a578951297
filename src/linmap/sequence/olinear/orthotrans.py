"""OrthoTrans: the fixed orthogonal change of basis along time that decorrelates the steps of a window (section 1)."""

from __future__ import annotations

from typing import Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import linalg
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from linmap.sequence.olinear.correlation import Correlation, temporal_correlation
from linmap.sequence.olinear.revin import instance_statistics

Array = TypeVar("Array", Tensor, np.ndarray)
NOT_ORTHOGONAL = 1e-4  # largest entry of |Q Q^T - I| that a basis may show


class OrthoTrans(TransformerMixin, BaseEstimator):
    """The eigenbasis of the temporal correlation of the training rows, strongest component first.

    `fit` sees a table with time downwards, (n_rows, n_variates); `transform` sees windows with **time last**,
    (..., length), and returns their coefficients x Qᵀ in the same layout. Row k of Q is the eigenvector of the k-th
    largest eigenvalue; its entry of largest modulus is positive, so that equal data give equal bases.

    Parameters
    ----------
    length
        Window length t in steps.
    corr
        `"pearson"` (the paper) or `"official"` (the authors' program); see `temporal_correlation`.

    Attributes
    ----------
    Q_
        The basis, (length, length), float64, basis vectors in rows.
    eigenvalues_
        Descending, (length,); they sum to `length` under `"pearson"`.
    correlation_
        R, (length, length), float64.
    """

    def __init__(self, length: int, corr: Correlation | str = "pearson") -> None:
        self.length = length
        self.corr = corr

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the basis from training rows (n_rows, n_variates); nothing but training rows belongs here.

        Raises
        ------
        ValueError
            As `temporal_correlation`.
        """
        self.correlation_ = temporal_correlation(X, self.length, corr=self.corr)
        # the lower triangle alone: R is slightly asymmetric under corr="official"
        eigenvalues, V = linalg.eigh(self.correlation_, lower=True)
        Q = V[:, ::-1].T
        largest = np.take_along_axis(Q, np.abs(Q).argmax(1)[:, None], axis=1)
        self.Q_ = np.ascontiguousarray(Q * np.sign(largest))
        self.eigenvalues_ = eigenvalues[::-1].copy()
        return self

    def transform(self, x: Array) -> Array:
        """Coefficients x Qᵀ of windows (..., length); the same shape, kind and precision come back.

        Raises
        ------
        ValueError
            If the last dimension is not `length`.
        """
        return self._apply(x, transpose=True)

    def inverse_transform(self, z: Array) -> Array:
        """Windows z Q from their coefficients (..., length)."""
        return self._apply(z, transpose=False)

    def _apply(self, x: Array, transpose: bool) -> Array:
        check_is_fitted(self)
        Q = self.Q_.T if transpose else self.Q_
        if not isinstance(x, Tensor):
            x = np.asarray(x)
            x = x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)
        if x.ndim == 0 or x.shape[-1] != self.length:
            raise ValueError(
                f"OrthoTrans was fitted for windows of {self.length} steps with time last, (..., {self.length}), "
                f"got shape {tuple(x.shape)}; for (time, variate) tables transpose first."
            )
        return (
            x @ torch.as_tensor(Q.copy(), dtype=x.dtype, device=x.device)
            if isinstance(x, Tensor)
            else x @ Q.astype(x.dtype)
        )


class OrthoTransWrapper(nn.Module):
    """Any forecaster, in the transformed domain: x is instance-normalised and encoded, the forecast decoded.

    y = decode(model(encode(x))) with encode(x) = x Q_inᵀ and decode(z) = z Q_out along time, between instance
    normalisation and its inverse.

    Parameters
    ----------
    model
        Maps (batch, seq_len, variate) to (batch, pred_len, variate).
    Q_in, Q_out
        Bases of the input and output windows, rows are basis vectors: `OrthoTrans(seq_len).fit(X).Q_` and
        `OrthoTrans(pred_len).fit(X).Q_` of the same training rows.

    Raises
    ------
    ValueError
        If a basis is not orthogonal.
    """

    Q_in: Tensor
    Q_out: Tensor

    def __init__(self, model: nn.Module, Q_in: ArrayLike | Tensor, Q_out: ArrayLike | Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("Q_in", orthogonal_buffer("Q_in", Q_in))
        self.register_buffer("Q_out", orthogonal_buffer("Q_out", Q_out))

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        check_window(x, self.Q_in.shape[-1])
        mean, std = instance_statistics(x)
        z = self.model(self.Q_in @ ((x - mean) / std))
        if z.shape[1] != len(self.Q_out):
            raise ValueError(
                f"the wrapped model forecasts {z.shape[1]} steps, but Q_out is a basis of {len(self.Q_out)} steps."
            )
        return self.Q_out.mT @ z * std + mean


def orthogonal_buffer(
    name: str, Q: ArrayLike | Tensor, length: int | None = None, n_variates: int | None = None
) -> Tensor:
    """Q as a float tensor, checked to be an orthogonal (t, t) matrix, or one per variate, (n_variates, t, t).

    Raises
    ------
    ValueError
        If the shape is not the expected one or max |Q Qᵀ - I| exceeds 1e-4.
    """
    exact = torch.as_tensor(np.asarray(Q) if not isinstance(Q, Tensor) else Q.detach(), dtype=torch.float64)
    length = exact.shape[-1] if length is None and exact.ndim else length
    expected = {(length, length), (n_variates, length, length)}
    if tuple(exact.shape) not in expected:
        per_variate = f" or ({n_variates}, {length}, {length})" if n_variates is not None else ""
        raise ValueError(f"{name} must have shape ({length}, {length}){per_variate}, got {tuple(exact.shape)}.")
    deviation = float((exact @ exact.mT - torch.eye(exact.shape[-1], dtype=torch.float64)).abs().max())
    if not deviation <= NOT_ORTHOGONAL:
        raise ValueError(
            f"{name} is not orthogonal: max |Q Qᵀ - I| = {deviation:.1e}, at most {NOT_ORTHOGONAL:.0e} is allowed; "
            "take Q_ of a fitted OrthoTrans, or an orthonormal basis."
        )
    return exact.to(torch.get_default_dtype())


def check_window(x: Tensor, seq_len: int, n_variates: int | None = None) -> None:
    """Raise `ValueError` unless x is (batch, seq_len, n_variates)."""
    if x.ndim != 3 or x.shape[1] != seq_len or (n_variates is not None and x.shape[2] != n_variates):
        raise ValueError(
            f"expected windows of shape (batch, {seq_len}, {n_variates if n_variates is not None else 'variates'}) as "
            f"(batch, time, variate), got {tuple(x.shape)}."
        )
