"""Images that are told apart whatever affine map they went through, by networks on matrix groups."""

from linmap.recipes.lie_decomposition.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.lie_decomposition.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.lie_decomposition.apply:apply"),
    fit=Verb(Fit, "linmap.recipes.lie_decomposition.fit:fit", resumes=True),
)
