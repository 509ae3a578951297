"""Augmented covariance on files of epochs, and compared with plain covariances and a convolutional network."""

from linmap.recipes.acm.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.acm.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.acm.apply:apply"),
    fit=Verb(Fit, "linmap.recipes.acm.fit:fit"),
    flag_of={"inner_cv": "folds"},
)
