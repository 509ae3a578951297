"""scikit-learn's checks of every estimator."""

from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from linmap.retrieve.bt2 import EmbeddingUpgrade
from linmap.retrieve.bt2.pairs import unit


class OfLabels(EmbeddingUpgrade):
    """The checks bring labels for targets; old vectors are made of them here, none of which is zero."""

    def fit(self, X_new: Any, Y_old: Any = None, val: Any = None, *, ids: Any = None) -> Self:
        if Y_old is not None:
            labels = np.asarray(Y_old, float)
            labels = labels.reshape(len(labels), -1)[:, 0]
            Y_old = np.column_stack([np.ones(len(labels)), labels])
        return super().fit(X_new, Y_old, val)


OWN_WORDS = "the message says more: which model has how many dimensions, and what to do"
EXPECTED = {
    "check_fit_score_takes_y": "the second argument is Y_old, the old vectors",
    "check_n_features_in_after_fitting": OWN_WORDS,
    "check_estimators_empty_data_messages": OWN_WORDS,
    "check_fit2d_1feature": OWN_WORDS,
    "check_fit2d_predict1d": OWN_WORDS,
    "check_estimators_dtypes": "a row of zeros among its data has no direction, and is refused",
}


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([OfLabels(method="procrustes")], expected_failed_checks=lambda _: EXPECTED)
def test_estimators_keep_the_contract_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_nothing_can_be_asked_before_fit() -> None:
    upgrade, X = EmbeddingUpgrade(), np.eye(3)
    for ask in (
        lambda: upgrade.transform_query(X),
        lambda: upgrade.transform(X),
        lambda: list(upgrade.transform_batches([X])),
        lambda: upgrade.predicted_similarity(X),
        upgrade.query_matrix,
        upgrade.query_offset,
        upgrade.faiss_transform,
        upgrade.get_feature_names_out,
        lambda: upgrade.save("nowhere"),
    ):
        with pytest.raises(NotFittedError):
            ask()


def test_fitting_and_transforming_at_once_is_doing_both() -> None:
    rng = np.random.default_rng(0)
    X = unit(rng.standard_normal((60, 5)))
    Y = unit(X[:, :4] + 0.1 * rng.standard_normal((60, 4)))
    upgrade = EmbeddingUpgrade(method="procrustes").set_output(transform="pandas")
    frame = upgrade.fit_transform(X, Y)
    np.testing.assert_array_equal(frame.to_numpy(), EmbeddingUpgrade(method="procrustes").fit(X, Y).transform(X))
    assert list(frame.columns) == [f"embeddingupgrade{i}" for i in range(5)]


@pytest.mark.parametrize("convert", [np.ndarray.tolist, lambda x: x.astype(object), pd.DataFrame])
def test_numbers_are_taken_from_whatever_holds_them(convert: Any) -> None:
    rng = np.random.default_rng(0)
    X = unit(rng.standard_normal((60, 5)))
    Y = unit(X[:, :4] + 0.1 * rng.standard_normal((60, 4)))
    upgrade = EmbeddingUpgrade(method="procrustes").fit(X, Y)
    other = EmbeddingUpgrade(method="procrustes").fit(convert(X), convert(Y))
    np.testing.assert_allclose(other.transform_query(convert(X)), upgrade.transform_query(X), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="Complex data not supported"):
        upgrade.transform(X + 1j)
