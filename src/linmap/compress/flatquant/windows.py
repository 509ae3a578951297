"""Calibration windows: rows of token ids, drawn from a stream of them or from a text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.data import require_content
from linmap.data.text import read_text
from linmap.errors import ArgumentError, ArgumentTypeError, DataError

TEXTS = (".txt", ".md", ".txt.gz", ".md.gz")
LONGEST_PATH = 4096


def calibration_windows(
    tokens: Any, config: FlatQuantConfig, vocabulary: int, text: str | Path | None = None
) -> Int[Tensor, "n length"]:
    """`config.n_samples` random windows of `config.sequence_length` tokens, or the rows of `tokens` as they are.

    Parameters
    ----------
    tokens
        A stream of token ids (one dimension), windows of them (two dimensions), or a tokenizer of Transformers.
    vocabulary
        Number of tokens that the model knows.
    text
        What a tokenizer reads: a text, or the path of a file, also as a string.

    Raises
    ------
    TypeError
        If `tokens` is neither, or its numbers are not integers.
    ValueError
        If there are fewer tokens than the windows have, fewer windows than a batch, or unknown tokens; DataError if a
        file is missing or empty.
    """
    ids = _tokenised(tokens, text) if callable(tokens) else _integers(tokens, text)
    if ids.ndim == 1:
        ids = _drawn(ids, config)
    n, length = ids.shape
    if n < config.batch_size or length < 1:
        raise ArgumentError(
            f"{n} calibration windows of {length} tokens are fewer than a batch of batch_size={config.batch_size}; "
            "give more windows or a smaller batch."
        )
    return _known(ids, vocabulary)


def distillation_windows(
    tokens: Any, config: FlatQuantConfig, vocabulary: int, text: str | Path | None = None
) -> Int[Tensor, "steps length"]:
    """A window for each of `config.distil_steps`: random ones of a stream, or the rows of `tokens` in turn.

    Parameters and errors are those of `calibration_windows`.
    """
    ids = _tokenised(tokens, text) if callable(tokens) else _integers(tokens, text)
    steps, length = config.distil_steps, config.distil_length
    if ids.ndim == 1:
        if len(ids) < length:
            raise ArgumentError(
                f"the calibration text has {len(ids)} tokens, fewer than distil_length={length}; give more text or "
                "shorter windows."
            )
        starts = torch.randint(len(ids) - length + 1, (steps,), generator=torch.Generator().manual_seed(config.seed))
        ids = ids.unfold(0, length, 1)[starts]
    else:
        ids = ids[torch.arange(steps) % len(ids)]
    return _known(ids, vocabulary)


def _drawn(stream: Tensor, config: FlatQuantConfig) -> Tensor:
    needed = config.n_samples * config.sequence_length
    if len(stream) < needed:
        raise ArgumentError(
            f"the calibration text has {len(stream)} tokens, and n_samples={config.n_samples} windows of "
            f"sequence_length={config.sequence_length} need {needed}; give more text, or fewer or shorter windows."
        )
    generator = torch.Generator().manual_seed(config.seed)
    starts = torch.randint(len(stream) - config.sequence_length + 1, (config.n_samples,), generator=generator)
    return stream.unfold(0, config.sequence_length, 1)[starts]


def _known(ids: Tensor, vocabulary: int) -> Tensor:
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise ArgumentError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}, and the model has {vocabulary} tokens (0 to "
            f"{vocabulary - 1}); use the model's own tokenizer."
        )
    return ids


def _tokenised(tokenizer: Any, text: str | Path | None) -> Tensor:
    if text is None:
        raise ArgumentError("a tokenizer came without text; give text=, a string or the path of a text file.")
    return torch.tensor(
        tokenizer(_content(text), add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long
    )


def _content(text: str | Path) -> str:
    """A text, or that of the file which it is the path of.

    Raises
    ------
    DataError
        If a path has no file behind it, or the file cannot be read.
    """
    if isinstance(text, str) and not _is_path(text):
        return text
    path = Path(os.path.expanduser(text))
    if path.name.lower().endswith(TEXTS):
        return read_text(path)
    if not path.is_file():
        raise DataError(f"text={str(text)!r} is no file; give the path of one, or a text.")
    require_content(path)
    return path.read_text(encoding="utf-8")


def _is_path(text: str) -> bool:
    """Whether a string is the path of a file, or looks like one: a single word that ends as text files do."""
    if "\n" in text or len(text) > LONGEST_PATH:
        return False
    return os.path.isfile(os.path.expanduser(text)) or (
        text.lower().endswith(TEXTS) and not any(map(str.isspace, text))
    )


def _integers(tokens: Any, text: str | Path | None) -> Tensor:
    if text is not None:
        raise ArgumentError("text= needs a tokenizer as second argument; token ids are used as they are.")
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"expected a tokenizer, a stream of token ids or windows of equal length, got {type(tokens).__name__}."
        ) from error
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.ndim not in (1, 2):
        raise ArgumentTypeError(
            f"token ids must be integers in one dimension (a stream) or two (windows), got {ids.dtype} of shape "
            f"{tuple(ids.shape)}."
        )
    return ids.long().cpu()
