"""Upgrades measured on a gallery, and vectors in files transformed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linmap.errors import DataError
from linmap.retrieve.bt2 import EmbeddingUpgrade, Gallery, transform_files
from linmap.retrieve.bt2.files import Output
from linmap.retrieve.bt2.gallery import MRR, NDCG, RECALL


def pairs(items: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of two models that differ by a rotation."""
    rng = np.random.default_rng(seed)
    new = rng.normal(size=(items, 8))
    new /= np.linalg.norm(new, axis=1, keepdims=True)
    return new, new @ np.linalg.qr(rng.normal(size=(8, 8)))[0]


def test_a_rotation_is_found_from_other_items_and_loses_nothing() -> None:
    new, old = pairs()
    gallery = Gallery.of({"new": new, "old": old}, "here")
    assert not gallery.judged
    folds = gallery.folds(3, calibration=40, seed=1)
    assert sorted(i for fold in folds for i in fold.queries) == list(range(60))
    for fold in folds:
        rows = {row.tobytes() for row in fold.X}
        assert not any(row.tobytes() in rows for row in fold.new)
        found = fold.scores(fold.upgrade.transform_query(fold.new), gallery.old)
        assert found == pytest.approx({NDCG: 1.0, RECALL: 1.0, MRR: 1.0})
        assert fold.scores(fold.new, gallery.old)[MRR] < 0.7


def test_items_of_a_class_are_answers_and_a_query_is_none_of_its_own() -> None:
    new, old = pairs()
    gallery = Gallery.of({"new": new, "old": old, "label": np.repeat(np.arange(30), 2)}, "here")
    assert gallery.answers(4) == {5: 1.0}
    with pytest.raises(DataError, match="here: label must have one class for each of the 60 pairs"):
        Gallery.of({"new": new, "old": old, "label": np.arange(3)}, "here")


def test_files_are_transformed_as_arrays_are(tmp_path: Path) -> None:
    new, old = pairs()
    upgrade = EmbeddingUpgrade().fit(new, old)
    upgrade.save(tmp_path / "run")
    np.save(tmp_path / "new.npy", new)
    ways: list[tuple[Output, Any]] = [("gallery", upgrade.transform), ("query", upgrade.transform_query)]
    for output, function in ways:
        done = transform_files(tmp_path / "run", tmp_path / "new.npy", tmp_path / "out.npy", output)
        assert done.records == 60
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), function(new), atol=1e-6)
