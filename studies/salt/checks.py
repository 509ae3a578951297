"""What SALT's paper says of its Dice."""

from __future__ import annotations

from linmap.experiment import Check, Runs
from linmap.recipes.salt.compare import DICE


def checks(runs: Runs) -> list[Check]:
    """What the paper says of SALT beside its parts, with no more parameters."""
    found = []
    for part in runs.parts:
        for peer in ("LoRA", "scale and shift", "decoder only"):
            ours, theirs = runs.mean("SALT", DICE, part), runs.mean(peer, DICE, part)
            found.append(Check(f"with {part}, SALT's Dice is at least that of {peer}", ours >= theirs,
                               f"{ours:.4f} against {theirs:.4f}", f"take {peer} for so few images",
                               runs.differ("SALT", peer, DICE, part)))  # fmt: skip
    ours, theirs = (runs.of(name)[0].parameters or 0 for name in ("SALT", "LoRA"))
    return [*found, Check("SALT has no more parameters than LoRA", ours <= theirs, f"{ours:,} and {theirs:,}",
                          "SALT would buy its Dice with more parameters")]  # fmt: skip
