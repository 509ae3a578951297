"""A reading to click into: what votes for a class, for a pixel of an image that comes out, or for a word."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linmap.data.images import read_image
from linmap.data.models import load_pretrained, load_tokenizer, model_folder
from linmap.interpret.linearscope import LinearScope
from linmap.interpret.linearscope.language import LanguageReading
from linmap.interpret.linearscope.language.reading import read_ids
from linmap.interpret.linearscope.language.tokens import text_ids, tokens_of
from linmap.recipes.linearscope.apply import photo_of, target_of
from linmap.recipes.linearscope.apply_text import prompt_of
from linmap.recipes.linearscope.flags import Apply
from linmap.recipes.linearscope.kinds import named, reads_text
from linmap.recipes.linearscope.loading import output_names, scope
from linmap.recipes.pixels import embedded_png
from linmap.recipes.view import Asked, Seen, numbers, whole

CELLS = 32
"""Votes of an image are shown summed over cells, at most so many on a side."""
OUTPUTS = 8
"""Classes, or next tokens, that are offered."""
TOKENS = 64
"""Of a text; of longer ones the last."""
KEPT = 12
"""Maps of votes, and a quarter as many readings of texts, that are kept."""


def open_reading(seen: Seen) -> PhotoReading | TextReading:
    """The view of a network that reads images, or of one that reads texts."""
    settings = named(seen.settings(Apply), seen.data)
    return TextReading(settings, seen) if reads_text(settings, seen.data) else PhotoReading(settings, seen)


class PhotoReading:
    """A network at a photograph, y = F x + r."""

    def __init__(self, settings: Apply, seen: Seen) -> None:
        photo = photo_of(settings, read_image(seen.data) if seen.data else None)
        self.interp = scope(photo.model, settings).at(photo.x)
        self.x, self.salient = photo.x, photo.salient
        self.target = target_of(settings, self.interp, photo)
        self.names = output_names(photo.model, str(settings.model), self.interp.out_features)
        self.is_map = self.interp.output.ndim == 4
        self._votes: OrderedDict[int, Tensor] = OrderedDict()

    def start(self) -> dict[str, Any]:
        """The photograph, what comes out, and the votes for the output that the run explains."""
        about = {"kind": "map" if self.is_map else "classes", "photo": embedded_png(_shown(self.x[0])), "outputs": []}
        if self.is_map:
            y = self.interp.output[0, :1]  # of which a pixel is asked about
            about["answer"] = embedded_png(_shown(torch.sigmoid(y) if self.salient else y))
            about["size"] = list(y.shape[-2:])
        else:
            logits = self.interp.output.flatten()
            best = logits.topk(min(OUTPUTS, len(logits))).indices.tolist()
            best = best if self.target in best else [self.target, *best[:-1]]
            about["outputs"] = [self._output(i) for i in best]
        return about | self.answer({"target": self.target})

    def answer(self, asked: Asked) -> dict[str, Any]:
        """The votes for an output: a `target`, or the one `at` (row, column) of an image that comes out; with `of`,
        what one cell adds to each of several outputs."""
        if "of" in asked:
            targets = asked["of"] if isinstance(asked["of"], list) else []
            chosen = [whole({"of": one}, "of", self.interp.out_features) for one in targets[:OUTPUTS]]
            cell = whole(asked, "cell", CELLS * CELLS)
            return {"adds": [float(self._cells(one).flatten()[cell : cell + 1].sum()) for one in chosen]}
        target = whole(asked, "target", self.interp.out_features)
        if "at" in asked and self.is_map:
            row, column = (int(one) for one in numbers(asked, "at", (0, 0)))
            target = self.interp.output_index((0, row, column))
        cells = self._cells(target)
        place = list(np.unravel_index(target, self.interp.output_shape)[-2:]) if self.is_map else None
        residual = float(self.interp.residual.flatten()[target])
        return self._output(target) | {"at": place, "cells": cells, "residual": residual}

    def _output(self, target: int) -> dict[str, Any]:
        name = self.names.get(target) or f"output {target}"
        return {"target": target, "name": name, "value": float(self.interp.output.flatten()[target])}

    def _cells(self, target: int) -> Tensor:
        """The votes for an output, summed over channels and cells."""
        if target not in self._votes:
            self._votes[target] = _summed(self.interp.votes(target).detach())
            while len(self._votes) > KEPT:
                self._votes.popitem(last=False)
        self._votes.move_to_end(target)
        return self._votes[target]


class TextReading:
    """A language model at the beginnings of a text: each word is read from what stands before it."""

    def __init__(self, settings: Apply, seen: Seen) -> None:
        folder = model_folder(str(settings.model), "text")
        model = load_pretrained(folder, "language", "float32").eval().requires_grad_(False)
        self.scope, self.tokenizer = LinearScope(model, **settings.options()), load_tokenizer(folder)
        self.ids = text_ids(prompt_of(seen.data)[0], self.tokenizer)[-TOKENS:]
        self._readings: OrderedDict[int, LanguageReading] = OrderedDict()

    def start(self) -> dict[str, Any]:
        """The words, and what votes for the likeliest next one."""
        words = [token.text for token in tokens_of(self.ids, self.tokenizer)]
        return {"kind": "text", "words": words, **self.answer({"position": len(words)})}

    def answer(self, asked: Asked) -> dict[str, Any]:
        """What the words before a `position` add to the logit of the word there, or of another one (`target`)."""
        position = whole(asked, "position", len(self.ids) + 1, start=1)
        reading = self._reading(position)
        there = self.ids[position] if position < len(self.ids) else None
        target = whole(asked, "target", len(reading.logits)) if "target" in asked else there
        found = reading.contributions(target)
        best = [
            {"target": one.token.id, "name": one.token.text, "probability": one.probability}
            for one in reading.predictions(OUTPUTS)
        ]
        return {
            "position": position,
            "target": found.target.id,
            "name": found.target.text,
            "probability": float(reading.logits.softmax(0)[found.target.id]),
            "votes": found.values,
            "residual": found.residual,
            "value": found.value,
            "best": best,
        }

    def _reading(self, position: int) -> LanguageReading:
        if position not in self._readings:
            self._readings[position] = read_ids(self.scope, self.ids[:position], self.tokenizer)
            while len(self._readings) > KEPT // 4:
                self._readings.popitem(last=False)
        self._readings.move_to_end(position)
        return self._readings[position]


def _shown(x: Tensor) -> np.ndarray:
    """(channels, height, width) from its least to its largest value as grey or colour."""
    low, high = float(x.min()), float(x.max())
    pixels = ((x - low) / max(high - low, 1e-12) * 255).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _summed(votes: Tensor) -> Tensor:
    """(channels, height, width) as sums over channels and over cells, at most `CELLS` on a side."""
    whole_map = votes.sum(0)
    height, width = whole_map.shape
    side = -(-max(height, width) // CELLS)
    rows, columns = -(-height // side), -(-width // side)
    padded = torch.zeros(rows * side, columns * side, dtype=whole_map.dtype)
    padded[:height, :width] = whole_map
    return padded.reshape(rows, side, columns, side).sum((1, 3))
