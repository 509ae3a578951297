"""scikit-learn's checks of every estimator."""

from functools import partial

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from linmap.sequence.s4 import S4Classifier, S4Regressor

tiny_classifier = partial(S4Classifier, n_layers=1, d_model=4, d_state=4, epochs=1, batch_size=64)
tiny_regressor = partial(S4Regressor, n_layers=1, d_model=4, d_state=4, epochs=1, batch_size=64)
LENGTHS = "two-dimensional X is a series a row: n_features_in_ counts its one channel, and lengths are free"
SHORT = "one epoch on series of two to ten samples; tests/sequence/s4/test_estimators.py has the scores"
EXPECTED = {
    "check_n_features_in": LENGTHS,
    "check_n_features_in_after_fitting": LENGTHS,
    "check_classifiers_train": SHORT,
    "check_regressors_train": SHORT,
}


@pytest.mark.usefixtures("annotations_unchecked")
@parametrize_with_checks([tiny_classifier(), tiny_regressor()], expected_failed_checks=lambda _: EXPECTED)
def test_estimators_keep_the_contract_of_scikit_learn(estimator, check) -> None:
    check(estimator)
