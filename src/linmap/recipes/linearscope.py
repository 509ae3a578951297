"""linearscope at work: a classifier, super-resolution networks and an image-to-image network read as affine maps."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from linmap.artifacts import write_json
from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.data.images import embedded_image, luminance, read_image, square, window
from linmap.data.pretrained import efficientnet_lite0, fsrcnn
from linmap.errors import UsageError
from linmap.interpret.linearscope import (
    AffineInterpreter,
    LinearScope,
    bias_split,
    comb,
    copy_map,
    template_share,
)
from linmap.pictures import BASELINE, DIVERGING, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.job import ApplyJob, CompareJob
from linmap.recipes.result import Check, Metric, Picture, Result, Row, Table
from linmap.training import TrainingConfig, train

SIDE = 224
LABELS = {285: "Egyptian cat", 967: "espresso", 698: "palace", 985: "daisy", 281: "tabby", 282: "tiger cat"}


@dataclass(frozen=True)
class Settings:
    """What `linmap compare linearscope` measures."""

    deleted: float = 0.1
    """Share of the pixels that the deletion test sets to zero."""
    random_masks: int = 10
    """Random deletions per photograph."""
    singular: int = 8
    """Singular values of the super-resolution maps."""
    digits: int = 2000
    """MNIST digits that the image-to-image network learns from (at most 2500)."""
    epochs: int = 4
    """Passes over these digits."""


PRESETS = {"quick": Settings(), "full": Settings(random_masks=50, epochs=16)}


@dataclass(frozen=True)
class ApplySettings:
    """What `linmap apply linearscope` reads off a network."""

    model: str = "efficientnet-lite0"
    """efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2, or package.module:function, a function of
    yours that returns an nn.Module in eval mode."""
    target: int | None = None
    """Flat index of the output to explain; the largest logit, or the middle pixel, when left out."""
    side: int | None = None
    """The image is cut to its largest centred square and resized to this many pixels; 224, or 32 for fsrcnn."""
    grey: bool = False
    """Give your own model one luminance channel in [0, 1] instead of (pixel - mean) / std."""
    mean: float = 127.0
    """Subtracted from the pixels (0 to 255)."""
    std: float = 128.0
    """Divides them."""
    singular: int = 4
    """Singular triplets drawn."""
    mode: Literal["record", "parallel"] = "record"
    """record keeps the decisions of the image; parallel recomputes them for every product."""
    smooth: Literal["secant", "taylor"] = "secant"
    """Smooth units as secants from the origin or as tangents."""
    gate: Literal["left", "right"] | None = None
    """Which factor of an unclear product is frozen."""
    allow_secant: bool = False
    """Allow divisions, exponentials, logarithms and powers of the input."""
    strict: bool = True
    """Refuse operations without a frozen form instead of taking them as constants."""


# -- apply ---------------------------------------------------------------------------------------------------------


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Read one photograph's map and draw votes, rows, columns, eigen-inputs and eigen-outputs."""
    out = Path(job.out or "linearscope")
    model, grey = load_model(settings.model)
    x = input_image(settings, job.data, grey or settings.grey)
    with Console(stderr=True).status("reading the network"):
        scope = LinearScope(
            model,
            mode=settings.mode,
            smooth=settings.smooth,
            gate=settings.gate,
            allow_secant=settings.allow_secant,
            strict=settings.strict,
        )
        interp = scope.at(x)
        target = interp.output_index(settings.target) if settings.target is not None else default_target(interp)
        files = draw_reading(interp, target, settings.singular, out)
    terms = sorted(bias_split(interp, target), key=lambda term: -abs(term.contribution))
    report = interp.report() | {
        "model": settings.model,
        "image": str(job.data or "embedded photograph"),
        "target": target,
        "target_value": float(interp.output.flatten()[target]),
        "target_residual": float(interp.residual.flatten()[target]),
        "target_votes": float(interp.votes(target).sum()),
        "largest_bias_terms": [asdict(term) for term in terms[:10]],
        "pictures": files,
    }
    write_json(out / "report.json", report)
    return {key: report[key] for key in ("exactness", "bias_share", "target", "target_value", "target_residual")} | {
        "out": str(out),
        "files": [*files, "report.json"],
    }


def load_model(name: str) -> tuple[nn.Module, bool]:
    """A network by name or by import path, and whether it takes one luminance channel.

    Raises
    ------
    UsageError
        If the name is unknown, the import fails, or what it gives is no `nn.Module`.
    """
    if name == "efficientnet-lite0":
        return efficientnet_lite0(), False
    if known := re.fullmatch(r"fsrcnn-(small-)?x([234])", name):
        if known[1] and known[2] != "2":
            raise UsageError("--model: the small FSRCNN is there at x2 only: fsrcnn-small-x2.")
        return fsrcnn(int(known[2]), small=bool(known[1])), True
    if name.endswith((".pt2", ".pt", ".pth", ".pkl", ".bin")):
        raise UsageError(
            f"--model {name}: such files are read through pickle, which can run any code in them. Write a function that "
            "builds the network and loads its weights, and give --model package.module:function."
        )
    if not re.fullmatch(r"[\w.]+:\w+", name):
        raise UsageError(
            f"--model {name!r}: there are efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2, and "
            "package.module:function."
        )
    return _import_model(name), False


def _import_model(name: str) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # the user's own module, as `python -m` would find it
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--model {name}: {error}.") from error
    finally:
        sys.path.pop(0)
    model = function()
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {name}: the function returned a {type(model).__name__}, not an nn.Module.")
    return model


def input_image(settings: ApplySettings, path: Path | None, grey: bool) -> Tensor:
    """The photograph as (1, 3, side, side), (pixel - mean) / std, or as (1, 1, side, side) luminance."""
    side = settings.side or (32 if grey else SIDE)
    if grey:
        image = read_image(path) if path else window(embedded_image("camera"), 60, 200, 128, 128)
        return torch.from_numpy(luminance(square(image, side)))[None, None].float()
    return normalised(square(read_image(path) if path else embedded_image("chelsea"), side), settings.mean, settings.std)


def normalised(image: np.ndarray, mean: float = 127.0, std: float = 128.0) -> Tensor:
    """(height, width, 3) 8-bit values as (1, 3, height, width), (pixel - mean) / std."""
    return (torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None] - mean) / std


def default_target(interp: AffineInterpreter) -> int:
    if interp.output.ndim == 4:
        return interp.output_index((0, interp.output.shape[2] // 2, interp.output.shape[3] // 2))
    return int(interp.output.flatten().argmax())


def draw_reading(interp: AffineInterpreter, target: int, k: int, out: Path) -> list[str]:
    """votes, rows, columns, eigen_inputs, eigen_outputs as SVG files in `out`."""
    singular = interp.svd(min(k, interp.in_features, interp.out_features))
    votes = interp.votes(target)
    strongest = int(interp.as_input(votes.flatten()).abs().flatten().argmax())
    photo, name = interp.input, LABELS.get(target, "") if interp.out_features == 1000 else ""
    title = f"output {target}{f' ({name})' if name else ''}"
    draw_votes([(f"{title}: votes", photo, votes)], out / "votes.svg")
    rows = [target, *(int(i) for i in interp.output.flatten().topk(min(4, interp.out_features)).indices if i != target)]
    if interp.output.ndim == 4:  # the sub-pixel phases beside the target
        width = interp.output.shape[-1]
        rows = [i for i in (target, target + 1, target + width, target + width + 1) if i < interp.out_features]
    images = interp.as_input(interp.rows(rows[:4]))
    draw_signed([(f"row {i}", image) for i, image in zip(rows, images, strict=False)], out / "rows.svg", "What outputs look at")
    column = interp.columns([strongest]).mT
    draw_outputs(interp, [(f"column {strongest}", column[0])], out / "columns.svg", "What the strongest voter writes")
    inputs = [(f"σ = {s:.3g}", interp.as_input(v)) for s, v in zip(singular.S.tolist(), singular.Vh, strict=True)]
    draw_signed(inputs, out / "eigen_inputs.svg", "Eigen-inputs (right singular vectors)")
    outputs = [(f"σ = {s:.3g}", u) for s, u in zip(singular.S.tolist(), singular.U.mT, strict=True)]
    draw_outputs(interp, outputs, out / "eigen_outputs.svg", "Eigen-outputs (left singular vectors)")
    return ["votes.svg", "rows.svg", "columns.svg", "eigen_inputs.svg", "eigen_outputs.svg"]


# -- pictures ------------------------------------------------------------------------------------------------------


def show(ax: Any, image: np.ndarray, title: str = "", **options: Any) -> None:
    """One image in a panel without axes."""
    ax.imshow(image, **options)
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def as_photo(x: Tensor) -> np.ndarray:
    """An input stretched to [0, 1], (height, width, 3); grey where it has not three channels."""
    image = x[0].detach().cpu().double()
    image = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp_min(1e-12)).permute(1, 2, 0).numpy()


def signed(image: Tensor) -> dict[str, Any]:
    """A diverging scale around zero that the largest 0.1 % of the values saturate."""
    reach = float(image.abs().flatten().double().quantile(0.999)) or 1.0
    return {"cmap": DIVERGING, "vmin": -reach, "vmax": reach}


def plane(image: Tensor) -> Tensor:
    """Channels added up: (C, H, W) -> (H, W)."""
    return image.detach().cpu().reshape(-1, *image.shape[-2:]).sum(0)


def smoothed(image: Tensor, sigma: float = 2.0) -> Tensor:
    """A Gaussian blur, for votes drawn over a photograph."""
    reach = torch.arange(-6, 7).to(image)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    blurred = F.conv2d(image[None, None], kernel.reshape(1, 1, -1, 1), padding=(6, 0))
    return F.conv2d(blurred, kernel.reshape(1, 1, 1, -1), padding=(0, 6))[0, 0]


def draw_votes(panels: list[tuple[str, Tensor, Tensor]], path: Path) -> None:
    """Photographs above, votes over the grey photograph below."""
    with figure(2.3 * max(len(panels), 2), 4.9, nrows=2, ncols=len(panels), squeeze=False) as (fig, axes):
        for (top, bottom), (title, x, votes) in zip(axes.T, panels, strict=True):
            photo, heat = as_photo(x), smoothed(plane(votes).float())
            show(top, photo, title)
            show(bottom, overlaid(photo, heat.numpy()))
            bottom.set_xlabel("votes: red for, blue against", fontsize=8)
        with matplotlib.rc_context({"savefig.dpi": 54}):  # the resolution at which photographs are embedded
            save_svg(fig, path)


def overlaid(photo: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A signed map in colour over the pale grey photograph, (height, width, 3)."""
    reach = float(np.quantile(np.abs(heat), 0.995)) or 1.0
    colour = matplotlib.colormaps[DIVERGING](heat / reach / 2 + 0.5)[..., :3]
    strength = np.clip(np.abs(heat) / reach, 0, 1)[..., None]
    return (1 - strength) * (photo.mean(2, keepdims=True) * 0.5 + 0.5) + strength * colour


def draw_signed(panels: list[tuple[str, Tensor]], path: Path, title: str) -> None:
    """Signed images side by side, channels added up."""
    with figure(2.0 * max(len(panels), 2), 2.5, ncols=len(panels), squeeze=False) as (fig, axes):
        for ax, (name, image) in zip(axes[0], panels, strict=True):
            show(ax, plane(image).numpy(), name, **signed(plane(image)))
        fig.suptitle(title, fontsize=11)
        save_svg(fig, path)


def draw_outputs(interp: AffineInterpreter, panels: list[tuple[str, Tensor]], path: Path, title: str) -> None:
    """Vectors of outputs, as images where the output is one, as stems otherwise."""
    if interp.output.ndim == 4:
        draw_signed([(name, interp.as_output(u)) for name, u in panels], path, title)
        return
    with figure(7.2, 1.6 * len(panels) + 0.6, nrows=len(panels), squeeze=False) as (fig, axes):
        for ax, (name, u) in zip(axes[:, 0], panels, strict=True):
            values = u.detach().cpu().flatten().numpy()
            ax.vlines(range(len(values)), 0, values, color=SYSTEM, linewidth=0.6)
            for i in np.abs(values).argsort()[-3:]:
                ax.annotate(LABELS.get(int(i), str(i)), (i, values[i]), fontsize=8, ha="center")
            ax.set_ylabel(name, fontsize=8)
        axes[-1, 0].set_xlabel("output")
        fig.suptitle(title, fontsize=11)
        save_svg(fig, path)


# -- compare: the classifier ---------------------------------------------------------------------------------------

PHOTOS = ("chelsea", "coffee", "china", "flower")


@dataclass(frozen=True)
class Deletion:
    """One photograph's deletion test."""

    photo: str
    x: Tensor
    votes: Tensor
    target: int
    logit: float
    residual: float
    exactness: float
    before: float
    after: dict[str, list[float]]


def deletion_test(model: nn.Module, photo: str, x: Tensor, settings: Settings, seed: int) -> Deletion:
    """The top class's probability after the pixels with the highest scores are set to zero."""
    interp = LinearScope(model).at(x)
    probabilities = interp.output.softmax(1)[0]
    target = int(probabilities.argmax())
    votes = interp.votes(target)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[0, target], leaf)
    scores = {
        "votes": votes.sum(0),
        "gradient × input": (gradient * x)[0].sum(0),
        "gradient norm": gradient[0].norm(dim=0),
    }
    generator = torch.Generator().manual_seed(seed)
    chance = [torch.rand(x.shape[-2:], generator=generator) for _ in range(settings.random_masks)]
    after = {name: [_after(model, x, score, target, settings.deleted)] for name, score in scores.items()}
    after["random pixels"] = [_after(model, x, score, target, settings.deleted) for score in chance]
    return Deletion(
        photo, x, votes, target, float(interp.output[0, target]), float(interp.residual[0, target]),
        interp.exactness(), float(probabilities[target]), after,
    )  # fmt: skip


@torch.no_grad()
def _after(model: nn.Module, x: Tensor, score: Tensor, target: int, share: float) -> float:
    deleted = torch.zeros(score.numel(), dtype=torch.bool)
    deleted[score.flatten().topk(round(share * score.numel())).indices] = True
    return float(model(x.masked_fill(deleted.reshape(score.shape), 0)).softmax(1)[0, target])


def draw_deletion(tests: list[Deletion], path: Path) -> None:
    methods = ["before", *tests[0].after]
    colours = [BASELINE, SYSTEM, *SERIES[1:]]
    with figure(7.2, 3.2) as (fig, ax):
        for m, method in enumerate(methods):
            values = [t.before if method == "before" else float(np.mean(t.after[method])) for t in tests]
            places = np.arange(len(tests)) + (m - (len(methods) - 1) / 2) * 0.16
            ax.bar(places, values, 0.15, label=method, color=colours[m])
        ax.set_xticks(range(len(tests)), [f"{t.photo}\n{LABELS.get(t.target, t.target)}" for t in tests])
        ax.set_ylabel("probability of the top class")
        ax.set_title("Deleting the pixels with the highest scores (lower: the score found what mattered)")
        ax.legend(ncols=3, fontsize=8)
        save_svg(fig, path)


# -- compare: super-resolution -------------------------------------------------------------------------------------

CROP = 24
CROPS = {
    "camera, flat": ("camera", 80, 56),
    "camera, edge": ("camera", 152, 152),
    "camera, texture": ("camera", 440, 320),
    "coffee, cup": ("coffee", 190, 300),
    "coffee, table": ("coffee", 40, 60),
}


class Bicubic(nn.Module):
    """Bicubic enlargement, the same matrix for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True)


@dataclass(frozen=True)
class Enlargement:
    """What one super-resolution network is on one crop."""

    network: str
    crop: str
    interp: AffineInterpreter
    gains: list[float]
    """Mean row sum of each output phase, 8 input pixels away from the border."""
    similarity: list[float]
    """Cosine between the centre rows and bicubic's."""
    singular: Any


def read_enlargement(network: str, crop: str, settings: Settings) -> Enlargement:
    model = fsrcnn(2, small=network == "fsrcnn-small-x2").double()
    name, top, left = CROPS[crop]
    x = torch.from_numpy(luminance(window(embedded_image(name), top, left, CROP, CROP)))[None, None]
    interp, bicubic = LinearScope(model).at(x), LinearScope(Bicubic().eval()).at(x)
    response = interp.matvec(torch.ones_like(x))[0, 0, 16:-16, 16:-16]
    gains = [float(response[a::2, b::2].mean()) for a in range(2) for b in range(2)]
    middle = [interp.output_index((0, CROP + dy, CROP + dx)) for dy in range(-2, 2) for dx in range(-2, 2)]
    similarity = F.cosine_similarity(interp.rows(middle), bicubic.rows(middle)).tolist()
    return Enlargement(network, crop, interp, gains, similarity, interp.svd(settings.singular))


def draw_filters(readings: list[Enlargement], path: Path) -> None:
    """Rows at the four phases of the centre pixel, per crop, bicubic's below."""
    shown = [r for r in readings if r.network == "fsrcnn-x2"][:3]
    bicubic = LinearScope(Bicubic().eval()).at(shown[0].interp.input)
    lines = [(r.crop, r.interp) for r in shown] + [("bicubic", bicubic)]
    with figure(7.2, 6.6, nrows=len(lines), ncols=5) as (fig, axes):
        for line, (title, interp) in zip(axes, lines, strict=True):
            show(line[0], interp.input[0, 0].numpy(), "" if title == "bicubic" else title, cmap="gray", vmin=0, vmax=1)
            if title == "bicubic":
                line[0].clear()
                line[0].axis("off")
                line[0].text(0.5, 0.5, "bicubic\n(any image)", ha="center", va="center")
            places = [interp.output_index((0, CROP + dy, CROP + dx)) for dy in range(2) for dx in range(2)]
            for ax, (phase, row) in zip(line[1:], enumerate(interp.as_input(interp.rows(places))), strict=True):
                part = row[0, 4:20, 4:20]
                show(ax, part.numpy(), f"phase {phase // 2}, {phase % 2}", **signed(part))
        fig.suptitle("Filters that write one pixel's four sub-pixels (fsrcnn-x2; red positive, blue negative)", fontsize=11)
        save_svg(fig, path)


def draw_eigen(reading: Enlargement, path: Path) -> None:
    with figure(7.2, 3.8, nrows=2, ncols=5) as (fig, axes):
        for j, (top, bottom) in enumerate(axes.T):
            v, u = reading.singular.Vh[j].reshape(CROP, CROP), reading.singular.U[:, j].reshape(2 * CROP, 2 * CROP)
            show(top, v.numpy(), f"σ = {float(reading.singular.S[j]):.3f}", **signed(v))
            show(bottom, u.numpy(), **signed(u))
        axes[0, 0].set_ylabel("eigen-input", fontsize=9)
        axes[1, 0].set_ylabel("eigen-output", fontsize=9)
        fig.suptitle(f"Patterns that {reading.network} amplifies most on {reading.crop!r}", fontsize=11)
        save_svg(fig, path)


# -- compare: image to image ---------------------------------------------------------------------------------------


class EdgeNet(nn.Module):
    """Five convolutions with instance norm and ReLU and a residual connection: a digit to its edge map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = [1, width, width, width, width]
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.InstanceNorm2d(b, affine=True), nn.ReLU(inplace=True))
            for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        self.body = nn.Sequential(*blocks, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def sobel(images: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient, divided by 4: (batch, 1, height, width) in [0, 1]-ish."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=images.dtype)
    both = torch.stack([kernel, kernel.T])[:, None]
    return F.conv2d(F.pad(images, (1, 1, 1, 1), "replicate"), both).norm(dim=1, keepdim=True) / 4


def train_edge_net(settings: Settings, seed: int, out: Path, resume: bool) -> tuple[nn.Module, Tensor, float, float]:
    """A trained `EdgeNet`, the held-out digits, its mean squared error on them and that of copying the input."""
    arrays = read_npz(find("mnist/mnist_3k.npz", "Reinstall linmap."), ("x_train", "x_test"))
    learn, held_out = (torch.from_numpy(arrays[part]).float()[:, None] / 255 for part in ("x_train", "x_test"))
    learn = learn[: settings.digits]
    torch.manual_seed(seed)
    model = EdgeNet()
    train(
        model,
        lambda net, batch: F.mse_loss(net(batch[0]), batch[1]),
        torch.utils.data.TensorDataset(learn, sobel(learn)),
        config=TrainingConfig(epochs=settings.epochs, batch_size=32, lr=3e-3, schedule="linear", seed=seed),
        out=out,
        resume=resume,
        description="edge network",
    )
    model.eval()
    with torch.no_grad():
        error = float(F.mse_loss(model(held_out), sobel(held_out)))
    return model, held_out, error, float(F.mse_loss(held_out, sobel(held_out)))


@dataclass(frozen=True)
class EdgeReading:
    """What the image-to-image network is on one digit."""

    interp: AffineInterpreter
    copies: Any
    period: tuple[int, int]
    probes: int
    singular: Tensor
    eigenvalues: Tensor
    jacobian_gap: float
    """norm(F - Jacobian) / norm(Jacobian): what freezing the instance norm's statistics changes."""
    stroke_template: float
    background_template: float


def read_edge_net(model: nn.Module, digit: Tensor) -> EdgeReading:
    model, x = model.double(), digit.double()
    interp = LinearScope(model).at(x)
    whole = comb(interp)
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(whole.matrix.shape)
    stroke = x > 0.5
    return EdgeReading(
        interp,
        copy_map(interp),
        whole.period,
        whole.probes,
        interp.svd(4).S,
        interp.eig(4).L,
        float((whole.matrix - jacobian).norm() / jacobian.norm()),
        template_share(interp, stroke),
        template_share(interp, ~stroke),
    )


def draw_edge_net(reading: EdgeReading, path: Path) -> None:
    interp = reading.interp
    middle = int(interp.output.flatten().argmax())
    row = interp.as_input(interp.row(middle))[0]
    with figure(7.2, 1.9, ncols=5) as (fig, axes):
        show(axes[0], interp.input[0, 0].numpy(), "digit x", cmap="gray")
        show(axes[1], interp.output[0, 0].numpy(), "edges y", cmap="gray")
        show(axes[2], interp.residual[0, 0].numpy(), "residual r", **signed(interp.residual[0, 0]))
        show(axes[3], row.numpy(), "row of one edge", **signed(row))
        show(axes[4], reading.copies.share.numpy(), "copied share", cmap="viridis", vmin=0, vmax=1)
        save_svg(fig, path)


# -- compare -------------------------------------------------------------------------------------------------------


def compare(settings: Settings, job: CompareJob) -> Result:
    """Deletion test, super-resolution filters and an image-to-image network, with their pictures."""
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    status = Console(stderr=True)
    classifier = efficientnet_lite0()
    with status.status("reading the classifier"):
        photos = {photo: normalised(square(embedded_image(photo), SIDE)) for photo in PHOTOS}
        if job.data:
            photos[job.data.stem] = normalised(square(read_image(job.data), SIDE))
        tests = [deletion_test(classifier, photo, x, settings, job.seed) for photo, x in photos.items()]
        draw_votes([(f"{t.photo}: {LABELS.get(t.target, t.target)}", t.x, t.votes) for t in tests], out / "votes.svg")
        draw_deletion(tests, out / "deletion.svg")
        cost = column_cost(classifier, photos["chelsea"])
    with status.status("reading the super-resolution networks"):
        readings = [read_enlargement(net, crop, settings) for net in ("fsrcnn-x2", "fsrcnn-small-x2") for crop in CROPS]
        draw_filters(readings, out / "filters.svg")
        draw_eigen(readings[1], out / "eigen.svg")
    model, digits, error, copying = train_edge_net(settings, job.seed, out / "edge_network", job.resume)
    with status.status("reading the image-to-image network"):
        edges = read_edge_net(model, digits[:1])
        draw_edge_net(edges, out / "edges.svg")
    checks = _checks(tests, readings, edges, cost)
    return Result(
        system="linearscope",
        task=(
            f"EfficientNet-lite0 (ImageNet) at {SIDE} x {SIDE} on {len(tests)} photographs: probability of the top class "
            f"after the {settings.deleted:.0%} pixels with the highest scores are set to zero, by score."
        ),
        metrics=[Metric(t.photo, "lower", digits=3) for t in tests],
        rows=_rows(tests),
        shows=_shows(tests, readings, edges),
        limits=(
            "Votes equal gradient × input on this piecewise-linear classifier, so they rank pixels no better than it; "
            "what is added is the residual, the columns, the singular pairs and exactness. Zeroed pixels are an unusual "
            "input, and where the class falls whatever is deleted, the test says nothing. One classifier, two "
            "super-resolution networks on small crops, one small image-to-image network."
        ),
        checks=checks,
        tables=[_bias_table(tests), _enlargement_table(readings), _edge_table(edges, error, copying), _cost_table(cost)],
        pictures=[
            Picture("votes.svg", "Pixel votes", "Each photograph, and below it what every pixel adds to the top class."),
            Picture("deletion.svg", "Deletion test", "Probability of the top class before and after deleting pixels."),
            Picture("filters.svg", "Super-resolution filters", "Rows of F on a flat, an edge and a texture crop, and bicubic's."),
            Picture("eigen.svg", "Eigen-inputs and eigen-outputs", "The patterns that fsrcnn-x2 amplifies most on an edge."),
            Picture("edges.svg", "An image-to-image network", "A digit, its edge map, the residual (red positive), what one edge pixel looks at, and the share of each row's energy "
                    "within 2 pixels of its largest weight (yellow: all of it)."),
        ],
        preset=job.preset,
        seeds=[job.seed],
        settings=asdict(settings),
    )


def _rows(tests: list[Deletion]) -> list[Row]:
    rows = [Row("before deletion", "baseline", {t.photo: [t.before] for t in tests})]
    for method in tests[0].after:
        kind = "system" if method == "votes" else "baseline"
        note = "mean and spread over random masks" if method == "random pixels" else ""
        rows.append(Row(method, kind, {t.photo: t.after[method] for t in tests}, note=note))
    return rows


def _bias_table(tests: list[Deletion]) -> Table:
    rows: list[list[str | float | int]] = [
        [t.photo, f"{t.target} {LABELS.get(t.target, '')}", round(t.logit, 2), round(t.residual, 2),
         round(t.logit - t.residual, 2), f"{t.residual / t.logit:.0%}", f"{t.exactness:.1e}"]
        for t in tests
    ]  # fmt: skip
    columns = ["photograph", "class", "logit", "residual r", "votes", "r / logit", "max |Fx + r − y| / max |y|"]
    return Table("Where the logit comes from (origin: zero input)", columns, rows)


def _enlargement_table(readings: list[Enlargement]) -> Table:
    rows: list[list[str | float | int]] = [
        [r.network, r.crop, ", ".join(f"{gain:.3f}" for gain in r.gains), round(r.interp.bias_share(), 3),
         f"{np.mean(r.similarity):.3f} ({min(r.similarity):.3f}–{max(r.similarity):.3f})",
         ", ".join(f"{s:.3f}" for s in r.singular.S.tolist())]
        for r in readings
    ]  # fmt: skip
    columns = ["network", "crop", "DC gain by phase", "‖r‖ / ‖y‖", "cosine with bicubic rows", "singular values"]
    return Table("Super-resolution ×2 on crops of 24 × 24 pixels", columns, rows, "Bicubic is the same matrix everywhere.")


def _edge_table(reading: EdgeReading, error: float, copying: float) -> Table:
    pairs: list[tuple[str, str]] = [
        ("mean squared error on held-out digits (copying the input)", f"{error:.5f} ({copying:.5f})"),
        ("max |Fx + r − y| / max |y|", f"{reading.interp.exactness():.1e}"),
        ("‖r‖ / ‖y‖", f"{reading.interp.bias_share():.3f}"),
        ("the same on the stroke, on the background", f"{reading.stroke_template:.3f}, {reading.background_template:.3f}"),
        ("pixels that copy (over half the energy within 2 pixels)", f"{float(reading.copies.copied.double().mean()):.1%}"),
        ("probes for all 784 columns (impulses' distance)", f"{reading.probes} ({reading.period[0]} × {reading.period[1]})"),
        ("singular values", ", ".join(f"{s:.3f}" for s in reading.singular.tolist())),
        ("eigenvalues", ", ".join(f"{complex(v):.3f}" for v in reading.eigenvalues)),
        ("‖F − Jacobian‖ / ‖Jacobian‖ (frozen statistics)", f"{reading.jacobian_gap:.3f}"),
    ]
    return Table("A digit to its Sobel edges: five convolutions with instance norm", ["figure", "value"], [list(p) for p in pairs])


@dataclass(frozen=True)
class Cost:
    """Median milliseconds."""

    forward: float
    batched_column: float
    single_column: float
    row: float


def column_cost(model: nn.Module, x: Tensor, repeats: int = 5) -> Cost:
    """What a column and a row cost beside a forward pass, measured in turns."""
    interp = LinearScope(model).at(x)
    work: list[Callable[[], object]] = [
        lambda: model(x), lambda: interp.columns(range(16)), lambda: interp.columns([0]), lambda: interp.row(0)
    ]  # fmt: skip
    seconds: list[list[float]] = [[] for _ in work]
    with torch.no_grad():
        for _ in range(repeats + 1):
            for samples, function in zip(seconds, work, strict=True):
                start = time.perf_counter()
                function()
                samples.append(time.perf_counter() - start)
    forward, batch, single, row = (1000 * float(np.median(samples[1:])) for samples in seconds)
    return Cost(forward, batch / 16, single, row)


def _cost_table(cost: Cost) -> Table:
    rows: list[list[str | float | int]] = [
        [name, round(value, 1), round(value / cost.forward, 2)]
        for name, value in (
            ("forward pass", cost.forward), ("column, 16 at a time", cost.batched_column),
            ("column, alone", cost.single_column), ("row", cost.row),
        )
    ]  # fmt: skip
    return Table("Cost on EfficientNet-lite0", ["work", "milliseconds", "forward passes"], rows)


def _checks(tests: list[Deletion], readings: list[Enlargement], edges: EdgeReading, cost: Cost) -> list[Check]:
    informative = [t for t in tests if t.photo in PHOTOS[:3]]
    others = ("gradient norm", "random pixels")
    lowest = all(t.after["votes"][0] < min(np.mean(t.after[name]) for name in others) for t in informative)
    single, double = max(t.exactness for t in tests), max(r.interp.exactness() for r in readings)
    mean = {r.crop: float(np.mean(r.similarity)) for r in readings if r.network == "fsrcnn-x2"}
    ordered = mean["camera, flat"] > mean["camera, edge"] > mean["camera, texture"]
    return [
        Check("y = F x + r to 1e-5 in float32 on EfficientNet-lite0", single <= 1e-5, f"largest {single:.1e}"),
        Check("y = F x + r to 1e-12 in float64 on FSRCNN", double <= 1e-12, f"largest {double:.1e}"),
        Check(
            "deleting by votes lowers the top class most on chelsea, coffee and china", lowest,
            "; ".join(f"{t.photo} {t.before:.3f} → {t.after['votes'][0]:.3f} "
                      f"({', '.join(f'{n} {np.mean(t.after[n]):.3f}' for n in others)})" for t in informative),
        ),
        Check("FSRCNN is most like bicubic on the flat crop, least on texture", ordered,
              ", ".join(f"{crop} {value:.3f}" for crop, value in mean.items())),
        Check("a column costs at most 1.5 forward passes", cost.batched_column <= 1.5 * cost.forward,
              f"{cost.batched_column / cost.forward:.2f} in batches of 16, {cost.single_column / cost.forward:.2f} alone"),
    ]  # fmt: skip


def _shows(tests: list[Deletion], readings: list[Enlargement], edges: EdgeReading) -> str:
    shares = [t.residual / t.logit for t in tests]
    flat, texture = (
        float(np.mean(next(r for r in readings if r.crop == f"camera, {kind}").similarity)) for kind in ("flat", "texture")
    )
    return (
        f"Biases decide {min(shares):.0%} to {max(shares):.0%} of the top logit; the pixels' votes only the rest. Deleting "
        f"the pixels with the most votes takes the top class from {np.mean([t.before for t in tests]):.2f} to "
        f"{np.mean([t.after['votes'][0] for t in tests]):.2f} on average, random pixels to "
        f"{np.mean([np.mean(t.after['random pixels']) for t in tests]):.2f}. FSRCNN's filters have cosine {flat:.2f} with "
        f"bicubic's on a flat crop and {texture:.2f} on texture. The edge network copies in "
        f"{float(edges.copies.copied.double().mean()):.0%} of its output pixels."
    )
