import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from linmap.retrieve.bt2 import cross_retrieval, evaluation, nearest_rows, text_scores


def brute_force(q, g, q_labels, g_labels, q_ids=None, g_ids=None, topk=(1, 5)):
    k, cmc, ap, ndcg = min(q.shape[1], g.shape[1]), {k: [] for k in topk}, [], []
    for i in range(len(q)):
        kept = [j for j in range(len(g)) if q_ids is None or g_ids is None or g_ids[j] != q_ids[i]]
        scores = np.array([q[i, :k] @ g[j, :k] for j in kept])
        relevant = np.array([q_labels[i] == g_labels[j] for j in kept])
        if not relevant.any():
            continue
        order = sorted(range(len(kept)), key=lambda j: -scores[j])
        for top in topk:
            cmc[top].append(relevant[order[:top]].any())
        ap.append(average_precision_score(relevant, scores))
        ndcg.append(ndcg_score(relevant[None].astype(float), scores[None]))
    return {top: np.mean(hits) for top, hits in cmc.items()}, np.mean(ap), np.mean(ndcg), len(ap)


def draw(seed: int, n: int, m: int, dims=(6, 4)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dims[0])), rng.normal(size=(m, dims[1])), rng.integers(0, 4, n), rng.integers(0, 5, m)


@given(st.integers(0, 1000), st.booleans())
def test_scores_are_those_of_brute_force_on_disjoint_and_overlapping_sets(seed: int, with_ids: bool) -> None:
    q, g, q_labels, g_labels = draw(seed, 9, 14)
    ids = (np.arange(9), np.arange(14) + 5) if with_ids else (None, None)
    found = cross_retrieval(q, g, q_labels, g_labels, *ids)
    cmc, mAP, ndcg, valid = brute_force(q, g, q_labels, g_labels, *ids)
    assert (found.cmc, found.n_queries) == (pytest.approx(cmc), valid)
    assert found.mAP == pytest.approx(mAP, abs=1e-12)
    assert found.nDCG == pytest.approx(ndcg, abs=1e-12)


def test_the_item_itself_is_left_out_by_id_wherever_it_stands() -> None:
    q, _, labels, _ = draw(3, 20, 1)
    ids, order = np.array([f"item {i}" for i in range(20)]), np.random.default_rng(0).permutation(20)
    found = cross_retrieval(q, q[order], labels, labels[order], ids, ids[order])
    assert found == cross_retrieval(torch.from_numpy(q), torch.from_numpy(q), labels, labels, ids, ids)
    cmc, mAP, *_ = brute_force(q, q, labels, labels, ids, ids)
    assert found.mAP == pytest.approx(mAP)
    assert found.cmc == pytest.approx(cmc)


def test_average_precision_counts_equal_scores_together() -> None:
    rng = np.random.default_rng(0)
    q, g = rng.integers(-1, 2, (12, 3)), rng.integers(-1, 2, (30, 3))
    q_labels, g_labels = rng.integers(0, 3, 12), rng.integers(0, 3, 30)
    order = rng.permutation(30)
    found = cross_retrieval(q, g, q_labels, g_labels)
    assert found.mAP == pytest.approx(brute_force(q, g, q_labels, g_labels)[1], abs=1e-12)
    assert found.mAP == pytest.approx(cross_retrieval(q, g[order], q_labels, g_labels[order]).mAP, abs=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, g, q_labels, g_labels = draw(1, 11, 13)
    whole, nearest = cross_retrieval(q, g, q_labels, g_labels), nearest_rows(q, g, 5)
    monkeypatch.setattr(evaluation, "BLOCK", 30)
    assert cross_retrieval(q, g, q_labels, g_labels) == whole
    np.testing.assert_array_equal(nearest_rows(q, g, 5), nearest)


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_input_is_named() -> None:
    q, g, q_labels, g_labels = draw(1, 5, 6)
    with pytest.raises(ValueError, match="go together"):
        cross_retrieval(q, g, q_labels, g_labels, q_ids=np.arange(5))
    with pytest.raises(ValueError, match="q_labels and g_labels must hold one value a row"):
        cross_retrieval(q, g, q_labels[:3], g_labels)
    with pytest.raises(ValueError, match="row 2 is not finite"):
        cross_retrieval(np.where(np.arange(5)[:, None] == 2, np.nan, q), g, q_labels, g_labels)
    with pytest.raises(ValueError, match="no query has an item of its class"):
        cross_retrieval(q, g, q_labels, g_labels + 10)
    with pytest.raises(ValueError, match="must be a matrix"):
        cross_retrieval(q[0], g, q_labels, g_labels)


def test_text_scores_of_known_rankings() -> None:
    qrels = {"a": {1: 1.0, 2: 1.0, 3: 0.0}, "b": {9: 1.0}, "c": {5: 0.0}}
    ranked = np.array([[3, 1, 4, 2], [1, 2, 3, 4], [1, 2, 3, 4]])
    found = text_scores(ranked, ["a", "b", "c"], qrels)
    ideal = 1 + 1 / np.log2(3)
    assert found.ndcg_10 == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal / 2)
    assert (found.recall_100, found.mrr_10) == (0.5, 0.25)
    graded = {"a": {1: 3.0, 2: 1.0, 4: 2.0}}
    scores = np.array([[0.0, 3.0, 2.0, 4.0, 1.0]])  # of the documents 0 ... 4
    expected = ndcg_score(np.array([[0.0, 3.0, 1.0, 0.0, 2.0]]), scores, k=10)
    ranked = np.argsort(-scores, axis=1)
    assert text_scores(ranked, ["a"], graded).ndcg_10 == pytest.approx(expected)
    with pytest.raises(ValueError, match="no query has a relevant document"):
        text_scores(ranked, ["c"], qrels)
    with pytest.raises(ValueError, match="1 rows for 2"):
        text_scores(ranked, ["a", "b"], qrels)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("k", [0, -1, True, 1.5])
def test_only_whole_numbers_from_one_on_count_items(k) -> None:
    x = np.eye(3)
    with pytest.raises(ValueError, match="topk must hold whole numbers from 1, got"):
        cross_retrieval(x, x, [0, 1, 2], [0, 1, 2], topk=(1, k))
    with pytest.raises(ValueError, match="k must be at least 1"):
        nearest_rows(x, x, 0)
