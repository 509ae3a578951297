"""The tables of systems in README.md, docs/index.md and docs/studies, written from the catalogue of `linmap list`.

`python docs/hooks/systems.py` rewrites them between their markers; a test holds that they are what it would write.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from linmap.recipes import SYSTEMS

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?<=<!-- systems -->\n\n).*?(?=\n<!-- /systems -->)", re.DOTALL)

READERS = {
    "adapt": "fine-tune a pretrained model",
    "compress": "want a model smaller or faster",
    "retrieve": "search vectors, or records without a schema",
    "sequence": "classify, stream or forecast series",
    "signals": "classify EEG or covariance matrices",
    "shapes": "work with shapes and their symmetries",
    "interpret": "ask why a network answers as it does",
}
"""What the users of each room want to do."""

MEASURED = {
    "bone": "validation loss .7175, LoRA .7210 (GSM8K)",
    "triadaptlora": "accuracy .634, AdaLoRA .628, ranks grown at random .643 (Banking77)",
    "salt": "Dice .623, LoRA .651 (vessels, 20 images)",
    "flatquant": "perplexity 54.2, QuaRot 112.8, not quantised 32.1 (SmolLM2, W4A4KV4)",
    "token_transforming": "half of the multiply-adds: features keep a cosine of .936, ToMe's .900 (DINOv2)",
    "learngene_pool": "accuracy over nine sizes .763, each trained alone .360; the widest .806, alone .869 (digits)",
    "bt2": "precision on the new index .977, BCT .969; on the old one .659, BCT .670 (digits)",
    "mbat": "accuracy of neighbours .948, hashed paths .937 (patients)",
    "hippo": "accuracy .921, GRU .670 (digits, pixel by pixel)",
    "olinear": "squared error .3632, RLinear .3811 (ETTh1, 96 hours)",
    "acm": "accuracy .471, plain covariances .297, a small network .579 (MAMEM, 11 subjects)",
    "gbwbn": "accuracy .79, affine-invariant norm .81, no norm .79 (actions of unseen actors)",
    "lie_decomposition": "accuracy .850, CNN .756, CNN with augmentation .938 (warped digits)",
    "tinvnn": "accuracy in any pose .453, augmentation .332, D2 histograms .461 (LDraw)",
    "tooth_arrangement": "error of the mean plan .462 mm, regression .436, teeth left alone 1.374 (simulated)",
    "linearscope": "probability left without the chosen pixels .062, gradient × input .062, random pixels .232",
    "householder_projector": "entanglement .263, SeFa .234 (faces; lower is better)",
}
"""One line of the studies for each system, beside what its user would otherwise take, whichever is ahead."""


def systems() -> str:
    """One row a system that is ready, for the README."""
    rows = (
        (
            f"[{system.title}](docs/{system.room}.md) `{system.slug}`",
            system.purpose,
            f"[{MEASURED[system.slug]}](studies/RESULTS/{system.slug}.md)",
            _paper(system.paper),
        )
        for system in SYSTEMS.values()
        if system.ready
    )
    return _table(("system", "what it does for you", "measured", "paper"), rows)


def studies() -> str:
    """One row a system that is ready, for the pages of the studies."""
    rows = (
        (f"[{system.title}]({system.slug}.md)", MEASURED[system.slug]) for system in SYSTEMS.values() if system.ready
    )
    return _table(("system", "one line of what was measured"), rows)


def rooms() -> str:
    """One row a room, with what is ready in it."""

    def titles(room: str) -> str:
        return ", ".join(system.title for system in SYSTEMS.values() if system.room == room and system.ready)

    rows = ((f"[{room}]({room}.md)", f"you {wish}", titles(room)) for room, wish in READERS.items())
    return _table(("room", "for you if", "systems"), rows)


TABLES = {
    ROOT / "README.md": systems,
    ROOT / "docs" / "index.md": rooms,
    ROOT / "docs" / "studies" / "index.md": studies,
}


def _paper(paper: str) -> str:
    number = paper.removeprefix("arXiv ")
    return f"[{number}](https://arxiv.org/abs/{number})"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for page, table in TABLES.items():
        page.write_text(BLOCK.sub(lambda _, table=table: table(), page.read_text()))
