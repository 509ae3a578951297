from pathlib import Path

import numpy as np
import pytest

from linmap.data.covariances import hdm05, load_covariances, semidefinite
from linmap.errors import DataError


def matrices(n: int = 5, size: int = 3) -> np.ndarray:
    A = np.random.default_rng(0).standard_normal((n, size, 2 * size))
    return A @ A.swapaxes(1, 2)


def test_full_matrices_and_triangles_are_read_alike(tmp_path: Path) -> None:
    X, y = matrices(), np.array(list("aabba"))
    np.savez(tmp_path / "full.npz", X=X, y=y, domain=np.arange(5))
    np.savez(tmp_path / "triangles.npz", cov_triu=X[:, *np.triu_indices(3)], y=y)
    full, triangles = (load_covariances(tmp_path / f"{name}.npz") for name in ("full", "triangles"))
    np.testing.assert_allclose(full.X, triangles.X)
    assert full.labels().tolist() == y.tolist()
    assert full.domain is not None
    assert triangles.domain is None
    part = full.take(np.array([3, 1]))
    assert (len(part), part.labels().tolist(), np.asarray(part.domain).tolist()) == (2, ["b", "a"], [3, 1])


def test_rounding_to_float32_leaves_no_negative_eigenvalue() -> None:
    F = np.random.default_rng(0).standard_normal((4, 9, 3))
    X = (F @ F.swapaxes(1, 2)).astype(np.float32).astype(np.float64)
    assert np.linalg.eigvalsh(X)[:, 0].min() < -1e-9
    mended = semidefinite(X, "X")
    assert np.linalg.eigvalsh(mended)[:, 0].min() > -1e-14
    np.testing.assert_allclose(mended, X, atol=1e-5)


def test_hdm05_is_what_its_description_says() -> None:
    data = hdm05(subset=True)
    assert data.X.shape == (110, 93, 93)
    np.testing.assert_allclose(np.trace(data.X, axis1=1, axis2=2), 1, atol=1e-5)
    assert sorted(set(np.asarray(data.domain))) == ["bd", "bk", "dg", "mm", "tr"]
    assert len(set(data.labels())) == 11
    condition = np.linalg.cond(data.X + 1e-6 * np.eye(93))
    assert (condition > 1e5).all()


def bad(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return {"X": matrices()} | arrays


BAD = {
    "no matrices": ({"Y": matrices()}, "has no array 'X'"),
    "not square": (bad(X=matrices()[:, :2]), r"X must be \(count, n, n\)"),
    "triangle": ({"cov_triu": np.ones((2, 7))}, "cov_triu must be"),
    "labels": (bad(y=np.arange(3)), "y must hold one number or text for each of 5"),
    "asymmetric": (bad(X=matrices() + np.triu(np.ones((3, 3)), 1)), "matrix 0 is not symmetric"),
    "indefinite": (bad(X=matrices() - 9 * np.eye(3)), "not positive semi-definite: it has the eigenvalue -"),
    "NaN": (bad(X=np.where(matrices() > 3, np.nan, matrices())), "finite numbers"),
    "objects": (bad(y=np.array([1, "a", None, 2, 3], object)), "Python objects"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name: str, tmp_path: Path) -> None:
    arrays, message = BAD[name]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_covariances(tmp_path / "bad.npz")


def test_classes_that_are_missing_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", X=matrices())
    with pytest.raises(DataError, match="there are no classes"):
        load_covariances(tmp_path / "plain.npz").labels()
