"""Do the contributions of tokens name those that decide what a language model says next, on problems and on prose?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from linmap.data.models import load_pretrained, load_tokenizer
from linmap.data.pretrained import bundled_model
from linmap.experiment import Check, Part, Runs, Table, draw_all, mean_std, paired
from linmap.recipes.linearscope.compare_text import (
    AGREEMENT,
    CHANCE,
    DROP,
    LEFT,
    LRP,
    METRICS,
    OURS,
    PRODUCT,
    TRUTH,
    Faithfulness,
    budget,
    draw_curves,
    paragraphs,
    problems,
)
from linmap.recipes.linearscope.flags import Compare
from studies.study import Findings, Job

SETTINGS = Compare(model="smollm2-135m")
FULL = "contributions, softmax full"
PROMPTS = 2
"""Of each source in a set."""
SOURCES = {"GSM8K": problems, "Austen": paragraphs}


def run(job: Job) -> Findings:
    """A set of prompts a seed, each of beginnings that the others do not have; every method at all of them."""
    folder = bundled_model("smollm2-135m")
    tokenizer = load_tokenizer(folder)
    model = load_pretrained(folder, "language", "float32").eval().requires_grad_(False)
    count, length = (1, 8) if job.tiny else (PROMPTS, SETTINGS.length)
    parts = [part for seed in job.seeds for part in prompts(tokenizer, length, count, seed)]
    test = Faithfulness(model, tokenizer, SETTINGS)
    more = [test.reading(FULL, "ablation", softmax="full")]
    runs = test.run(parts, job.out, [job.seeds[0]], job.resume, more)
    setting = (
        f"SmolLM2-135M at the first {length} tokens of {count} problems of GSM8K (test) and {count} paragraphs "
        f'of "Persuasion", {len(job.seeds)} sets of prompts. Tokens are removed from the highest score on in steps of '
        "an eighth, and the likeliest next token is followed. Rank correlation is with the fall of its logit when a "
        "token alone is removed."
    )
    tables = [found(runs, source, job.seeds) for source in SOURCES] + [differences(runs), budget(runs)]
    pictures, notes = draw_all([(job.out / "deletion.svg", partial(draw_curves, runs))])
    return Findings(setting, tables, checks(runs), [*said(runs), *notes], pictures)


def prompts(tokenizer: Any, length: int, count: int, seed: int) -> list[Part]:
    """A set of prompts, named by source and set."""
    named = [
        (f"{source}, set {seed}, {number}", ids)
        for source, read in SOURCES.items()
        for number, (_, ids) in enumerate(read(tokenizer, length, count, skip=seed * count), 1)
    ]
    return [Part(name, ids, {"tokens": ids}) for name, ids in named]


# -- what was found ----------------------------------------------------------------------------------------------------


def found(runs: Runs, source: str, seeds: Sequence[int]) -> Table:
    """Mean ± standard deviation over the sets."""
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        cells: list[str | float | int] = [arm.name]
        for metric in METRICS:
            means = [fmean(_values(runs, arm.name, metric.name, f"{source}, set {seed}, ")) for seed in seeds]
            cells.append(mean_std(means, metric.digits))
        rows.append([*cells, arm.note])
    before = [fmean(_values(runs, OURS, "before", f"{source}, set {seed}, ")) for seed in seeds]
    title = f"{source}: the answer's probability is {mean_std(before)} before tokens go"
    return Table(title, ["method", *(metric.name for metric in METRICS), "note"], rows)


def _values(runs: Runs, arm: str, measure: str, prefix: str) -> list[float]:
    return [run.values[measure] for run in runs.of(arm) if run.part.startswith(prefix)]


def differences(runs: Runs) -> Table:
    """Of the contributions from every other method, prompt by prompt."""
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        if arm.name == OURS:
            continue
        gaps = [paired(runs.values(OURS, m.name), runs.values(arm.name, m.name)).text(m.digits) for m in METRICS]
        rows.append([arm.name, *gaps])
    note = "Mean over all prompts with its interval of 95 %; below zero is better for the probability left."
    return Table("Contributions less the other", ["method", *(metric.name for metric in METRICS)], rows, note)


def said(runs: Runs) -> list[str]:
    """Where the contributions are better, worse or not to be told apart, over all prompts."""
    sentences = []
    for metric, sign in ((LEFT, -1), (AGREEMENT, 1)):
        gaps = {
            arm.name: paired(runs.values(OURS, metric.name), runs.values(arm.name, metric.name))
            for arm in runs.arms
            if arm.kind != "system" and (metric is LEFT or arm.name != TRUTH)
        }
        sure = {name: gap.mean * sign > 0 for name, gap in gaps.items() if gap.certain}
        better, worse = ([name for name in sure if sure[name] == side] for side in (True, False))
        equal = [name for name in gaps if name not in sure]
        sentences.append(
            f"By {metric.name}, contributions are better beyond chance than {', '.join(better) or 'nothing'}, worse "
            f"than {', '.join(worse) or 'nothing'}, and not to be told apart from {', '.join(equal) or 'nothing'}."
        )
    return sentences


def checks(runs: Runs) -> list[Check]:
    exact = max(runs.values(OURS, "exactness"))
    chance = paired(runs.values(CHANCE, LEFT.name), runs.values(OURS, LEFT.name))
    product = paired(runs.values(OURS, AGREEMENT.name), runs.values(PRODUCT, AGREEMENT.name))
    lrp = paired(runs.values(OURS, AGREEMENT.name), runs.values(LRP, AGREEMENT.name))
    truth = paired(runs.values(TRUTH, DROP.name), runs.values(OURS, DROP.name))
    return [
        Check("y = F x + r to 1e-5 at every prompt", exact <= 1e-5, f"largest {exact:.1e}",
              "the reading is not the model, and no other figure here holds"),
        Check("contributions leave less of the answer than a random order, beyond chance", chance.low > 0,
              chance.text(), "they do not name the tokens that decide"),
        Check("contributions agree with true ablation better than gradient × input, beyond chance", product.low > 0,
              product.text(2), "the Jacobian ranks tokens as well"),
        Check("contributions agree with true ablation no worse than AttnLRP beyond chance", not lrp.high < 0,
              lrp.text(2), "following the softmax ranks tokens better: take AttnLRP to rank"),
        Check("the order of true ablation makes the logit fall no further than that of contributions, beyond chance",
              not truth.low > 0, truth.text(2), "an ablation, a pass a token, finds more"),
    ]  # fmt: skip
