"""Who goes where: a softmax over the outputs, so that each token is shared out and no mass is lost.

    P[:, n] = softmax over m of cos(f_{centre m}, f_n) / tau

The many-to-many form is the paper's; the cosine, tau = 0.02 and the rules for protected tokens and padding are ours.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import rows, unit_rows
from linmap.compress.token_transforming.precision import check_floating, full_precision, masses
from linmap.errors import ArgumentError, ArgumentTypeError, check_count

LEAST_TAU = 1e-30  # below which float32 tells no more than at it: the shares of exact ties


@full_precision
def assignment(
    features: Float[Tensor, "batch tokens channels"],
    centres: Int[Tensor, "batch outputs"],
    *,
    tau: float = 0.02,
    hard: bool = False,
    topk: int | None = None,
    keep_self: bool = False,
    min_sim: float | None = None,
    mass: Float[Tensor, "batch tokens"] | None = None,
    protect: int = 1,
    causal: bool = False,
) -> Float[Tensor, "batch outputs tokens"]:
    """P (B, M, N), columns that sum to 1.

    Parameters
    ----------
    features
        (B, N, c).
    centres
        (B, M) int64, the tokens that outputs grow around, the protected ones first, as of `select_centres`.
    tau
        Temperature of the softmax of cosines, which lie close together in real models: 0.02 to 0.1.
    hard
        The whole token to the most similar centre, the first of equals: the limit tau -> 0.
    topk
        Keep the k largest shares of each token, renormalised.
    keep_self
        A centre goes to its own output alone.
    min_sim
        Tokens whose largest cosine to a centre is below are dropped (columns of zeros).
    mass
        (B, N), None for ones. Padding has a column of zeros, and nothing is given to a centre that is padding.
    protect
        How many first tokens are protected: their columns and rows are one-hot.
    causal
        Tokens go to centres at their own or a later place only.

    Raises
    ------
    TypeError, ValueError
        If a tensor is not as above, tau <= 0, topk < 1, min_sim is not in [-1, 1], or a protected token is no centre.
    """
    check_floating("features", features, "(B, N, c)")
    check_centres(centres, features)
    check_options(tau, topk, min_sim)
    protect = check_count("protect", protect, 0)
    s = masses(mass, features, features.shape[1])
    check_protected(centres, protect)
    unit = unit_rows(features, s.dtype)
    if hard:
        targets = nearest_output(unit, centres, s, protect, causal=causal, keep_self=keep_self, min_sim=min_sim)
        return F.one_hot(targets + 1, centres.shape[1] + 1)[..., 1:].to(s.dtype).mT
    options = {"topk": topk, "keep_self": keep_self, "min_sim": min_sim, "causal": causal}
    return shares(unit, centres, s, protect, tau=tau, **options)


def sharpness(tau: float) -> float:
    """What multiplies the cosines before the softmax: 1 / tau, finite for every tau > 0."""
    return 1 / max(tau, LEAST_TAU)


def shares(
    unit: Float[Tensor, "batch tokens channels"],
    centres: Int[Tensor, "batch outputs"],
    s: Float[Tensor, "batch tokens"],
    protect: int,
    *,
    tau: float,
    topk: int | None,
    keep_self: bool,
    min_sim: float | None,
    causal: bool,
    cosines: Float[Tensor, "batch tokens outputs"] | None = None,
) -> Float[Tensor, "batch outputs tokens"]:
    """`assignment` for features whose norms are 1, soft; `cosines` to the centres, where known, are written over."""
    scale = sharpness(tau)
    logits = _allowed(unit, centres, s, protect, causal, scale, cosines)
    if topk is None or topk >= centres.shape[1]:
        R = logits.softmax(-1)
    else:
        largest, places = logits.sort(dim=-1, descending=True, stable=True)
        R = torch.zeros_like(logits).scatter(-1, places[..., :topk], largest[..., :topk].softmax(-1))
    own = _own_outputs(centres, s.shape[1])
    live = _live(logits, s, own, min_sim, scale).to(R.dtype).unsqueeze(-1)
    R = R * live if R.requires_grad else R.mul_(live)
    n_fixed = s.shape[1] if keep_self else protect
    fixed = own[:, :n_fixed, None]
    one_hot = (fixed == torch.arange(centres.shape[1], device=s.device)) & (s[:, :n_fixed, None] > 0)
    R[:, :n_fixed] = torch.where(fixed >= 0, one_hot.to(R.dtype), R[:, :n_fixed])
    return R.mT


def nearest_output(
    unit: Float[Tensor, "batch tokens channels"],
    centres: Int[Tensor, "batch outputs"],
    s: Float[Tensor, "batch tokens"],
    protect: int,
    *,
    keep_self: bool,
    min_sim: float | None,
    causal: bool,
    cosines: Float[Tensor, "batch tokens outputs"] | None = None,
) -> Int[Tensor, "batch tokens"]:
    """The output of each token in a hard `assignment` of features whose norms are 1; -1 where it goes nowhere."""
    cosines = _allowed(unit, centres, s, protect, causal, 1.0, cosines)
    own = _own_outputs(centres, s.shape[1])
    targets = cosines.argmax(-1).masked_fill(~_live(cosines, s, own, min_sim), -1)
    fixed = (own >= 0) & (s > 0)
    if not keep_self:
        fixed = fixed & (torch.arange(s.shape[1], device=s.device) < protect)
    return torch.where(fixed, own, targets)


def nearest_centres(
    cosines: Float[Tensor, "batch tokens outputs"],
    centres: Int[Tensor, "batch outputs"],
    s: Float[Tensor, "batch tokens"],
) -> Int[Tensor, "batch tokens"]:
    """The output whose centre, with mass, is most similar to each token; a centre is nearest to itself."""
    padding = (s.gather(1, centres) <= 0).unsqueeze(-2)
    own = _own_outputs(centres, s.shape[1])
    return torch.where(own >= 0, own, cosines.masked_fill(padding, -math.inf).argmax(-1))


def check_centres(centres: Tensor, features: Tensor) -> None:
    """That centres are int64 indices (B, M) of tokens."""
    if not isinstance(centres, Tensor) or centres.dtype != torch.int64:
        kind = centres.dtype if isinstance(centres, Tensor) else type(centres).__name__
        raise ArgumentTypeError(f"centres must be a tensor (B, M) of type int64, got {kind}.")
    B, N = features.shape[:2]
    if centres.ndim != 2 or len(centres) != B or not 1 <= centres.shape[1] <= N:
        raise ArgumentError(f"centres must have the shape ({B}, M) with M in 1 ... {N}, got {tuple(centres.shape)}.")


def check_options(tau: float, topk: int | None, min_sim: float | None) -> None:
    """That the options of an assignment are in their ranges."""
    for name, value in (("tau", tau), ("min_sim", min_sim)):
        if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
            raise ArgumentTypeError(f"{name} must be a number, got {value!r}.")
    if tau is None or not 0 < tau < math.inf:
        raise ArgumentError(f"tau must be above 0 and finite, got {tau}; hard=True is the limit of tau = 0.")
    if topk is not None:
        check_count("topk", topk, 1)
    if min_sim is not None and not -1 <= min_sim <= 1:
        raise ArgumentError(f"min_sim is a cosine in [-1, 1], got {min_sim}.")


def check_protected(centres: Tensor, protect: int) -> None:
    """That the protected tokens are the first centres; read on the CPU alone, where it costs no waiting."""
    if protect > centres.shape[1]:
        raise ArgumentError(f"protect = {protect} tokens cannot all be centres: there are M = {centres.shape[1]}.")
    if torch.compiler.is_compiling() or centres.device.type != "cpu":
        return
    if bool((centres[:, :protect] != torch.arange(protect)).any()):
        raise ArgumentError(
            f"the first centres must be the protected tokens 0 ... {protect - 1}, got "
            f"{centres[:, :protect].tolist()}; choose them with select_centres, or pass protect=0."
        )


def _allowed(
    unit: Tensor, centres: Tensor, s: Tensor, protect: int, causal: bool, scale: float, cosines: Tensor | None
) -> Float[Tensor, "batch tokens outputs"]:
    """scale * cosine of each token to each centre; the least number where the centre is not for it."""
    least = torch.finfo(s.dtype).min
    closed = (centres < protect) | (s.gather(1, centres) <= 0)
    bias = torch.zeros_like(s[:, : centres.shape[1]]).masked_fill(closed, least).unsqueeze(-2)
    if cosines is None:
        logits = torch.baddbmm(bias, unit, rows(unit, centres).mT, alpha=scale)
    else:
        logits = cosines.mul_(scale).add_(bias)
    if causal:
        places = torch.arange(s.shape[1], device=s.device).unsqueeze(-1)
        logits = logits.masked_fill(centres.unsqueeze(-2) < places, least)
    return logits


def _own_outputs(centres: Tensor, n_tokens: int) -> Int[Tensor, "batch tokens"]:
    """The output that grew around each token; -1 where there is none."""
    places = torch.arange(centres.shape[1], device=centres.device).expand_as(centres)
    return centres.new_full((len(centres), n_tokens), -1).scatter(1, centres, places)


def _live(
    logits: Tensor, s: Tensor, own: Tensor, min_sim: float | None, scale: float = 1.0
) -> Bool[Tensor, "batch tokens"]:
    """Tokens with mass that have somewhere to go; a centre is always near enough to itself."""
    best = logits.amax(-1)
    live = (s > 0) & (best > torch.finfo(s.dtype).min)
    if min_sim is not None:
        live = live & ((best >= min_sim * scale) | (own >= 0))
    return live
