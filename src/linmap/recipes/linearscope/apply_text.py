"""`linmap apply linearscope` of a language model: what made it say that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from linmap.artifacts import plain, write_json, write_table
from linmap.data.images import SUFFIXES
from linmap.data.models import load_pretrained, load_tokenizer, model_folder, on_accelerator
from linmap.data.text import read_text as read_file
from linmap.errors import DataError
from linmap.interpret.linearscope import LinearScope
from linmap.interpret.linearscope.language import LanguageReading, read_text
from linmap.interpret.linearscope.language.shown import of_text
from linmap.interpret.linearscope.language.summary import Summary, summary_of
from linmap.interpret.linearscope.language.tokens import quoted
from linmap.interpret.linearscope.page import Page, write_page
from linmap.pictures import illustrated
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope.flags import Apply
from linmap.recipes.linearscope.kinds import TEXT

PROMPT = "Berlin is the capital of Germany, Rome is the capital of Italy, and the capital of France is"
PROMPTS = (".txt", ".md")
PAGE, NUMBERS, TOKENS, LAYERS = "page.html", "reading.json", "contributions.csv", "layers.csv"
LIMITS = (
    "The model was read as one affine map from the embeddings of the tokens to the logits of the next one. It gives "
    "the model's own logits here, to rounding, and was held against the model before this page was written; so the "
    "contributions add up.",
    "The map is frozen at this text: attention keeps the probabilities, the gates and norms the values that they took. "
    "It does not say what decided these values, and so not what the model would have said to another text. A token "
    "that only steers attention (a word that makes another one be looked at) adds little here and may matter much: "
    "take it out and see. Contributions count from embeddings of zeros.",
)


def apply_text(settings: Apply, job: ApplyJob) -> dict[str, Any]:
    """Read a text; write the page, the numbers as JSON, and a table of tokens and of layers."""
    out = Path(job.out or "linearscope")
    text, source = prompt_of(job.data)
    folder = model_folder(str(settings.model), "text")
    model = on_accelerator(load_pretrained(folder, "language", "float32")).eval().requires_grad_(False)
    with Console(stderr=True).status("reading the model"):
        reading = read_text(LinearScope(model, **settings.options()), text, load_tokenizer(folder))
        found = summary_of(
            reading, settings.target, settings.against, directions=settings.singular, lens=settings.positions
        )
    report = {"model": settings.model, "source": source, "text": text, "answer": found.answer()}
    report |= {"reading": reading.interp.report(), **found.plain(), "notes": found.notes}
    write_json(out / NUMBERS, plain(report))
    write_table(out / TOKENS, pd.DataFrame(found.rows()))
    files = [NUMBERS, TOKENS]
    if rows := found.layer_rows():
        write_table(out / LAYERS, pd.DataFrame(rows))
        files.append(LAYERS)
    summary = told(found, reading)
    with illustrated(summary, out / PAGE) as path:
        write_page(page_of(found, reading, settings, source), path)
        files.insert(0, PAGE)
    if hint := spaced(reading, settings.target):
        summary.setdefault("notes", []).append(hint)
    return summary | {"out": str(out), "files": files}


def prompt_of(data: Path | None) -> tuple[str, str]:
    """The text of a file without the line break at its end, or the embedded one; and where it is from.

    Raises
    ------
    DataError
        If there is nothing in it, or it is another kind of file.
    """
    if data is None:
        return PROMPT, "embedded prompt"
    if (data.with_suffix("") if data.suffix.lower() == ".gz" else data).suffix.lower() not in PROMPTS:
        raise DataError(
            f"{data}: this reads one prompt ({', '.join(PROMPTS)}, each also with .gz) or one picture "
            f"({', '.join(SUFFIXES)}); many texts ({', '.join(TEXT)}) are for `linmap compare linearscope`."
        )
    text = read_file(data).rstrip("\r\n")
    if not text.strip():
        raise DataError(f"{data} holds no text; write the beginning of one.")
    return text, str(data)


def told(found: Summary, reading: LanguageReading) -> dict[str, Any]:
    """What the command says."""
    best = ", ".join(f"{quoted(p.token)} {p.probability:.0%}" for p in found.predictions[:5])
    summary: dict[str, Any] = {"answer": found.answer(), "next": best, "tokens": len(found.tokens)}
    summary |= {"exactness": reading.interp.exactness(), "value": found.contributions.value}
    return summary | ({"notes": list(found.notes)} if found.notes else {})


def spaced(reading: LanguageReading, target: str | None) -> str:
    """A hint where a target without a space is far less likely than the same word with one."""
    if target is None or target[:1] in (" ", ""):
        return ""
    try:
        other = reading.token(f" {target}")
    except ValueError:
        return ""
    lead = float(reading.logits[other.id] - reading.logits[reading.token(target).id])
    return f"“ {target}”, with a space in front, is likelier here by {lead:.1f} in the logit" if lead > 1 else ""


def page_of(found: Summary, reading: LanguageReading, settings: Apply, source: str) -> Page:
    """The page."""
    name, interp = str(settings.model), reading.interp
    target, against = found.contributions.target.plain, found.contributions.against
    headline = (
        f"What made {Path(name).name} say “{target}”"
        if against is None
        else f"What made {Path(name).name} say “{target}” and not “{against.plain}”"
    )
    units = ", ".join(f"{count} {unit}" for unit, count in interp.report()["units"].items())
    facts = {
        "Model": name,
        "Text": f"{len(found.tokens)} tokens, {source}",
        "Exactness": f"max |F x + r − y| / max |y| = {interp.exactness():.1e}",
        "Held on this text": units,
    }
    return Page(headline, headline, found.answer(), Path(name).name, LIMITS, facts, found.notes, of_text(found))
