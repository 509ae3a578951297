from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linmap.errors import DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes.bt2 import PRESETS, ApplySettings, Settings, apply, compare, fit
from linmap.recipes.bt2.files import BANKING
from linmap.recipes.bt2.texts import AUTO, CENTRED, FULL, NDCG, OLD, PROCRUSTES, RAW, banking
from linmap.recipes.job import ApplyJob, CompareJob, FitJob
from linmap.retrieve.bt2 import EmbeddingUpgrade, nearest_rows


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    with np.load(BANKING) as arrays:
        np.save(tmp_path / "new.npy", arrays["new"][:200, :40])
        np.save(tmp_path / "old.npy", arrays["new"][:200, 20:50])
    return tmp_path / "new.npy", tmp_path / "old.npy"


@pytest.mark.filterwarnings("ignore:Y_old")
def test_what_is_fitted_to_files_is_applied_to_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    new, old = files
    summary = fit(Settings(new, old, new_model="e5"), FitJob(out=tmp_path / "run"))
    assert (summary["pairs"], summary["d_new"], summary["d_old"], summary["width"]) == (200, 40, 30, 40)
    upgrade = EmbeddingUpgrade().fit(np.load(new), np.load(old))
    for output, function in (("gallery", upgrade.transform), ("query", upgrade.transform_query)):
        out = tmp_path / f"{output}.npy"
        found = apply(ApplySettings(output), ApplyJob(tmp_path / "run", new, out))
        assert (found["vectors"], found["dtype"]) == (200, "float32")
        np.testing.assert_allclose(np.load(out), function(np.load(new)), atol=1e-6)


def test_without_files_the_embedded_vectors_are_taken(tmp_path: Path) -> None:
    summary = fit(Settings(), FitJob(out=tmp_path))
    assert (summary["pairs"], summary["d_new"], summary["d_old"]) == (700, 384, 128)
    assert apply(ApplySettings(), ApplyJob(tmp_path))["dim"] == 384
    assert np.load(tmp_path / "gallery.npy").shape == (1500, 384)


def test_wrong_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    new, _ = files
    with pytest.raises(UsageError, match="--new and --old go together"):
        fit(Settings(new=new), FitJob(out=tmp_path / "run"))
    with pytest.raises(DataError, match="there is no such file"):
        fit(Settings(new, tmp_path / "none.npy"), FitJob(out=tmp_path / "run"))
    (tmp_path / "text.npy").write_text("no vectors")
    with pytest.raises(DataError, match=r"this is not a \.npy file"):
        fit(Settings(new, tmp_path / "text.npy"), FitJob(out=tmp_path / "run"))
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(DataError, match="must hold one matrix"):
        fit(Settings(new, tmp_path / "flat.npy"), FitJob(out=tmp_path / "run"))
    with pytest.raises(UsageError, match="needs a fitted run"):
        apply(ApplySettings(), ApplyJob())
    fit(Settings(), FitJob(out=tmp_path / "run"))
    with pytest.raises(DataError, match="384 columns"):
        apply(ApplySettings(), ApplyJob(tmp_path / "run", new, tmp_path / "out.npy"))
    with pytest.raises(UsageError, match=r"written as \.npy or \.parquet"):
        apply(ApplySettings(), ApplyJob(tmp_path / "run", None, tmp_path / "out.csv"))


def test_pairs_that_do_not_fit_are_spoken_of_as_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    new, _ = files
    np.save(tmp_path / "fewer.npy", np.load(new)[:-1])
    with pytest.raises(DataError, match=r"^--new has .* and --old .* bring both files into one order"):
        fit(Settings(tmp_path / "fewer.npy", new), FitJob(out=tmp_path / "run"))
    np.save(tmp_path / "longer.npy", 2 * np.load(new))
    with pytest.warns(UserWarning, match="^--old: the vectors have lengths"):
        fit(Settings(new, tmp_path / "longer.npy"), FitJob(out=tmp_path / "run"))


def test_compare_measures_every_way_on_the_same_queries(tmp_path: Path) -> None:
    settings = replace(PRESETS["quick"], draws=2, image_seeds=1, image_epochs=1)
    result = compare(settings, CompareJob(out=tmp_path))
    result.save(tmp_path)
    rows = {row.name: row for row in Result.load(tmp_path).rows}
    texts = banking()
    old = texts.scores(nearest_rows(texts.queries_old, texts.gallery_old))
    assert rows[OLD].values[NDCG] == pytest.approx([old[NDCG]] * 2)
    assert rows[FULL].mean(NDCG) == pytest.approx(rows[RAW].mean(NDCG), abs=1e-9)
    assert rows[AUTO].values[NDCG] == pytest.approx(rows[CENTRED].values[NDCG])
    assert rows[AUTO].mean(NDCG) > rows[PROCRUSTES].mean(NDCG) + 0.05
    assert rows[AUTO].mean(NDCG) > rows[OLD].mean(NDCG) + 0.05
    assert all(check.passed for check in result.checks if check.statement.startswith("banking77"))
    assert (tmp_path / "backfill.svg").read_text().startswith("<?xml")
    assert [len(table.rows) for table in result.tables] == [14, 14, 14, 12]
    assert "Safe" in result.shows or "Worth" in result.shows


def test_compare_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no --data"):
        compare(PRESETS["quick"], CompareJob(data=tmp_path))
    with pytest.raises(UsageError, match="--datasets must be some of"):
        compare(replace(PRESETS["quick"], datasets=("trec",)), CompareJob(out=tmp_path))
    with pytest.raises(UsageError, match="--draws must be at least 1"):
        compare(replace(PRESETS["quick"], draws=0), CompareJob(out=tmp_path))
