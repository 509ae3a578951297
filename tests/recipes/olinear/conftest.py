"""A small table that the tests of the command line share."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def write_table(path: Path) -> Path:
    day = np.arange(260)
    values = np.sin(2 * np.pi * day[:, None] / [6, 12]) + np.random.default_rng(0).normal(0, 0.05, (260, 2))
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=260), "a": values[:, 0], "b": 10 + values[:, 1]})
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "my.csv")


@pytest.fixture(scope="session")
def kept_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for what several tests read."""
    return write_table(tmp_path_factory.mktemp("table") / "my.csv")
