"""FlatQuant on files: quantise a language model, generate with it, and compare with other ways to few bits."""

from linmap.recipes.flatquant.flags import NAMES, Compare, Fit
from linmap.recipes.language.flags import Generation
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.flatquant.compare:compare", resumes=True),
    apply=Verb(Generation, "linmap.recipes.flatquant.apply:apply"),
    fit=Verb(Fit, "linmap.recipes.flatquant.fit:fit", resumes=True),
    flag_of=NAMES,
)
