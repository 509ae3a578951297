"""Tooth arrangement on folders of meshes: plans of where teeth go, with stages, movements and a page to look at."""

from linmap.recipes.recipe import Recipe, Verb, View
from linmap.recipes.tooth_arrangement.flags import Apply, Compare, Fit

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.tooth_arrangement.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.tooth_arrangement.apply:apply"),
    fit=Verb(Fit, "linmap.recipes.tooth_arrangement.fit:fit", resumes=True),
    view=View(
        "Turn the plans",
        "Drag to turn; choose a proposal, move from before to after, and switch teeth on and off.",
        "linmap.recipes.tooth_arrangement.view:PlanView",
        ("apply", "fit"),
    ),
)
