"""SALT on a layer: the adapter of one weight, and the layers that hold it."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from linmap.adapt.layer import Adapter, AdapterLayer, AdditiveAdapter, keeps_weight
from linmap.adapt.salt.basis import (
    Basis,
    Fingerprint,
    basis_of,
    check_basis,
    difference,
    fingerprint,
    has_unique_vectors,
    signs,
)
from linmap.adapt.salt.weight import Relu, check_relu
from linmap.adapt.weights import is_hooked, matrix_of, sizes
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.maps import LowRank, Spectral
from linmap.maps.numbers import transformed

Init = Literal["zero", "gauss"]
PRINTS = tuple(f"fingerprint_{name}" for name in Fingerprint._fields)
ADVICE = (
    "An update of singular vectors means nothing in other ones. Load it on the very weights (and their precision) that "
    "it was trained on; or save it on the machine of the training with save_basis=True, which keeps the basis in the "
    "file, or with save='delta', which keeps the change of the weights."
)


class SaltAdapter(AdditiveAdapter):
    """W' = U Sigma' V^T in a frozen singular basis of W; see `linmap.adapt.salt.weight`.

    It is kept as the change of W, U (Sigma' - diag(S)) V^T, so that it starts at exactly zero and adapters add up.

    Parameters
    ----------
    basis
        The thin SVD of W, or one of each group with a leading dimension.
    k
        How many of the largest singular values are scaled and shifted, 0 to q.
    r
        Rank of the update of the others; unused when k = q.
    relu
        As in `salt_core`.
    init
        "zero": X uniform in ±sqrt(6 / r), Y = 0, no change at the start. "gauss": both from 0.01 N(0, 1).
    save_basis
        Whether the state dict holds U, S and V^T too.

    Attributes
    ----------
    spectral, core
        The maps that hold the parameters: alpha - 1 and beta; X and Y (None when k = q).
    """

    def __init__(self, basis: Basis, k: int, r: int, relu: Relu, init: Init, save_basis: bool) -> None:
        super().__init__()
        n_out, q, n_in = *basis.U.shape[-2:], basis.Vt.shape[-1]
        groups, dtype = basis.S.shape[:-1], basis.S.dtype
        self.relu, self.r, self.save_basis = relu, r, save_basis
        if save_basis:  # loading writes to it, and others may use the same one
            basis = Basis(*(part.clone() for part in basis))
        self.spectral = Spectral(
            n_in, n_out, k, basis=basis, nonnegative=relu != "none", persistent_basis=save_basis, dtype=dtype
        )
        self.core = LowRank(q - k, q - k, r, batch_shape=groups, dtype=dtype) if k < q else None
        if self.core is not None:
            draw(self.core, init)
        for name, part in zip(PRINTS, fingerprint(basis.U, basis.S), strict=True):
            self.register_buffer(name, part)

    @property
    def alpha(self) -> Float[Tensor, "*groups k"]:
        return self.spectral.scale

    @property
    def beta(self) -> Float[Tensor, "*groups k"]:
        return self.spectral.shift

    @property
    def X(self) -> Float[Tensor, "*groups rest r"]:
        return self.spectral.S.new_zeros(*self.spectral.batch_shape, 0, self.r) if self.core is None else self.core.B

    @property
    def Y(self) -> Float[Tensor, "*groups r rest"]:
        return self.spectral.S.new_zeros(*self.spectral.batch_shape, self.r, 0) if self.core is None else self.core.A

    @property
    def k(self) -> int:
        return self.beta.shape[-1]

    # -- the change of W -----------------------------------------------------------------------------------------------

    def delta_weight(self) -> Float[Tensor, "n_out n_in"]:
        """U (Sigma' - diag(S)) V^T; one product of the size of W and what the core costs."""
        U, Vt = self.spectral.U, self.spectral.Vt
        leading = U[..., : self.k] * self._leading().unsqueeze(-2)
        rest = U[..., self.k :]
        if self.core is None:
            change = leading
        elif self.relu == "all":
            change = torch.cat([leading, rest @ self._core()], dim=-1)
        else:
            change = torch.cat([leading, rest @ self.X @ self.Y + rest * self._cut().unsqueeze(-2)], dim=-1)
        delta = change @ Vt
        return delta.flatten(0, -2)

    def delta(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """The same on activations, without a matrix of the size of W; only x is kept for the backward pass."""
        return rebuilt(self._change, x) @ self.spectral.U.mT  # U is frozen: this product keeps nothing

    def _change(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch coordinates"]:
        """V^T x times Sigma' - diag(S)."""
        z = x @ self.spectral.Vt.mT
        leading = z[..., : self.k] * self._leading()
        if self.core is None:
            return leading
        rest = z[..., self.k :]
        changed = rest @ self._core().mT if self.relu == "all" else self.core(rest) + rest * self._cut()
        return torch.cat([leading, changed], dim=-1)

    def _leading(self) -> Float[Tensor, "*groups k"]:
        """relu(alpha S_k + beta) - S_k."""
        return (self.spectral.singular_values - self.spectral.S)[..., : self.k]

    def _core(self) -> Float[Tensor, "*groups rest rest"]:
        """relu(diag(S_rest) + X Y) - diag(S_rest)."""
        XY = self.X @ self.Y
        diagonal = XY.diagonal(dim1=-2, dim2=-1) + self._cut()
        return torch.diagonal_scatter(XY.relu(), diagonal, dim1=-2, dim2=-1)

    def _cut(self) -> Float[Tensor, "*groups rest"]:
        """What the relu adds to the diagonal of S_rest + X Y."""
        S = self.spectral.S[..., self.k :]
        if self.relu == "none":
            return torch.zeros_like(S)
        return (-S - (self.X * self.Y.mT).sum(-1)).relu()

    def needs_weight(self, x: Tensor) -> bool:
        """In evaluation W' is kept; in training it is built where that takes fewer operations than the activations."""
        n_out, n_in = self.spectral.out_features, self.spectral.in_features
        tokens = math.prod(x.shape[:-1])
        if isinstance(tokens, torch.SymInt):  # an exported program takes any number of them
            return False
        return keeps_weight(self, x) or tokens * (2 * min(n_out, n_in) + max(n_out, n_in)) > 3 * n_out * n_in

    def linear(self, x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
        """x W'^T + b; a W' that is built is built again for the backward pass instead of being kept."""
        return rebuilt(super().linear, x, W, bias) if self.needs_weight(x) else super().linear(x, W, bias)

    def penalty(self) -> Float[Tensor, ""]:
        """||diag(alpha S_k + beta - S_k)||_F + ||X Y||_F."""
        shift = (self.alpha - 1) * self.spectral.S[..., : self.k] + self.beta
        return torch.linalg.vector_norm(shift) + torch.linalg.vector_norm(self.X @ self.Y)

    # -- loading -------------------------------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if all(prefix + name in state_dict for name in PRINTS):
            trained = Fingerprint(*(state_dict[prefix + name] for name in PRINTS))
            try:
                self._turn_to(trained, kept=prefix + "spectral.U" in state_dict)
            except ValueError as error:
                layer = prefix.partition(f".{SaltLayer.adapters_name}.")[0]
                raise ArgumentError(f"{layer}: {error}") from None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __setattr__(self, name: str, value: Any) -> None:
        """Loaders that go past `load_state_dict`, as that of Transformers, set every tensor of a file by its name."""
        if name in PRINTS and name in self._buffers:
            here = {print: self.get_buffer(print) for print in PRINTS} | {name: value}
            self._turn_to(Fingerprint(*here.values()), kept=self.save_basis)
        super().__setattr__(name, value)

    def _turn_to(self, trained: Fingerprint, kept: bool) -> None:
        """Turn the basis to the signs of the adapter's training, or refuse an adapter that was trained in another."""
        found = Fingerprint(*map(self.get_buffer, PRINTS))
        if reason := difference(found, trained, kept=kept):
            raise ArgumentError(f"the adapter was trained in another singular basis: {reason}. {ADVICE}")
        s = signs(found, trained).to(self.spectral.S)
        if bool((s < 0).any()):
            self.spectral.U = self.spectral.U * s.unsqueeze(-2)
            self.spectral.Vt = self.spectral.Vt * s.unsqueeze(-1)
        for name, old, new in zip(PRINTS, found, trained, strict=True):  # what is turned once is not turned again
            self._buffers[name] = new.detach().to(old.device, copy=True)


class FixedChange(AdditiveAdapter):
    """W' = W + delta with a delta that is no longer trained: what a file saved with save="delta" becomes."""

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(n_out, n_in), requires_grad=False)

    def delta_weight(self) -> Float[Tensor, "n_out n_in"]:
        return self.change

    def delta(self, x: Tensor) -> Tensor:
        return F.linear(x, self.change)


class SaltLayer(AdapterLayer):
    """A layer with SALT adapters: the singular values of its frozen weight scaled and shifted, and a low-rank update.

    Parameters
    ----------
    base_layer
        The layer; its weight needs to be dense and finite.
    adapter_name
        Name of the first adapter.
    ratio, k
        How many of the q singular values are scaled and shifted: max(1, int(ratio * q)), or k. ratio=0.1 when neither
        is given.
    r
        Rank of the update of the other q - k.
    relu
        "all": negative entries of the core become zero (the paper). "diag": those of its diagonal only, so that the
        update keeps its low rank. "none": the update is linear.
    init
        "zero": no change at the start. "gauss": X and Y from 0.01 N(0, 1).
    save_basis
        Keep the basis in the state dict: twice the size of the weight for a square one.
    basis
        (U, S, V^T) of the weight where it is not to be computed; for a grouped convolution with a leading dimension.

    Raises
    ------
    ValueError
        If ratio, k or r are out of range, the weight is not finite, or the basis is not one of this weight.
    TypeError
        If the layer is of another kind, or keeps no dense weight.

    References
    ----------
    Elsayed et al., "SALT: Singular Value Adaptation with Low-Rank Transformation", arXiv 2503.16055.
    """

    adapters_name = "linmap_salt_adapters"
    kinds: tuple[type[nn.Module], ...]

    def make_adapter(
        self,
        ratio: float | None = None,
        k: int | None = None,
        r: int = 8,
        relu: Relu = "all",
        init: Init = "zero",
        save_basis: bool = False,
        basis: tuple[Tensor, Tensor, Tensor] | None = None,
        fixed: bool = False,
    ) -> AdditiveAdapter:
        base = self.get_base_layer()
        check_options(ratio, k, r, relu, init)
        if not isinstance(base, self.kinds):
            names = " or ".join(kind.__name__ for kind in self.kinds)
            raise ArgumentTypeError(f"{type(self).__name__} adapts {names}, got a {type(base).__name__}.")
        if fixed:
            return FixedChange(*sizes(base))
        W = self._groups()
        q = min(W.shape[-2:])
        k = number_of_values(q, ratio, k)
        r = rank_of_rest(q, k, r)
        if basis is None:
            found = basis_of(W)
        else:
            check_basis(Basis(*basis), W)
            found = Basis(*(part.detach().to(torch.promote_types(W.dtype, torch.float32)) for part in basis))
        if k < q and not save_basis and basis is None and not has_unique_vectors(found.S, k):
            warnings.warn(
                f"{self.path}: singular values of the weight {tuple(W.shape)} after the first {k} are equal, so that "
                "its singular basis is not unique and the adapter may not load on another machine; save_basis=True "
                "keeps the basis in the file.",
                stacklevel=2,
            )
        return SaltAdapter(found, k, r, relu, init, save_basis)

    @torch.no_grad()
    def delta_matrix(self, adapter_name: str) -> Float[Tensor, "n_out n_in"]:
        """W' - W of one adapter, as a matrix."""
        adapter = self.adapters[adapter_name]
        assert isinstance(adapter, AdditiveAdapter)
        return adapter.delta_weight()

    def _groups(self) -> Float[Tensor, "*groups n_out n_in"]:
        """The base weight as it was before any merge, on the CPU; that of a grouped convolution by groups."""
        base = self.get_base_layer()
        if self.merged and self._base is None:
            raise ArgumentError("its weight is merged and the original was not kept; unmerge before adding an adapter.")
        W = matrix_of(base, self._base).detach()
        if W.is_meta:
            raise ArgumentError(
                "its weight is on the meta device and has no values yet; load the model's weights first."
            )
        if not bool(torch.isfinite(W).all()):
            raise ArgumentError("its weight holds NaN or infinite values, so that it has no singular values.")
        groups = getattr(base, "groups", 1)
        return W.cpu() if groups == 1 else W.cpu().unflatten(0, (groups, -1))


class SaltLinear(SaltLayer):
    """SALT on a Linear layer, or the Conv1D of Transformers; arguments and errors as of `SaltLayer`."""

    kinds = (nn.Linear, Conv1D)


class SaltConv2d(SaltLayer):
    """SALT on a convolution's kernels as rows of a matrix, by groups where it has some; arguments as of `SaltLayer`."""

    kinds = (nn.Conv2d,)

    def adapted(self, x: Tensor, active: list[Adapter]) -> Tensor:
        """As of `AdapterLayer`; a 1 x 1 convolution of a small image is a linear layer on a few tokens."""
        tokens = x.movedim(-3, -1)
        if not is_pointwise(self.base_layer) or any(adapter.needs_weight(tokens) for adapter in active):
            return super().adapted(x, active)
        y = self.base_layer(x)
        for adapter in active:
            assert isinstance(adapter, AdditiveAdapter)
            delta = adapter.delta(tokens.to(adapter.dtype).contiguous())  # a view would be multiplied batch by batch
            y = (y + delta.movedim(-1, -3)).to(y.dtype)
        return y


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether the convolution is a linear layer on channels and nothing else."""
    plain = type(conv).forward is nn.Conv2d.forward and conv.groups == 1 and conv.padding in ((0, 0), "valid", "same")
    return plain and conv.kernel_size == (1, 1) and conv.stride == (1, 1) and not is_hooked(conv)


def draw(core: LowRank, init: Init) -> None:
    """The values that X and Y start from."""
    with torch.no_grad():
        if init == "zero":
            core.B.uniform_(-math.sqrt(6 / core.rank), math.sqrt(6 / core.rank))  # Kaiming: the fan-in of X is r
            core.A.zero_()
        else:
            core.B.normal_(0, 0.01)
            core.A.normal_(0, 0.01)


def rebuilt(function: Any, *inputs: Any) -> Any:
    """function(*inputs), of which the backward pass computes again what it needs; only the inputs are kept for it.

    Not under `torch.func` and in compiled code, which have ways of their own to keep things.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or transformed():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def check_options(ratio: float | None, k: int | None, r: int, relu: str, init: str) -> None:
    """Raise ValueError for what no weight could be adapted with."""
    if ratio is not None and k is not None:
        raise ArgumentError(f"give ratio or k, not both; got ratio={ratio} and k={k}.")
    if ratio is not None and not 0 < ratio <= 1:
        raise ArgumentError(f"ratio={ratio} must be in (0, 1].")
    for name, value in (("k", k), ("r", r)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise ArgumentError(f"{name}={value!r} must be a whole number of at least 0.")
    check_relu(relu)
    if init not in ("zero", "gauss"):
        raise ArgumentError(f"init={init!r} must be 'zero' or 'gauss'.")


def number_of_values(q: int, ratio: float | None, k: int | None) -> int:
    """How many of q singular values are scaled and shifted."""
    if k is None:
        return max(1, int(q * (0.1 if ratio is None else ratio)))
    if k > q:
        raise ArgumentError(f"k={k} exceeds the {q} singular values of the weight; use k <= {q}, or ratio.")
    return k


def rank_of_rest(q: int, k: int, r: int) -> int:
    """The rank of the update of q - k singular values."""
    if k == q:
        return r
    if r < 1:
        raise ArgumentError(f"r={r} must be at least 1 where k = {k} leaves {q - k} of {q} singular values.")
    if r > q - k:
        warnings.warn(f"r = {r} exceeds the {q - k} singular values that k = {k} leaves; r = {q - k}.", stacklevel=2)
    return min(r, q - k)
