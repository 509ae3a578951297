"""SmolLM2-135M's next token after prompts that are shortened in block 2, beside FastV."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from linmap.compress.token_transforming import Compressed, TokenTransform, compress_prefill
from linmap.compress.token_transforming.evaluation.measuring import Task
from linmap.compress.token_transforming.evaluation.texts import KL, PREFILL_BLOCK, Prompts
from linmap.compress.token_transforming.evaluation.ways import Way, decoder_ways
from linmap.data import find
from linmap.data.models import load_pretrained, load_tokenizer
from linmap.data.pretrained import bundled_model
from linmap.data.text import read_text
from linmap.experiment import Check, Part, Runs, draw_all, paired
from linmap.recipes.token_transforming.compare import PREFILL
from studies.study import Findings, Job
from studies.token_transforming.common import OURS, differences, drawn, kept, ran

LENGTH, PROMPTS = 256, 64
LEFT = (192, 144, 96)
"""Tokens that are left of the prompt."""
TEXTS = ("text/wikitext2_raw_test.txt", "text/austen_test.txt.gz")


class Shortened(Prompts):
    """With budgets in tokens."""

    def compressed(self, transform: TokenTransform, keep: float, at: object = None) -> Compressed:
        return compress_prefill(self.model, M=int(keep), layer=PREFILL_BLOCK, transform=transform)


def ways() -> Iterator[Way]:
    """Those of the recipe, and further settings of the method."""
    yield from decoder_ways(PREFILL)
    gate = TokenTransform(select="importance", min_sim=0.7)
    yield Way("gate .7", "ablation", gate, "merges where the cosine is .7")
    yield Way("many to many", "ablation", TokenTransform(), "as for encoders")
    yield Way("many to one", "ablation", TokenTransform(assign="hard"), "as for encoders, hard")
    yield Way("causal", "ablation", TokenTransform(causal=True), "outputs see only their own past")


def run(job: Job) -> Findings:
    """Windows of 256 tokens."""
    folder = bundled_model("smollm2-135m")
    model, name = load_pretrained(folder, "language", "float32").eval(), source()
    stream = load_tokenizer(folder)(read_text(find(name, "Reinstall linmap.")))["input_ids"]
    count, length, left = (2, 64, (50,)) if job.tiny else (PROMPTS, LENGTH, LEFT)
    step = (len(stream) - length) // count
    subject = Shortened(model, [stream[first : first + length] for first in range(0, step * count, step)])
    task = Task(subject, list(ways()), left, repeats=0)
    runs = ran(job, task, {"length": length, "text": name}, [Part(f"{M} tokens", M) for M in left])
    tables = [kept(task, runs), differences(task, runs, [KL.name])]
    setting = (
        f"SmolLM2-135M-Instruct, {count} windows of {length} tokens spread over {name}; in block {PREFILL_BLOCK} the "
        f"prompt is shortened to {', '.join(map(str, left))} tokens, the first 4 and the last 32 stay; KL of the next "
        "token's distribution from that after the whole prompt."
    )
    pictures, notes = draw_all([(job.out / "curves.svg", partial(drawn, runs, KL, 0.2))])
    return Findings(setting, tables, checks(runs), notes, pictures)


def checks(runs: Runs) -> list[Check]:
    """A tie with FastV is what the specification claims, and no more."""
    found = []
    for part in runs.parts:
        ours, theirs = (runs.of(name, part)[0].details[KL.name] for name in (OURS, "FastV"))
        gap = paired(ours, theirs)
        found.append(Check(f"{part}: no worse than FastV beyond chance", not gap.low > 0, f"KL {gap.text()}",
                           "prune; merging costs quality in a prompt"))  # fmt: skip
    return found


def source() -> str:
    """WikiText-2 where it is there, else the novel of the package."""
    for name in TEXTS:
        try:
            find(name, "")
        except FileNotFoundError:
            continue
        return name
    return TEXTS[-1]
