"""A reading in words: what the outputs are called, and what an output is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from linmap.interpret.linearscope.analyses import bias_split
from linmap.interpret.linearscope.interpreter import AffineInterpreter


def class_names(model: nn.Module, count: int) -> dict[int, str]:
    """Names of a network's outputs by index, where the model carries them; empty where it does not.

    Read are `config.id2label` (Transformers), `pretrained_cfg["label_names"]` (timm), and the attributes
    `class_names`, `classes`, `categories` and `labels`, as lists or by index.

    Parameters
    ----------
    model
        The network.
    count
        How many outputs it has; names of another number are not taken.
    """
    settings = getattr(model, "pretrained_cfg", None)
    candidates = [
        getattr(getattr(model, "config", None), "id2label", None),
        settings.get("label_names") if isinstance(settings, Mapping) else None,
        *(getattr(model, attribute, None) for attribute in ("class_names", "classes", "categories", "labels")),
    ]
    for given in candidates:
        if isinstance(given, list | tuple) and len(given) == count:
            given = dict(enumerate(given))
        if isinstance(given, Mapping) and len(given) == count and all(str(key).isdecimal() for key in given):
            named = {int(key): str(value) for key, value in given.items()}
            return {i: text for i, text in named.items() if text != f"LABEL_{i}"}  # Transformers' own placeholders
    return {}


def output_in_words(interp: AffineInterpreter, target: int, name: str = "") -> str:
    """One output as what the biases and what the input's elements add to it.

    Parameters
    ----------
    interp
        The reading.
    target
        Flat index of the output.
    name
        Of the output, put in brackets behind its index.
    """
    value, residual = (float(t.flatten()[target]) for t in (interp.output, interp.residual))
    votes = value - residual
    title = f"output {target}{f' ({name})' if name else ''}"
    start = "the biases" if not bool(interp.origin.any()) else "the biases and the origin"
    if value != 0 and residual / value >= 0 and votes / value >= 0:
        return (
            f"{title} is {value:.4g}: {residual:.4g} of it comes from {start} whatever the input "
            f"({residual / value:.0%}), {votes:.4g} from the input's elements ({votes / value:.0%})"
        )
    return (
        f"{title} is {value:.4g}: {start} alone give {residual:.4g} whatever the input, and the input's elements "
        f"move it by {votes:+.4g}"
    )


def bias_share_in_words(share: float) -> str:
    """`interp.bias_share()`, norm(r) / norm(y) of the whole output, as a sentence."""
    if share <= 1:
        return f"the constant part r of y = F x + r is {share:.0%} as long as the output y"
    return (
        f"the constant part r of y = F x + r is {share:.2f} times as long as the output y: what the input adds, F x, "
        "points against it and takes some of it away again"
    )


def explained(interp: AffineInterpreter, target: int, names: Mapping[int, str]) -> dict[str, Any]:
    """What one output is made of, as plain JSON values: in words, its value, votes and residual, the largest biases."""
    terms = sorted(bias_split(interp, target), key=lambda term: -abs(term.contribution))
    report = interp.report()
    return report | {
        "answer": output_in_words(interp, target, names.get(target, "")),
        "biases": bias_share_in_words(report["bias_share"]),
        "target": target,
        "target_name": names.get(target),
        "target_value": float(interp.output.flatten()[target]),
        "target_residual": float(interp.residual.flatten()[target]),
        "target_votes": float(interp.votes(target).sum()),
        "largest_bias_terms": [asdict(term) for term in terms[:10]],
    }


def default_target(interp: AffineInterpreter) -> int:
    """The output that a user most likely asks about: the largest logit, or the middle pixel."""
    if interp.output.ndim == 4:
        return interp.output_index((0, interp.output.shape[2] // 2, interp.output.shape[3] // 2))
    return int(interp.output.flatten().argmax())
