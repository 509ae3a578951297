"""Point sets in one canonical pose: classes of shapes, tours of cities, and the representation alone."""

from linmap.recipes.recipe import Recipe, Verb, View
from linmap.recipes.tinvnn.flags import applying, comparing, fitting, preparing

RECIPE = Recipe(
    compare=Verb(comparing, "linmap.recipes.tinvnn.compare:compare", resumes=True),
    apply=Verb(applying, "linmap.recipes.tinvnn.apply:apply"),
    fit=Verb(fitting, "linmap.recipes.tinvnn.fit:fit", resumes=True),
    unfitted=Verb(preparing, "linmap.recipes.tinvnn.canonical:unfitted"),
    view=View(
        "Turn it, and see what stays",
        "Drag the shape: its canonical pose is computed anew and stays where it is.",
        "linmap.recipes.tinvnn.view:PoseView",
        ("apply", "fit"),
        example=True,
    ),
)
