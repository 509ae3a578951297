"""What to take: the answer of a comparison in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from linmap.experiment.figures import differ, paired, ranking
from linmap.experiment.result import Check, Metric, Row


def verdict(rows: Sequence[Row], metric: Metric, over: str = "seeds", overlap: float = 0.0) -> str:
    """Whether the system beats what its user would otherwise take, by how much, and how sure that is.

    Parameters
    ----------
    rows
        Of a result: the system (the first of that kind) and its baselines, each with a value for every pair.
    metric
        What decides.
    over
        What the values of a row are: "seeds", "folds", "subjects", "images".
    overlap
        As in `paired`.

    Returns
    -------
    str
        One or two sentences that begin with what to take; "" without a system or a baseline that has values.
    """
    system = next((row for row in rows if row.kind == "system"), None)
    baselines = {row.name: row for row in rows if row.kind == "baseline" and math.isfinite(row.mean(metric.name))}
    if system is None or not baselines:
        return ""
    name = ranking({n: row.mean(metric.name) for n, row in baselines.items()}, metric.better)[0]
    if not math.isfinite(system.mean(metric.name)):
        return f"Take {name}: {system.name} gave no finite {metric.name}."
    ours, theirs = system.values[metric.name], baselines[name].values[metric.name]
    unit, digits = f" {metric.unit}" if metric.unit else "", metric.digits
    means = [f"{row.mean(metric.name):.{digits}f}{unit}" for row in (system, baselines[name])]
    figures = f"{metric.name} {means[0]} against {means[1]}"
    sign = 1 if metric.better == "higher" else -1
    if len(ours) != len(theirs) or len(ours) < 2:
        ahead = sign * (system.mean(metric.name) - baselines[name].mean(metric.name)) > 0
        best, other = (system.name, name) if ahead else (name, system.name)
        ahead_by_one = f"{best} is ahead of {other} ({figures}), from one value each, which tells nothing about chance"
        return f"{ahead_by_one}: compare with more {over} before you choose."
    gap = paired([sign * value for value in ours], [sign * value for value in theirs], overlap)
    sure = f"better in {gap.wins} of {gap.n} {over}, difference {gap.text(digits)}, 95 % interval"
    if not gap.certain:
        none = f"No difference between {system.name} and {name} shows beyond chance"
        return f"{none} ({figures}; {sure}): take the one that is cheaper to run."
    if gap.mean > 0:
        return f"Take {system.name}: better than {name}, the best of the others ({figures}; {sure})."
    return f"Take {name}: {system.name} is worse here ({figures}; {sure})."


def beats(rows: Sequence[Row], metric: Metric, overlap: float = 0.0) -> list[Check]:
    """For each baseline, whether the system (the first row of that kind) has the better mean, and by more than chance;
    `overlap` as in `paired`."""
    system = next(row for row in rows if row.kind == "system")
    ours, digits, unit = system.mean(metric.name), metric.digits, f" {metric.unit}" if metric.unit else ""
    sign = 1 if metric.better == "higher" else -1
    return [
        Check(
            f"{system.name} has a {metric.better} {metric.name} than {row.name}",
            sign * (ours - (theirs := row.mean(metric.name))) > 0,
            f"{ours:.{digits}f}{unit} against {theirs:.{digits}f}{unit}",
            f"take {row.name} on data like these",
            differ(system.values.get(metric.name, []), row.values.get(metric.name, []), overlap),
        )
        for row in rows
        if row.kind == "baseline"
    ]


def capitalized(text: str) -> str:
    """The text as a sentence begins, and otherwise as it is; nDCG and kNN have their capitals already."""
    first = text.split(" ", 1)[0]
    return text if first != first.lower() else text[:1].upper() + text[1:]
