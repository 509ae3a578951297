"""Names of `linmap.data.models` that recipes take from here."""

from linmap.data.models import (
    Reads,
    load_pretrained,
    load_tokenizer,
    model_folder,
    on_accelerator,
    quiet_libraries,
    reads_of,
)

__all__ = [
    "Reads",
    "load_pretrained",
    "load_tokenizer",
    "model_folder",
    "on_accelerator",
    "quiet_libraries",
    "reads_of",
]
