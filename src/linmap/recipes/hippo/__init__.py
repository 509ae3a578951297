"""HiPPO and S4 on files, on streams, and beside what one would use otherwise."""

from linmap.recipes.hippo.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb, View

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.hippo.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.hippo.apply:apply", standard_input=True),
    fit=Verb(Fit, "linmap.recipes.hippo.fit:fit", resumes=True),
    view=View(
        "A past in a few numbers",
        "Choose how many numbers are kept, and move through time: each sample updates them, and they hold all.",
        "linmap.recipes.hippo.view:MemoryView",
        (),
        example=True,
    ),
    flag_of=Fit.NAMES,
)
