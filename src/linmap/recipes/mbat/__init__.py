"""MBAT on files: records to vectors, and a comparison with what one would pick otherwise."""

from linmap.recipes.mbat.flags import Apply, Compare
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.mbat.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.mbat.apply:apply", resumes=True),
)
