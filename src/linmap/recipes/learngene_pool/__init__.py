"""Learngene Pool on images: a family of models from one, one of them for a budget, and what that buys."""

from linmap.recipes.learngene_pool.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.learngene_pool.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.learngene_pool.apply:apply"),
    fit=Verb(Fit, "linmap.recipes.learngene_pool.fit:fit", resumes=True),
)
