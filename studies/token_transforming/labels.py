"""With labels: digits by a linear classifier on DINOv2's features, and vessels by a head that saw every token."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap.adapt.segmentation import dice, segmentation_loss
from linmap.compress.token_transforming.evaluation.images import ACCURACY, PATCHES, POOLED, Images, LabelledImages
from linmap.compress.token_transforming.evaluation.measuring import ORIGINAL, Task
from linmap.compress.token_transforming.evaluation.subject import Measure
from linmap.data.image_preparation import ImagePreparation, read_preparation
from linmap.data.image_sets import ImageSet, embedded_digits, image_set_of
from linmap.data.masks import MaskedImages, embedded_ultrasound
from linmap.data.models import load_pretrained
from linmap.data.pretrained import bundled_model
from linmap.experiment import draw_all
from linmap.training import TrainingConfig, train
from studies.study import Findings, Job
from studies.token_transforming.common import ahead, all_ways, differences, drawn, kept, ran

KEEPS = (0.65, 0.5, 0.35)
DICE = Measure("Dice", "higher", math.nan, 0.01)
SIDE, PATCH, WIDTH = 196, 14, 384
"""Of the ultrasound images: 14 x 14 patches."""


def dinov2() -> tuple[nn.Module, ImagePreparation]:
    """The model, and what it wants of images."""
    folder = bundled_model("dinov2-small")
    return load_pretrained(folder, "encoder", "float32").eval(), read_preparation(folder)


def classified(job: Job, side: int) -> Findings:
    """600 digits to fit on, 300 others to ask about (100 of four times as many tokens)."""
    model, preparation = dinov2()
    train_set, test_set = embedded_digits("train"), embedded_digits("test")
    n_train, n_test, side = (20, 4, 28) if job.tiny else (600, 300 if side < 196 else 100, side)
    batch = 2 if job.tiny else 20
    subject = LabelledImages(model, test_set.subset(range(n_test)), preparation.at(side), batch,
                             train_set.subset(range(n_train)))  # fmt: skip
    keeps = (0.5,) if job.tiny else KEEPS
    task = Task(subject, list(all_ways()), keeps, repeats=0)
    runs = ran(job, task, {"side": side, "train": n_train})
    tables = [kept(task, runs),
              differences(task, runs, [ACCURACY.name, PATCHES.name, POOLED.name])]  # fmt: skip
    error = math.sqrt(0.87 * 0.13 / n_test)
    setting = (
        f"DINOv2-small on MNIST at {side} x {side} ({subject.tokens} tokens); logistic regression on the class token "
        f"and the mean patch of {n_train} digits, every token; accuracy on {n_test} others (standard error about "
        f"{error:.3f}), blocks 3, 6 and 9 keep .65 to .35."
    )
    pictures, notes = draw_all([(job.out / "curves.svg", partial(drawn, runs, ACCURACY, task.bound(runs)))])
    return Findings(setting, tables, ahead(runs, ACCURACY.name, "higher", 0.02, 0.495), notes, pictures)


# -- segmentation ------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    """Patch features to one logit a pixel: a 1 x 1 convolution, then three 3 x 3 ones on finer and finer grids."""

    def __init__(self, side: int, width: int = 32) -> None:
        super().__init__()
        self.side = side
        self.lateral = nn.Conv2d(WIDTH, width, 1)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(4, width), nn.ReLU())
            for _ in range(3)
        )
        self.logit = nn.Conv2d(width, 1, 1)

    def forward(self, patches: Tensor) -> Tensor:
        rows = self.side // PATCH
        y = self.steps[0](self.lateral(patches.transpose(1, 2).unflatten(2, (rows, rows))))
        for step in self.steps[1:]:
            y = step(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False))
        return F.interpolate(self.logit(y), size=(self.side, self.side), mode="bilinear", align_corners=False)


class Ultrasound(Images):
    """Images whose vessels a head finds in the restored patches."""

    def __init__(
        self, model: nn.Module, images: ImageSet, preparation: ImagePreparation, batch_size: int,
        masks: Tensor, head: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__(model, images, preparation, batch_size)
        self.measures, self.masks, self.segmenter = (DICE, PATCHES, POOLED), masks, head

    @torch.no_grad()
    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        found = (self.segmenter(after["patches"])[:, 0] > 0).numpy()
        truth = self.masks[batch * self.batch_size : (batch + 1) * self.batch_size, 0].numpy()
        dices = [dice(mask, true) for mask, true in zip(found, truth, strict=True)]
        return super().scores(before, after, batch) | {DICE.name: dices}


def segmented(job: Job) -> Findings:
    """A head on 120 images, trained with every token, asked about 40 others with fewer."""
    model, preparation = dinov2()
    side, batch, steps = (28, 2, 1) if job.tiny else (SIDE, 8, 300)
    preparation = preparation.at(side)
    train_images, test_images = (embedded_ultrasound(part, side) for part in ("train", "test"))
    if job.tiny:
        train_images, test_images = train_images[:4], test_images[:2]
    seen = Images(model, as_set(train_images), preparation, batch)
    patches = torch.cat([seen.features(number)["patches"] for number in range(len(seen))])
    head = trained(patches, train_images.masks, side, steps, batch)
    subject = Ultrasound(model, as_set(test_images), preparation, batch, test_images.masks, head)
    keeps = (0.5,) if job.tiny else KEEPS
    task = Task(subject, list(all_ways()), keeps, repeats=0)
    runs = ran(job, task, {"side": side, "steps": steps})
    tables = [kept(task, runs),
              differences(task, runs, [DICE.name, PATCHES.name])]  # fmt: skip
    whole = np.std(runs.of(ORIGINAL)[0].details[DICE.name], ddof=1) / math.sqrt(len(test_images))
    setting = (
        f"Vessels in ultrasound, {side} x {side} pixels ({subject.tokens} tokens): DINOv2-small frozen, a "
        f"convolutional head trained {steps} steps on {len(train_images)} images with every "
        f"token, Dice on {len(test_images)} others "
        f"(standard error {whole:.3f}) from patches that are restored at the end."
    )
    pictures, notes = draw_all([(job.out / "curves.svg", partial(drawn, runs, DICE, task.bound(runs)))])
    return Findings(setting, tables, ahead(runs, DICE.name, "higher", 0.01, 0.495), notes, pictures)


def as_set(images: MaskedImages) -> ImageSet:
    """Grey images from 0 to 1 as what a folder of them would give."""
    return image_set_of(images.images[:, 0].numpy())


def trained(patches: Tensor, masks: Tensor, side: int, steps: int, batch: int) -> nn.Module:
    """The head on these features, in eval mode."""
    torch.manual_seed(0)
    head = Head(side)
    epochs = math.ceil(steps / math.ceil(len(masks) / batch))
    config = TrainingConfig(epochs=epochs, max_steps=steps, batch_size=batch, lr=3e-3, optimizer="adamw",
                            weight_decay=1e-2, schedule="linear")  # fmt: skip
    train(
        head, lambda net, part: segmentation_loss(net(part[0]), part[1]), TensorDataset(patches, masks), config=config
    )
    return head.eval()
