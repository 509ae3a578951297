"""`TinvMDS`: all solvers agree with each other, with the embedding and with closed forms."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from linmap.shapes.tinvnn import TinvEmbedding, TinvMDS, mds
from shapes.tinvnn.shapes import SYMMETRIC, copy_of, set_distance

SOLVERS: list[Any] = ["auto", "dense", "lanczos", "landmark"]


def points(n: int = 40, d: int = 3, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(size=(n, d)))


def distances(X: np.ndarray) -> np.ndarray:
    return squareform(pdist(X))


def hops(n: int) -> np.ndarray:
    step = np.abs(np.arange(n)[:, None] - np.arange(n))
    return np.minimum(step, n - step).astype(float)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.filterwarnings("ignore:Can't test estimator")
@parametrize_with_checks([TinvMDS(1)])
def test_scikit_learns_checks(estimator: TinvMDS, check) -> None:
    check(estimator)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d", "q"), [(40, 3, 2), (40, 3, 3), (40, 5, 3), (6, 4, 4), (5, 7, 4)])
@pytest.mark.parametrize("scale", ["rms", "maxdist", "maxnorm", "none"])
def test_solvers_agree_with_the_embedding(solver: Any, n: int, d: int, q: int, scale: Any) -> None:
    X = points(n, d)
    H, frame = TinvEmbedding(q, scale=scale)(torch.from_numpy(X), return_frame=True)
    cases: Any = (("euclidean", X), ("precomputed", distances(X)))
    for kind, given in cases:
        mds = TinvMDS(q, kind, solver, scale)
        np.testing.assert_allclose(mds.fit_transform(given), H, atol=1e-8)
        assert mds.scale_ == pytest.approx(float(frame.scale), rel=1e-9)
        Xc = X - X.mean(0)
        np.testing.assert_allclose(mds.eigenvalues_, np.linalg.eigvalsh(Xc @ Xc.T)[::-1][:q], rtol=1e-8)
        assert mds.embedding_.dtype == np.float64


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["cube", "tetrahedron", "twisted prism", "box", "24-cell"])
def test_ties_too(solver: Any, name: str) -> None:
    shape = SYMMETRIC[name]
    q = shape.shape[1]
    H = TinvEmbedding()(shape)
    moved = copy_of(shape, torch.Generator().manual_seed(0)).numpy()
    cases: Any = (("euclidean", moved), ("precomputed", distances(moved)))
    for kind, given in cases:
        if q < len(shape):
            assert set_distance(torch.from_numpy(TinvMDS(q, kind, solver).fit_transform(given)), H) < 1e-8


def test_scikit_learns_classical_scaling() -> None:
    pytest.importorskip("sklearn", minversion="1.8")
    from sklearn.manifold import ClassicalMDS

    X = points()
    ours, theirs = TinvMDS(scale="none").fit_transform(X), ClassicalMDS(2).fit_transform(X)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-10)
    assert ((ours**3).sum(0) > 0).all()
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(TinvMDS(scale="none").fit_transform(X[order]), ours[order], atol=1e-10)


@pytest.mark.parametrize("solver", ["dense", "lanczos"])
def test_the_hops_of_a_cycle_have_the_spectrum_of_a_circulant(solver: Any) -> None:
    n = 9
    squares = hops(n)[0] ** 2
    values = [-0.5 * sum(squares * np.cos(2 * np.pi * k * np.arange(n) / n)) for k in range(1, n)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q = 6 if solver == "dense" else 5
        mds = TinvMDS(q, "precomputed", solver).fit(hops(n))
    np.testing.assert_allclose(mds.eigenvalues_, sorted([0.0, *values], reverse=True)[:q], atol=1e-9)
    assert not mds.embedding_[:, mds.eigenvalues_ < 1e-9].any()
    if solver == "dense":
        assert mds.stress_ == pytest.approx(-sum(v for v in values if v < 0) / np.abs(values).sum())
    else:
        assert np.isnan(mds.stress_)


def test_offsets_are_harmless() -> None:
    X = points()
    for solver in SOLVERS:
        np.testing.assert_allclose(
            TinvMDS(2, "euclidean", solver).fit_transform(X + 1e6), TinvMDS(2).fit_transform(X), atol=1e-8
        )


def test_landmarks() -> None:
    X = points(300)
    full = TinvMDS(3).fit_transform(X)
    for count in (4, 20, 300):
        np.testing.assert_allclose(TinvMDS(3, solver="landmark", n_landmarks=count).fit_transform(X), full, atol=1e-7)
    assert TinvMDS(3).fit(X).stress_ == 0


def test_manners_of_scikit_learn() -> None:
    X = points()
    mds = TinvMDS(2, solver="lanczos", random_state=3)
    again: Any = clone(mds)
    assert again.get_params() == mds.get_params()
    piped = make_pipeline(PCA(3), TinvMDS(2)).fit_transform(X)
    np.testing.assert_allclose(piped, TinvMDS(2).fit_transform(X), atol=1e-9)
    np.testing.assert_allclose(mds.fit_transform(X), again.set_params(random_state=5).fit_transform(X), atol=1e-9)


def test_equal_points() -> None:
    for solver in SOLVERS:
        with pytest.warns(UserWarning, match="equal"):
            mds = TinvMDS(1, solver=solver).fit(np.ones((5, 2)))
        assert mds.scale_ == 1
        assert not mds.embedding_.any()


def test_squared_distances_are_suspected_and_others_are_not() -> None:
    D = distances(np.random.default_rng(0).normal(size=(40, 2)))
    with pytest.warns(UserWarning, match=r"triangle.*squared"):
        TinvMDS(2, "precomputed").fit(D**2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TinvMDS(2, "precomputed").fit(D)
        TinvMDS(2, "precomputed").fit(hops(12))


D = distances(points(6))


@pytest.mark.parametrize("solver", ["auto", "dense", "lanczos", "landmark"])
@pytest.mark.parametrize("unit", [1e200, 1e-200])
def test_units_whose_squares_leave_the_range_of_floats(solver: Any, unit: float) -> None:
    X = points()
    cases: Any = ((X, "euclidean"), (distances(X), "precomputed"))
    for given, dissimilarity in cases:
        here = TinvMDS(2, dissimilarity, solver).fit(given)
        there = TinvMDS(2, dissimilarity, solver).fit(given * unit)
        np.testing.assert_allclose(there.embedding_, here.embedding_, atol=1e-8)
        assert there.scale_ == pytest.approx(here.scale_ * unit)
        plain = TinvMDS(2, dissimilarity, solver, "none").fit(given * unit)
        np.testing.assert_allclose(plain.embedding_ / unit, here.embedding_ * here.scale_, atol=1e-8)


def changed(place: tuple[int, int], value: float) -> np.ndarray:
    new = D.copy()
    new[place] = value
    return new


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"dissimilarity": "cosine"}, D, "dissimilarity='cosine' must be one of 'euclidean', 'precomputed'"),
        ({"solver": "arpack"}, D, "solver='arpack' must be one of 'auto', 'dense', 'lanczos', 'landmark'"),
        ({"scale": "std"}, D, "scale='std' must be one of"),
        ({"n_components": 0}, D, "n_components=0"),
        ({"n_components": 6}, D, "n_components=6"),
        ({"n_landmarks": 2}, D, "n_landmarks=2 must be at least"),
        ({"n_landmarks": 5.5}, D, "n_landmarks=5.5 must be at least"),
        ({"random_state": "a"}, D, "random_state='a' must be"),
        ({"random_state": -1}, D, "random_state=-1 must be"),
        ({"dissimilarity": "euclidean"}, [[1, 2], [3]], "X must be (n, d)"),
        ({}, D[:5], "square"),
        ({}, changed((1, 2), 9.0), "not symmetric"),
        ({}, changed((3, 3), 1.0), "zero diagonal"),
        ({}, -D, "negative"),
        ({}, changed((4, 2), np.nan), "not finite: entry (4, 2)"),
        ({"dissimilarity": "euclidean"}, changed((4, 2), np.inf), "not finite: point 4"),
        ({"dissimilarity": "euclidean"}, D[0], "X must be (n, d)"),
        ({"dissimilarity": "euclidean"}, D[:1], "1 point"),
    ],
)
def test_refused(options: dict, given: np.ndarray, message: str) -> None:
    parameters: Any = {"dissimilarity": "precomputed"} | options
    with pytest.raises(ValueError, match=re.escape(message)):
        TinvMDS(**parameters).fit(given)


def test_lanczos_asks_for_few_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, solve = [], mds.eigsh

    def counted(*given: Any, k: int, **options: Any) -> Any:
        asked.append(k)
        return solve(*given, k=k, **options)

    monkeypatch.setattr(mds, "eigsh", counted)
    TinvMDS(2, "precomputed", "lanczos").fit(squareform(pdist(points())))
    assert asked == [4]
