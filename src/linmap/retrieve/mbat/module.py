"""`JSONEncoder`: the vectorizer as the first layer of a PyTorch model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from linmap.errors import DataError
from linmap.retrieve.mbat.vectorizer import JSONVectorizer


class JSONEncoder(nn.Module):
    """A list of JSON documents -> their vectors on the module's device. It has no parameters; `state_dict` carries the
    fingerprint, so that a model is not loaded onto vectors that it was not trained on.

    Parameters
    ----------
    vectorizer
        What encodes; fitted if it needs to be.
    """

    _reference: Tensor

    def __init__(self, vectorizer: JSONVectorizer) -> None:
        super().__init__()
        self.vectorizer = vectorizer
        self.register_buffer("_reference", torch.empty(0), persistent=False)  # follows `.to(...)`

    def forward(self, documents: Sequence[Any]) -> Shaped[Tensor, "documents dim"]:
        return torch.from_numpy(self.vectorizer.transform(documents)).to(self._reference.device)

    def get_extra_state(self) -> dict[str, str]:
        return {"fingerprint": self.vectorizer.fingerprint_}

    def set_extra_state(self, state: dict[str, str]) -> None:
        try:
            self.vectorizer.check_fingerprint(state["fingerprint"])
        except DataError as error:
            raise DataError(f"the saved model cannot be loaded onto this encoder: {error}") from None

    def extra_repr(self) -> str:
        return repr(self.vectorizer)
