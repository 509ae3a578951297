"""Texts that a sentence encoder reads, and prompts that a language model goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.compress.encoders import find_encoder
from linmap.compress.token_transforming import Compressed, TokenTransform, compress_prefill
from linmap.compress.token_transforming.evaluation.predictions import Head
from linmap.compress.token_transforming.evaluation.subject import Measure, Subject, blocks_of, plain_macs
from linmap.compress.token_transforming.evaluation.ways import stages
from linmap.data.door import load_json
from linmap.data.tokens import Tokenizer, padded
from linmap.errors import ArgumentError, DataError

PREFILL_BLOCK = 2
"""Where language models drop tokens."""
SENTENCE = Measure("cosine", "higher", 1.0, 0.02)
KL = Measure("KL", "lower", 0.0, 0.2, unit="nats")
AGREE = Measure("same next token", "higher", 1.0, 0.1)


class Sentences(Subject):
    """A sentence encoder and texts.

    Parameters
    ----------
    model
        A BERT encoder in eval mode.
    tokens
        Of each text, special tokens included.
    batch_size
        Texts that go through together, those of like length.
    class_token
        Whether the first token is the embedding; else the mean is.
    predicts
        Whether a classifier runs with its head.
    """

    what = "texts"
    keeps = (0.85, 0.7)
    places = "every block"

    def __init__(
        self,
        model: nn.Module,
        tokens: Sequence[list[int]],
        batch_size: int,
        class_token: bool = False,
        predicts: bool = False,
    ) -> None:
        encoder = find_encoder(model).module
        self.model: Any = model if predicts else encoder
        self.head = Head(model, encoder) if predicts else None
        self.class_token = class_token
        order = sorted(range(len(tokens)), key=lambda row: (len(tokens[row]), row))
        self.rows = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self._tokens = tokens
        self.names, self.measures = [str(row + 1) for rows in self.rows for row in rows], (SENTENCE,)
        self.depth = int(self.model.config.num_hidden_layers)
        self._longest = 0

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, batch: int) -> dict[str, Any]:
        ids, mask = self.inputs(batch)
        return {"input_ids": ids, "attention_mask": mask}

    @torch.no_grad()
    def forward(self, batch: int) -> Any:
        return self.model(**self.example(batch))

    def inputs(self, batch: int) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of what is no padding."""
        rows = [self._tokens[row] for row in self.rows[batch]]
        self._longest = max(map(len, rows))
        device = next(self.model.parameters()).device
        ids = padded(rows, self._longest, 0)
        mask = padded([[1] * len(row) for row in rows], self._longest, 0)
        return ids.to(device), mask.to(device)

    def features(self, batch: int, handle: Compressed | None = None) -> dict[str, Tensor]:
        tokens = self.encoded(batch).last_hidden_state
        if self.class_token:
            return {"pooled": tokens[:, 0]}
        if handle is not None:
            return {"pooled": handle.pool(tokens)}
        mask = self.inputs(batch)[1].unsqueeze(-1)
        return {"pooled": (tokens * mask).sum(1) / mask.sum(1)}

    def in_order(self) -> tuple[list[str], list[int]]:
        rows = [row for batch in self.rows for row in batch]
        places = sorted(range(len(rows)), key=rows.__getitem__)
        return [self.names[place] for place in places], places

    def budget(self, transform: TokenTransform, keep: float, at: Sequence[int] | None) -> dict[str, Any]:
        if at is None:
            return {"keep": keep}
        longest, width = max(map(len, self._tokens)), self.model.config.hidden_size
        return {"stages": stages(transform, keep, blocks_of(self, at), longest, width, self.depth)}

    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        return {SENTENCE.name: F.cosine_similarity(before["pooled"], after["pooled"], dim=-1).tolist()}

    def macs(self, handle: Compressed | None) -> float:
        return float(plain_macs(self.model, self._longest) if handle is None else handle.macs(self._longest))


class Prompts(Subject):
    """A language model and prompts, each on its own: their prefill and the next token.

    Parameters
    ----------
    model
        A causal language model in eval mode.
    tokens
        Of each prompt.
    """

    what = "prompts"
    keeps = (0.75, 0.5, 0.25)
    places = f"block {PREFILL_BLOCK}, between the first 4 and the last 32 tokens"

    def __init__(self, model: nn.Module, tokens: Sequence[list[int]]) -> None:
        self.model: Any = model
        self._tokens = tokens
        self.names, self.measures = [str(row + 1) for row in range(len(tokens))], (KL, AGREE)
        self.depth = int(self.model.config.num_hidden_layers)

    def __len__(self) -> int:
        return len(self._tokens)

    def example(self, batch: int) -> dict[str, Any]:
        ids = torch.tensor([self._tokens[batch]], device=next(self.model.parameters()).device)
        return {"input_ids": ids, "use_cache": True, "logits_to_keep": 1}

    @torch.no_grad()
    def forward(self, batch: int) -> Any:
        return self.model(**self.example(batch))

    def features(self, batch: int, handle: Compressed | None = None) -> dict[str, Tensor]:
        return {"next": self.forward(batch).logits[:, -1].float().log_softmax(-1)}

    def budget(self, transform: TokenTransform, keep: float, at: Sequence[int] | None) -> dict[str, Any]:
        if at is not None and len(at) != 1:
            raise ArgumentError(f"at = {' '.join(map(str, at))}: of a language model one block is named.")
        return {"keep": keep, "layer": at[0] if at else PREFILL_BLOCK}

    def compressed(self, transform: TokenTransform, keep: float, at: Sequence[int] | None) -> Compressed:
        return compress_prefill(self.model, **self.budget(transform, keep, at), transform=transform)

    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        p, q = before["next"], after["next"]
        divergence = (p.exp() * (p - q)).sum(-1)
        same = (p.argmax(-1) == q.argmax(-1)).double()
        return {KL.name: divergence.tolist(), AGREE.name: same.tolist()}

    def macs(self, handle: Compressed | None) -> float:
        """Tokens that go through blocks, as a stand-in in proportion."""
        n = len(self._tokens[-1])
        if handle is None:
            return float(n * self.depth)
        layer, transform = next(iter(handle.transforms.items()))
        return float(n * (layer + 0.5) + transform.shape[1] * (self.depth - layer - 0.5))


def tokens_of(texts: Sequence[str], tokenizer: Tokenizer, length: int, places: Sequence[str]) -> list[list[int]]:
    """Token ids with what the tokenizer puts around a text, at most `length`.

    Raises
    ------
    DataError
        If a text is empty.
    """
    found = []
    for text, place in zip(texts, places, strict=True):
        if not text.strip():
            raise DataError(f"{place}: the text is empty.")
        found.append(tokenizer(text, truncation=True, max_length=length)["input_ids"])
    return found


def pools_class_token(folder: Path) -> bool:
    """Whether a sentence encoder's folder says that the class token is the embedding.

    Raises
    ------
    DataError
        If it says something that is neither that nor the mean.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return False
    stated = load_json(path)
    if not isinstance(stated, dict):
        raise DataError(f"{path} must hold an object that says how tokens are pooled.")
    modes = {name for name, value in stated.items() if name.startswith("pooling_mode_") and value is True}
    mode = str(stated.get("pooling_mode") or next(iter(modes), "pooling_mode_mean_tokens"))
    if len(modes) > 1 or mode not in ("pooling_mode_mean_tokens", "pooling_mode_cls_token", "mean", "cls"):
        named = ", ".join(sorted(modes)) or mode
        raise DataError(f"{path}: the embedding is {named}; the mean and the class token are supported.")
    return mode in ("pooling_mode_cls_token", "cls")
