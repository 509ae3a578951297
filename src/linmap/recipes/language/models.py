"""Names of `linmap.data.models` that recipes take from here."""

from linmap.data.models import (
    load_pretrained,
    load_tokenizer,
    model_folder,
    on_accelerator,
    quiet_libraries,
    reads_of,
)

__all__ = ["load_pretrained", "load_tokenizer", "model_folder", "on_accelerator", "quiet_libraries", "reads_of"]
