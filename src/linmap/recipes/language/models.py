"""Pretrained language models and encoders by folder, Hub id or bundled name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from linmap.data.pretrained import BUNDLED, bundled_model
from linmap.data.tokens import Tokenizer
from linmap.errors import UsageError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # of a repository on the Hub
DTYPES: dict[str, Any] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": "auto"}  # auto: as it is saved


def model_folder(name: str) -> Path:
    """The folder of a model that is bundled, lies in a folder of the user, or is on the Hugging Face Hub.

    What the Hub's cache on this machine has is taken from there; the network is asked only for what is missing.

    Raises
    ------
    UsageError
        If there is no such model, the Hub cannot be reached, or the folder lacks a model or its tokenizer.
    """
    if name in BUNDLED:
        return bundled_model(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise UsageError(f"--model {name} is a file; give the folder that config.json lies in.")
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UsageError(f"--model {name}: there is no such folder.")
        folder = _from_hub(name)
    if not (folder / "config.json").exists():
        raise UsageError(f"--model {name} holds no model: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"--model {name} has no weights as safetensors; save the model again with save_pretrained.")
    if not any((folder / file).exists() for file in TOKENIZER_FILES):
        raise UsageError(
            f"--model {name} has no tokenizer ({', '.join(TOKENIZER_FILES[:3])}); save it there with "
            "tokenizer.save_pretrained."
        )
    return folder


def _from_hub(name: str) -> Path:
    """The cached snapshot of a repository, downloaded where it is not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        if (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
            return cached
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    known = ", ".join(BUNDLED)
    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED))
    except HFValidationError:
        raise UsageError(f"--model {name} is neither a folder, nor an id on the Hub, nor one of {known}.") from None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UsageError(f"--model {name}: no such folder, and the Hugging Face Hub refuses it: {reason}") from None
    except (LocalEntryNotFoundError, OSError):
        raise UsageError(
            f"--model {name}: no such folder, not in the cache of the Hugging Face Hub, and the Hub cannot be reached; "
            f"give a folder, or one of {known}."
        ) from None


def load_tokenizer(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_pretrained(folder: Path, kind: Literal["language", "encoder"], dtype: str) -> nn.Module:
    """The model of a folder, a causal language model or one without any head, its weights in one of `DTYPES`.

    Raises
    ------
    UsageError
        If the folder's model is not made for this, or its weights cannot be read.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    auto = AutoModelForCausalLM if kind == "language" else AutoModel
    try:
        with quiet_libraries():
            return auto.from_pretrained(
                folder, dtype=DTYPES[dtype], use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        what = "a causal language model" if kind == "language" else "a model"
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{folder} cannot be loaded as {what}: {first}") from error


def on_accelerator(model: nn.Module) -> nn.Module:
    """The model where it computes fastest: on the accelerator, if there is one."""
    return model.to(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else model


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without bars for half a second of reading, and without news for the programmers of PEFT and Transformers."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a head that is left out on purpose is no news either
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
