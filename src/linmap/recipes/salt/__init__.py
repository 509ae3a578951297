"""SALT on files: segment images, or fine-tune on texts, through the singular values of the weights."""

from linmap.recipes.recipe import Recipe, Verb
from linmap.recipes.salt.flags import CompareImages, applying, fitting

RECIPE = Recipe(
    compare=Verb(CompareImages, "linmap.recipes.salt.compare:compare", resumes=True),
    apply=Verb(applying, "linmap.recipes.salt.apply:apply"),
    fit=Verb(fitting, "linmap.recipes.salt.fit:fit", resumes=True),
)
