import json
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from linmap.errors import ArtifactError
from linmap.retrieve.bt2 import (
    Calibration,
    EmbeddingUpgrade,
    backfill_curve,
    calibrate,
    cross_retrieval,
    mixed_scores,
    nearest_rows,
    procrustes,
    search_mixed,
    verdict,
)
from linmap.retrieve.bt2.frozen import FittedMap, FrozenPair, closed_bases, closed_form, trained
from linmap.retrieve.bt2.pairs import unit
from typed import cloned


def views(n: int, d: int, d_old: int, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the same items by two models that see the same hidden cause."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=(n, 8))
    pair = (
        cause @ np.random.default_rng(seed + i + 1).normal(size=(8, k)) + noise * rng.normal(size=(n, k))
        for i, k in enumerate((d, d_old))
    )
    new, old = map(unit, pair)
    return new, old


def test_a_table_whose_columns_stand_in_another_order_is_refused() -> None:
    new, old = views(60, 6, 5)
    table = pd.DataFrame(new, columns=[f"e{i}" for i in range(6)])
    upgrade = EmbeddingUpgrade().fit(table, old)
    np.testing.assert_allclose(upgrade.transform_query(table), upgrade.transform_query(new), atol=1e-12)
    for use in (upgrade.transform_query, upgrade.transform):
        with pytest.raises(ValueError, match="same order as they were in fit"):
            use(table[table.columns[::-1]])
    upgrade.fit(new, old).transform(table[table.columns[::-1]])  # whose columns had no names in the fit


@given(st.sampled_from([(6, 6), (9, 5), (5, 9)]), st.integers(0, 1000), st.booleans())
def test_procrustes_is_the_optimum(sizes: tuple[int, int], seed: int, ill: bool) -> None:
    rng = np.random.default_rng(seed)
    X, Y = (rng.normal(size=(30, k)) for k in sizes)
    X = X * np.logspace(0, -6, sizes[0]) if ill else X
    Q, S = procrustes(X, Y)
    assert ((X @ Q) * Y).sum() == pytest.approx(S.sum())
    k = min(sizes)
    np.testing.assert_allclose((Q.T @ Q if sizes[1] == k else Q @ Q.T), np.eye(k), atol=1e-10)
    if sizes[0] == sizes[1]:
        np.testing.assert_allclose(Q, orthogonal_procrustes(X, Y)[0], atol=1e-6)
    other = np.linalg.qr(rng.normal(size=(max(sizes), k)))[0]
    assert ((X @ (other if sizes[1] == k else other.T)) * Y).sum() <= S.sum() + 1e-9


@pytest.mark.parametrize(("d", "d_old", "a"), [(12, 12, 0), (16, 6, 0), (16, 6, 3), (6, 10, 4), (6, 10, 6)])
def test_the_closed_form_loses_nothing_of_the_new_model(d: int, d_old: int, a: int) -> None:
    X, Y = views(100, d, d_old)
    upgrade = EmbeddingUpgrade(a, "procrustes", C=1.5).fit(X, Y)
    phi = upgrade.transform(X)
    assert phi.shape == (100, d + a)
    np.testing.assert_allclose(phi @ phi.T, 1.5**2 * X @ X.T, atol=1e-12)
    np.testing.assert_allclose(phi[:, :d_old], 1.5 * X @ procrustes(X, Y)[0], atol=1e-12)
    np.testing.assert_allclose(upgrade.transform_query(X), unit(phi[:, :d_old]), atol=1e-12)
    np.testing.assert_allclose(upgrade.transform(7 * X), phi, atol=1e-12)


@pytest.mark.parametrize(("d", "d_old", "a"), [(8, 8, 0), (12, 5, 2), (5, 9, 4)])
def test_centring_moves_the_queries_alone(d: int, d_old: int, a: int) -> None:
    X, Y = views(100, d, d_old)
    Y = unit(Y + 2 * np.eye(d_old)[0])
    upgrade = EmbeddingUpgrade(a, "centred", C=1.5).fit(X, Y)
    m_X, m_Y = X.mean(0), Y.mean(0)
    Q, _ = procrustes(X - m_X, Y - m_Y)
    np.testing.assert_allclose(upgrade.transform_query(X), unit((X - m_X) @ Q + m_Y), atol=1e-12)
    np.testing.assert_allclose(upgrade.transform_query(X), unit(X @ upgrade.query_matrix() + upgrade.query_offset()))
    phi = upgrade.transform(X)
    np.testing.assert_allclose(phi @ phi.T, 1.5**2 * X @ X.T, atol=1e-12)


def test_auto_centres_where_the_old_vectors_have_a_mean_of_their_own() -> None:
    X, Y = views(300, 100, 100, noise=0.5)
    rng = np.random.default_rng(0)
    far = unit(Y + rng.uniform(1, 5, size=(300, 1)) * unit(rng.normal(size=(1, 100))))
    centred, plain = EmbeddingUpgrade().fit(X, far), EmbeddingUpgrade().fit(X, Y)
    assert (centred.report_["chosen"], plain.report_["chosen"]) == ("centred", "procrustes")
    figures = centred.report_["candidates"]
    assert figures["centred"]["mrr"] > figures["procrustes"]["mrr"] + 0.05
    np.testing.assert_array_equal(plain.query_offset(), 0)


@pytest.mark.parametrize("centred", [False, True])
def test_training_starts_at_the_closed_form(centred: bool) -> None:
    X, Y = views(60, 7, 5)
    model = FrozenPair(X, Y, 0, 2.0, centred)
    start = closed_form(X, Y, 0, 2.0, centred)
    np.testing.assert_allclose(model.fitted().compatible(X), start.compatible(X), atol=1e-5)
    np.testing.assert_allclose(model(torch.from_numpy(X).float()).detach(), start.compatible(X), atol=1e-5)


@pytest.mark.parametrize(("d", "d_old", "a"), [(9, 6, 2), (6, 6, 6), (5, 8, 3)])
def test_closed_bases_leave_the_weakest_directions_to_the_added_part(d: int, d_old: int, a: int) -> None:
    X, Y = views(60, d, d_old)
    P, O = closed_bases(X, Y, a)
    for Q in (P, O):
        np.testing.assert_allclose(Q @ Q.T, np.eye(len(Q)), atol=1e-12)
    u = np.random.default_rng(0).normal(size=(60, a))
    phi_bc = np.concatenate([u, X @ P.T], 1)[:, :d_old] @ O.T
    strongest = np.linalg.svd(X.T @ Y, compute_uv=False)[: d_old - a]
    found = phi_bc.T @ Y - O[:, :a] @ u.T @ Y  # what P f gives: the sum of the strongest singular values
    assert np.trace(found) == pytest.approx(strongest.sum(), rel=1e-10)


def test_the_global_generators_are_free_for_others_while_it_trains() -> None:
    """Not only given back afterwards: other threads draw from them meanwhile."""
    rng = np.random.default_rng(0)
    X, Y = unit(rng.normal(size=(40, 6))), unit(rng.normal(size=(40, 4)))
    torch.manual_seed(7)
    before, seen = torch.get_rng_state(), []

    def score(_: FittedMap) -> float:
        seen.append(torch.equal(torch.get_rng_state(), before))
        return 0.0

    trained(X, Y, 2, 2.0, "contrast", seed=0, score=score, epochs=2)
    assert seen == [True, True]


def test_training_leaves_the_global_generators_alone() -> None:
    X, Y = views(40, 5, 5)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    first, _ = trained(X, Y, 2, 1.0, "contrast", seed=5, epochs=2)
    found = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(trained(X, Y, 2, 1.0, "contrast", seed=5, epochs=2)[0].A, first.A)


def test_of_a_rotated_model_cross_retrieval_is_self_retrieval() -> None:
    X, _ = views(80, 10, 4)
    R, labels, ids = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0], np.arange(80) % 5, np.arange(80)
    upgrade = EmbeddingUpgrade().fit(X, X @ R)
    np.testing.assert_allclose(upgrade.transform_query(X), X @ R, atol=1e-10)
    found = cross_retrieval(upgrade.transform_query(X), X @ R, labels, labels, ids, ids)
    expected = cross_retrieval(X, X, labels, labels, ids, ids)
    assert found.cmc == expected.cmc
    assert found.mAP == pytest.approx(expected.mAP, abs=1e-12)
    np.testing.assert_allclose(EmbeddingUpgrade().fit(X, X).query_matrix(), 2 * np.eye(10), atol=1e-10)


def test_training_does_not_pass_the_bound_and_stays_near_it() -> None:
    X, Y = views(200, 8, 8, noise=0.05)
    bound = procrustes(X, Y)[1].sum()
    fitted, _ = trained(X, Y, 0, 1.0, "cosine and contrast", seed=0, epochs=10)
    assert 0.99 * bound <= ((X @ fitted.A) * Y).sum() <= bound + 1e-6
    np.testing.assert_allclose(fitted.A.T @ fitted.A, np.eye(8), atol=1e-5)


def test_trained_dimensions_keep_the_length_and_learn_what_the_new_model_lacks() -> None:
    rng = np.random.default_rng(0)
    X = unit(rng.normal(size=(400, 6)))
    Y = unit(np.concatenate([X, 3 * np.abs(X) - 1.2], 1))  # half of it is no linear function of X
    upgrade = EmbeddingUpgrade(n_extra=8, random_state=0).fit(X, Y)
    assert upgrade.report_["chosen"].startswith("trained")
    np.testing.assert_allclose((upgrade.transform(X) ** 2).sum(1), 1 + 4, atol=1e-5)
    assert upgrade.transform(X).shape == (400, 14)
    candidates = upgrade.report_["candidates"]
    assert candidates[upgrade.report_["chosen"]]["mrr"] > candidates["procrustes"]["mrr"]
    with pytest.raises(ValueError, match="is not one matrix"):
        upgrade.query_matrix()


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_auto_is_never_below_procrustes_on_held_out_pairs(noise: float) -> None:
    X, Y = views(160, 10, 10, noise)
    report = EmbeddingUpgrade().fit(X[:120], Y[:120], val=(X[120:], Y[120:])).report_
    assert len(report["candidates"]) == 4
    assert report["held_out"] == 40
    assert report["candidates"][report["chosen"]]["mrr"] >= report["candidates"]["procrustes"]["mrr"]


def test_auto_is_the_closed_form_with_few_pairs() -> None:
    X, Y = views(30, 10, 6)
    upgrade = EmbeddingUpgrade().fit(X, Y)
    assert upgrade.report_["chosen"] == "procrustes"
    assert "fewer than 4 d_new = 40" in upgrade.report_["reason"]
    np.testing.assert_allclose(upgrade.query_matrix(), closed_form(X, Y, 0, 2.0).A)


@pytest.mark.parametrize("method", ["procrustes", "centred"])
def test_faiss_and_the_exported_matrix_find_the_same_rows(tmp_path: Path, method) -> None:
    X, Y = (part.astype(np.float32) for part in views(300, 12, 7))
    upgrade = EmbeddingUpgrade(method=method).fit(X[:40], Y[:40])
    flat = faiss.IndexFlatIP(7)
    flat.add(Y)
    faiss.write_index(faiss.IndexPreTransform(upgrade.faiss_transform(), flat), str(tmp_path / "index"))
    rows = faiss.read_index(str(tmp_path / "index")).search(X[:20], 10)[1]
    np.testing.assert_array_equal(rows, nearest_rows(upgrade.transform_query(X[:20]), Y, 10))
    np.testing.assert_array_equal(rows, nearest_rows(X[:20] @ upgrade.query_matrix() + upgrade.query_offset(), Y, 10))


@pytest.mark.parametrize(("n_extra", "method"), [(0, "auto"), (0, "centred"), (3, "trained")])
def test_what_is_saved_is_loaded(tmp_path: Path, n_extra: int, method) -> None:
    X, Y = views(120, 10, 6)
    upgrade = EmbeddingUpgrade(n_extra, method, new_model="e5", old_model="ada").fit(X, Y)
    upgrade.save(tmp_path)
    loaded = EmbeddingUpgrade.load(tmp_path, new_model="e5")
    for name in ("transform", "transform_query"):
        np.testing.assert_array_equal(getattr(loaded, name)(X), getattr(upgrade, name)(X))
    np.testing.assert_array_equal(loaded.predicted_similarity(Y), upgrade.predicted_similarity(Y))
    assert (loaded.calibration_, loaded.get_params()) == (upgrade.calibration_, upgrade.get_params())
    assert loaded.report_["chosen"] == upgrade.report_["chosen"]
    with pytest.raises(ArtifactError, match="fitted for the old model 'ada', not 'bert'"):
        EmbeddingUpgrade.load(tmp_path, old_model="bert")
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in (-1, n_extra + 1, 10**9):
        config["config"]["parameters"]["n_extra"] = wrong
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ArtifactError, match=r"n_extra|lacks 'W1'|A is float64 of the shape"):
            EmbeddingUpgrade.load(tmp_path)
    config["config"]["parameters"]["n_extra"] = n_extra
    config["config"]["sha256"] = "0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"not those that config\.json speaks of"):
        EmbeddingUpgrade.load(tmp_path)


def test_it_is_an_estimator() -> None:
    upgrade = EmbeddingUpgrade(n_extra=2, C=3.0)
    assert cloned(upgrade).get_params() == upgrade.get_params()
    assert upgrade.set_params(C=1.0).C == 1.0


def test_float16_and_integers_are_taken() -> None:
    X, Y = views(100, 6, 6)
    upgrade = EmbeddingUpgrade().fit(X.astype(np.float16), (unit(np.round(100 * Y))))
    assert upgrade.transform(X.astype(np.float16)).dtype == np.float32
    assert upgrade.transform(np.ones((2, 6), int)).dtype == np.float64
    batches = list(upgrade.transform_batches([X[:7], X[7:]]))
    np.testing.assert_allclose(np.concatenate(batches), upgrade.transform(X), atol=1e-14)


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_shuffled_pairs_are_refused_by_auto_and_warned_of_else() -> None:
    X, Y = views(200, 10, 6)
    shuffled = np.random.default_rng(5).permutation(200)
    with pytest.raises(ValueError, match="pairs look misaligned"):
        EmbeddingUpgrade().fit(X, Y[shuffled])
    with pytest.warns(UserWarning, match="pairs look misaligned"):
        EmbeddingUpgrade(method="procrustes").fit(X, Y[shuffled])
    assert EmbeddingUpgrade().fit(X, Y).report_["alignment_p_value"] == pytest.approx(0.005)


def test_pairs_are_joined_by_id() -> None:
    X, Y = views(60, 10, 6)
    order = np.random.default_rng(0).permutation(60)[:50]
    ids = [f"item {i}" for i in range(60)]
    joined = EmbeddingUpgrade().fit(X, Y[order], ids=(ids, [ids[i] for i in order]))
    kept = np.sort(order)
    np.testing.assert_allclose(joined.query_matrix(), EmbeddingUpgrade().fit(X[kept], Y[kept]).query_matrix())
    assert joined.report_["pairs"] == 50
    with pytest.raises(ValueError, match="'item 1' more than once"):
        EmbeddingUpgrade().fit(X, Y, ids=(["item 1", *ids[1:]], ids))
    with pytest.raises(ValueError, match="no id is on both sides"):
        EmbeddingUpgrade().fit(X, Y, ids=(ids, list(range(60))))
    with pytest.raises(ValueError, match="ids hold 60 and 3 values"):
        EmbeddingUpgrade().fit(X, Y, ids=(ids, ids[:3]))


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_vectors_are_named() -> None:
    X, Y = views(60, 10, 6)
    with pytest.raises(ValueError, match="X_new has 60 rows and Y_old 59"):
        EmbeddingUpgrade().fit(X, Y[:59])
    for value, message in ((np.nan, r"1 vectors are not finite \(rows 3\)"), (0.0, r"are all zero \(rows 3\)")):
        wrong = X.copy()
        wrong[3] = value
        with pytest.raises(ValueError, match=message):
            EmbeddingUpgrade().fit(wrong, Y)
    with pytest.raises(ValueError, match="must be a matrix of numbers"):
        EmbeddingUpgrade().fit(X[0], Y)
    with pytest.raises(ValueError, match="n_extra = 7 must lie"):
        EmbeddingUpgrade(7).fit(X, Y)
    with pytest.raises(ValueError, match="raise n_extra to at least 4"):
        EmbeddingUpgrade().fit(Y, X)
    with pytest.raises(ValueError, match="method must be"):
        EmbeddingUpgrade(method="magic").fit(X, Y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="C must be positive"):
        EmbeddingUpgrade(C=-1.0).fit(X, Y)
    with pytest.raises(ValueError, match="val holds 5 new and 4 old"):
        EmbeddingUpgrade().fit(X, Y, val=(X[:5], Y[:4]))
    with pytest.warns(UserWarning, match=r"lengths from 3 to 3, not 1"):
        EmbeddingUpgrade().fit(X, 3 * Y)
    upgrade = EmbeddingUpgrade(new_model="e5").fit(X, Y)
    with pytest.raises(ValueError, match="10 columns, the dimensions of the new model 'e5'"):
        upgrade.transform(Y)
    with pytest.raises(ValueError, match="row 2 is zero"):
        EmbeddingUpgrade().fit(X, Y).transform(np.eye(10)[[0, 1, 2]] * [[1], [1], [0]])


def test_too_few_pairs_are_warned_of_with_their_rank() -> None:
    X, Y = views(4, 10, 6, noise=1.0)
    with pytest.warns(UserWarning, match="pairs are") as caught:
        upgrade = EmbeddingUpgrade().fit(X, Y)
    messages = " ".join(str(warning.message) for warning in caught)
    assert "4 pairs are fewer than min(d_new, d_old) = 6: the map is determined in 4 directions" in messages
    assert "too few to hold any out" in messages
    np.testing.assert_allclose(upgrade.transform(X) @ upgrade.transform(X).T, 4 * X @ X.T, atol=1e-12)
    assert upgrade.report_["verdict"].startswith("Too few pairs")


# -- mixed galleries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", ["compatible", "calibrated"])
@pytest.mark.parametrize("order", ["random", "least similar first"])
def test_the_ends_of_the_backfill_curve_are_new_old_and_new_new(fuse, order) -> None:
    X, Y = views(120, 10, 6, noise=0.8)
    upgrade = EmbeddingUpgrade(2, "procrustes").fit(X[:40], Y[:40])
    seen = []
    curve = backfill_curve(
        upgrade, X[:9], X[9:], Y[9:], lambda rows: float(seen.append(rows) or len(seen)), (0.0, 0.5, 1.0), order, fuse
    )
    np.testing.assert_array_equal(seen[0], nearest_rows(upgrade.transform_query(X[:9]), Y[9:], 111))
    np.testing.assert_array_equal(seen[-1], nearest_rows(X[:9], X[9:], 111))
    assert (curve.fractions, curve.values) == ([0.0, 0.5, 1.0], [1.0, 2.0, 3.0])
    assert (curve.fraction_for(0.0), curve.fraction_for(0.5), curve.fraction_for(1.0)) == (0.0, 0.5, 1.0)


@pytest.mark.usefixtures("annotations_unchecked")
def test_mixed_scores_are_cosines_in_the_old_space_or_log_odds() -> None:
    X, Y = views(30, 10, 6)
    upgrade = EmbeddingUpgrade().fit(X, Y)
    phi, upgraded = upgrade.transform(X), np.arange(30) % 3 == 0
    query = upgrade.transform_query(X)
    rows = np.where(upgraded[:, None], query, Y)
    np.testing.assert_allclose(mixed_scores(phi, Y, phi, upgraded), query @ rows.T, atol=1e-12)
    found = mixed_scores(phi, Y, phi, upgraded, "calibrated", Calibration((0.1, 2.0), (0.3, 4.0)))
    np.testing.assert_allclose(found[:, ~upgraded], 0.1 * query @ Y[~upgraded].T + 2, atol=1e-12)
    np.testing.assert_allclose(found[:, upgraded], 0.3 * X @ X[upgraded].T + 4, atol=1e-12)
    offset = np.ones(6)
    moved = unit(phi[:, :6] + offset)
    expected = moved @ np.where(upgraded[:, None], moved, Y).T
    np.testing.assert_allclose(mixed_scores(phi, Y, phi, upgraded, offset=offset), expected, atol=1e-12)
    best, scores = search_mixed(phi, Y, phi, upgraded, k=3)
    np.testing.assert_allclose(scores, -np.sort(-(query @ rows.T), axis=1)[:, :3], atol=1e-12)
    assert best.shape == (30, 3)
    with pytest.raises(ValueError, match="needs a calibration"):
        mixed_scores(phi, Y, phi, upgraded, "calibrated")
    with pytest.raises(ValueError, match="one width"):
        mixed_scores(Y, Y, phi, upgraded)


def test_a_calibration_says_how_often_a_score_is_that_of_a_neighbour() -> None:
    X, Y = views(400, 10, 6, noise=0.6)
    queries = EmbeddingUpgrade(method="procrustes").fit(X[:200], Y[:200]).transform_query(X[200:])
    X, Y = X[200:], Y[200:]
    found = calibrate(queries, X, Y)
    scores = X @ X.T - 9 * np.eye(200)
    neighbours = scores >= -np.sort(-scores, 1)[:, 9:10]
    for (slope, intercept), cosines in ((found.old, queries @ Y.T), (found.new, X @ X.T)):
        others = ~np.eye(200, dtype=bool)
        odds = 1 / (1 + np.exp(-(slope * cosines[others] + intercept)))
        assert odds.mean() == pytest.approx(neighbours[others].mean(), rel=0.01)
        assert odds[neighbours[others]].mean() > 3 * odds[~neighbours[others]].mean()
    order = np.random.default_rng(0).permutation(200)
    shuffled = calibrate(queries[order], X[order], Y[order])
    np.testing.assert_allclose((found.old, found.new), (shuffled.old, shuffled.new), rtol=1e-3)
    flat = calibrate(queries, X, -queries)
    assert flat.old[0] > 0


def test_scores_in_log_odds_keep_a_small_backfill_from_losing() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(30, size=900)
    cause = rng.normal(size=(30, 12))[classes] + 0.7 * rng.normal(size=(900, 12))
    X, Y = (
        unit(cause @ rng.normal(size=(12, d)) + noise * rng.normal(size=(900, d)))
        for d, noise in ((24, 0.5), (16, 3.0))
    )
    upgrade = EmbeddingUpgrade(method="procrustes").fit(X[:300], Y[:300])

    def precision(rows: np.ndarray) -> float:
        return float((classes[400:][rows[:, :10]] == classes[300:400, None]).mean())

    curves = {
        fuse: backfill_curve(upgrade, X[300:400], X[400:], Y[400:], precision, (0.0, 0.1, 0.3, 1.0), fuse=fuse).values
        for fuse in ("compatible", "calibrated")
    }
    assert curves["compatible"][1] < curves["compatible"][0] - 0.01
    assert curves["calibrated"] == sorted(curves["calibrated"])


def test_predicted_similarity_tells_which_items_the_old_vectors_serve_worst() -> None:
    X, Y = views(400, 10, 6, noise=0.2)
    rng = np.random.default_rng(0)
    bad = rng.random(400) < 0.3
    Y[bad] = unit(0.4 * Y[bad] + unit(rng.normal(size=(bad.sum(), 6))) * 0.3 + np.eye(6)[0])
    upgrade = EmbeddingUpgrade(method="procrustes").fit(X[:200], Y[:200])
    predicted = upgrade.predicted_similarity(Y[200:])
    actual = (upgrade.transform_query(X[200:]) * Y[200:]).sum(1)
    assert np.corrcoef(predicted, actual)[0, 1] > 0.3


def test_the_verdict_weighs_the_three_figures() -> None:
    assert verdict(0.4, 0.3, 0.35).startswith("Do not upgrade")
    assert verdict(0.3, 0.2, 0.4).startswith("Upgrade only with a backfill")
    assert verdict(0.3, 0.31, 0.4).startswith("Safe to switch today")
    assert verdict(0.3, 0.38, 0.4).startswith("Worth it without a backfill: switching the queries alone brings 80%")
