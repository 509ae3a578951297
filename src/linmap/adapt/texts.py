"""Models to adapt to texts: a classifier on an encoder, the losses of both kinds, and how long rows may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn

from linmap.data.models import quiet_libraries
from linmap.data.tokens import UNLEARNT
from linmap.errors import ArgumentError

ROW = 512  # tokens, where nothing else is said
SHARPNESS = 4.0  # of the logits, which stand on vectors of length 1


def row_length(folder: Path, wanted: int | None) -> int:
    """Tokens of a row: those wanted, or ROW where the model has as many positions.

    Raises
    ------
    ArgumentError
        If more are wanted than the model has positions.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return wanted or ROW
    if wanted is not None and wanted > positions:
        raise ArgumentError(f"max_length={wanted} exceeds the {positions} positions of the model; lower it.")
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
        raise ArgumentError(f"a {type(model).__name__} does not keep packed records apart; leave packing=True out.")


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


def attach(model: nn.Module, config: PeftConfig) -> nn.Module:
    """A model of texts with adapters of any method; a classifier's encoder gets them, and its head stays trainable."""
    whole: Any = model
    with quiet_libraries():
        if isinstance(model, TextClassifier):
            whole.encoder = get_peft_model(whole.encoder, config)
            return model
        return get_peft_model(whole, config)


def adapted_part(model: nn.Module) -> Any:
    """PEFT's model in a model of texts with adapters."""
    return model.encoder if isinstance(model, TextClassifier) else model


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


def without_dropout(model: nn.Module) -> nn.Module:
    """The model with every dropout at 0, so that trainings differ in nothing else than what they train."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model
