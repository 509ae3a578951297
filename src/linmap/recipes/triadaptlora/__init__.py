"""TriAdaptLoRA on files: fine-tune with ranks that grow where they help, and compare with fixed and shrinking ones."""

from linmap.recipes.finetuning.flags import Answering
from linmap.recipes.recipe import Recipe, Verb
from linmap.recipes.triadaptlora.flags import Fit, comparing

NEEDS = ("peft", "transformers")
RECIPE = Recipe(
    compare=Verb(comparing, "linmap.recipes.triadaptlora.compare:compare", resumes=True, needs=NEEDS),
    apply=Verb(Answering, "linmap.recipes.finetuning.apply:apply", needs=NEEDS),
    fit=Verb(Fit, "linmap.recipes.triadaptlora.fit:fit", resumes=True, needs=NEEDS),
    flag_of={**Fit.NAMES, "incre_interval": "growth_interval", "init_warmup": "growth_warmup"},
)
