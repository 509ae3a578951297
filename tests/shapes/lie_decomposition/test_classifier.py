"""`LieClassifier`: the manners of scikit-learn's estimators, saving, and a resumed run that is the same run."""

# what is refused has the wrong type on purpose
# pyright: reportArgumentType=false

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

from linmap.errors import ArtifactError, Stopped
from linmap.shapes.lie_decomposition import LieClassifier
from linmap.shapes.lie_decomposition import classifier as module
from linmap.training.config import learning_rate

SMALL = {"num_samples": 2, "channels": 3, "hidden": 4, "head": 6, "kernel_size": 3, "epochs": 2, "batch_size": 8}


def digits(n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares, or dark ones, on noise."""
    rng = np.random.default_rng(0)
    X, y = rng.random((n, 10, 10)) / 5, np.array(["dark", "bright"])[np.arange(n) % 2]
    X[y == "bright", 3:7, 3:7] += 1
    return X, y


X, Y = digits()


def small(**more) -> LieClassifier:
    return LieClassifier(**(SMALL | more))


def test_learns_and_answers_image_by_image() -> None:
    model = small(epochs=24, lr=3e-2).fit(X, Y)
    assert model.classes_.tolist() == ["bright", "dark"]
    chances = model.predict_proba(X)
    np.testing.assert_allclose(chances.sum(1), 1)
    assert model.score(X, Y) == 1
    assert np.array_equal(model.predict(X), model.classes_[chances.argmax(1)])
    np.testing.assert_allclose(model.predict_proba(X[::-1])[::-1], chances, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(X[:1]), chances[:1], atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(X[:, None]), chances, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(torch.from_numpy(X)), chances, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "deterministic"),
    [
        ("gl2", False),
        ("so2", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("sl2", False), ("sl2", True), ("gl2", True))),
    ],
)
def test_the_same_seed_gives_the_same_model_and_no_global_state_moves(group: str, deterministic: bool) -> None:
    state = torch.get_rng_state().clone()
    models = [small(group=group, deterministic=deterministic, random_state=s, dropout=0.2) for s in (0, 0, 1)]
    a, b, c = (model.fit(X, Y).predict_proba(X) for model in models)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.array_equal(models[0].predict_proba(X), a)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("more", [{}, {"deterministic": False, "eval_draws": 2}, {"sampler": "lognormal"}])
def test_saving_and_loading(tmp_path: Path, more: dict) -> None:
    model = small(**more).fit(X, Y)
    model.save(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]
    loaded = LieClassifier.load(tmp_path / "run")
    assert loaded.get_params() == model.get_params()
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(loaded.predict(X), model.predict(X))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ArtifactError):
        LieClassifier.load(tmp_path)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"deterministic": deterministic, "dropout": 0.3, "epochs": 4}
    validation = (X[:6], Y[:6])
    whole = small(**more).fit(X, Y, validation=validation)
    loss, calls = module._loss, []

    def stopping(model, batch):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss(model, batch)

    monkeypatch.setattr(module, "_loss", stopping)
    with pytest.raises((KeyboardInterrupt, Stopped)):
        small(**more).fit(X, Y, validation=validation, checkpoints=tmp_path)
    monkeypatch.setattr(module, "_loss", loss)
    resumed = small(**more).fit(X, Y, validation=validation, checkpoints=tmp_path, resume=True)
    assert np.array_equal(resumed.predict_proba(X), whole.predict_proba(X))


def test_manners() -> None:
    model = small()
    assert vars(LieClassifier()) == LieClassifier().get_params()
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(NotFittedError):
        model.save("nowhere")
    tags = get_tags(model)
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array
    twin: Any = clone(model.set_params(lr=0.1))
    assert twin.get_params()["lr"] == 0.1
    frozen = X.copy()
    frozen.setflags(write=False)
    assert model.fit(frozen, Y) is model
    assert np.array_equal(model.predict(X.tolist()), model.predict(X))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(group="e2").fit(X, Y), ValueError, "group must be one of 'sl2', 'gl2', 'so2', got 'e2'"),
        (lambda: small(sampler="grid").fit(X, Y), ValueError, "sampler must be one of 'haar', 'lognormal'"),
        (lambda: small(random_state=None).fit(X, Y), TypeError, "random_state must be a whole number"),
        (lambda: small(separable="no").fit(X, Y), TypeError, "separable must be True or False, got 'no'"),
        (lambda: small(epochs=1.5).fit(X, Y), TypeError, "epochs must be a whole number of at least ., got 1.5"),
        (lambda: small(batch_size=None).fit(X, Y), TypeError, "batch_size must be a whole number"),
        (lambda: small(lr="fast").fit(X, Y), TypeError, "lr must be a number, got 'fast'"),
        (lambda: small().fit(X * 1e300, Y), ValueError, r"X has values up to 1.2e\+300, which float32"),
        (lambda: small().fit(X, Y).predict_proba(X * 1e30), ValueError, r"X\[0\] gives no finite logits"),
        (lambda: small().fit([X[0], X[0, 1:]], Y[:2]), ValueError, "X must be images of one size"),
        (lambda: small(num_samples=0).fit(X, Y), ValueError, "num_samples must be"),
        (lambda: small().fit((X * 255).astype(np.uint8), Y), TypeError, "X must be floating point, got uint8"),
        (lambda: small().fit(np.where(X > 1.19, np.nan, X), Y), ValueError, "X.*nan; all values must be finite"),
        (lambda: small().fit(X.reshape(24, -1), Y), ValueError, r"X must be images.*\(24, 100\); reshape flat rows"),
        (lambda: small().fit(X[:, :, :, None, None], Y), ValueError, "X must be images"),
        (lambda: small().fit(X[:0], Y[:0]), ValueError, "X holds no image"),
        (lambda: small().fit(X, Y[:-1]), ValueError, "y must have one value for each of 24 images"),
        (lambda: small().fit(X, np.zeros(24)), ValueError, "y has one class, 0"),
        (lambda: small().fit(X[:, :7], Y), ValueError, "kernel_size=3"),
        (lambda: small().fit(X, Y).predict(X[:, :9]), ValueError, "fitted to"),
        (lambda: small().fit(X, Y, validation=(X, np.full(24, "red"))), ValueError, "validation has the class 'red'"),
    ],
)
def test_what_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("epochs", "samples"), [(1, 8), (2, 24), (20, 2000)])
def test_the_rate_of_short_runs_too_rises_and_falls(epochs: int, samples: int) -> None:
    config = small(epochs=epochs).training_config(samples)
    per_epoch = -(-samples // config.batch_size)
    rates = [learning_rate(config, step, step // per_epoch, per_epoch) for step in range(epochs * per_epoch)]
    assert min(rates) > 0
    assert max(rates) == config.lr


@pytest.mark.parametrize("dtype", [object, str, np.int8, np.int64, bool, float])
def test_a_saved_model_answers_with_classes_of_the_same_type(tmp_path: Path, dtype: type) -> None:
    y = Y.astype(object) if dtype is object else Y if dtype is str else (Y == "dark").astype(dtype)
    model = small(epochs=1).fit(torch.from_numpy(X).bfloat16(), y)  # pyright: ignore[reportArgumentType]
    model.save(tmp_path / "run")
    again = LieClassifier.load(tmp_path / "run")
    assert again.predict(X).dtype == model.predict(X).dtype == y.dtype
    assert np.array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize(("name", "value"), [("channels", 9), ("group", "e2"), ("colour", "red")])
def test_a_configuration_that_was_changed_is_told(tmp_path: Path, name: str, value: object) -> None:
    small(epochs=1).fit(X, Y).save(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["config"]["parameters"][name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(
        ArtifactError,
        match=r"run is damaged, or was written by another version of linmap \([^\n]*\); fit the run again",
    ):
        LieClassifier.load(tmp_path / "run")
