"""Classes of covariance matrices or epochs by networks with Bures-Wasserstein batch normalisation."""

from linmap.recipes.gbwbn.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.gbwbn.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.gbwbn.apply:apply"),
    fit=Verb(Fit, "linmap.recipes.gbwbn.fit:fit", resumes=True),
)
