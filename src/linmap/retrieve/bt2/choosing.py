"""Which map to take: each candidate is fitted to a part of the pairs, and looks for the old vectors of the others."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from linmap.errors import ArgumentError
from linmap.retrieve.bt2.frozen import EPOCHS, FittedMap, Objective, closed_form, trained
from linmap.retrieve.bt2.pairs import alignment_p_value, self_retrieval_ranks

Pairs = tuple[np.ndarray, np.ndarray]
Method = Literal["auto", "procrustes", "centred", "trained"]
CLOSED = ("procrustes", "centred")
OBJECTIVES: tuple[Objective, ...] = ("cosine and contrast", "contrast")  # cosine alone follows the mean of the vectors
FOLDS, LEAST_HELD_OUT, MOST_HELD_OUT = 5, 5, 2000
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Recipe:
    """How a map is fitted: in closed form, or trained by an objective from there."""

    n_extra: int
    C: float
    seed: int
    centred: bool = False
    objective: Objective | None = None
    epochs: int = EPOCHS

    @property
    def name(self) -> str:
        return CLOSED[self.centred] if self.objective is None else f"trained: {self.objective}"

    def fit(self, pairs: Pairs) -> FittedMap:
        if self.objective is None:
            return closed_form(*pairs, self.n_extra, self.C, self.centred)
        return trained(*pairs, self.n_extra, self.C, self.objective, self.seed, None, self.epochs, self.centred)[0]


@dataclass(frozen=True)
class Fold:
    """Pairs to fit, and pairs to choose by."""

    train: Pairs
    held_out: Pairs

    def reciprocal_ranks(self, fitted: FittedMap) -> Float[np.ndarray, " queries"]:
        """1 / rank of the own old vector of held-out items among the old vectors of all pairs."""
        X, Y = self.held_out
        return 1 / self_retrieval_ranks(fitted.compatible(X), Y, np.concatenate([self.train[1], Y]))


def split(pairs: Pairs, number: int, seed: int) -> list[Fold]:
    """Up to `number` folds with a fifth of the pairs held out in each, until 2000 are; none if they are too few."""
    X, Y = pairs
    count = min(len(X) // FOLDS, MOST_HELD_OUT)
    if count < LEAST_HELD_OUT:
        return []
    order = np.random.default_rng(seed).permutation(len(X))
    folds = []
    for start in range(0, min(number * count, MOST_HELD_OUT), count):
        held, rest = order[start : start + count], np.delete(order, np.s_[start : start + count])
        folds.append(Fold((X[rest], Y[rest]), (X[held], Y[held])))
    return folds


@dataclass(frozen=True)
class Candidate:
    """A recipe, and what it did for pairs that it was not fitted to."""

    recipe: Recipe
    X: Float[np.ndarray, "pairs d_new"]
    Y: Float[np.ndarray, "pairs d_old"]
    queries: Float[np.ndarray, "pairs d_old"]
    """What X was turned into."""
    reciprocal: Float[np.ndarray, " pairs"]
    """1 / rank of the own old vector."""

    @classmethod
    def of(cls, recipe: Recipe, folds: list[Fold]) -> Candidate:
        """A trained one finds its number of epochs on the way, in the only fold."""
        queries, reciprocal = [], []
        for fold in folds:
            if recipe.objective is None:
                fitted = recipe.fit(fold.train)
            else:
                fitted, epochs = trained(
                    *fold.train,
                    recipe.n_extra,
                    recipe.C,
                    recipe.objective,
                    recipe.seed,
                    lambda fitted, fold=fold: float(fold.reciprocal_ranks(fitted).mean()),
                    centred=recipe.centred,
                )
                recipe = replace(recipe, epochs=epochs)
            queries.append(fitted.compatible(fold.held_out[0]))
            reciprocal.append(fold.reciprocal_ranks(fitted))
        X, Y = (np.concatenate([fold.held_out[side] for fold in folds]) for side in (0, 1))
        return cls(recipe, X, Y, np.concatenate(queries), np.concatenate(reciprocal))

    def gain(self, other: Candidate) -> tuple[float, float]:
        """In mean reciprocal rank over `other`, and its standard error."""
        gain = self.reciprocal - other.reciprocal
        return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))

    def figures(self) -> dict[str, float]:
        ranks = 1 / self.reciprocal
        found = {"mrr": float(self.reciprocal.mean())} | {f"recall@{k}": float((ranks <= k).mean()) for k in (1, 10)}
        return found if self.recipe.objective is None else found | {"epochs": self.recipe.epochs}


def choose(
    pairs: Pairs, val: Pairs | None, method: Method, n_extra: int, C: float, seed: int
) -> tuple[Recipe, Candidate | None, dict[str, Any]]:
    """The recipe to fit all pairs by, what it did for pairs held out (None if there are too few), and the reasons.

    "auto" leaves Procrustes only for what is better by more than a standard error.

    Raises
    ------
    ValueError
        If the method is "auto" and the pairs look misaligned.
    """
    n, d_new = pairs[0].shape
    training = method == "trained" or (method == "auto" and n >= 4 * d_new)
    folds = split(pairs, 1 if training else FOLDS, seed) if val is None else [Fold(pairs, val)]
    plain = Recipe(n_extra, C, seed)
    if not folds:
        return _unseen(plain, method, n)
    candidates = {name: Candidate.of(replace(plain, centred=name == "centred"), folds) for name in CLOSED}
    p = _check_alignment(candidates["procrustes"], method, seed)
    chosen, reason = _better_closed(candidates, method)
    if training:
        further = [Candidate.of(replace(chosen.recipe, objective=objective), folds) for objective in OBJECTIVES]
        candidates |= {each.recipe.name: each for each in further}
        chosen, said = _better_trained(chosen, further, method)
        reason += said
    elif method == "auto":
        reason += f"; {n} pairs, fewer than 4 d_new = {4 * d_new}, are too few to try training"
    return chosen.recipe, chosen, {
        "held_out": len(chosen.X), "candidates": {name: each.figures() for name, each in candidates.items()},
        "chosen": chosen.recipe.name, "reason": reason, "alignment_p_value": p,
    }  # fmt: skip


def _unseen(plain: Recipe, method: Method, n: int) -> tuple[Recipe, None, dict[str, Any]]:
    """What is fitted where too few pairs are there to hold any out."""
    warnings.warn(
        f"{n} pairs are too few to hold any out: nothing tells how well the fit generalises, or whether the "
        "pairs belong together.",
        stacklevel=4,
    )
    recipe = replace(plain, centred=method == "centred", objective="contrast" if method == "trained" else None)
    return recipe, None, {"held_out": 0, "candidates": {}, "chosen": recipe.name, "reason": "too few pairs"}


def _better_closed(candidates: dict[str, Candidate], method: Method) -> tuple[Candidate, str]:
    """The closed form that was asked for, or that is better on held-out pairs, and why."""
    if method in CLOSED:
        return candidates[method], "asked for"
    gain, error = candidates["centred"].gain(candidates["procrustes"])
    reason = f"centring changes the held-out MRR by {gain:+.4f}, standard error {error:.4f}"
    return candidates["centred" if gain > error else "procrustes"], reason


def _better_trained(closed: Candidate, further: list[Candidate], method: Method) -> tuple[Candidate, str]:
    """The best trained map if it was asked for, or is better than the closed form that it began with, and why."""
    best = max(further, key=lambda candidate: candidate.reciprocal.mean())
    gain, error = best.gain(closed)
    reason = f"; training from there by {gain:+.4f}, standard error {error:.4f}"
    return best if method == "trained" or gain > error else closed, reason


def _check_alignment(candidate: Candidate, method: Method, seed: int) -> float:
    p = alignment_p_value(candidate.queries, candidate.Y, seed)
    if p > SIGNIFICANT:
        message = (
            f"pairs look misaligned: held-out partners are no more similar than shuffled ones (p = {p:.3f}). Row i "
            "of X_new and of Y_old must be the same item; ids=(ids_new, ids_old) pairs them by id."
        )
        if method == "auto":
            raise ArgumentError(message + " method='procrustes' fits them all the same.")
        warnings.warn(message, stacklevel=4)
    return p
