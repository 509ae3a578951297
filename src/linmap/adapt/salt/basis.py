"""The singular basis of a frozen weight: found once, recognised when an adapter that was trained in it is loaded.

Singular vectors are defined up to the sign of each pair (U_j, V_j), and up to a rotation where singular values are
equal; libraries and devices choose differently. The trainable part X Y of SALT means something only in the basis that
it was trained in. Hence the fingerprint: an adapter carries it, and the basis that a loading process finds is turned to
the same signs, or refused.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.adapt.kept import checksum
from linmap.errors import ArgumentError
from linmap.maps.spectral import signed_svd

KEPT_BYTES = 2**30  # of the bases that a process keeps
N_VALUES = 8  # singular values in a fingerprint
N_PROBES = 2  # projections of each column of U in it
FIXED_POINT = 2**20  # of the projections
SAME_VALUES, SAME_VECTORS = 1e-3, 1e-3  # tolerances, far above what two LAPACKs differ by
NEAR_VALUES = 2e-2  # the weight in another precision
DISTINCT = 1e-6  # of S_1: the least distance of two singular values whose vectors are unique


class Basis(NamedTuple):
    """The thin SVD of a weight, or of each group of it."""

    U: Float[Tensor, "*groups n_out q"]
    S: Float[Tensor, "*groups q"]
    Vt: Float[Tensor, "*groups q n_in"]


_kept: OrderedDict[bytes, tuple[Basis, list[int]]] = OrderedDict()  # with the sums of what is in it


@torch.inference_mode(False)
def basis_of(W: Float[Tensor, "*groups n_out n_in"]) -> Basis:
    """The SVD of W in float32 (float64 for a float64 W), on the CPU, as `signed_svd` computes it.

    The last bases, up to `KEPT_BYTES`, are kept in the process by the content of W: another adapter on the same weight,
    or the same model loaded again, does not pay for it twice.
    """
    W = W.detach().cpu().contiguous()
    W = W.to(torch.promote_types(W.dtype, torch.float32))
    content = hashlib.sha256(W.numpy().data)
    content.update(repr((W.shape, W.dtype)).encode())
    key = content.digest()
    if key not in _kept or [checksum(part) for part in _kept[key][0]] != _kept[key][1]:  # somebody wrote to it
        basis = Basis(*signed_svd(W))
        _kept[key] = basis, [checksum(part) for part in basis]
    _kept.move_to_end(key)
    while len(_kept) > 1 and sum(part.nbytes for basis, _ in _kept.values() for part in basis) > KEPT_BYTES:
        _kept.popitem(last=False)
    return _kept[key][0]


def check_basis(basis: Basis, W: Float[Tensor, "*groups n_out n_in"]) -> None:
    """Raise ValueError unless U diag(S) V^T is W, to the precision of W."""
    U, S, Vt = (part.double() for part in basis)
    q = min(W.shape[-2:])
    shapes = ((*W.shape[:-1], q), (*W.shape[:-2], q), (*W.shape[:-2], q, W.shape[-1]))
    if (U.shape, S.shape, Vt.shape) != shapes:
        raise ArgumentError(
            f"basis must be the thin SVD of a weight {tuple(W.shape)}, of shapes {', '.join(map(str, shapes))}; got "
            f"{tuple(U.shape)}, {tuple(S.shape)}, {tuple(Vt.shape)}."
        )
    error = float((U * S.unsqueeze(-2) @ Vt - W.double()).norm() / W.double().norm().clamp_min(1e-30))
    limit = 10 * math.sqrt(max(torch.finfo(basis.U.dtype).eps, torch.finfo(W.dtype).eps))
    if not error < min(limit, 0.1):
        raise ArgumentError(
            f"basis is not an SVD of this weight: U diag(S) V^T is off by {error:.1e} of its norm; use "
            "signed_svd(weight)."
        )


def has_unique_vectors(S: Float[Tensor, "*groups q"], k: int) -> bool:
    """Whether no two of the singular values after the k-th are equal, so that only signs are left to choose."""
    gaps = (S[..., k:-1] - S[..., k + 1 :]) / S[..., :1]
    return bool((gaps >= DISTINCT).all())


class Fingerprint(NamedTuple):
    """What tells singular bases apart; integers, which no cast of a model changes."""

    values: Int[Tensor, "*groups first"]
    """The bits of the largest singular values as float32."""
    vectors: Int[Tensor, "*groups probes q"]
    """Projections of each column of U on fixed directions, in fixed point."""


def fingerprint(U: Float[Tensor, "*groups n_out q"], S: Float[Tensor, "*groups q"]) -> Fingerprint:
    """The fingerprint of a basis; two pairs of singular vectors that differ differ in it."""
    row = torch.arange(1, U.shape[-2] + 1, dtype=torch.float64)
    # irrational frequencies: no column of a structured U is orthogonal to both directions
    probes = torch.stack([torch.cos(row * math.sqrt(2 + i)) for i in range(N_PROBES)])
    vectors = (probes @ U.detach().cpu().double() * FIXED_POINT).round().to(torch.int32)
    values = S[..., :N_VALUES].detach().to("cpu", torch.float32, copy=True)  # a view would be saved, and loaded, as S
    return Fingerprint(values.view(torch.int32), vectors)


def difference(found: Fingerprint, trained: Fingerprint, kept: bool = False) -> str:
    """What makes the basis found another one than that of the training, but for signs; "" where it is the same.

    `kept`: the singular vectors of the training are kept, so that only the singular values need to be near theirs.
    """
    if found.vectors.shape != trained.vectors.shape:
        return "the weight has another size"
    ours, theirs = (print.values.cpu().view(torch.float32) for print in (found, trained))
    tolerance = NEAR_VALUES if kept else SAME_VALUES
    if bool(((ours - theirs).abs() > tolerance * theirs.abs().amax(-1, keepdim=True)).any()):
        return f"the largest singular values are {_shown(ours)} here and were {_shown(theirs)}"
    p, p_trained = _projections(found), _projections(trained)
    off = (p * signs(found, trained).unsqueeze(-2) - p_trained).abs().amax(-2) > SAME_VECTORS
    if bool(off.any()) and not kept:
        return f"{int(off.sum())} of {off.numel()} pairs of singular vectors are others"
    return ""


def signs(found: Fingerprint, trained: Fingerprint) -> Float[Tensor, "*groups q"]:
    """s such that U diag(s) has the signs of the training; U diag(s) and diag(s) V^T are as good an SVD."""
    return torch.where((_projections(found) * _projections(trained)).sum(-2) < 0, -1.0, 1.0)


def _projections(print: Fingerprint) -> Float[Tensor, "*groups probes q"]:
    return print.vectors.cpu().double() / FIXED_POINT


def _shown(values: Tensor) -> str:
    return ", ".join(f"{value:.5g}" for value in values.flatten()[:3].tolist())
