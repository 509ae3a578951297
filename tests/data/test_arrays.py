from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from linmap.data.arrays import array_of, read_npz
from linmap.data.timeseries import TimeSeries
from linmap.data.vectors.array_store import MemoryStore
from linmap.errors import DataError
from linmap.retrieve.bt2 import EmbeddingUpgrade, cross_retrieval
from linmap.sequence.olinear import OrthoTrans
from linmap.sequence.s4.series import check_series
from linmap.shapes.tinvnn import TinvMDS
from linmap.shapes.tinvnn.clouds import check_clouds
from linmap.signals.acm import AugmentedCovariance
from linmap.signals.layout import check_matrices


def test_reads_what_was_written(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.eye(2))
    arrays = read_npz(tmp_path / "a.npz", ("x",))
    assert arrays["x"].tolist() == [0, 1, 2]
    assert arrays["y"].shape == (2, 2)


def test_bad_files(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file"):
        read_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DataError, match=r"a plain \.npz archive"):
        read_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"Python objects"):
        read_npz(tmp_path / "objects.npz")
    np.save(tmp_path / "one.npy", np.eye(2))
    with pytest.raises(DataError, match=r"a plain \.npz archive"):
        read_npz(tmp_path / "one.npy")
    np.savez(tmp_path / "nan.npz", x=np.array([1.0, np.nan]))
    with pytest.raises(DataError, match="'x' holds something other than finite numbers"):
        read_npz(tmp_path / "nan.npz")
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    with pytest.raises(DataError, match="has no array 'y'; it holds x"):
        read_npz(tmp_path / "a.npz", ("y",))


def stored(vectors: Any) -> np.ndarray:
    store = MemoryStore({"vector": 8})
    store.upsert([str(row) for row in range(len(vectors))], vectors)
    return np.array([[hit.score for hit in line] for line in store.search(vectors, 5)])


def of_pairs(vectors: Any) -> np.ndarray:
    return EmbeddingUpgrade(method="procrustes").fit(vectors, vectors).transform_query(vectors)


GROUPS = torch.arange(40) // 4
DOORS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "array_of": (array_of, (5, 8)),
    "stores": (stored, (40, 8)),
    "EmbeddingUpgrade": (of_pairs, (60, 8)),
    "cross_retrieval": (lambda x: cross_retrieval(x, x, GROUPS, GROUPS).mAP, (40, 8)),
    "S4Classifier": (lambda x: np.stack(check_series(x)), (5, 12, 2)),
    "AugmentedCovariance": (AugmentedCovariance(2, 1).fit_transform, (5, 3, 40)),
    "SPDNetClassifier": (check_matrices, (5, 3, 3)),
    "PointCloudClassifier": (lambda x: np.stack(check_clouds(x)), (5, 9, 3)),
    "TinvMDS": (TinvMDS(2).fit_transform, (12, 3)),
    "TimeSeries": (lambda x: TimeSeries.from_frame(x).values, (12, 3)),
    "OrthoTrans": (lambda x: OrthoTrans(6).fit(x).correlation_, (40, 2)),
}
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "trained": lambda x: x.clone().requires_grad_(),
    "a list": lambda x: list(x.bfloat16()),
}


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.filterwarnings("ignore:Y_old")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_tensors_of_any_floating_type_are_what_their_float32_copies_are(door: str, form: str) -> None:
    read, shape = DOORS[door]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16().float()  # which float16 holds too
    np.testing.assert_allclose(read(FORMS[form](x)), read(x), rtol=1e-3, atol=1e-3)
