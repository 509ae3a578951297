"""BT² on files: fit an upgrade to pairs of vectors, apply it, and compare it with what one would do otherwise."""

from linmap.recipes.bt2.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.bt2.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.bt2.apply:apply", resumes=True),
    fit=Verb(Fit, "linmap.recipes.bt2.fit:fit"),
)
