"""What one would map vectors with otherwise: a ridge regression."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import Ridge

from linmap.retrieve.bt2.pairs import unit

HOLD_OUT = 5  # every fifth pair chooses the strength
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def fitted_ridge(X: Float[np.ndarray, "pairs d_x"], Y: Float[np.ndarray, "pairs d_y"], intercept: bool) -> Ridge:
    """Any matrix from X to Y, its strength chosen by the cosine of held-out pairs; for queries an intercept costs."""
    held = np.arange(len(X)) % HOLD_OUT == 0

    def cosine(alpha: float) -> float:
        predicted = unit(Ridge(alpha, fit_intercept=intercept).fit(X[~held], Y[~held]).predict(X[held]))
        return float((predicted * Y[held]).sum(1).mean())

    return Ridge(max(STRENGTHS, key=cosine), fit_intercept=intercept).fit(X, Y)
