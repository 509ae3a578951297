from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linmap.errors import DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes.bt2.apply import apply
from linmap.recipes.bt2.compare import AUTO, CENTRED, FULL, OLD, PROCRUSTES, RAW, TRUNCATED, compare
from linmap.recipes.bt2.fit import BANKING, fit, read_pairs
from linmap.recipes.bt2.flags import Apply, Compare, Fit
from linmap.recipes.job import CompareJob, FitJob, FittedJob
from linmap.retrieve.bt2 import EmbeddingUpgrade, Gallery
from linmap.retrieve.bt2.files import Output
from linmap.retrieve.bt2.gallery import NDCG


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    with np.load(BANKING) as arrays:
        np.save(tmp_path / "new.npy", arrays["new"][:200, :40])
        np.save(tmp_path / "old.npy", arrays["new"][:200, 20:50])
    return tmp_path / "new.npy", tmp_path / "old.npy"


@pytest.mark.filterwarnings("ignore:Y_old")
def test_what_is_fitted_to_files_is_applied_to_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    new, old = files
    summary = fit(Fit(new=new, old=old, new_model="e5"), FitJob(out=tmp_path / "run"))
    assert (summary["pairs"], summary["d_new"], summary["d_old"], summary["width"]) == (200, 40, 30, 40)
    upgrade = EmbeddingUpgrade().fit(np.load(new), np.load(old))
    ways: list[tuple[Output, Any]] = [("gallery", upgrade.transform), ("query", upgrade.transform_query)]
    for output, function in ways:
        out = tmp_path / f"{output}.npy"
        found = apply(Apply(output=output), FittedJob(new, out, artifact=tmp_path / "run"))
        assert (found["vectors"], found["dtype"]) == (200, "float32")
        np.testing.assert_allclose(np.load(out), function(np.load(new)), atol=1e-6)


def test_without_files_the_embedded_vectors_are_taken(tmp_path: Path) -> None:
    summary = fit(Fit(), FitJob(out=tmp_path))
    assert (summary["pairs"], summary["d_new"], summary["d_old"]) == (700, 384, 128)
    assert apply(Apply(), FittedJob(artifact=tmp_path))["dim"] == 384
    assert np.load(tmp_path / "gallery.npy").shape == (1500, 384)


def test_wrong_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    new, _ = files
    with pytest.raises(UsageError, match="--new and --old go together"):
        fit(Fit(new=new), FitJob(out=tmp_path / "run"))
    with pytest.raises(DataError, match="there is no such file"):
        fit(Fit(new=new, old=tmp_path / "none.npy"), FitJob(out=tmp_path / "run"))
    (tmp_path / "text.npy").write_text("no vectors")
    with pytest.raises(DataError, match=r"no array that numpy.save wrote"):
        fit(Fit(new=new, old=tmp_path / "text.npy"), FitJob(out=tmp_path / "run"))
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(DataError, match=r"of the shape \(3,\); expected one matrix"):
        fit(Fit(new=new, old=tmp_path / "flat.npy"), FitJob(out=tmp_path / "run"))
    fit(Fit(), FitJob(out=tmp_path / "run"))
    with pytest.raises(DataError, match="384 columns"):
        apply(Apply(), FittedJob(new, tmp_path / "out.npy", artifact=tmp_path / "run"))
    with pytest.raises(UsageError, match=r"written as \.npy or \.parquet"):
        apply(Apply(), FittedJob(None, tmp_path / "out.csv", artifact=tmp_path / "run"))


def test_pairs_that_do_not_fit_are_spoken_of_as_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    new, _ = files
    np.save(tmp_path / "fewer.npy", np.load(new)[:-1])
    with pytest.raises(DataError, match=r"^--new has .* and --old .* bring both files into one order"):
        fit(Fit(new=tmp_path / "fewer.npy", old=new), FitJob(out=tmp_path / "run"))
    np.save(tmp_path / "longer.npy", 2 * np.load(new))
    with pytest.warns(UserWarning, match="^--old: the vectors have lengths"):
        fit(Fit(new=new, old=tmp_path / "longer.npy"), FitJob(out=tmp_path / "run"))


# -- comparisons -------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # on files of the test, below, the same in a second
def test_compare_measures_every_way_on_the_same_queries(tmp_path: Path) -> None:
    result = compare(Compare(folds=2, calibration=300), CompareJob(out=tmp_path))
    result.save(tmp_path)
    rows = {row.name: row for row in Result.load(tmp_path).rows}
    assert all(len(values) == 2 for row in rows.values() for values in row.values.values())
    gallery = Gallery.of(read_pairs(None, None, None), "banking77")
    old = [fold.scores(gallery.old[fold.queries], gallery.old)[NDCG] for fold in gallery.folds(2, 300, 0)]
    assert rows[OLD].values[NDCG] == pytest.approx(old)
    assert rows[FULL].mean(NDCG) == pytest.approx(rows[RAW].mean(NDCG), abs=1e-9)
    assert rows[AUTO].values[NDCG] == pytest.approx(rows[CENTRED].values[NDCG])
    assert rows[AUTO].mean(NDCG) > rows[PROCRUSTES].mean(NDCG) + 0.05
    assert rows[AUTO].mean(NDCG) > rows[OLD].mean(NDCG) + 0.05
    assert all(check.passed for check in result.checks)
    assert (tmp_path / "ways.svg").read_text().startswith("<?xml")
    assert "Safe" in result.shows or "Worth" in result.shows
    assert result.verdict.startswith("Take BT² auto")


def rotated(n: int = 120, noise: float = 0.2) -> dict[str, Any]:
    """New vectors, and a rotation of them with noise."""
    rng = np.random.default_rng(0)
    new = rng.normal(size=(n, 12))
    old = new @ np.linalg.qr(rng.normal(size=(12, 12)))[0][:, :8] + noise * rng.normal(size=(n, 8))
    return {"new": new, "old": old}


SMALL = Compare(folds=3, calibration=60)


def compared(tmp_path: Path, resume: bool = False, settings: Compare = SMALL, **arrays: Any) -> Result:
    np.savez(tmp_path / "pairs.npz", **arrays)
    return compare(settings, CompareJob(data=tmp_path / "pairs.npz", out=tmp_path / "out", resume=resume))


def test_pairs_of_the_user_without_judgements_find_their_own_partners(tmp_path: Path) -> None:
    result = compared(tmp_path, **rotated())
    rows = {row.name: row for row in result.rows}
    assert rows[PROCRUSTES].mean(NDCG) > 0.8 > 0.2 > rows[TRUNCATED].mean(NDCG)
    assert OLD not in rows
    assert "its own old vector" in result.task
    assert "Nobody has judged" in result.limits
    by_files = Compare(new=tmp_path / "new.npy", old=tmp_path / "old.npy", folds=3, calibration=60)
    for name, values in rotated().items():
        np.save(tmp_path / f"{name}.npy", values)
    again = compare(by_files, CompareJob(out=tmp_path / "again"))
    assert [row.values for row in again.rows] == [row.values for row in result.rows]


@pytest.mark.parametrize("texts", [pytest.param(False, marks=pytest.mark.slow), True])
def test_items_of_a_class_answer_each_other_and_never_themselves(tmp_path: Path, texts: bool) -> None:
    arrays = rotated() | {"label": np.arange(120) % 60}
    arrays["new"][60:] = arrays["new"][:60] + 0.1  # each item is nearly its only other of the class
    arrays["old"][60:] = arrays["old"][:60] + 0.1
    result = compared(tmp_path, **{**arrays, "label": arrays["label"].astype(str) if texts else arrays["label"]})
    rows = {row.name: row for row in result.rows}
    assert rows[RAW].mean(NDCG) == pytest.approx(1)
    assert rows[OLD].mean(NDCG) == pytest.approx(1)
    assert rows[AUTO].mean(NDCG) > 0.5


def test_judged_queries_are_searched_among_all_items(tmp_path: Path) -> None:
    arrays = rotated()
    items = np.arange(0, 120, 4)
    qrels = np.stack([np.arange(30), items], 1)
    queries = {"queries_new": arrays["new"][items], "queries_old": arrays["old"][items]}
    result = compared(tmp_path, **arrays, **queries, qrels=qrels)
    rows = {row.name: row for row in result.rows}
    assert rows[OLD].mean(NDCG) == rows[RAW].mean(NDCG) == 1  # a query is its answer
    assert "30 queries in 3 folds, 120 items" in result.task
    graded = np.concatenate([np.c_[qrels, np.ones(30)], np.c_[qrels[:, 0], (items + 1) % 120, np.zeros(30)]])
    assert compared(tmp_path, **arrays, **queries, qrels=graded).rows[0].values == result.rows[0].values


@pytest.mark.slow  # tests/experiment has it for every comparison
def test_finished_runs_are_kept_and_a_changed_file_is_measured_again(tmp_path: Path) -> None:
    first = compared(tmp_path, **rotated())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("*.json")}
    assert len(kept) == 3 * len(first.rows)
    second = compared(tmp_path, True, **rotated())
    assert (second.rows, second.shows, second.verdict) == (first.rows, first.shows, first.verdict)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("*.json")} == kept
    third = compared(tmp_path, True, **rotated(noise=0.5))
    assert third.rows[0].values != first.rows[0].values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": np.ones((119, 8))}, r"new has 120 rows and old 119"),
        ({"new": np.zeros((120, 12))}, r"new: 120 vectors are all zero"),
        ({"label": np.arange(7)}, r"label must have one class for each of the 120 pairs"),
        ({"label": np.arange(120)}, r"fewer queries with an answer than the 3 folds"),
        ({"queries_new": np.ones((5, 12))}, r"queries_new, queries_old and qrels go together"),
        ({"queries_new": np.ones((5, 12)), "queries_old": np.ones((5, 9)), "qrels": np.ones((1, 2))}, "the columns of"),
        ({"queries_new": np.ones((5, 12)), "queries_old": np.ones((5, 8)), "qrels": np.ones((1, 4))}, "must have the"),
        (
            {"queries_new": np.ones((5, 12)), "queries_old": np.ones((5, 8)), "qrels": np.array([[0, 3], [4, 120]])},
            "row 1 of qrels names query 4 and item 120; there are 5 queries and 120 items",
        ),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compared(tmp_path, **rotated() | change)


def test_compare_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="39 pairs are too few"):
        compared(tmp_path, **rotated(39))
    with pytest.raises(UsageError, match="--folds must be at least 2"):
        compared(tmp_path, settings=Compare(folds=1), **rotated())
    with pytest.raises(UsageError, match="--new and --old go together"):
        compare(Compare(new=tmp_path / "a.npy"), CompareJob(out=tmp_path))
    arrays = rotated()
    with pytest.raises(DataError, match="pairs look misaligned"):
        compared(tmp_path, **arrays | {"old": arrays["old"][::-1]})
