"""SALT in a vision transformer: vessels in ultrasound with DINOv2-small, whose last four blocks are adapted.

What is trained is the adapter and a small convolutional decoder, which is the same for all and learns first, on the
features as they are, so that its first steps do not spoil the encoder (Kumar et al., "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution", ICLR 2022). What the frozen blocks make of each image, and of
its mirror image, is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Dinov2Model

from linmap.adapt import SaltConfig
from linmap.adapt.segmentation import dice, segmentation_loss
from linmap.data.dinov2 import MEAN, STD
from linmap.data.masks import MaskedImages, embedded_ultrasound
from linmap.data.pretrained import bundled_model
from linmap.experiment import Arm, Choice, Experiment, Metric, Outcome, Part, Trial
from linmap.recipes.salt.compare import CHOOSING, DICE, differences
from linmap.recipes.salt.fit import Adapt
from linmap.training import TrainingConfig, train
from studies.salt.checks import checks
from studies.study import Findings, Job, table_of

PATCH, DIM, WIDTH = 14, 384, 24
DEPTHS = (8, 10, 12)  # the decoder reads the output of these blocks; those behind the first are adapted
TARGETS = r".*attention\.[qkvo]_proj"  # 384 x 384 each
HELD_OUT = 36  # of the training images, the last ones, on which rates are chosen


@dataclass(frozen=True)
class Setting:
    """Size and budget; the same for every method."""

    size: int = 98
    images: tuple[int, ...] = (20, 60, 120)
    decoder_steps: int = 150
    """Of the decoder alone, before."""
    steps: int = 48
    batch_size: int = 8
    decoder_lr: float = 3e-3
    """Of the decoder alone; afterwards a third of it."""
    lora_rank: int = 2
    ratio: float = 0.1
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    full_rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4)


TINY = Setting(size=28, images=(4,), decoder_steps=1, steps=1, batch_size=2, rates=(3e-3,), full_rates=(1e-4,))


# -- data --------------------------------------------------------------------------------------------------------------


class Tokens(Dataset):
    """The output of blocks 8, 10 and 12, as they are, and masks; each half of the time mirrored."""

    def __init__(self, tokens: Float[Tensor, "2 samples 3 tokens d"], masks: Float[Tensor, "samples 1 h w"]) -> None:
        self.tokens, self.masks = tokens, masks

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        tokens, masks = self.__getitems__([index])
        return tokens[0], masks[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        mirrored = torch.rand(len(indices)) < 0.5
        masks = torch.where(mirrored[:, None, None, None], self.masks[indices].flip(-1), self.masks[indices])
        return self.tokens[mirrored.long(), indices], masks

    def rows(self, rows: slice) -> Tokens:
        return Tokens(self.tokens[:, rows], self.masks[rows])


@torch.no_grad()
def frozen_part(images: MaskedImages) -> Tokens:
    """The tokens of every image and its mirror image."""
    model = Dinov2Model.from_pretrained(bundled_model("dinov2-small")).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def output(grey: Tensor) -> Tensor:
        x, found = model.embeddings((grey.expand(-1, 3, -1, -1) - mean) / std), []
        for layer in model.encoder.layer:
            x = layer(x)
            found.append(x)
        return torch.stack([found[number - 1] for number in DEPTHS], 1)

    both = [torch.cat([output(part) for part in x.split(8)]) for x in (images.images, images.images.flip(-1))]
    return Tokens(torch.stack(both), images.masks)


# -- the model ---------------------------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """Token features of three depths to one logit a pixel: 1 x 1 convolutions added up, then three 3 x 3 ones."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.laterals = nn.ModuleList(nn.Conv2d(DIM, WIDTH, 1) for _ in range(3))
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.GroupNorm(4, WIDTH), nn.ReLU())
            for _ in range(3)
        )
        self.logit = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, depths: Float[Tensor, "batch 3 tokens 384"]) -> Float[Tensor, "batch 1 size size"]:
        side = self.size // PATCH
        maps = F.layer_norm(depths, (DIM,))[:, :, 1:].transpose(2, 3).unflatten(3, (side, side)).unbind(1)
        y = torch.stack([lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]).sum(0)
        y = self.steps[0](y)
        for step in self.steps[1:]:
            y = step(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False))
        return F.interpolate(self.logit(y), size=(self.size, self.size), mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """Logits of the mask from the cached tokens; the last four blocks run where something in them changes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        layers = Dinov2Model.from_pretrained(bundled_model("dinov2-small")).encoder.layer[DEPTHS[0] :]
        self.encoder = layers.requires_grad_(False)
        self.decoder = Decoder(size)

    def forward(self, tokens: Float[Tensor, "batch 3 tokens 384"]) -> Float[Tensor, "batch 1 size size"]:
        if not in_encoder(self):
            return self.decoder(tokens)
        x, found = tokens[:, 0], []
        for layer in self.encoder:
            x = layer(x)
            found.append(x)
        return self.decoder(torch.stack([tokens[:, 0], found[1], found[3]], 1))


def build(how: Adapt | None, size: int, seed: int) -> Segmenter:
    torch.manual_seed(seed)
    model = Segmenter(size)
    if how is not None:
        how(model.encoder)
    return model


def put_lora(encoder: nn.Module, rank: int) -> None:
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS), encoder)


def put_salt(encoder: nn.Module, ratio: float, r: int) -> None:
    config = SaltConfig(ratio=ratio, r=r, target_modules=TARGETS, also_train=())
    inject_adapter_in_model(config, encoder)


def unfreeze(encoder: nn.Module) -> None:
    encoder.requires_grad_(True)


def in_encoder(model: Segmenter) -> list[Tensor]:
    return [p for p in model.encoder.parameters() if p.requires_grad]


def salt_rank(setting: Setting) -> int:
    """The largest rank with which SALT has no more parameters than LoRA: 2 k + 2 r (384 - k) in each weight."""
    lora = sum(p.numel() for p in in_encoder(build(partial(put_lora, rank=setting.lora_rank), setting.size, 0)))
    k, weights = int(setting.ratio * DIM), 4 * (DEPTHS[-1] - DEPTHS[0])
    return (lora // weights - 2 * k) // (2 * (DIM - k))


# -- the arms ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """What the arms get."""

    train: Tokens
    test: Tokens
    n: int
    decoders: dict[tuple[int, int], dict[str, Tensor]] = field(default_factory=dict)
    """Trained alone, by the number of images and the seed."""


def arms_of(setting: Setting) -> Iterator[Arm]:
    """SALT and the rest; none has more parameters in the encoder than LoRA but for full tuning."""
    r = salt_rank(setting)
    salt, about = partial(put_salt, ratio=setting.ratio, r=r), f"ratio {setting.ratio:g}, r = {r}"
    lora, shift = partial(put_lora, rank=setting.lora_rank), partial(put_salt, ratio=1.0, r=1)
    rates, full = setting.rates, setting.full_rates
    yield Arm("SALT", "system", partial(train_arm, setting, salt), {"r": r}, rates, note=about)
    yield Arm("decoder only", "baseline", partial(train_arm, setting, None), note="encoder frozen")
    note = f"PEFT, r = {setting.lora_rank} on the same layers"
    yield Arm("LoRA", "baseline", partial(train_arm, setting, lora), rates=rates, note=note)
    note = "every weight of the last four blocks"
    yield Arm("full tuning", "baseline", partial(train_arm, setting, unfreeze), rates=full, note=note)
    note = "all singular values, as in S-SAM"
    yield Arm("scale and shift", "baseline", partial(train_arm, setting, shift), rates=rates, note=note)


def train_arm(setting: Setting, how: Adapt | None, trial: Trial) -> Outcome:
    """Train on the first images; measure on the test images, or to choose a rate on the last training images."""
    images: Images = trial.data
    held = min(HELD_OUT, len(images.train) // 2)
    n = min(images.n, len(images.train) - held) if trial.choosing else images.n
    data = images.train.rows(slice(0, n))
    model = build(how, setting.size, trial.seed)
    key = n, trial.seed
    if key not in images.decoders:
        learn(model.decoder, data, setting, setting.decoder_steps, setting.decoder_lr, trial.seed)
        images.decoders[key] = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    model.decoder.load_state_dict(images.decoders[key])
    learn(model, data, setting, setting.steps, setting.decoder_lr / 3, trial.seed, trial.rate)
    if trial.choosing:
        return Outcome({CHOOSING: float(np.mean(dices(model, images.train.rows(slice(-held, None)))))})
    found = dices(model, images.test)
    return Outcome({DICE: float(np.mean(found))}, sum(p.numel() for p in in_encoder(model)), {"dice": found})


def learn(
    model: nn.Module, data: Tokens, setting: Setting, steps: int, lr: float, seed: int, rate: float | None = None
) -> None:
    """Some steps on Dice plus focal loss; what is trained of the encoder has its own rate."""
    config = TrainingConfig(
        epochs=math.ceil(steps / math.ceil(len(data) / setting.batch_size)), max_steps=steps, lr=lr, seed=seed,
        batch_size=setting.batch_size, optimizer="adamw", weight_decay=1e-2, schedule="linear",
    )  # fmt: skip

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        if not isinstance(model, Segmenter) or rate is None:
            return [{"params": [p for p in model.parameters() if p.requires_grad]}]
        return [{"params": list(model.decoder.parameters())}, {"params": in_encoder(model), "lr": rate}]

    train(model, _loss, data, config=config, parameter_groups=groups)


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return segmentation_loss(model(batch[0]), batch[1])


@torch.no_grad()
def dices(model: nn.Module, data: Tokens) -> list[float]:
    """Dice of every image at threshold 0.5."""
    logits = torch.cat([model(part) for part in data.tokens[0].split(20)])
    pairs = zip((logits[:, 0] > 0).numpy(), data.masks[:, 0].numpy(), strict=True)
    return [dice(mask, truth) for mask, truth in pairs]


# -- the protocol ------------------------------------------------------------------------------------------------------


def vessels(job: Job) -> Findings:
    """Vessels, found in the 40 test images of the data set."""
    setting = TINY if job.tiny else Setting()
    train_images, test_images = (embedded_ultrasound(part, setting.size) for part in ("train", "test"))
    if job.tiny:
        train_images, test_images = train_images[:8], test_images[:4]
    ours, theirs = frozen_part(train_images), frozen_part(test_images)
    key = {name: value for name, value in asdict(setting).items() if name not in ("images", "rates", "full_rates")}
    parts = [Part(f"{n} images", Images(ours, theirs, n), {"images": n}) for n in setting.images]
    experiment = Experiment("salt dinov2", job.out / "runs", key, job.resume)
    runs = experiment.run(list(arms_of(setting)), parts, job.seeds, Choice(CHOOSING, "higher"))
    columns: dict[str, tuple[str, str | None]] = {f"Dice, {part.name}": (DICE, part.name) for part in parts}
    rows, metrics = runs.rows(columns), [Metric(name, "higher") for name in columns]
    costs = [f"{row.name} {row.parameters or 0:,}" for row in rows]
    edge = ", ".join(runs.at_edge())
    sentences = [
        f"Parameters trained in the encoder: {', '.join(costs)}.",
        f"A better rate may lie beyond those tried for {edge}." if edge else "No rate lies at the edge of its grid.",
    ]
    return Findings(described(setting, len(test_images)), [table_of("vessels, DINOv2-small", rows, metrics),
                    differences(runs)], checks(runs), sentences)  # fmt: skip


def described(setting: Setting, test: int) -> str:
    images = ", ".join(map(str, setting.images))
    return (
        f"ultrasound, vessels, {setting.size} x {setting.size} pixels: {setting.decoder_steps} steps of the decoder, "
        f"then {setting.steps} of both, of {setting.batch_size} of the first {images} training images, Dice on "
        f"{test} test images; adapters on the attention of the last four of DINOv2-small's twelve blocks"
    )
