"""scikit-learn's own checks of OrthoTrans and OLinearForecaster, and why some cannot hold."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from linmap.sequence.olinear import OLinearForecaster, OrthoTrans

WINDOWS = "fit sees a table with time downwards, transform windows of `length` steps with time last"
FORECAST = "predict gives the steps that follow the last row, not one answer a row; rows are a sequence"
WORDS = "the message says how many rows or columns are needed, in other words"
ONE_SERIES = "one-dimensional data are one series"
TYPED = "this test run checks annotations before the method itself sees the argument"
CHECKED = dict.fromkeys(
    (
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_sparse_array",
        "check_estimator_sparse_matrix",
    ),
    TYPED,
)

ORTHOTRANS = dict.fromkeys(
    (
        "check_fit_score_takes_y", "check_n_features_in_after_fitting", "check_estimators_dtypes", "check_dtype_object",
        "check_pipeline_consistency", "check_estimators_pickle", "check_f_contiguous_array_estimator",
        "check_transformer_data_not_an_array", "check_transformer_general", "check_transformer_preserve_dtypes",
        "check_methods_sample_order_invariance", "check_methods_subset_invariance", "check_dict_unchanged",
        "check_fit_idempotent", "check_fit2d_predict1d",
    ),
    WINDOWS,
) | CHECKED | {"check_estimators_empty_data_messages": WORDS, "check_fit2d_1sample": WORDS}  # fmt: skip
ORTHOTRANS["check_fit1d"] = ONE_SERIES
FORECASTER = CHECKED | {
    "check_methods_sample_order_invariance": FORECAST,
    "check_methods_subset_invariance": FORECAST,
    "check_n_features_in_after_fitting": "another number of columns is refused by the names of the variates",
    "check_fit2d_predict1d": "another number of columns is refused by the names of the variates",
    "check_dtype_object": "a cell that is no number is a DataError (a ValueError) that names its row",
    "check_estimators_empty_data_messages": WORDS,
    "check_fit2d_1sample": WORDS,
    "check_fit1d": ONE_SERIES,
}
SMALL = OLinearForecaster(1, lookback=2, d_model=4, embed=1, layers=1, epochs=1, validation=0.25)


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [OrthoTrans(4), SMALL],
    expected_failed_checks=lambda one: ORTHOTRANS if isinstance(one, OrthoTrans) else FORECASTER,
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)
