"""Directions of an image generator that each change one thing: somebody's generator, projected and read."""

from linmap.recipes.householder_projector.flags import Apply, Compare, Fit, Unfitted
from linmap.recipes.recipe import Recipe, Verb, View

CODES = "directions are drawn from codes alone"
RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.householder_projector.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.householder_projector.apply:apply", no_data=CODES),
    fit=Verb(Fit, "linmap.recipes.householder_projector.fit:fit", resumes=True),
    unfitted=Verb(Unfitted, "linmap.recipes.householder_projector.apply:unfitted", no_data=CODES),
    examples_need=("gan_face_generate",),
    view=View(
        "Move the faces",
        "Each slider is a direction, named by what it changes; the images are drawn anew as you move it.",
        "linmap.recipes.householder_projector.view:DirectionView",
        ("apply", "fit"),
        example=True,
    ),
)
