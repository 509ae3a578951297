"""The head of BT²: a new embedding whose first coordinates can be compared with stored old ones.

Symbols: h backbone output, f new part, u old-only part, P and O basis transformations, psi = [u ; C P f].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps import Cayley, LinearMap


@dataclass(frozen=True)
class HeadOutput:
    """What the head makes of a batch."""

    logits: Float[Tensor, "batch classes"] | None
    """Of the classes, from f alone; None for a head without classes."""
    f: Float[Tensor, "batch d_new"]
    """New part, unit vectors."""
    phi_bc: Float[Tensor, "batch d_old"]
    """Backward-compatible part, compared with old vectors."""
    phi_new: Float[Tensor, "batch width"]
    """The whole embedding, d_new + n_extra wide, of length sqrt(1 + C²); its first d_old coordinates are phi_bc."""


def check_sizes(d_new: int, d_old: int, n_extra: int) -> None:
    """Raise ValueError unless 0 <= n_extra <= d_old <= d_new + n_extra."""
    if min(d_new, d_old) < 1 or not 0 <= n_extra <= d_old:
        raise ArgumentError(
            f"n_extra = {n_extra} must lie between 0 and d_old = {d_old}, and d_new = {d_new} and d_old be positive."
        )
    if d_new + n_extra < d_old:
        raise ArgumentError(
            f"d_new + n_extra = {d_new} + {n_extra} is less than d_old = {d_old}: the old vector does not fit into the "
            f"new one; raise n_extra to at least {d_old - d_new}."
        )


def combine(
    u: Float[Tensor, "batch n_extra"],
    f: Float[Tensor, "batch d_new"],
    P: Float[Tensor, "d_new d_new"] | LinearMap,
    O: Float[Tensor, "d_old d_old"] | LinearMap,
    C: float | int,
) -> tuple[Float[Tensor, "batch d_old"], Float[Tensor, "batch width"]]:
    """phi_bc = O psi[:d_old] and phi_new = [phi_bc ; psi[d_old:]] of psi = [u ; C P f]."""
    d_old = O.in_features if isinstance(O, LinearMap) else O.shape[0]
    psi = torch.cat([u, C * _turn(P, f)], -1)
    phi_bc = _turn(O, psi[:, :d_old])
    return phi_bc, torch.cat([phi_bc, psi[:, d_old:]], -1)


def _turn(Q: Tensor | LinearMap, x: Tensor) -> Tensor:
    return Q(x) if isinstance(Q, LinearMap) else x @ Q.mT


def basis_transform(
    h: Float[Tensor, "batch features"],
    W3: Float[Tensor, "d_old features"],
    b3: Float[Tensor, " d_old"],
    P: Float[Tensor, "d_new d_new"] | LinearMap,
    O: Float[Tensor, "d_old d_old"] | LinearMap,
    W_cls: Float[Tensor, "classes d_new"] | None,
    C: float | int,
    d_new: int,
    n_extra: int,
) -> HeadOutput:
    """The forward of BT² as a function of its parameters, from h with d_new + d_old features.

    f = unit(h[:d_new]); u = unit(unit(W3 relu(h) + b3)[:n_extra]); logits = W_cls f, which P, O and W3 do not touch.
    P and O are orthogonal matrices, or maps that apply them.

    Raises
    ------
    ValueError
        If the sizes do not fit: see `check_sizes`.
    """
    d_old = W3.shape[0]
    check_sizes(d_new, d_old, n_extra)
    if h.shape[-1] != d_new + d_old:
        raise ArgumentError(f"h has {h.shape[-1]} features, expected d_new + d_old = {d_new} + {d_old}.")
    f = F.normalize(h[:, :d_new], dim=-1)
    r = F.normalize(F.linear(F.relu(h), W3, b3), dim=-1)
    u = F.normalize(r[:, :n_extra], dim=-1)
    phi_bc, phi_new = combine(u, f, P, O, C)
    return HeadOutput(None if W_cls is None else f @ W_cls.mT, f, phi_bc, phi_new)


class BasisTransformHead(nn.Module):
    """The head of BT² on any backbone: `basis_transform` with trainable W3, b3, P, O and W_cls.

    P and O are `linmap.maps.Cayley` maps, orthogonal at every step; each is computed once a forward. `set_bases` gives
    them values. Leave `orthogonal_parameters()` out of weight decay, which would pull them to where they began.

    Parameters
    ----------
    in_features
        Features of the backbone. Unless there are d_new + d_old of them, a linear layer makes that many.
    d_new, d_old
        Dimensions of the new model's own embedding and of the old one.
    n_extra
        Dimensions added for what only the old model knows, between 0 and d_old.
    C
        Weight of the new part against the old-only part.
    n_classes
        Classes of the training data; None for a head without a classifier.
    """

    def __init__(
        self, in_features: int, d_new: int, d_old: int, n_extra: int = 32, C: float = 2.0, n_classes: int | None = None
    ) -> None:
        super().__init__()
        check_sizes(d_new, d_old, n_extra)
        if not C > 0:
            raise ArgumentError(f"C must be positive, got {C}.")
        self.d_new, self.d_old, self.n_extra, self.C = d_new, d_old, n_extra, float(C)
        width = d_new + d_old
        self.project = nn.Identity() if in_features == width else nn.Linear(in_features, width)
        self.old_only = nn.Linear(width, d_old)
        self.P, self.O = (Cayley.from_matrix(nn.init.orthogonal_(torch.empty(n, n))) for n in (d_new, d_old))
        self.classifier = None if n_classes is None else nn.Linear(d_new, n_classes, bias=False)

    def forward(self, x: Float[Tensor, "batch in_features"]) -> HeadOutput:
        W_cls = None if self.classifier is None else self.classifier.weight
        W3, b3 = self.old_only.weight, self.old_only.bias
        return basis_transform(self.project(x), W3, b3, self.P, self.O, W_cls, self.C, self.d_new, self.n_extra)

    def set_bases(self, P: Float[Tensor, "d_new d_new"], O: Float[Tensor, "d_old d_old"]) -> None:
        """Let P and O be these orthogonal matrices, and train on from there."""
        for name, n, Q in (("P", self.d_new, P), ("O", self.d_old, O)):
            if tuple(Q.shape) != (n, n) or not torch.allclose(Q @ Q.mT, torch.eye(n).to(Q), atol=1e-4):
                raise ArgumentError(f"{name} must be an orthogonal matrix of shape {(n, n)}, got {tuple(Q.shape)}.")
            setattr(self, name, Cayley.from_matrix(Q.to(self.old_only.weight)))

    def orthogonal_parameters(self) -> list[nn.Parameter]:
        """The parameters of P and O."""
        return [*self.P.parameters(), *self.O.parameters()]

    @torch.no_grad()
    def export(self) -> ExportedHead:
        """P, O and C folded into two plain matrices."""
        return fold(self.P.matrix(), self.O.matrix(), self.C, self.n_extra)


@dataclass(frozen=True)
class ExportedHead:
    """What is left of P, O and C for inference."""

    A: Float[Tensor, "parts d_old"]
    """phi_bc = [u ; f] A."""
    B: Float[Tensor, "d_new rest"]
    """The other coordinates of phi_new, f B."""

    def __call__(self, u: Float[Tensor, "batch n_extra"], f: Float[Tensor, "batch d_new"]) -> Float[Tensor, "batch w"]:
        """phi_new of the two parts."""
        return torch.cat([torch.cat([u, f], -1) @ self.A, f @ self.B], -1)


def fold(
    P: Float[Tensor, "d_new d_new"],
    O: Float[Tensor, "d_old d_old"],
    C: float | int,
    n_extra: int,
) -> ExportedHead:
    """`combine` as two matrices: phi_bc = [u ; f] A and the rest f B."""
    d_old = O.shape[0]
    M = torch.block_diag(torch.eye(n_extra, dtype=P.dtype, device=P.device), C * P.mT)  # psi = [u ; f] M
    return ExportedHead((M[:, :d_old] @ O.mT).contiguous(), M[n_extra:, d_old:].contiguous())
