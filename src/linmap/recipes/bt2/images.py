"""BT² trained on images, in the setting of the paper at small scale: more classes and a bigger backbone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from linmap.retrieve.bt2 import (
    BasisTransformHead,
    BT2Loss,
    EmbeddingUpgrade,
    RetrievalScores,
    cross_retrieval,
    pseudo_classifier,
    train_epochs,
)

TRAIN = 1000
CLASSES, OLD_CLASSES = 10, 5
OLD_WIDTH, NEW_WIDTH, D_OLD, D_NEW, EXTRA = 3, 16, 8, 32, 4
BATCH, LR, DECAY, WARMUP = 64, 3e-3, 3e-5, 2
INFLUENCE = 10.0  # weight of the loss of BCT


def backbone(width: int, features: int) -> nn.Sequential:
    layers = (
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Flatten(),
        nn.Linear(2 * width * 16, features),
    )  # fmt: skip
    return nn.Sequential(*layers)


@torch.no_grad()
def embed(model: nn.Module, x: Tensor) -> Tensor:
    """Unit vectors, or the whole vectors of a BT² head, of the model in evaluation mode."""
    found = model.eval()(x)
    return F.normalize(found, dim=-1) if isinstance(found, Tensor) else found.phi_new


def image_scores(seed: int, epochs: int) -> dict[str, RetrievalScores]:
    """Every method's search of the test images among themselves; "queries/gallery" as in the paper."""
    torch.manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x = torch.tensor(images[order] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.tensor(labels[order])
    x, x_test, y, y_test = x[:TRAIN], x[TRAIN:], y[:TRAIN], y[TRAIN:]

    def train(model: nn.Module, loss: Callable[[Tensor], Tensor], items: int = TRAIN) -> nn.Module:
        train_epochs(model, loss, items, epochs=epochs, batch_size=BATCH, lr=LR, weight_decay=DECAY, warmup=WARMUP,
                     seed=seed)  # fmt: skip
        return model

    def independent(width: int, features: int, x: Tensor, y: Tensor) -> nn.Module:
        model = nn.ModuleList([backbone(width, features), nn.Linear(features, CLASSES, bias=False)])
        train(model, lambda rows: F.cross_entropy(
            model[1](F.normalize(model[0](x[rows]), dim=-1)), y[rows], label_smoothing=0.1), len(x))  # fmt: skip
        return model[0]

    seen = y < OLD_CLASSES
    old = independent(OLD_WIDTH, D_OLD, x[seen], y[seen])
    new = independent(NEW_WIDTH, D_NEW, x, y)
    phi_old, phi_new = embed(old, x), embed(new, x)
    pseudo = pseudo_classifier(phi_old, y, CLASSES)

    def bct(features: int) -> nn.Module:
        model = nn.ModuleList([backbone(NEW_WIDTH, features), nn.Linear(features, CLASSES, bias=False)])

        def loss(rows: Tensor) -> Tensor:
            f = F.normalize(model[0](x[rows]), dim=-1)
            influence = F.cross_entropy(F.normalize(f[:, :D_OLD], dim=-1) @ pseudo.T, y[rows])
            return F.cross_entropy(model[1](f), y[rows]) + INFLUENCE * influence

        train(model, loss)
        return model[0]

    head = BasisTransformHead(D_NEW + D_OLD, D_NEW, D_OLD, EXTRA, n_classes=CLASSES)
    bt2 = nn.Sequential(backbone(NEW_WIDTH, D_NEW + D_OLD), head)
    criterion = BT2Loss()
    train(bt2, lambda rows: criterion(bt2(x[rows]), y[rows], phi_new[rows], phi_old[rows], pseudo))
    gallery = embed(old, x_test)
    upgrade = EmbeddingUpgrade(method="procrustes").fit(phi_new.numpy(), phi_old.numpy())

    def scores(q: Tensor, g: Tensor) -> RetrievalScores:
        ids = np.arange(len(q))
        return cross_retrieval(q, g, y_test, y_test, ids, ids)

    found = {"old/old": scores(gallery, gallery)}
    q = embed(new, x_test)
    found["independent/old"], found["independent/independent"] = scores(q, gallery), scores(q, q)
    found["Procrustes/old"] = scores(torch.from_numpy(upgrade.transform_query(q.numpy())), gallery)
    models = {"BCT": bct(D_OLD), f"BCT + {EXTRA} naive dimensions": bct(D_OLD + EXTRA), "BT²": bt2}
    for name, model in models.items():
        q = embed(model, x_test)
        found[f"{name}/old"], found[f"{name}/{name}"] = scores(q, gallery), scores(q, q)
    return found
