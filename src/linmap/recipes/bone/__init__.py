"""Bone on files: fine-tune with one block shared by all blocks of a weight, and compare with other adapters."""

from linmap.recipes.bone.flags import Fit
from linmap.recipes.finetuning.flags import Answering, comparing
from linmap.recipes.recipe import Recipe, Verb

NEEDS = ("peft", "transformers")
RECIPE = Recipe(
    compare=Verb(comparing, "linmap.recipes.bone.compare:compare", resumes=True, needs=NEEDS),
    apply=Verb(Answering, "linmap.recipes.finetuning.apply:apply", needs=NEEDS),
    fit=Verb(Fit, "linmap.recipes.bone.fit:fit", resumes=True, needs=NEEDS),
)
