"""What a language model writes after prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from linmap.data.text import TextRecord
from linmap.data.tokens import Tokenizer, padded, prompt_tokens
from linmap.errors import DataError


@torch.no_grad()
def complete(
    model: nn.Module,
    tokenizer: Tokenizer,
    records: Sequence[TextRecord],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    batch_size: int = 16,
) -> list[str]:
    """What a language model writes after each prompt, up to the end-of-text token.

    Parameters
    ----------
    model, tokenizer
        Of Transformers.
    records
        From `linmap.data.text.read_prompts`.
    max_new_tokens
        Tokens of a completion at most.
    temperature
        0 takes the likeliest token; more draws from the softened distribution, by PyTorch's global generator.
    batch_size
        Records that are answered together, the longest first; what is answered does not depend on it.

    Raises
    ------
    DataError
        If a prompt is empty, or exceeds with its completion the positions of the model; the message has its place.
    """
    prompts = [prompt_tokens(record, tokenizer) for record in records]
    for record, ids in zip(records, prompts, strict=True):
        _check_prompt(record, ids, model, max_new_tokens)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0}
        if temperature
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    generate: Any = model.generate
    device, end = next(model.parameters()).device, tokenizer.eos_token_id
    answers = [""] * len(prompts)
    for part in by_length([len(ids) for ids in prompts], batch_size, "answering"):
        rows = [prompts[i] for i in part]
        length = max(map(len, rows))
        ids = padded(rows, length, 0, side="left").to(device)
        mask = padded([[1] * len(row) for row in rows], length, 0, side="left").to(device)
        written = generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=end or 0,
            eos_token_id=end,
            **sampling,
        )
        for i, row in zip(part, written[:, length:].tolist(), strict=True):
            row = row[: row.index(end)] if end in row else row
            answers[i] = tokenizer.decode(row, skip_special_tokens=True)
    return answers


def by_length(lengths: Sequence[int], size: int, description: str) -> Iterable[list[int]]:
    """The indices of items in batches, the longest items first, with a progress bar where a person watches."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    console = Console(stderr=True)
    return track(parts, description, console=console, disable=not console.is_terminal)


def _check_prompt(record: TextRecord, ids: list[int], model: nn.Module, max_new_tokens: int) -> None:
    if not ids:
        raise DataError(f"{record.place}: the prompt is empty; there is nothing to continue.")
    config: Any = model.config
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and len(ids) + max_new_tokens > positions:
        raise DataError(
            f"{record.place}: {len(ids)} tokens and {max_new_tokens} new ones exceed the {positions} positions of the "
            f"model; shorten the prompt, or lower max_new_tokens={max_new_tokens}."
        )
