"""Super-resolution networks beside bicubic interpolation."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.data.images import embedded_image, luminance, window
from linmap.data.pretrained import fsrcnn
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Picture, Runs, Table, Trial, draw_all
from linmap.interpret.linearscope import LinearScope
from linmap.interpret.linearscope.pictures import show, signed
from linmap.pictures import figure, save_svg
from studies.study import Findings, Job

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


NETWORKS = ("fsrcnn-x2", "fsrcnn-small-x2")
SINGULAR = 8


def run(job: Job) -> Findings:
    """Both networks on five crops, in float64."""
    crops = dict(list(CROPS.items())[:1]) if job.tiny else CROPS
    experiment = Experiment("linearscope enlargement", job.out / "runs", {"singular": SINGULAR}, job.resume)
    arms = [Arm(name, "system", lambda trial, name=name: _measured(name, trial), seeded=False) for name in NETWORKS]
    runs = experiment.run(arms, [Part(crop, place) for crop, place in crops.items()], job.seeds[:1])
    drawings = [
        (job.out / "filters.svg", lambda path: _draw_filters(list(crops)[:3], path)),
        (job.out / "eigen.svg", lambda path: _draw_eigen(list(crops)[:2][-1], path)),
    ]
    pictures, notes = draw_all(drawings)
    setting = f"FSRCNN at scale 2, luminance crops of {CROP} x {CROP} pixels; bicubic is the same matrix everywhere."
    return Findings(setting, [_table(runs)], [] if job.tiny else _checks(runs), notes, pictures)


def _network(name: str) -> nn.Module:
    return fsrcnn(2, small=name == "fsrcnn-small-x2").double()


def _crop(place: tuple[str, int, int]) -> Tensor:
    name, top, left = place
    return torch.from_numpy(luminance(window(embedded_image(name), top, left, CROP, CROP)))[None, None]


def _measured(network: str, trial: Trial) -> Outcome:
    """Row sums of each output phase 8 input pixels away from the border, and how like bicubic's the centre rows are."""
    x = _crop(trial.data)
    interp, bicubic = LinearScope(_network(network)).at(x), LinearScope(Bicubic().eval()).at(x)
    response = interp.matvec(torch.ones_like(x))[0, 0, 16:-16, 16:-16]
    gains = [float(response[a::2, b::2].mean()) for a in range(2) for b in range(2)]
    middle = [interp.output_index((0, CROP + dy, CROP + dx)) for dy in range(-2, 2) for dx in range(-2, 2)]
    similarity = F.cosine_similarity(interp.rows(middle), bicubic.rows(middle)).tolist()
    values = {"bias share": interp.bias_share(), "cosine": fmean(similarity), "exactness": interp.exactness()}
    details = {"gains": gains, "similarity": similarity, "singular": interp.svd(SINGULAR).S.tolist()}
    return Outcome(values, details=details)


def _table(runs: Runs) -> Table:
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        for run in runs.of(arm.name):
            gains, cosines, singular = (run.details[name] for name in ("gains", "similarity", "singular"))
            cosine = f"{run.values['cosine']:.3f} ({min(cosines):.3f}–{max(cosines):.3f})"
            figures = [", ".join(f"{value:.3f}" for value in values) for values in (gains, singular)]
            rows.append([run.arm, run.part, figures[0], round(run.values["bias share"], 3), cosine, figures[1]])
    columns = ["network", "crop", "DC gain by phase", "‖r‖ / ‖y‖", "cosine with bicubic rows", "singular values"]
    return Table("Super-resolution ×2", columns, rows)


def _checks(runs: Runs) -> list[Check]:
    error = max(value for arm in runs.arms for value in runs.values(arm.name, "exactness"))
    cosine = {crop: runs.mean("fsrcnn-x2", "cosine", crop) for crop in CROPS}
    ordered = cosine["camera, flat"] > cosine["camera, edge"] > cosine["camera, texture"]
    statement = "on camera, FSRCNN is most like bicubic on the flat crop and least on texture"
    figures = ", ".join(f"{crop} {value:.3f}" for crop, value in cosine.items())
    wrong = "the reading is not the network, and no other figure here holds"
    return [
        Check("y = F x + r to 1e-12 in float64 on FSRCNN", error <= 1e-12, f"largest {error:.1e}", wrong),
        Check(statement, ordered, figures, "what the network adds to bicubic does not follow texture"),
    ]


def _draw_filters(crops: list[str], path: Path) -> Picture:
    """Rows at the four phases of the centre pixel, per crop, bicubic's below."""
    scope = LinearScope(_network("fsrcnn-x2"))
    bicubic = LinearScope(Bicubic().eval()).at(_crop(CROPS[crops[0]]))
    lines = [*((crop, scope.at(_crop(CROPS[crop]))) for crop in crops), ("bicubic", bicubic)]
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
        fig.suptitle(
            "Filters that write one pixel's four sub-pixels (fsrcnn-x2; red positive, blue negative)", fontsize=11
        )
        save_svg(fig, path)
    return Picture(path.name, "Super-resolution filters", "Rows of F on crops, and bicubic's.")


def _draw_eigen(crop: str, path: Path) -> Picture:
    U, S, Vh = LinearScope(_network("fsrcnn-x2")).at(_crop(CROPS[crop])).svd(SINGULAR)
    with figure(7.2, 3.8, nrows=2, ncols=5, squeeze=False) as (fig, axes):
        for j, (top, bottom) in enumerate(axes.T):
            v, u = Vh[j].reshape(CROP, CROP), U[:, j].reshape(2 * CROP, 2 * CROP)
            show(top, v.numpy(), f"σ = {float(S[j]):.3f}", **signed(v))
            show(bottom, u.numpy(), **signed(u))
        axes[0, 0].set_ylabel("eigen-input", fontsize=9)
        axes[1, 0].set_ylabel("eigen-output", fontsize=9)
        fig.suptitle(f"Patterns that fsrcnn-x2 amplifies most on {crop!r}", fontsize=11)
        save_svg(fig, path)
    return Picture(path.name, "Eigen-inputs and eigen-outputs", f"The patterns that fsrcnn-x2 amplifies most: {crop}.")
