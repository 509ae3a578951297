"""Augmented covariance on files of epochs, and compared with plain covariances and a convolutional network."""

from linmap.recipes.acm.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb

NEEDS = ("pyriemann",)
RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.acm.compare:compare", resumes=True, needs=NEEDS),
    apply=Verb(Apply, "linmap.recipes.acm.apply:apply", needs=NEEDS),
    fit=Verb(Fit, "linmap.recipes.acm.fit:fit", needs=NEEDS),
    flag_of={"inner_cv": "folds"},
)
