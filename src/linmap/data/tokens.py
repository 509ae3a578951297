"""Texts as tokens: which of them are learnt, how they are cut, packed into rows, and put into batches.

Tokenizers are those of Transformers. Labels are aligned with the tokens; UNLEARNT marks those without a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from linmap.data.text import TextRecord
from linmap.errors import DataError

Side = Literal["left", "right"]
Tokenizer = Any  # transformers.PreTrainedTokenizerBase, which this layer does not import
UNLEARNT = -100


class Document(NamedTuple):
    """The tokens of a text, and for each of them itself where it is learnt, UNLEARNT where not."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Counts:
    """What became of the records of a file."""

    records: int
    rows: int
    tokens: int
    learnt_tokens: int
    truncated: int
    """Records that were longer than a row and lost tokens."""
    dropped: int
    """Records that the cut left nothing to learn of."""


# -- from a record to tokens -------------------------------------------------------------------------------------------


def document_of(record: TextRecord, tokenizer: Tokenizer) -> Document:
    """The tokens of a record to train on.

    Of a plain text all tokens are learnt, of a prompt with its completion those of the completion, of a chat those of
    the assistant's turns; the first token of a document never is, for nothing comes before it. Prompt and completion
    are tokenised apart, so that the prompt has the tokens that it will have when it stands alone. The end-of-text token
    closes a text or a completion, and is learnt; in a chat the tokenizer's template says how a turn ends.

    Raises
    ------
    DataError
        If a chat cannot be written with the tokenizer's chat template.
    """
    if record.messages is not None:
        pieces = chat_pieces(record, tokenizer)
        ids, end = [], []
    else:
        pieces = [(record.text, record.answer is None)]
        pieces += [] if record.answer is None else [(record.answer, True)]
        ids, end = start_of_text(tokenizer), [t for t in [tokenizer.eos_token_id] if t is not None]
    labels = [UNLEARNT] * len(ids)
    for text, learnt in pieces:
        tokens = plain_tokens(text, tokenizer)
        ids = ids + tokens
        labels = labels + (tokens if learnt else [UNLEARNT] * len(tokens))
    ids, labels = ids + end, labels + end
    return Document(ids, [UNLEARNT, *labels[1:]])


def prompt_tokens(record: TextRecord, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a record to complete, as `document_of` writes them in front of the answer."""
    if record.messages is not None:
        return plain_tokens(_chat(record, len(record.messages), tokenizer, answer=True), tokenizer)
    return start_of_text(tokenizer) + plain_tokens(record.text, tokenizer)


def chat_pieces(record: TextRecord, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """A chat in the tokenizer's template, cut where the assistant's turns begin and end, which are learnt."""
    assert record.messages is not None
    pieces: list[tuple[str, bool]] = []
    written = ""
    for number, turn in enumerate(record.messages):
        if turn["role"] != "assistant":
            continue
        for learnt, text in (
            (False, _chat(record, number, tokenizer, answer=True)),
            (True, _chat(record, number + 1, tokenizer, answer=False)),
        ):
            if not text.startswith(written):
                raise DataError(
                    f'{record.place}, field "messages": the tokenizer\'s chat template rewrites earlier turns when a '
                    "later one comes; give each answer of the assistant a record of its own."
                )
            pieces.append((text[len(written) :], learnt))
            written = text
    return pieces


def _chat(record: TextRecord, turns: int, tokenizer: Tokenizer, answer: bool) -> str:
    """The first turns of a chat, up to where the assistant begins to answer if `answer`."""
    if getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            f'{record.place}, field "messages": the model\'s tokenizer has no chat template; give "prompt" and '
            '"completion", or take a model that was made for chats.'
        )
    messages = list(record.messages or ())[:turns]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
    except Exception as error:  # a template raises what its author chose, mostly jinja2's TemplateError
        raise DataError(f'{record.place}, field "messages": the chat template refuses it: {error}') from error


def plain_tokens(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a text, with nothing in front or behind."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def start_of_text(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts in front of every text: the token for the beginning, or nothing."""
    first = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def cut(document: Document, length: int, side: Side) -> Document:
    """At most `length` tokens; those on `side` are given up."""
    excess = len(document.ids) - length
    if excess <= 0:
        return document
    part = slice(excess, None) if side == "left" else slice(length)
    ids, labels = document.ids[part], document.labels[part]
    return Document(ids, [UNLEARNT, *labels[1:]])


def packed(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of items whose lengths sum to at most `capacity`: each item, longest first, into the fullest row with room.

    Items stay in their order inside a row, and rows in the order of their first item.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # the rows that have this much room
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = next((room for room in range(lengths[item], capacity + 1) if by_room[room]), None)
        if room is None:
            rows.append([])
            room, row = capacity, len(rows) - 1
        else:
            row = by_room[room].pop(0)
        rows[row].append(item)
        by_room[room - lengths[item]].append(row)
    return sorted(sorted(row) for row in rows)


# -- data sets ---------------------------------------------------------------------------------------------------------


class LanguageData(Dataset):
    """Documents for a causal language model; `__getitems__(indices)` is a batch that is ready.

    A batch holds `input_ids` and `labels` (rows x length, as long as its longest row), `keep`, the positions from
    which any row predicts a token with a loss, `divisor`, and where rows are packed `position_ids`, which begin anew
    with each document: by them Transformers' models keep documents from seeing each other. Rows are filled up on the
    right, which no token of a causal model sees.

    `divisor` is what the sum of the token losses of a batch is divided by: its rows times the learnt tokens of an
    average row. So each token weighs the same in whatever batch it comes, the mean over the batches of an epoch is the
    mean over its tokens, and the parts of a batch (accumulation, processes) add up to the whole.

    Parameters
    ----------
    documents
        From `document_of`.
    max_length
        Tokens of a row; longer documents are cut.
    packing
        Put several documents into one row.
    truncation
        The side on which documents are cut.

    Raises
    ------
    DataError
        If no document has a token to learn within `max_length`.
    """

    def __init__(
        self, documents: Iterable[Document], max_length: int, packing: bool = False, truncation: Side = "right"
    ) -> None:
        whole = list(documents)
        kept = [cut(document, max_length, truncation) for document in whole]
        kept = [document for document in kept if any(label != UNLEARNT for label in document.labels)]
        if not kept:
            raise DataError(
                f"none of the {len(whole)} records has a token to learn within max_length={max_length}; raise it, "
                "or cut on the other side (truncation='left')."
            )
        lengths = [len(document.ids) for document in kept]
        rows = packed(lengths, max_length) if packing else [[i] for i in range(len(kept))]
        self.packing = packing
        self.rows = [[kept[i] for i in row] for row in rows]
        learnt = sum(label != UNLEARNT for document in kept for label in document.labels)
        truncated = sum(len(document.ids) > max_length for document in whole)
        self.counts = Counts(len(whole), len(rows), sum(lengths), learnt, truncated, len(whole) - len(kept))
        self.learnt_per_row = learnt / len(rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [sum(len(document.ids) for document in row) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprinted(self) -> tuple[bool, list[list[Document]]]:
        """What a checkpoint knows the data by."""
        return self.packing, self.rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        rows = [self.rows[i] for i in indices]
        length = max(sum(len(document.ids) for document in row) for row in rows)
        labels = padded([[t for document in row for t in document.labels] for row in rows], length, UNLEARNT)
        batch = {
            "input_ids": padded([[t for document in row for t in document.ids] for row in rows], length, 0),
            "labels": labels,
            "keep": (labels[:, 1:] != UNLEARNT).any(0).nonzero()[:, 0],
            "divisor": len(rows) * self.learnt_per_row,
        }
        if self.packing:
            batch["position_ids"] = torch.stack([_positions([len(d.ids) for d in row], length) for row in rows])
        return batch


def _positions(lengths: Sequence[int], length: int) -> Int[Tensor, " length"]:
    """0, 1, 2, ... for each document, and for what fills the row."""
    return torch.cat([torch.arange(n) for n in [*lengths, length - sum(lengths)]])


def padded(rows: Sequence[list[int]], length: int, value: int, side: Side = "right") -> Int[Tensor, "rows length"]:
    """Rows of one length, filled up with `value` on one side."""
    fill = [[value] * (length - len(row)) for row in rows]
    return torch.tensor([row + more if side == "right" else more + row for row, more in zip(rows, fill, strict=True)])


class ClassificationData(Dataset):
    """Texts and their classes; `__getitems__(indices)` is a batch of `input_ids`, `attention_mask` and `labels`.

    Parameters
    ----------
    records
        Their answers are names of `labels`; records without an answer have the class UNLEARNT.
    tokenizer
        Adds its special tokens, such as [CLS] and [SEP].
    labels
        The names of the classes.
    max_length
        Tokens of a text; longer ones are cut.
    truncation
        The side on which they are cut.
    """

    def __init__(
        self,
        records: Sequence[TextRecord],
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int,
        truncation: Side = "right",
    ) -> None:
        number = {name: i for i, name in enumerate(labels)}
        texts = [record.text for record in records]
        self.ids: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"] if texts else []
        too_long = [i for i, ids in enumerate(self.ids) if len(ids) > max_length]
        tokenizer.truncation_side = truncation
        for i in too_long:
            self.ids[i] = tokenizer(texts[i], truncation=True, max_length=max_length)["input_ids"]
        self.classes = [UNLEARNT if record.answer is None else number[record.answer] for record in records]
        self.padding = tokenizer.pad_token_id or 0  # masked, so that any token would do
        tokens = sum(map(len, self.ids))
        self.counts = Counts(len(texts), len(texts), tokens, 0, len(too_long), 0)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprinted(self) -> tuple[list[list[int]], list[int]]:
        """What a checkpoint knows the data by."""
        return self.ids, self.classes

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = [self.ids[i] for i in indices]
        length = max(max(map(len, rows)), 1)
        return {
            "input_ids": padded(rows, length, self.padding),
            "attention_mask": padded([[1] * len(row) for row in rows], length, 0),
            "labels": torch.tensor([self.classes[i] for i in indices]),
        }


class BatchesByLength(Dataset):
    """Batches of samples of about the same length, so that little is padded; which ones meet is drawn with a seed.

    Parameters
    ----------
    data
        Its `__getitems__(indices)` is a batch that is ready.
    lengths
        Of its samples.
    batch_size
        Samples of a batch; those that are left over make a smaller one.
    seed
        Of the draw.
    """

    POOL = 8  # batches that are sorted together

    def __init__(self, data: Any, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
        pools = [sorted(pool.tolist(), key=lambda i: lengths[i]) for pool in order.split(batch_size * self.POOL)]
        self.data = data
        self.batches = [pool[i : i + batch_size] for pool in pools for i in range(0, len(pool), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.data.__getitems__(self.batches[index])

    def __getitems__(self, indices: list[int]) -> Any:
        (index,) = indices
        return self[index]
