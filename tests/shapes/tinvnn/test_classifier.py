"""The classifier of point sets: invariance, resuming, saving, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from linmap.errors import ArtifactError
from linmap.shapes.tinvnn import EdgeConvNet, PointCloudClassifier
from linmap.shapes.tinvnn.networks import nearest
from shapes.tinvnn.shapes import cube, orthogonal


def clouds(count: int = 24, seed: int = 0) -> tuple[list[np.ndarray], list[str]]:
    """Flat ones and round ones, of many sizes."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(rng.integers(12, 18), 3)) * [1, 1, (0.2, 1)[i % 2]] for i in range(count)]
    return X, [("flat", "round")[i % 2] for i in range(count)]


def turned(X: list[np.ndarray]) -> list[np.ndarray]:
    R = orthogonal(3, torch.Generator().manual_seed(1)).numpy()
    return [3 * x @ R + 50 for x in X]


@pytest.mark.parametrize("network", ["pointnet", "edgeconv"])
@pytest.mark.parametrize("representation", ["moment", "frames", "random"])
def test_probabilities_do_not_depend_on_the_pose(network: Any, representation: Any) -> None:
    X, y = clouds(8)
    classifier = PointCloudClassifier(representation, network, epochs=1, k=4).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(turned(X)), classifier.predict_proba(X), atol=1e-5)


def test_raw_coordinates_do_depend_on_it() -> None:
    X, y = clouds()
    classifier = PointCloudClassifier("raw", epochs=10).fit(X, y)
    assert np.abs(classifier.predict_proba(turned(X)) - classifier.predict_proba(X)).max() > 1e-3


def test_it_learns_and_is_saved(tmp_path: Path) -> None:
    X, y = clouds(60)
    classifier = PointCloudClassifier(epochs=15, n_points=10, validation_fraction=0.2).fit(X, y)
    assert classifier.score(*clouds(40, 1)) >= 0.9
    classifier.save(tmp_path)
    again = PointCloudClassifier.load(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert again.get_params() == classifier.get_params()
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"PointCloudClassifier"', '"TourSolver"'))
    with pytest.raises(ArtifactError, match="TourSolver"):
        PointCloudClassifier.load(tmp_path)


@pytest.mark.parametrize("kind", [str, object, np.int8, "datetime64[D]"])
def test_saved_classes_keep_their_type(tmp_path: Path, kind: Any) -> None:
    X, y = clouds(8)
    labels = np.array(y, object) if kind is object else np.array([name == "flat" for name in y], np.int8).astype(kind)
    classifier = PointCloudClassifier(epochs=1).fit(X, labels)
    classifier.save(tmp_path)
    found = PointCloudClassifier.load(tmp_path).predict(X)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, classifier.predict(X))


def test_a_run_that_was_stopped_ends_as_if_it_had_not(tmp_path: Path) -> None:
    X, y = clouds()
    settings: Any = {"representation": "random", "n_points": 8, "augment": "so3", "dropout": 0.2, "epochs": 4}

    class Killed(Exception): ...

    class Stopping(PointCloudClassifier):
        def _loss(self, model: Any, batch: Any) -> Any:
            if int(model.draws.steps) == 3:
                raise Killed
            return super()._loss(model, batch)

    with pytest.raises(Killed):
        Stopping(**settings, batch_size=12).fit(X, y, checkpoints=tmp_path)
    resumed = PointCloudClassifier(**settings, batch_size=12).fit(X, y, checkpoints=tmp_path, resume=True)
    whole = PointCloudClassifier(**settings, batch_size=12).fit(X, y)
    for name, tensor in whole.model_.state_dict().items():
        assert torch.equal(tensor, resumed.model_.state_dict()[name]), name


def test_the_random_state_alone_decides() -> None:
    X, y = clouds()
    fits = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        classifier: Any = clone(PointCloudClassifier("random", epochs=1, n_points=8))
        fits.append(classifier.fit(X, y).predict_proba(X))
        assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(*fits)


def test_padding_changes_nothing() -> None:
    X, y = clouds()
    networks: Any = ("pointnet", "edgeconv")
    for network in networks:
        classifier = PointCloudClassifier(network=network, epochs=1, k=4).fit(X, y)
        alone = np.concatenate([classifier.predict_proba([x]) for x in X])
        np.testing.assert_allclose(classifier.predict_proba(X), alone, atol=1e-6)


def test_neighbours_do_not_depend_on_the_order_of_the_points() -> None:
    generator = torch.Generator().manual_seed(0)
    X = cube().float()[None]  # three neighbours at one distance, three at the next
    order = torch.randperm(8, generator=generator)
    a, _ = nearest(X, 3)
    b, _ = nearest(X[:, order], 3)
    assert torch.equal(X[0][a[0]][order], X[0][order][b[0]])
    net = EdgeConvNet(3, 2, k=3).eval()
    torch.testing.assert_close(net(X), net(X[:, order]))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"representation": "axes"}, "representation='axes' must be one of 'raw', 'pca'"),
        ({"network": "gnn"}, "network='gnn' must be one of"),
        ({"augment": "z"}, "augment='z' must be one of"),
        ({"n_points": 1}, "n_points=1 must be"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"random_state": None}, "random_state=None"),
    ],
)
def test_refused_parameters(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PointCloudClassifier(**change).fit(*clouds())


def test_units_that_single_precision_does_not_hold() -> None:
    X, y = clouds()
    for representation in ("moment", "raw"):
        classifier = PointCloudClassifier(representation, epochs=1).fit(X, y)
        expected = classifier.predict_proba(X)
        for unit in (1e-60, 1e-25, 1e25, 1e300):
            np.testing.assert_allclose(classifier.predict_proba([unit * cloud for cloud in X]), expected, atol=1e-4)


def test_refused_data() -> None:
    with pytest.raises(NotFittedError):
        PointCloudClassifier().predict(clouds()[0])
    with pytest.raises(ValueError, match=re.escape("X[0] must be (points, d), rows of one length")):
        PointCloudClassifier().fit([[[1, 2], [3]]] * 2, ["a", "b"])
    X, y = clouds()
    fitted = PointCloudClassifier(epochs=1).fit(X, y)
    bad = [*X[:3], np.full((4, 3), np.nan)]
    for wrong, classes, message in [
        (X, y[:-1], "y must have one class"),
        (X, ["a"] * len(X), "y has one class"),
        (np.zeros((3, 4)), y, "(n, points, d)"),
        ([], y, "no cloud"),
        (bad, y[:4], "X[3] is not finite"),
        ([*X[:1], X[1][:, :2]], y[:2], "X[1] has 2 coordinates"),
        ([X[0][:0], X[1]], y[:2], "X[0] must be (points, d)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            PointCloudClassifier(epochs=1).fit(wrong, classes)
    with pytest.raises(ValueError, match="fitted to 3"):
        fitted.predict([x[:, :2] for x in X])
    with pytest.raises(TypeError, match="real numbers"):
        fitted.predict([np.array([["a", "b", "c"]] * 3)])
    with pytest.raises(ValueError, match="class 'new'"):
        PointCloudClassifier(epochs=1).fit(X, y, validation=(X[:1], ["new"]))
