"""A fitted run that the tests of the command line share."""

from pathlib import Path

import numpy as np
import pytest

from recipes.hippo.waves import SMALL, waves


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz archive of 40 series."""
    series, labels = waves(40)
    path = tmp_path_factory.mktemp("series") / "waves.npz"
    np.savez(path, X=np.concatenate(series), lengths=np.array([len(s) for s in series]), y=labels)
    return path


@pytest.fixture(scope="session")
def fitted(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `linmap fit hippo` made of it."""
    from linmap.cli import main

    out = tmp_path_factory.mktemp("fitted") / "run"
    assert main(["fit", "hippo", "--data", str(archive), "--out", str(out), "--json", *SMALL]) == 0
    return out
