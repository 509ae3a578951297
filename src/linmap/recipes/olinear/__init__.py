"""OLinear on files: forecast a table, look back at what it would have forecast, and compare with other forecasters."""

from linmap.recipes.olinear.flags import Apply, Compare, Fit
from linmap.recipes.recipe import Recipe, Verb, View

RECIPE = Recipe(
    compare=Verb(Compare, "linmap.recipes.olinear.compare:compare", resumes=True),
    apply=Verb(Apply, "linmap.recipes.olinear.apply:apply"),
    fit=Verb(Fit, "linmap.recipes.olinear.fit:fit", resumes=True),
    view=View(
        "Read the forecast",
        "Zoom in, choose a series, and point at a time to read what was observed and what is forecast.",
        "linmap.recipes.olinear.view:ForecastView",
        ("apply", "fit"),
    ),
    flag_of={**Fit.NAMES, "n_windows": "backtest"},
)
