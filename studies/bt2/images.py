"""BT² trained on images: the settings of the paper at small scale, and a series of upgrades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap.retrieve.bt2 import (
    BasisTransformHead,
    BT2Loss,
    EmbeddingUpgrade,
    HeadOutput,
    RetrievalScores,
    closed_bases,
    cross_retrieval,
    parameter_groups,
    pseudo_classifier,
)
from linmap.training import TrainingConfig, train
from linmap.training.batches import Loss

TRAIN, CLASSES = 1000, 10
EXTRA = 4  # dimensions that BT² adds
MEASURES = ("CMC top-1", "CMC top-5", "mAP")
BATCH, LR, DECAY, WARMUP = 64, 3e-3, 3e-5, 2
INFLUENCE = 10.0  # weight of the loss of BCT
Start = Literal["closed form", "random"]
"""Where the bases of BT² begin. Random ones need the many steps of the paper's scale to find each other."""


@dataclass(frozen=True)
class Network:
    """A model, and what it has been trained on."""

    width: int
    features: int
    classes: int = CLASSES
    """It has seen the first so many digits."""
    sees: Literal["image", "ink sums"] = "image"
    """Ink sums are the 16 sums of the rows and columns of an image."""

    def backbone(self, features: int) -> nn.Sequential:
        if self.sees == "ink sums":
            layers = (
                InkSums(),
                nn.Linear(16, 8 * self.width),
                nn.BatchNorm1d(8 * self.width),
                nn.ReLU(),
                nn.Linear(8 * self.width, features),
            )
        else:
            layers = (
                nn.Conv2d(1, self.width, 3, padding=1),
                nn.BatchNorm2d(self.width),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(self.width, 2 * self.width, 3, padding=1),
                nn.BatchNorm2d(2 * self.width),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(2 * self.width * 16, features),
            )
        return nn.Sequential(*layers)


class InkSums(nn.Module):
    def forward(self, x: Float[Tensor, "batch 1 8 8"]) -> Float[Tensor, "batch 16"]:
        return torch.cat([x.sum(2), x.sum(3)], -1).flatten(1)


NEW = Network(16, 32)
SETTINGS = {
    "more classes": (Network(3, 8, classes=5), NEW),
    "bigger backbone": (Network(1, 8), NEW),
    "another modality": (Network(4, 8, sees="ink sums"), NEW),
}
"""Name -> (old, new): from the digits 0-4 to all ten, from a small network to a larger one, from sums to images."""
SERIES = (Network(2, 8, classes=4), Network(4, 8, classes=6), Network(8, 8, classes=8), Network(16, 8))
"""Larger networks that have seen more, one after the other; features are BCT's; BT² begins with them and grows."""


@dataclass(frozen=True)
class Lab:
    """Images of digits, and the schedule that all methods share."""

    x: Float[Tensor, "train 1 8 8"]
    y: Int[Tensor, " train"]
    x_test: Float[Tensor, "test 1 8 8"]
    y_test: Int[Tensor, " test"]
    seed: int
    epochs: int

    @classmethod
    def of(cls, seed: int, epochs: int) -> Self:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        x = torch.tensor(images[order] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
        y = torch.tensor(labels[order])
        return cls(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], seed, epochs)

    def train(self, what: str, model: nn.Module, loss: Loss, *arrays: Tensor) -> nn.Module:
        """Minimise `loss(model, batch)` on the rows of the arrays."""
        config = TrainingConfig(
            epochs=self.epochs,
            batch_size=BATCH,
            lr=LR,
            weight_decay=DECAY,
            schedule="cosine",
            warmup_epochs=min(WARMUP, self.epochs - 1),
            seed=self.seed,
        )
        items = len(arrays[0]) - (len(arrays[0]) % BATCH == 1)  # batch normalisation has no variance of one item
        data = TensorDataset(*(array[:items] for array in arrays))
        train(
            model,
            loss,
            data,
            config=config,
            description=f"bt2: {what}, seed {self.seed}",
            parameter_groups=parameter_groups,
        )
        return model.cpu()

    def scores(self, q: Tensor, g: Tensor) -> RetrievalScores:
        """Of the test images among themselves."""
        ids = np.arange(len(self.y_test))
        return cross_retrieval(q, g, self.y_test, self.y_test, ids, ids)

    # -- methods -----------------------------------------------------------------------------------------------------

    def independent(self, network: Network) -> nn.Module:
        """A classifier on unit vectors, of what the network has seen."""
        seen = self.y < network.classes

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0])[1], batch[1], label_smoothing=0.1)

        model = Classified(network.backbone(network.features), network.features)
        return self.train("independent", model, loss, self.x[seen], self.y[seen])

    def bct(self, network: Network, features: int, old: Float[Tensor, "train d_old"]) -> nn.Module:
        """Backward-compatible training: the first d_old coordinates are classified by the old model's class means."""
        seen, d_old = self.y < network.classes, old.shape[1]
        pseudo = pseudo_classifier(old[seen], self.y[seen], network.classes)

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            f, logits = model(batch[0])
            influence = F.cross_entropy(F.normalize(f[:, :d_old], dim=-1) @ pseudo.mT.to(f), batch[1])
            return F.cross_entropy(logits, batch[1]) + INFLUENCE * influence

        model = Classified(network.backbone(features), features)
        return self.train("BCT", model, loss, self.x[seen], self.y[seen])

    def bt2(
        self,
        network: Network,
        new: Float[Tensor, "train d_new"],
        old: Float[Tensor, "train d_old"],
        start: Start = "closed form",
        criterion: BT2Loss | None = None,
    ) -> nn.Module:
        """The head of BT² on the backbone, with the vectors of the independent new model and of the old one."""
        criterion = criterion or BT2Loss()
        seen = self.y < network.classes
        new, old = new[seen], old[seen]
        d_new, d_old = new.shape[1], old.shape[1]
        pseudo = pseudo_classifier(old, self.y[seen], network.classes)
        head = BasisTransformHead(d_new + d_old, d_new, d_old, EXTRA, n_classes=CLASSES)
        if start == "closed form":
            head.set_bases(*map(torch.from_numpy, closed_bases(new.double().numpy(), old.double().numpy(), EXTRA)))

        def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            x, y, phi_new, phi_old = batch
            return criterion(model(x), y, phi_new, phi_old, pseudo.to(x))

        model = nn.Sequential(network.backbone(d_new + d_old), head)
        return self.train("BT²", model, loss, self.x[seen], self.y[seen], new, old)


class Classified(nn.Module):
    """A backbone's unit vectors, and the logits of a linear layer without bias on them."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, nn.Linear(features, CLASSES, bias=False)

    def forward(self, x: Float[Tensor, "batch 1 8 8"]) -> tuple[Float[Tensor, "batch features"], Tensor]:
        f = F.normalize(self.backbone(x), dim=-1)
        return f, self.classifier(f)


@torch.no_grad()
def embed(model: nn.Module, x: Tensor) -> Tensor:
    """Unit vectors of the model in evaluation mode; of a BT² head the whole vector, made a unit vector."""
    found = model.eval()(x)
    return F.normalize(found.phi_new if isinstance(found, HeadOutput) else found[0], dim=-1)


def image_scores(old_network: Network, new_network: Network, seed: int, epochs: int) -> dict[str, float]:
    """Every method's search of the test images among themselves, by "queries/gallery" as in the paper, and measure."""
    torch.manual_seed(seed)
    lab = Lab.of(seed, epochs)
    old, new = lab.independent(old_network), lab.independent(new_network)
    phi_old, phi_new, d_old = embed(old, lab.x), embed(new, lab.x), old_network.features
    gallery, q = embed(old, lab.x_test), embed(new, lab.x_test)
    upgrade = EmbeddingUpgrade(method="procrustes").fit(phi_new.numpy(), phi_old.numpy())
    found = {
        "old/old": lab.scores(gallery, gallery),
        "independent/old": lab.scores(q, gallery),
        "independent/independent": lab.scores(q, q),
        "Procrustes/old": lab.scores(torch.from_numpy(upgrade.transform_query(q.numpy())), gallery),
    }
    models = {
        "BCT": lab.bct(new_network, d_old, phi_old),
        f"BCT + {EXTRA} naive dimensions": lab.bct(new_network, d_old + EXTRA, phi_old),
        "BT²": lab.bt2(new_network, phi_new, phi_old),
        "BT² from random bases": lab.bt2(new_network, phi_new, phi_old, "random"),
        "BT², lambda_old = 0": lab.bt2(new_network, phi_new, phi_old, criterion=BT2Loss(lambda_old=0.0)),
    }
    for name, model in models.items():
        q = embed(model, lab.x_test)
        found[f"{name}/old"], found[f"{name}/{name}"] = lab.scores(q, gallery), lab.scores(q, q)
    return {
        f"{name}, {measure}": value
        for name, scores in found.items()
        for measure, value in zip(MEASURES, (scores.cmc[1], scores.cmc[5], scores.mAP), strict=True)
    }


def cell(name: str, queries: int, gallery: int) -> str:
    """The measure of the queries of a step on the gallery of another, from 0."""
    return f"{name}, queries {queries + 1}, gallery {gallery + 1}"


def series_scores(seed: int, epochs: int) -> dict[str, float]:
    """mAP of the queries of each step on the gallery of each step up to it, by `cell`.

    Each step's vectors are the old ones of the next. BT² grows by the added dimensions, BCT keeps its width, and
    independent models are compared by the coordinates that both have.
    """
    torch.manual_seed(seed)
    lab = Lab.of(seed, epochs)
    galleries: dict[str, list[Tensor]] = {"independent": [], "BCT": [], "BT²": []}
    first = lab.independent(SERIES[0])
    vectors = dict.fromkeys(galleries, embed(first, lab.x))
    for found in galleries.values():
        found.append(embed(first, lab.x_test))
    for network in SERIES[1:]:
        wide = Network(network.width, vectors["BT²"].shape[1], network.classes)
        models = {
            "independent": lab.independent(network),
            "BCT": lab.bct(network, network.features, vectors["BCT"]),
            "BT²": lab.bt2(network, embed(lab.independent(wide), lab.x), vectors["BT²"]),
        }
        for name, model in models.items():
            vectors[name] = embed(model, lab.x)
            galleries[name].append(embed(model, lab.x_test))
    return {
        cell(name, q, g): lab.scores(vectors[q], vectors[g]).mAP
        for name, vectors in galleries.items()
        for q in range(len(SERIES))
        for g in range(q + 1)
    }
