"""Classes of covariance matrices or epochs by networks with Bures-Wasserstein batch normalisation."""

from linmap.recipes.gbwbn.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb

NEEDS = ("geoopt", "spd_learn")
RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.gbwbn.compare:compare", resumes=True, needs=(*NEEDS, "pyriemann")),
    apply=Verb(Apply, "linmap.recipes.gbwbn.apply:apply", needs=NEEDS),
    fit=Verb(Fit, "linmap.recipes.gbwbn.fit:fit", resumes=True, needs=NEEDS),
)
