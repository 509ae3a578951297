"""Known ways to compress tokens, each as one `Transform`: merging, pruning, fusing, clusters, pools.

All of them keep the outputs in the order of the tokens that they grew around.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import unit_rows
from linmap.compress.token_transforming.importance import select_centres
from linmap.compress.token_transforming.matching import (
    Match,
    clamp_removals,
    match_by_energy,
    match_even_odd,
)
from linmap.compress.token_transforming.precision import (
    check_budget,
    check_floating,
    check_share,
    full_precision,
    masses,
    working_dtype,
)
from linmap.compress.token_transforming.transform import Transform, positive
from linmap.errors import ArgumentError, ArgumentTypeError, check_count


@full_precision
def tome(
    metric: Float[Tensor, "batch tokens channels"],
    r: int,
    *,
    mass: Float[Tensor, "batch tokens"] | None = None,
    class_token: bool = False,
    distill_token: bool = False,
) -> Transform:
    """Token merging: tokens at even places merge into the most similar token at an odd place, the r most similar ones.

    Parameters
    ----------
    metric
        (B, N, c): what similarity is measured on, by cosine; the mean of the heads' keys in the paper.
    r
        How many tokens merge away; at most half of those that are not protected, more is clamped with a warning.
    mass
        (B, N), None for ones. Padding (0) is not merged into, and merges away only where no other token
        can.
    class_token, distill_token
        Whether token 0, and token 1, are protected: they neither merge nor are merged into.

    Raises
    ------
    TypeError, ValueError
        If `metric` or `mass` are not as above, or r < 0.

    References
    ----------
    Bolya et al., "Token merging: your ViT but faster", ICLR 2023.
    """
    check_floating("metric", metric, "(B, N, c)")
    r = check_count("r", r, 0)
    N = metric.shape[1]
    s = masses(mass, metric, N)
    r = clamp_removals(r, N, int(class_token) + int(distill_token), stacklevel=3)
    if r == 0:
        return Transform.identity(s)
    protected = torch.zeros(N, dtype=torch.bool, device=metric.device)
    protected[:2] = torch.tensor([class_token, distill_token], device=metric.device)
    return merged(match_even_odd(unit_rows(metric, s.dtype), s, r, protected), s)


@full_precision
def kth_bipartite(
    metric: Float[Tensor, "batch tokens channels"], k: int, *, mass: Float[Tensor, "batch tokens"] | None = None
) -> Transform:
    """Token merging with every k-th token as a destination: N // k outputs; the N mod k last tokens are dropped.

    Parameters
    ----------
    metric, mass
        As in `tome`.
    k
        Stride of the destinations, the tokens k - 1, 2k - 1, ...; 1 changes nothing.

    Raises
    ------
    TypeError, ValueError
        If `metric` or `mass` are not as in `tome`, or k is not in 1 ... N.

    References
    ----------
    Bolya et al., ICLR 2023 (their code).
    """
    check_floating("metric", metric, "(B, N, c)")
    k = check_count("k", k, 1)
    N = metric.shape[1]
    s = masses(mass, metric, N)
    if k == 1:
        return Transform.identity(s)
    if k > N:
        raise ArgumentError(f"k = {k} leaves no token of N = {N}; it must be at most N.")
    unit = unit_rows(metric, s.dtype)
    centres = torch.arange(k - 1, N, k, device=metric.device).expand(len(metric), -1)
    similarity = unit @ unit[:, k - 1 :: k].mT
    nearest = similarity.masked_fill((s[:, k - 1 :: k] <= 0).unsqueeze(-2), -math.inf).argmax(-1)
    nearest = nearest.scatter(1, centres, torch.arange(N // k, device=metric.device).expand_as(centres))
    beyond = torch.arange(N, device=metric.device) >= N // k * k
    targets = nearest.masked_fill(beyond, -1)
    return Transform.from_targets(targets, N // k, s, centres=centres.contiguous(), nearest=nearest, drops=N % k != 0)


@full_precision
def pitome(
    metric: Float[Tensor, "batch tokens channels"],
    ratio: float,
    *,
    margin: float = 0.5,
    class_token: bool = True,
    mass: Float[Tensor, "batch tokens"] | None = None,
) -> Transform:
    """Merging among the tokens of highest energy, those with many alike; the others are protected.

    Parameters
    ----------
    metric, mass
        As in `tome`.
    ratio
        Share of the tokens beside the class token that is left, in (0, 1]: r = floor(T - T ratio) of T merge away, at
        most half of them (more is clamped with a warning).
    margin
        Cosine from which on a neighbour adds to the energy.
    class_token
        Whether token 0 is left alone.

    Raises
    ------
    TypeError, ValueError
        If `metric` or `mass` are not as in `tome`, ratio is not in (0, 1], or the margin is not finite.

    References
    ----------
    Tran et al., "Accelerating transformers with spectrum-preserving token merging", NeurIPS 2024.
    """
    check_floating("metric", metric, "(B, N, c)")
    ratio = check_share("ratio", ratio)
    check_margin(margin)
    N, protect = metric.shape[1], int(class_token)
    s = masses(mass, metric, N)
    T = N - protect
    r = clamp_removals(math.floor(T - T * ratio), N, protect, stacklevel=3)
    if r == 0:
        return Transform.identity(s)
    return merged(match_by_energy(unit_rows(metric, s.dtype), s, r, protect, float(margin)), s)


@full_precision
def evit(
    cls_attention: Float[Tensor, "batch patches"],
    keep: float,
    *,
    fuse: bool = False,
    normalize: bool = True,
    mass: Float[Tensor, "batch tokens"] | None = None,
) -> Transform:
    """The patches that the class token attends to most; the others are dropped, or fused into one token.

    Parameters
    ----------
    cls_attention
        (B, N - 1): attention of the class token (token 0) to each patch, mean of the heads.
    keep
        Share of the patches that stay, in (0, 1]: K = ceil(keep (N - 1)).
    fuse
        Add one last output: the dropped patches weighted by their attention.
    normalize
        Divide these weights by their sum. The official code does not, so that the norm of the token shrinks, which a
        model that was not trained for it does not expect.
    mass
        (B, N), None for ones. Padding is dropped first and gets no weight.

    Raises
    ------
    TypeError, ValueError
        If `cls_attention` or `mass` are not as above, or keep is not in (0, 1].

    References
    ----------
    Liang et al., "Not all patches are what you need", ICLR 2022.
    """
    check_floating("cls_attention", cls_attention, "(B, N - 1)")
    keep = check_share("keep", keep)
    n_patches = cls_attention.shape[1]
    s = masses(mass, cls_attention, n_patches + 1)
    K = math.ceil(keep * n_patches)
    if n_patches <= K:
        return Transform.identity(s)
    attention = cls_attention.to(s.dtype)
    selection = _selection(F.pad(attention, (1, 0)), K + 1, s, 1)
    if not fuse:
        return selection
    dropped = (selection.P.sum(-2) == 0) & (s > 0)
    weights = F.pad(attention, (1, 0)) * dropped
    if normalize:
        total = weights.sum(-1, keepdim=True)
        weights = torch.where(total > 0, weights, s * dropped)  # no attention at all: their mean
        weights = weights / positive(weights.sum(-1, keepdim=True))
    P = torch.cat([selection.P, dropped.to(s.dtype).unsqueeze(-2)], dim=-2)
    W = torch.cat([selection.matrix(), weights.unsqueeze(-2)], dim=-2)
    assert selection.centres is not None
    return Transform(P, s, F.pad(selection.centres, (0, 1), value=-1), W)


@full_precision
def prune(
    importance: Float[Tensor, "batch tokens"],
    M: int,
    *,
    mass: Float[Tensor, "batch tokens"] | None = None,
    protect: int = 1,
    features: Float[Tensor, "batch tokens channels"] | None = None,
) -> Transform:
    """The first `protect` tokens and the most important others; the rest is dropped with its mass.

    Parameters
    ----------
    importance
        (B, N); of equal ones the lower index is kept.
    M
        How many tokens stay, the protected ones counted; M >= N changes nothing.
    mass
        (B, N), None for ones. Padding is dropped first.
    protect
        How many first tokens always stay.
    features
        (B, N, c): tells the most similar kept token of each dropped one (`nearest`), for `restore(pruned="nearest")`.

    Raises
    ------
    TypeError, ValueError
        If a tensor is not as above, or M leaves no token beside the protected ones.
    """
    check_floating("importance", importance, "(B, N)")
    M, protect = check_budget(M, protect)
    s = masses(mass, importance, importance.shape[1])
    if importance.shape[1] <= M:
        return Transform.identity(s)
    if features is not None:
        check_floating("features", features, "(B, N, c)")
        if features.shape[:2] != importance.shape:
            raise ArgumentError(
                f"features must have the shape {(*importance.shape, 'c')}, got {tuple(features.shape)}."
            )
        features = unit_rows(features, working_dtype(features, s))
    return _selection(importance.to(s.dtype), M, s, protect, features)


def clusters(
    ids: Int[Tensor, "batch tokens"], n_clusters: int, *, mass: Float[Tensor, "batch tokens"] | None = None
) -> Transform:
    """The mass-weighted mean of each cluster; an empty one is an output without mass.

    Parameters
    ----------
    ids
        (B, N) integers in 0 ... n_clusters - 1.
    n_clusters
        M.
    mass
        (B, N), None for ones.

    Raises
    ------
    TypeError, ValueError
        If `ids` or `mass` are not as above.
    """
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise ArgumentTypeError(f"ids must be a tensor (B, N) of integers, got {kind}.")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ArgumentError(f"ids must have the shape (B, N), got {tuple(ids.shape)}.")
    n_clusters = check_count("n_clusters", n_clusters, 1)
    if not torch.compiler.is_compiling() and bool(((ids < 0) | (ids >= n_clusters)).any()):
        raise ArgumentError(
            f"ids must lie in 0 ... {n_clusters - 1} for n_clusters = {n_clusters}, got {int(ids.min())} ... "
            f"{int(ids.max())}."
        )
    s = masses(mass, torch.empty(len(ids), 0, device=ids.device), ids.shape[1])
    return Transform.from_targets(ids.long(), n_clusters, s)


def average_pool(
    grid: tuple[int, int], window: tuple[int, int], *, batch: int = 1, dtype: torch.dtype | None = None
) -> Transform:
    """The mean of each window of a grid of tokens in row-major order: P = kron of the stencils of rows and columns.

    Parameters
    ----------
    grid
        (H, W) of the tokens.
    window
        (h, w), which divides the grid.
    batch
        B.
    dtype
        Of the masses: float32 (None) or float64.

    Raises
    ------
    TypeError, ValueError
        If the sizes are no whole numbers from 1 on, or the window does not divide the grid.
    """
    height, width = _pair("grid", grid)
    h, w = _pair("window", window)
    if height % h or width % w:
        raise ArgumentError(
            f"window {h} x {w} does not divide the grid {height} x {width}; pad the grid or choose another."
        )
    batch = check_count("batch", batch, 1)
    if dtype not in (None, torch.float32, torch.float64):
        raise ArgumentTypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
    row, column = torch.arange(height).unsqueeze(-1) // h, torch.arange(width) // w
    targets = (row * (width // w) + column).reshape(1, -1).expand(batch, -1)
    s = torch.ones(batch, height * width, dtype=dtype or torch.float32)
    return Transform.from_targets(targets, (height // h) * (width // w), s)


@full_precision
def attention_pooling(
    logits: Float[Tensor, "batch outputs tokens"], *, mass: Float[Tensor, "batch tokens"] | None = None
) -> Transform:
    """Learned pooling (PatchMerger, TokenLearner, perceivers): each output is a softmax mean over the tokens.

    P is row-stochastic, not column-stochastic: masses are not conserved, and with masses W is the softmax of
    logits + log s.

    Parameters
    ----------
    logits
        (B, M, N): of the learned queries to the tokens.
    mass
        (B, N), None for ones. Padding gets no weight.

    Raises
    ------
    TypeError, ValueError
        If `logits` or `mass` are not as above.

    References
    ----------
    Renggli et al., "Learning to merge tokens in vision transformers", 2022; Ryoo et al., "TokenLearner", NeurIPS 2021.
    """
    check_floating("logits", logits, "(B, M, N)")
    s = masses(mass, logits[:, 0], logits.shape[2])
    padding = (s <= 0).unsqueeze(-2)
    values = logits.to(s.dtype).masked_fill(padding, torch.finfo(s.dtype).min)
    return Transform(values.softmax(-1).masked_fill(padding, 0), s)


def merged(match: Match, s: Float[Tensor, "batch tokens"]) -> Transform:
    """The transformation of a matching."""
    return Transform.from_targets(
        match.targets, match.centres.shape[1], s, centres=match.centres, nearest=match.targets
    )


def selected(
    centres: Int[Tensor, "batch outputs"],
    s: Float[Tensor, "batch tokens"],
    unit: Float[Tensor, "batch tokens channels"] | None = None,
) -> Transform:
    """The transformation that keeps some tokens and drops the others; `unit` features tell the nearest kept ones."""
    places = torch.arange(centres.shape[1], device=centres.device).expand_as(centres)
    targets = torch.full(s.shape, -1, dtype=torch.int64, device=s.device).scatter(1, centres, places)
    return Transform.from_targets(targets, centres.shape[1], s, centres=centres, features=unit, drops=True)


def check_margin(margin: float) -> None:
    """That PiToMe's margin is a finite number."""
    if not isinstance(margin, Real) or isinstance(margin, bool):
        raise ArgumentTypeError(f"margin must be a number, got {margin!r}.")
    if not math.isfinite(margin):
        raise ArgumentError(f"margin must be finite, got {margin}.")


def keep_first(scores: Float[Tensor, "batch tokens"], s: Tensor, protect: int) -> Float[Tensor, "batch tokens"]:
    """Scores with padding below all tokens, and the first `protect` tokens above all."""
    scores = scores.masked_fill(s <= 0, -math.inf)
    first = torch.arange(scores.shape[1], device=scores.device) < protect
    return scores.masked_fill(first, math.inf)


def _selection(scores: Tensor, M: int, s: Tensor, protect: int, unit: Tensor | None = None) -> Transform:
    return selected(select_centres(keep_first(scores, s, protect), M), s, unit)


def _pair(name: str, value: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ArgumentTypeError(f"{name} must be a pair (rows, columns), got {value!r}.")
    return check_count(name, value[0], 1), check_count(name, value[1], 1)
