"""The normalisations that the protocols compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from linmap.experiment import Arm, Runs
from linmap.recipes.gbwbn.compare import ACCURACY, AIM, CHOSEN, GBWBN, LEM, NONE, network

THETAS = (0.25, 0.5, 1.0)
BASELINES: dict[str, dict[str, Any]] = {NONE: {"norm": None}, AIM: {"norm": "aim"}, LEM: {"norm": "lem"}}


def gbwbn(theta: float, learned: bool = True, mean_iter: int = 1) -> str:
    """The name of a setting in tables."""
    return (
        f"{GBWBN} θ = {theta:g}" + ("" if learned else ", M fixed") + (f", {mean_iter} steps" if mean_iter > 1 else "")
    )


def methods(
    thetas: Sequence[float] = THETAS, fixed: bool = False, mean_iters: Sequence[int] = (1,)
) -> dict[str, dict[str, Any]]:
    """Arguments of `SPDNetClassifier` by the name in tables: first the baselines, then the settings of GBWBN."""
    return BASELINES | {
        gbwbn(theta, learned, steps): {"norm": "gbw", "theta": theta, "learn_metric": learned, "mean_iter": steps}
        for theta in thetas
        for learned in ((True, False) if fixed else (True,))
        for steps in mean_iters
    }


def arms(named: Mapping[str, dict[str, Any]], options: Mapping[str, Any]) -> list[Arm]:
    """An arm for each method, all with these options besides."""
    return [network(name, "baseline" if name in BASELINES else "system", options, **own) for name, own in named.items()]


def chosen(runs: Runs) -> str:
    """The setting of GBWBN that is best on validation."""
    ours = [arm.name for arm in runs.arms if arm.kind == "system"]
    return runs.best(ours, CHOSEN.name, "higher")


def summary(runs: Runs, best: str) -> str:
    """Accuracies of the chosen setting and of the other normalisations."""
    others = [f"{arm.name} {runs.mean(arm.name, ACCURACY.name):.3f}" for arm in runs.arms if arm.kind == "baseline"]
    return f"{best} (chosen on validation) {runs.mean(best, ACCURACY.name):.3f}, {', '.join(others)}"
