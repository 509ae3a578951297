"""`linmap compare linearscope` of a language model: do the contributions name the tokens that decide?"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linmap.data import find
from linmap.data.models import load_pretrained, load_tokenizer, model_folder, on_accelerator
from linmap.data.text import read_prompts, read_text
from linmap.data.tokens import Tokenizer, plain_tokens, prompt_tokens
from linmap.errors import DataError
from linmap.experiment import Arm, Experiment, Outcome, Part, Runs, Trial, conclude, weights_digest
from linmap.experiment.result import Check, Kind, Metric, Picture, Result, Table
from linmap.interpret.linearscope import LinearScope
from linmap.interpret.linearscope.language.faithfulness import (
    ablation,
    deletion_curves,
    embedded,
    next_logits,
    rank_correlation,
)
from linmap.interpret.linearscope.language.reading import read_ids
from linmap.interpret.linearscope.language.rivals import (
    attention_rollout,
    attn_lrp,
    gradient_times_input,
    integrated_gradients,
)
from linmap.interpret.linearscope.language.tokens import tokens_of
from linmap.pictures import figure, save_svg
from linmap.recipes.job import CompareJob
from linmap.recipes.linearscope.flags import Compare

OURS, PRODUCT, INTEGRATED, ROLLOUT = "contributions", "gradient × input", "integrated gradients", "attention rollout"
LRP, CHANCE, TRUTH = "AttnLRP", "random order", "true ablation"
LEFT = Metric("probability left", "lower", digits=3)
DROP = Metric("logit drop", "higher", digits=2)
AGREEMENT = Metric("rank correlation", "higher", digits=2)
METRICS = [LEFT, DROP, AGREEMENT]
POINTS = 8
"""Points of a deletion curve beside the whole text."""
ORDERS = 3
"""Random orders of each prompt."""
SHORTEST = 4
"""Tokens of a prompt in which an order can be tested."""
PROBLEMS, NOVEL = "bone/gsm8k_test.jsonl.gz", "text/austen_test.txt.gz"
LONG = 400
"""Characters of a paragraph of the novel that is taken."""


def compare_text(settings: Compare, job: CompareJob) -> Result:
    """Deletion and agreement with true ablation at every prompt, beside what one would take otherwise."""
    folder = model_folder(str(settings.model), "text")
    tokenizer = load_tokenizer(folder)
    parts = prompts_of(job.data, tokenizer, settings.length, settings.prompts)
    model = on_accelerator(load_pretrained(folder, "language", "float32")).eval().requires_grad_(False)
    test = Faithfulness(model, tokenizer, settings)
    runs = test.run(parts, Path(job.out), [job.seed], job.resume)
    rows = runs.rows(METRICS)
    return conclude(
        "linearscope", rows, METRICS, settings, over="prompts",
        task=f"{settings.model} at {len(parts)} prompt{'s' * (len(parts) > 1)} of at most {settings.length} tokens: "
        f"tokens are {settings.without} from the highest score on, and the likeliest next token is followed.",
        shows=_shows(runs),
        limits="The contributions are exact for the map that the model is at this prompt, with attention held; taking "
        "tokens away changes attention too, which no method here follows to the end. A text with gaps is an unusual "
        "input. One model, short prompts, one target each.",
        checks=_checks(runs), tables=[_by_prompt(runs), budget(runs)], seeds=[job.seed],
        drawings=[(Path(job.out) / "deletion.svg", lambda path: draw_curves(runs, path))],
    )  # fmt: skip


# -- prompts -----------------------------------------------------------------------------------------------------------


def prompts_of(data: Path | None, tokenizer: Tokenizer, length: int, limit: int) -> list[Part]:
    """The user's prompts, the last tokens of long ones; without a file beginnings of GSM8K's problems and of a novel.

    Raises
    ------
    DataError
        If none has enough tokens.
    """
    if data is not None:
        read = [(record.place, prompt_tokens(record, tokenizer)[-length:]) for record in read_prompts(data, "language")]
        named = [(place.rpartition(", ")[2], ids) for place, ids in read if len(ids) >= SHORTEST]
        if not named:
            raise DataError(f"{data}: no prompt has {SHORTEST} tokens or more; there is nothing to take away.")
    else:
        half = (limit + 1) // 2
        named = [*problems(tokenizer, length, half), *paragraphs(tokenizer, length, limit - half)]
    return [Part(name, ids, {"tokens": _digest(ids)}) for name, ids in spread(named, limit)]


def problems(tokenizer: Tokenizer, length: int, count: int, skip: int = 0) -> list[tuple[str, list[int]]]:
    """Beginnings of GSM8K's problems that are long enough."""
    records = read_prompts(find(PROBLEMS, "Reinstall linmap."), "language")
    return _beginnings("GSM8K", (record.text for record in records), tokenizer, length, count, skip)


def paragraphs(tokenizer: Tokenizer, length: int, count: int, skip: int = 0) -> list[tuple[str, list[int]]]:
    """Beginnings of the long paragraphs of "Persuasion"."""
    whole = read_text(find(NOVEL, "Reinstall linmap.")).split("\n\n")
    texts = (" ".join(text.split()) for text in whole if len(text) >= LONG)
    return _beginnings("Austen", texts, tokenizer, length, count, skip)


def _beginnings(
    name: str, texts: Iterable[str], tokenizer: Tokenizer, length: int, count: int, skip: int
) -> list[tuple[str, list[int]]]:
    found: list[tuple[str, list[int]]] = []
    for text in texts:
        if len(found) == skip + count:
            break
        if len(ids := plain_tokens(text, tokenizer)) >= length:
            found.append((f"{name} {len(found) + 1}", ids[:length]))
    return found[skip:]


def spread(items: Sequence[tuple[str, list[int]]], limit: int) -> list[tuple[str, list[int]]]:
    """At most `limit` of them, evenly spaced."""
    if limit >= len(items):
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * limit)] for place in range(limit)]


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()[:16]


# -- the test ----------------------------------------------------------------------------------------------------------

Score = Callable[[list[int], int], Tensor]


class Faithfulness:
    """Scores of tokens, tested at prompts of one model.

    Parameters
    ----------
    model, tokenizer
        Of Transformers.
    settings
        How the model is read, how many steps integrated gradients take, and how tokens are taken away.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, settings: Compare) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.truth, self._found = cache(self._truth), cache(self._likeliest)

    def run(
        self, parts: Sequence[Part], out: Path, seeds: Sequence[int], resume: bool, more: Sequence[Arm] = ()
    ) -> Runs:
        """Every score at every prompt, those of `more` too, with finished runs kept."""
        shared = {name: getattr(self.settings, name) for name in ("model", "without")}
        shared |= {"weights": weights_digest(self.model), "points": POINTS}
        return Experiment("linearscope", out / "runs", shared, resume).run([*self.arms(), *more], parts, seeds)

    def arms(self) -> list[Arm]:
        """The reading, what one would take otherwise, chance, and the truth that is approximated."""
        model = self.model
        found = [
            self.reading(OURS),
            self._arm(PRODUCT, partial(gradient_times_input, model), "1 forward, 1 backward"),
            self.integrated(INTEGRATED, self.settings.steps),
            self._arm(ROLLOUT, lambda ids, target: attention_rollout(model, ids), "1 forward, whatever the target"),
        ]
        if any(hasattr(module, "gate_proj") for module in model.modules()):
            found.append(self._arm(LRP, partial(attn_lrp, model), "1 forward, 1 backward"))
        chance = {"orders": ORDERS}
        return [
            *found,
            Arm(CHANCE, "reference", self._random, chance, note=f"chance: mean over {ORDERS} orders"),
            Arm(TRUTH, "reference", self._by_truth, seeded=False, note="a forward pass a token"),
        ]

    def reading(self, name: str, kind: Kind = "system", **options: Any) -> Arm:
        """The contributions of a reading, with the options of the flags or others."""
        options = self.settings.options() | options
        note = "one reading" if kind == "system" else "a reading too"
        return Arm(name, kind, partial(self._contributions, options), options, seeded=False, note=note)

    def integrated(self, name: str, steps: int) -> Arm:
        """Integrated gradients of so many points."""
        score = partial(integrated_gradients, self.model, steps=steps)
        return self._arm(name, score, f"{steps} forward, {steps} backward", steps)

    def _arm(self, name: str, score: Score, note: str, steps: int = 0) -> Arm:
        def run(trial: Trial) -> Outcome:
            target = self.target(trial.data)
            start = time.perf_counter()
            scores = score(list(trial.data), target)
            return self.outcome(trial.data, target, scores, time.perf_counter() - start)

        return Arm(name, "baseline", run, {"steps": steps} if steps else {}, seeded=False, note=note)

    def _contributions(self, options: Mapping[str, Any], trial: Trial) -> Outcome:
        start = time.perf_counter()
        reading = read_ids(LinearScope(self.model, **options), trial.data, self.tokenizer)
        found = reading.contributions()
        seconds = time.perf_counter() - start
        outcome = self.outcome(trial.data, found.target.id, found.values, seconds)
        added = abs(float(found.values.double().sum()) + found.residual - found.value)
        extra = {"exactness": reading.interp.exactness(), "missed": added / max(abs(found.value), 1e-6)}
        extra |= {"logit": found.value, "residual": found.residual}
        return Outcome({**outcome.values, **extra}, details=outcome.details, seconds=seconds)

    def _random(self, trial: Trial) -> Outcome:
        generator = torch.Generator().manual_seed(trial.seed)
        target = self.target(trial.data)
        start = time.perf_counter()
        orders = torch.rand(ORDERS, len(trial.data), generator=generator)
        seconds = (time.perf_counter() - start) / ORDERS
        found = self._outcomes(trial.data, target, orders, seconds)
        values = {name: fmean(one.values[name] for one in found) for name in found[0].values}
        curves = np.mean([one.details["curve"] for one in found], 0).tolist()
        return Outcome(values, details=dict(found[0].details) | {"curve": curves}, seconds=seconds)

    def _by_truth(self, trial: Trial) -> Outcome:
        scores, seconds = self.truth(tuple(trial.data))
        return self.outcome(trial.data, self.target(trial.data), scores, seconds)

    def _truth(self, ids: tuple[int, ...]) -> tuple[Tensor, float]:
        """What each token is worth, and the seconds that it took to find out."""
        target, start = self.target(ids), time.perf_counter()
        return ablation(self.model, ids, target, self.settings.without), time.perf_counter() - start

    def target(self, ids: Sequence[int]) -> int:
        """The likeliest next token."""
        return self._found(tuple(ids))

    @torch.no_grad()
    def _likeliest(self, ids: tuple[int, ...]) -> int:
        return int(next_logits(self.model, embedded(self.model, ids))[0].argmax())

    def outcome(self, ids: Sequence[int], target: int, scores: Tensor, seconds: float) -> Outcome:
        """What the test finds of scores that took so many seconds."""
        return self._outcomes(ids, target, scores[None], seconds)[0]

    def _outcomes(self, ids: Sequence[int], target: int, scores: Tensor, seconds: float) -> list[Outcome]:
        told = {"target": tokens_of([target], self.tokenizer)[0].word}
        curves = deletion_curves(self.model, ids, target, scores, POINTS, self.settings.without)
        return [
            Outcome(
                {
                    LEFT.name: curve.area(curve.probabilities),
                    DROP.name: curve.logits[0] - curve.area(curve.logits),
                    AGREEMENT.name: rank_correlation(one.cpu(), self.truth(tuple(ids))[0].cpu()),
                    "before": curve.probabilities[0],
                },
                details=told | {"shares": curve.shares, "curve": curve.probabilities},
                seconds=seconds,
            )
            for one, curve in zip(scores, curves, strict=True)
        ]


# -- what it shows -----------------------------------------------------------------------------------------------------


def _by_prompt(runs: Runs) -> Table:
    names = [arm.name for arm in runs.arms]
    rows: list[list[str | float | int]] = []
    for run in runs.of(OURS):
        left = [round(runs.mean(name, LEFT.name, run.part), 3) for name in names]
        rows.append([run.part, run.details["target"], round(run.values["before"], 3), *left])
    return Table("Probability left, by prompt", ["prompt", "next token", "before", *names], rows)


def budget(runs: Runs) -> Table:
    """What each score costs."""
    rows: list[list[str | float | int]] = [
        [arm.name, arm.note, round(1000 * fmean(run.seconds for run in runs.of(arm.name)))]
        for arm in runs.arms
        if arm.name != CHANCE
    ]
    return Table("What a score costs", ["score", "passes", "milliseconds a prompt"], rows)


def _checks(runs: Runs) -> list[Check]:
    exact, missed = (max(runs.values(OURS, name)) for name in ("exactness", "missed"))
    ours, chance = runs.mean(OURS, LEFT.name), runs.mean(CHANCE, LEFT.name)
    agree = {arm.name: runs.mean(arm.name, AGREEMENT.name) for arm in runs.arms if arm.kind == "baseline"}
    best = max(agree, key=lambda name: agree[name])
    mine = runs.mean(OURS, AGREEMENT.name)
    return [
        Check(
            "y = F x + r to 1e-5 at every prompt, and the contributions add up to the logit",
            exact <= 1e-5 and missed <= 1e-4,
            f"largest miss {exact:.1e} and {missed:.1e}",
            "the reading is not the model, and no other figure here holds",
        ),
        Check(
            "taking tokens away by contributions leaves less of the answer than a random order",
            ours < chance,
            f"{ours:.3f} against {chance:.3f}",
            "the contributions do not name the tokens that decide",
            runs.differ(OURS, CHANCE, LEFT.name),
        ),
        Check(
            "contributions agree with true ablation better than every baseline",
            mine > agree[best],
            f"{mine:.2f} against {best} {agree[best]:.2f}",
            f"to rank tokens by what their loss would change, take {best}",
            runs.differ(OURS, best, AGREEMENT.name),
        ),
    ]


def _shows(runs: Runs) -> str:
    before, ours, chance = runs.mean(OURS, "before"), runs.mean(OURS, LEFT.name), runs.mean(CHANCE, LEFT.name)
    truth = runs.mean(TRUTH, LEFT.name)
    residual = fmean(abs(value) for value in runs.values(OURS, "residual"))
    biases = " The model has no biases: the tokens add up to the whole logit." if residual < 1e-3 else ""
    return (
        f"The likeliest next token has a probability of {before:.3f} on average; over the whole curve {ours:.3f} of it "
        f"is left where tokens go by contributions, {chance:.3f} in a random order, and {truth:.3f} in the order of "
        f"what each alone is truly worth.{biases}"
    )


def draw_curves(runs: Runs, path: Path) -> Picture:
    """The mean curve of every score."""
    grid = np.linspace(0, 0.9, 19)
    with figure(7.2, 3.7) as (fig, ax):
        for arm in runs.arms:
            curves = [np.interp(grid, run.details["shares"], run.details["curve"]) for run in runs.of(arm.name)]
            width = 2.4 if arm.kind == "system" else 1.4
            ax.plot(grid, np.mean(curves, 0), linewidth=width, label=arm.name, **runs.styles[arm.name])
        ax.set(xlabel="share of the tokens taken away", ylabel="probability of the answer", ylim=(0, None))
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8.5)
        save_svg(fig, path)
    caption = "Mean over the prompts; the lower a curve, the better the score names what decides."
    return Picture(path.name, "Deletion curves", caption)
