"""MBAT on files: records to vectors, and a comparison with what one would pick otherwise."""

from linmap.recipes.mbat.flags import Apply, Compare
from linmap.recipes.recipe import Recipe, Verb, View

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.mbat.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.mbat.apply:apply", resumes=True),
    view=View(
        "Search, with reasons",
        "Choose a record, or write a part of one: the nearest records, and what of each makes it near.",
        "linmap.recipes.mbat.view:SearchView",
        example=True,
    ),
)
