"""MiniLM on Cranfield: documents with fewer tokens, queries with all of theirs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from linmap.compress.token_transforming import TokenTransform
from linmap.compress.token_transforming.evaluation.measuring import ORIGINAL, Task
from linmap.compress.token_transforming.evaluation.texts import SENTENCE, Sentences
from linmap.compress.token_transforming.evaluation.ways import Way
from linmap.data import find
from linmap.data.models import load_pretrained, load_tokenizer
from linmap.data.pretrained import bundled_model
from linmap.experiment import Check, Metric, Outcome, Runs, Table, Trial, draw_all, paired
from studies.study import Findings, Job
from studies.token_transforming.common import OURS, ahead, all_ways, differences, drawn, kept, ran

LENGTH, BATCH = 160, 32
NDCG = Metric("nDCG@10", "higher", digits=4)
HOW = "Unpack Cranfield there."


class Documents(Sentences):
    """Documents whose embeddings are searched with those of queries."""

    def __init__(self, model: nn.Module, tokens: list[list[int]], queries: Tensor, relevant: list[set[int]]) -> None:
        super().__init__(model, tokens, BATCH)
        self.queries, self.relevant = queries, relevant
        self.order = [row for rows in self.rows for row in rows]
        self.found: list[Tensor] = []

    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        self.found = [*self.found[:batch], after["pooled"]]
        return super().scores(before, after, batch)

    def gains(self) -> list[float]:
        """nDCG@10 of every query, with the embeddings that were scored last."""
        vectors = torch.nn.functional.normalize(torch.cat(self.found), dim=1)
        similarity = self.queries @ vectors.T
        ranked = [
            [self.order[place] for place in row] for row in similarity.topk(min(10, len(self.order))).indices.tolist()
        ]
        return [ndcg(places, relevant) for places, relevant in zip(ranked, self.relevant, strict=True)]


class Searched(Task):
    """With what the queries find."""

    def run(self, way: Way | None, trial: Trial) -> Outcome:
        found = super().run(way, trial)
        assert isinstance(self.subject, Documents)
        gains = self.subject.gains()
        return Outcome({**found.values, NDCG.name: float(np.mean(gains))}, details={**found.details, NDCG.name: gains})


def run(job: Job) -> Findings:
    """Documents of 160 tokens and more, cut to 160."""
    model, tokens, queries, relevant = cranfield(job.tiny)
    subject = Documents(model, tokens, queries, relevant)
    soft = Way("tau .05", "ablation", TokenTransform(tau=0.05), "softer")
    by_class = Way("pruning by CLS", "baseline", TokenTransform(select="importance", assign="prune", score="cls"),
                   "attention of the class token")  # fmt: skip
    ways = [*all_ways(), soft, by_class]
    if job.tiny:
        ways = ways[:2]
    keeps = (0.7,) if job.tiny else (0.85, 0.7)
    task = Searched(subject, ways, keeps, repeats=0)
    runs = ran(job, task, {"length": LENGTH})
    tables = [searched(task, runs), kept(task, runs), differences(task, runs, [SENTENCE.name])]
    setting = (
        f"all-MiniLM-L6-v2, {len(tokens)} documents of {LENGTH} tokens or more cut to {LENGTH}, {len(relevant)} "
        "queries with every token (relevant are the codes 1 to 4; -1 is no interest); the share .85 or .7 of the "
        "tokens stays in each of the six blocks."
    )
    pictures, notes = draw_all([(job.out / "curves.svg", partial(drawn, runs, SENTENCE, 0.98))])
    return Findings(setting, tables, checks(runs) if not job.tiny else [], notes, pictures)


def checks(runs: Runs) -> list[Check]:
    """The spec's: a tie with ToMe on x at mild compression, ahead at strong compression."""
    gap = paired(
        runs.of(OURS, "keep 0.7")[0].details[SENTENCE.name], runs.of("ToMe on x", "keep 0.7")[0].details[SENTENCE.name]
    )
    ndcg_gap = runs.mean(OURS, NDCG.name, "keep 0.7") - runs.mean("ToMe on x", NDCG.name, "keep 0.7")
    return [
        Check("keep 0.7: the cosine is .03 or more above that of ToMe on x", gap.mean >= 0.03, gap.text(4),
              "merging many to many does not pay for texts either", gap.low > 0.03 or gap.high < 0.03),
        Check("keep 0.7: nDCG@10 is not below that of ToMe on x", ndcg_gap >= 0, f"{ndcg_gap:+.4f}",
              "the nearer embeddings do not find more"),
        *ahead(runs, SENTENCE.name, "higher", 0.003, 0.495),
    ]  # fmt: skip


def searched(task: Task, runs: Runs) -> Table:
    """nDCG@10 of every way, and what it differs from every token, paired over the queries."""
    whole = runs.of(ORIGINAL, runs.parts[0])[0].details[NDCG.name]
    rows: list[list[str | float | int]] = [["-", ORIGINAL, f"{np.mean(whole):.4f}", "-"]]
    for part in runs.parts:
        for arm in runs.arms:
            if arm.name != ORIGINAL:
                gains = runs.of(arm.name, part)[0].details[NDCG.name]
                rows.append([part, arm.name, f"{np.mean(gains):.4f}", paired(gains, whole).text(4)])
    note = "The difference with the 95 % interval over the queries."
    return Table("nDCG@10", ["budget", "way", NDCG.name, "less that of every token"], rows, note)


# -- Cranfield ---------------------------------------------------------------------------------------------------------


def cranfield(tiny: bool) -> tuple[nn.Module, list[list[int]], Tensor, list[set[int]]]:
    """The model, the long documents' tokens, the queries' unit embeddings, and the documents that each asks for."""
    folder = bundled_model("minilm-l6")
    model, tokenizer = load_pretrained(folder, "encoder", "float32").eval(), load_tokenizer(folder)
    documents = lines(find("retrieval/docs.jsonl", HOW))
    tokens = {
        one["id"]: tokenizer(f"{one['title']} {one['text']}")["input_ids"] for one in documents[: 200 if tiny else None]
    }
    end = next(iter(tokens.values()))[-1]
    long = {name: [*ids[: LENGTH - 1], end] for name, ids in tokens.items() if len(ids) >= LENGTH}
    if tiny:
        long = {name: ids[:40] for name, ids in list(long.items())[:6]}
    place = {name: row for row, name in enumerate(long)}
    wanted: dict[str, set[int]] = {}
    for line in find("retrieval/qrels.tsv", HOW).read_text(encoding="utf-8").splitlines():
        query, document, code = line.split()[:3]
        if code in ("1", "2", "3", "4") and document in place:
            wanted.setdefault(query, set()).add(place[document])
    queries = [one for one in lines(find("retrieval/queries.jsonl", HOW)) if one["id"] in wanted]
    asked = Sentences(model, [tokenizer(one["text"])["input_ids"] for one in queries], BATCH)
    vectors = torch.cat([asked.features(batch)["pooled"] for batch in range(len(asked))])
    _, places = asked.in_order()
    unit = torch.nn.functional.normalize(vectors[places], dim=1)
    return model, list(long.values()), unit, [wanted[one["id"]] for one in queries]


def lines(path: Path) -> list[dict[str, str]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ndcg(ranked: list[int], relevant: set[int]) -> float:
    """nDCG of the first ten, each document relevant or not."""
    weights = 1 / np.log2(np.arange(2, 12))
    gain = sum(weights[rank] for rank, document in enumerate(ranked[:10]) if document in relevant)
    return float(gain / weights[: min(len(relevant), 10)].sum())
