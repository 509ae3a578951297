"""Training of BT²: the loss, the pseudo-classifier of the old model, and the settings for `linmap.training.train`."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.retrieve.bt2.head import BasisTransformHead, HeadOutput
from linmap.training import TrainingConfig

PAPER: dict[Literal["cifar-100", "imagenet"], TrainingConfig] = {
    "cifar-100": TrainingConfig(
        epochs=100, batch_size=128, lr=1e-3, weight_decay=2.0**-15, schedule="cosine", warmup_epochs=5
    ),
    "imagenet": TrainingConfig(epochs=100, batch_size=256, lr=1e-3, schedule="cosine", warmup_epochs=20),
}
"""What the paper trains with: Adam, a learning rate that rises by epochs and falls by a cosine."""


class BT2Loss(nn.Module):
    """CE(W_cls f, y) + lambda_new (1 - <phi'_new, f>) + lambda_influence CE(phi c^T, y) + lambda_old (1 - <phi_old, phi>).

    phi is phi_bc made a unit vector, phi'_new and phi_old the unit vectors of the two frozen models, and c the
    pseudo-classifier. The logits phi c^T of the influence loss are divided by `temperature`.
    """  # noqa: E501

    def __init__(
        self,
        lambda_new: float = 1.0,
        lambda_influence: float = 10.0,
        lambda_old: float = 5.0,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ArgumentError(f"temperature must be positive, got {temperature}.")
        self.lambda_new, self.lambda_influence, self.lambda_old = lambda_new, lambda_influence, lambda_old
        self.temperature, self.label_smoothing = temperature, label_smoothing

    def forward(
        self,
        output: HeadOutput,
        labels: Int[Tensor, " batch"],
        phi_new: Float[Tensor, "batch d_new"],
        phi_old: Float[Tensor, "batch d_old"],
        pseudo: Float[Tensor, "classes d_old"],
    ) -> Float[Tensor, ""]:
        """The mean loss of a batch; `phi_new` and `phi_old` come from the two frozen models."""
        phi = F.normalize(output.phi_bc, dim=-1)
        loss = self.lambda_new * (1 - (phi_new * output.f).sum(-1).mean())
        loss = loss + self.lambda_influence * F.cross_entropy(phi @ pseudo.mT / self.temperature, labels)
        loss = loss + self.lambda_old * (1 - (phi_old * phi).sum(-1).mean())
        if output.logits is not None:
            loss = loss + F.cross_entropy(output.logits, labels, label_smoothing=self.label_smoothing)
        return loss


def pseudo_classifier(
    feats: Float[Tensor, "items d_old"], labels: Int[Tensor, " items"], n_classes: int
) -> Float[Tensor, "n_classes d_old"]:
    """One row per class: the mean of the old model's unit vectors, not made a unit vector again.

    Raises
    ------
    ValueError
        If a class has no item, or a label is not one of 0 ... n_classes - 1.
    """
    if len(labels) != len(feats):
        raise ArgumentError(f"feats and labels must be as many, got {len(feats)} and {len(labels)}.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise ArgumentError(
            f"labels must lie in 0 ... {n_classes - 1}, got {int(labels.min())} ... {int(labels.max())}."
        )
    counts = torch.bincount(labels, minlength=n_classes)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        raise ArgumentError(f"no item has the label {empty[0]} ({len(empty)} of {n_classes} classes are empty).")
    sums = feats.new_zeros(n_classes, feats.shape[1]).index_add(0, labels, feats)
    return sums / counts[:, None].to(feats)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """For `linmap.training.train`: weight decay for all parameters but those of basis transformations."""
    heads = [part for part in model.modules() if isinstance(part, BasisTransformHead)]
    kept = {id(parameter) for head in heads for parameter in head.orthogonal_parameters()}
    free = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    bases = [parameter for parameter in model.parameters() if id(parameter) in kept]
    return [{"params": free}, *([{"params": bases, "weight_decay": 0.0}] if bases else [])]
