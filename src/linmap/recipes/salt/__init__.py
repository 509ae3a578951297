"""SALT on files: segment images, or fine-tune on texts, through the singular values of the weights."""

from linmap.recipes.recipe import Recipe, Verb
from linmap.recipes.salt.flags import CompareImages, applying, fitting

NEEDS = ("peft", "transformers")
RECIPE = Recipe(
    compare=Verb(CompareImages, "linmap.recipes.salt.compare:compare", resumes=True, needs=NEEDS),
    apply=Verb(applying, "linmap.recipes.salt.apply:apply", needs=NEEDS),
    fit=Verb(fitting, "linmap.recipes.salt.fit:fit", resumes=True, needs=NEEDS),
)
