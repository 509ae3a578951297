from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linmap.data.arrays import read_npz
from linmap.errors import DataError


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
