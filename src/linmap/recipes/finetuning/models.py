"""Pretrained models by folder, Hub id or bundled name; a classifier on an encoder; the two losses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.data.pretrained import BUNDLED, bundled_model
from linmap.data.tokens import UNLEARNT, Tokenizer
from linmap.errors import UsageError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # of a repository on the Hub
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROW = 512  # tokens, where nothing else is said
SHARPNESS = 4.0  # of the logits, which stand on vectors of length 1


# -- pretrained models -------------------------------------------------------------------------------------------------


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
    """The model of a folder, a causal language model or one without any head, with its weights in `dtype`.

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


def row_length(folder: Path, wanted: int | None) -> int:
    """Tokens of a row: those wanted, or ROW where the model has as many positions.

    Raises
    ------
    UsageError
        If more are wanted than the model has positions.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return wanted or ROW
    if wanted is not None and wanted > positions:
        raise UsageError(f"--max-length {wanted} exceeds the {positions} positions of the model; lower it.")
    return wanted or min(ROW, positions)


@torch.no_grad()
def check_packing(model: nn.Module) -> None:
    """Refuse to pack for a model that does not keep documents apart by their positions."""
    model.eval()
    ids, device = torch.arange(6)[None] + 1, next(model.parameters()).device
    ids = ids.to(device)
    alone = model(input_ids=ids[:, 3:], use_cache=False).logits
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]], device=device)
    both = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 3:]
    if not torch.allclose(alone, both, rtol=1e-2, atol=1e-2 * float(alone.abs().max())):
        raise UsageError(f"a {type(model).__name__} does not keep packed records apart; leave --packing out.")


# -- what is trained ---------------------------------------------------------------------------------------------------


class TextClassifier(nn.Module):
    """A linear head on the mean of an encoder's last hidden states, scaled to length 1.

    Parameters
    ----------
    encoder
        Any model of Transformers without a head; perhaps a PEFT model of one.
    classes
        How many.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        self.head = nn.Linear(config.hidden_size, classes)

    def forward(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch classes"]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        present = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * present).sum(1) / present.sum(1).clamp(min=1)
        return SHARPNESS * self.head(F.normalize(mean.to(self.head.weight.dtype), dim=-1))


def language_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Cross-entropy of the learnt tokens of a batch of `LanguageData`, over its `divisor`."""
    keep = batch["keep"]
    positions = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
    logits = model(input_ids=batch["input_ids"], logits_to_keep=keep, use_cache=False, **positions).logits
    labels = batch["labels"][:, keep + 1]
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=UNLEARNT, reduction="sum")
    return total / batch["divisor"]


def classification_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of a batch of `ClassificationData`."""
    return F.cross_entropy(model(batch["input_ids"], batch["attention_mask"]).float(), batch["labels"])
