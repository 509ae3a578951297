"""What a reading says, in words."""

from __future__ import annotations

from linmap.interpret.linearscope import AffineInterpreter


def output_in_words(interp: AffineInterpreter, target: int, name: str = "") -> str:
    """One output as what the biases and what the input's elements add to it."""
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
    """norm(r) / norm(y) of the whole output."""
    if share <= 1:
        return f"the constant part r of y = F x + r is {share:.0%} as long as the output y"
    return (
        f"the constant part r of y = F x + r is {share:.2f} times as long as the output y: what the input adds, F x, "
        "points against it and takes some of it away again"
    )
