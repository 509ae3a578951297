"""A model and a text on which FlatQuant is compared in a second."""

from pathlib import Path
from typing import Any

import pytest

from recipes.finetuning.tiny import save_llama

FEW: dict[str, Any] = {"windows": 8, "length": 16, "epochs": 2, "test_windows": 3, "test_length": 32, "blocks": None}
TEXT = "".join(f"Line {i} of a text that is long enough, {i * i} times.\n" for i in range(80))


@pytest.fixture(scope="module", name="llama")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module", name="text")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path
