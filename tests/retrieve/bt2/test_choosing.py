from dataclasses import replace

import numpy as np
import pytest

from linmap.retrieve.bt2 import EmbeddingUpgrade, backfill_curve, choosing, search_mixed
from linmap.retrieve.bt2.choosing import Candidate, Fold, Recipe, choose, split
from linmap.retrieve.bt2.frozen import PATIENCE, closed_form, trained
from linmap.retrieve.bt2.pairs import unit


def pairs(n: int, d: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, and a rotation of them with noise."""
    rng = np.random.default_rng(seed)
    X = unit(rng.normal(size=(n, d)))
    R = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return X, unit(X @ R + noise * rng.normal(size=(n, d)) / np.sqrt(d))


def test_held_out_items_are_sought_among_all_pairs() -> None:
    X, Y = pairs(40, 6, 0.0)
    fitted = closed_form(X, Y, 0, 1.0)
    assert Fold((X[:30], Y[:30]), (X[30:], Y[30:])).reciprocal_ranks(fitted) == pytest.approx(np.ones(10))
    # the nearest old vector is in the training part: every held-out item is found second at best
    nearer = fitted.compatible(X[30:])
    blurred = unit(Y[30:] + 0.3 * np.roll(Y[30:], 1, axis=1))
    ranks = Fold((X[:10], nearer), (X[30:], blurred)).reciprocal_ranks(fitted)
    assert (ranks <= 0.5).all()


def test_folds_share_no_item_and_hold_each_out_at_most_once() -> None:
    X, Y = pairs(53, 4, 0.1)
    folds = split((X, Y), 5, seed=3)
    held = np.concatenate([fold.held_out[0] for fold in folds])
    assert len(np.unique(held, axis=0)) == len(held) == 50
    for fold in folds:
        assert len(fold.train[0]) + len(fold.held_out[0]) == 53
        assert not (fold.train[0][:, None] == fold.held_out[0]).all(-1).any()


def test_training_keeps_the_best_epoch_and_stops_when_none_is_better() -> None:
    X, Y = pairs(60, 6, 0.5)
    seen = []

    def score(fitted) -> float:
        seen.append(fitted)
        return float(len(seen) == 2)  # the second epoch is the best one

    best, epochs = trained(X, Y, 0, 1.0, "contrast", 0, score)
    assert (epochs, len(seen)) == (2, 2 + PATIENCE)
    np.testing.assert_array_equal(best.A, seen[1].A)


def scripted(monkeypatch, **reciprocal: np.ndarray) -> None:
    """Every candidate gets the reciprocal ranks that are listed under its name."""
    X, Y = pairs(50, 5, 0.2)

    def of(recipe: Recipe, folds: list[Fold]) -> Candidate:
        ranks = reciprocal[recipe.name.replace("trained: ", "").replace(" ", "_")]
        if recipe.objective is not None:
            recipe = replace(recipe, epochs=3)
        return Candidate(recipe, X, Y, closed_form(X, Y, 0, 1.0).compatible(X), ranks)

    monkeypatch.setattr(choosing.Candidate, "of", of)


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ((0.05, 0.3, 0.1), "trained: cosine and contrast"),
        ((0.05, 0.1, 0.3), "trained: contrast"),
        ((0.05, 0.051, 0.052), "centred"),  # training gains less than a standard error
        ((0.001, 0.0, 0.0), "procrustes"),  # so does centring
        ((-0.1, -0.2, -0.2), "procrustes"),
    ],
)
def test_auto_leaves_procrustes_for_more_than_a_standard_error(monkeypatch, gains, chosen) -> None:
    rng = np.random.default_rng(0)
    base = np.full(50, 0.5)
    noise = 0.05 * rng.normal(size=(3, 50))
    noise -= noise.mean(1, keepdims=True)
    centred, both, contrast = base + np.array(gains)[:, None] + noise
    scripted(monkeypatch, procrustes=base, centred=centred, cosine_and_contrast=both, contrast=contrast)
    recipe, candidate, report = choose(pairs(50, 5, 0.2), None, "auto", 0, 1.0, 0)
    assert recipe.name == report["chosen"] == chosen
    assert candidate is not None
    assert candidate.recipe == recipe


def test_least_similar_first_embeds_again_what_new_queries_meet_worst() -> None:
    X, Y = pairs(200, 8, 0.1)
    rng = np.random.default_rng(1)
    bad = rng.permutation(200)[:20]
    Y[bad] = unit(rng.normal(size=(20, 8)))
    upgrade = EmbeddingUpgrade(method="procrustes").fit(X, Y)
    similarity = upgrade.predicted_similarity(Y)
    first = np.argsort(similarity)[:20]
    scores = []

    def metric(found: np.ndarray) -> float:
        scores.append(found)
        return 0.0

    backfill_curve(upgrade, X[:5], X, Y, metric, (0.0, 0.1, 1.0), "least similar first", fuse="compatible")
    upgraded = np.zeros(200, bool)
    upgraded[first] = True
    expected, _ = search_mixed(upgrade.transform(X[:5]), Y, upgrade.transform(X), upgraded, 200)
    np.testing.assert_array_equal(scores[1], expected)
