"""OrthoTrans: the fixed orthogonal change of basis along time that decorrelates the steps of a window (section 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike
from scipy import linalg
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError
from linmap.sequence.olinear.correlation import (
    COMPLEX,
    Correlation,
    real_array,
    temporal_correlation,
    temporal_correlations,
)
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
    chan_indep
        One basis for each variate, from its own correlation, instead of one for all from their mean. Windows are then
        (..., variates, length).

    Attributes
    ----------
    Q_
        The basis, (length, length), float64, basis vectors in rows; (variates, length, length) under `chan_indep`, and
        so are the others.
    eigenvalues_
        Descending, (length,); they sum to `length` under `"pearson"`.
    correlation_
        R, (length, length), float64.
    """

    def __init__(self, length: int, corr: Correlation | str = "pearson", chan_indep: bool = False) -> None:
        self.length = length
        self.corr = corr
        self.chan_indep = chan_indep

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the basis from training rows (n_rows, n_variates); nothing but training rows belongs here.

        Raises
        ------
        ValueError
            As `temporal_correlation`.
        """
        correlate = temporal_correlations if self.chan_indep else temporal_correlation
        self.correlation_ = correlate(X, self.length, corr=self.corr)
        shape = array_of(X).shape
        self.n_features_in_ = shape[1] if len(shape) == 2 else 1
        matrices = self.correlation_.reshape(-1, self.length, self.length)
        pairs = [descending_eigenbasis(R) for R in matrices]
        self.eigenvalues_ = np.stack([values for values, _ in pairs]).reshape(self.correlation_.shape[:-1])
        self.Q_ = np.stack([Q for _, Q in pairs]).reshape(self.correlation_.shape)
        return self

    def transform(self, x: Array) -> Array:
        """Coefficients x Qᵀ of windows (..., length); the same shape, kind and precision come back.

        Raises
        ------
        ValueError
            If the last dimension is not `length`, or an array is complex, sparse, or has missing or infinite values.
        """
        return self._apply(x, transpose=True)

    def inverse_transform(self, z: Array) -> Array:
        """Windows z Q from their coefficients (..., length)."""
        return self._apply(z, transpose=False)

    def _apply(self, x: Array, transpose: bool) -> Array:
        check_is_fitted(self)
        Q = self.Q_ if transpose else np.swapaxes(self.Q_, -1, -2)
        if not isinstance(x, Tensor):
            x = real_array(x, "windows")
            if not np.isfinite(x).all():
                raise ArgumentError(
                    "windows hold NaN or infinite values, which no basis can transform; fill them first."
                )
        elif x.is_complex():
            raise ArgumentError(f"{COMPLEX} got windows of {x.dtype}; transform the real and the imaginary part.")
        if x.shape[-Q.ndim + 1 :] != Q.shape[:-1]:
            sizes = ", ".join(map(str, Q.shape[:-1]))
            raise ArgumentError(
                f"OrthoTrans was fitted for windows of {self.length} steps with time last, (..., {sizes}), "
                f"got shape {tuple(x.shape)}; for (time, variate) tables transpose first."
            )
        M: Any = (
            torch.as_tensor(Q.copy(), dtype=x.dtype, device=x.device) if isinstance(x, Tensor) else Q.astype(x.dtype)
        )
        return (M @ x[..., None])[..., 0] if self.chan_indep else x @ M.T


def descending_eigenbasis(
    R: Float64[np.ndarray, "t t"],
) -> tuple[Float64[np.ndarray, " t"], Float64[np.ndarray, "t t"]]:
    """Eigenvalues of the lower triangle of R, largest first, and the eigenvectors in rows with a settled sign."""
    eigenvalues, V = linalg.eigh(R, lower=True)  # R is slightly asymmetric under corr="official"
    Q = V[:, ::-1].T
    largest = np.take_along_axis(Q, np.abs(Q).argmax(1)[:, None], axis=1)
    return eigenvalues[::-1].copy(), np.ascontiguousarray(Q * np.sign(largest))


class BasisHolder(nn.Module):
    """A module with fixed bases as buffers, whose float64 digits are there when it becomes float64."""

    def hold(self, name: str, exact: Float64[Tensor, "*variates t t"], dtype: torch.dtype | None = None) -> None:
        """Register a basis as a buffer, in the default precision unless another is given."""
        vars(self).setdefault("_exact", {})[name] = exact
        self.register_buffer(name, exact.to(torch.get_default_dtype() if dtype is None else dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        held = vars(self).get("_exact", {})
        own = [name for name, exact in held.items() if _is_rounded(getattr(self, name), exact)]  # nothing else loaded
        super()._apply(fn, recurse)
        for name in own:
            buffer = getattr(self, name)
            if buffer.dtype == torch.float64:
                setattr(self, name, held[name].to(buffer.device))
        return self


def _is_rounded(buffer: Tensor, exact: Float64[Tensor, "*variates t t"]) -> bool:
    return buffer.device.type != "meta" and torch.equal(buffer, exact.to(buffer.device, buffer.dtype))


class OrthoTransWrapper(BasisHolder):
    """Any forecaster, in the transformed domain: x is instance-normalised and encoded, the forecast decoded.

    y = decode(model(encode(x))) with encode(x) = Q_in x and decode(z) = Q_outᵀ z along time, between instance
    normalisation and its inverse. A normalisation of the model's own would act on coefficients: switch it off.

    The bases have the precision of the model's parameters (the default one without any), and all their digits when the
    wrapper is moved to float64.

    Parameters
    ----------
    model
        Maps (batch, seq_len, variate) to (batch, pred_len, variate).
    Q_in, Q_out
        Bases of the input and output windows, rows are basis vectors: `OrthoTrans(seq_len).fit(X).Q_` and
        `OrthoTrans(pred_len).fit(X).Q_` of the same training rows; or one basis for each variate,
        (variates, seq_len, seq_len) and (variates, pred_len, pred_len).
    normalise
        Bring each window to mean 0 and standard deviation 1 first, and the forecast back.

    Raises
    ------
    ValueError
        If a basis is not orthogonal.
    """

    Q_in: Tensor
    Q_out: Tensor

    def __init__(
        self, model: nn.Module, Q_in: ArrayLike | Tensor, Q_out: ArrayLike | Tensor, normalise: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        self.hold("Q_in", orthogonal("Q_in", Q_in, n_variates=variates_of(Q_in)), dtype)
        self.hold("Q_out", orthogonal("Q_out", Q_out, n_variates=variates_of(Q_out)), dtype)

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        check_window(x, self.Q_in.shape[-1], variates_of(self.Q_in))
        if not self.normalise:
            return self.in_basis(x)
        mean, std = instance_statistics(x)
        return self.in_basis((x - mean) / std) * std + mean

    def in_basis(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        """decode(model(encode(x)))."""
        z = self.model(along_time(self.Q_in, x))
        if z.shape[1] != self.Q_out.shape[-1]:
            raise ArgumentError(
                f"the wrapped model forecasts {z.shape[1]} steps, but Q_out is a basis of {self.Q_out.shape[-1]} steps."
            )
        return along_time(self.Q_out.mT, z)


def along_time(
    Q: Float[Tensor, "out time"] | Float[Tensor, "variate out time"], x: Float[Tensor, "batch time variate"]
) -> Float[Tensor, "batch out variate"]:
    """Q applied to the time axis, the same for all variates or one for each."""
    return Q @ x if Q.ndim == 2 else torch.einsum("nkt,btn->bkn", Q, x)


def variates_of(Q: ArrayLike | Tensor) -> int | None:
    """How many variates have a basis of their own in Q; None if they share one."""
    shape = tuple(Q.shape) if isinstance(Q, Tensor) else np.shape(Q)
    return shape[0] if len(shape) == 3 else None


def orthogonal(
    name: str, Q: ArrayLike | Tensor, length: int | None = None, n_variates: int | None = None
) -> Float64[Tensor, "*variates t t"]:
    """Q in float64, checked to be an orthogonal (t, t) matrix, or one per variate, (n_variates, t, t).

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
        raise ArgumentError(f"{name} must have shape ({length}, {length}){per_variate}, got {tuple(exact.shape)}.")
    deviation = float((exact @ exact.mT - torch.eye(exact.shape[-1], dtype=torch.float64)).abs().max())
    if not deviation <= NOT_ORTHOGONAL:
        raise ArgumentError(
            f"{name} is not orthogonal: max |Q Qᵀ - I| = {deviation:.1e}, at most {NOT_ORTHOGONAL:.0e} is allowed; "
            "take Q_ of a fitted OrthoTrans, or an orthonormal basis."
        )
    return exact


def check_window(x: Tensor, seq_len: int, n_variates: int | None = None) -> None:
    """Raise `ValueError` unless x is (batch, seq_len, n_variates)."""
    if x.ndim != 3 or x.shape[1] != seq_len or (n_variates is not None and x.shape[2] != n_variates):
        raise ArgumentError(
            f"expected windows of shape (batch, {seq_len}, {n_variates if n_variates is not None else 'variates'}) as "
            f"(batch, time, variate), got {tuple(x.shape)}."
        )
