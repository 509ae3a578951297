"""scikit-learn's checks of every estimator."""

from typing import Any

import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from linmap.retrieve.mbat import JSONVectorizer
from typed import cloned

LEARNING = [JSONVectorizer(64, idf=1.0), JSONVectorizer(64, numbers="quantile")]


@pytest.mark.usefixtures("annotations_unchecked")
@parametrize_with_checks([JSONVectorizer(64), *LEARNING])
def test_estimators_keep_the_contract_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("estimator", LEARNING)
def test_what_is_learnt_cannot_be_asked_for_before(estimator: JSONVectorizer) -> None:
    vectorizer = cloned(estimator)
    for ask in (
        lambda: vectorizer.transform([{"a": 1}]),
        lambda: vectorizer.fingerprint_,
        vectorizer.as_json,
        lambda: vectorizer.describe({"a": 1}),
        lambda: vectorizer.get_feature_paths([{"a": 1}]),
    ):
        with pytest.raises(NotFittedError, match="call fit on documents first"):
            ask()
    assert vectorizer.fit_transform([{"a": 1}, {"a": 2}]).shape == (2, 64)
