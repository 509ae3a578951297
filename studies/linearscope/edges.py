"""An image-to-image network with instance norm, from MNIST digits to their edges."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Picture, Runs, Table, Trial, mean_std
from linmap.interpret.linearscope import AffineInterpreter, CopyMap, LinearScope, comb, copy_map, template_share
from linmap.interpret.linearscope.pictures import show, signed
from linmap.pictures import figure, save_svg
from linmap.training import TrainingConfig, train
from studies.study import Findings, Job

DIGITS, EPOCHS, PICTURE = 2000, 16, "edges.svg"


class EdgeNet(nn.Module):
    """Five convolutions with instance norm and ReLU and a residual connection: a digit to its edge map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = [1, width, width, width, width]
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.InstanceNorm2d(b, affine=True), nn.ReLU(inplace=True))
            for a, b in pairwise(sizes)
        ]
        self.body = nn.Sequential(*blocks, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def sobel(images: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient, divided by 4: (batch, 1, height, width) in [0, 1]-ish."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=images.dtype)
    both = torch.stack([kernel, kernel.T])[:, None]
    return F.conv2d(F.pad(images, (1, 1, 1, 1), "replicate"), both).norm(dim=1, keepdim=True) / 4


def run(job: Job) -> Findings:
    """A network for each seed; figures of the first held-out digit."""
    digits, epochs = (64, 1) if job.tiny else (DIGITS, EPOCHS)
    settings = {"digits": digits, "epochs": epochs}
    experiment = Experiment("linearscope edges", job.out / "runs", settings, job.resume)
    arm = Arm("edge network", "system", lambda trial: _measured(trial, digits, epochs, job.out))
    runs = experiment.run([arm], [Part("", None)], job.seeds)
    picture = Picture(
        PICTURE,
        "An image-to-image network",
        "A digit, its edge map, the residual (red positive), what one edge pixel looks at, and the share of "
        "each row's energy within 2 pixels of its largest weight (yellow: all of it).",
    )
    error = max(runs.values(arm.name, "max |Fx + r − y| / max |y|"))
    wrong = "the reading is not the network, and no other figure here holds"
    return Findings(
        f"{digits} MNIST digits to their Sobel edges, {epochs} epochs: five convolutions with instance norm and ReLU.",
        [_table(runs)],
        [Check("y = F x + r to 1e-12 in float64 on the edge network", error <= 1e-12, f"largest {error:.1e}", wrong)],
        pictures=[picture] if (job.out / PICTURE).exists() else [],
    )


def _measured(trial: Trial, digits: int, epochs: int, out: Path) -> Outcome:
    """Train, then read the network at one digit in float64."""
    model, held_out = _trained(trial, digits, epochs)
    with torch.no_grad():
        error = F.mse_loss(model(held_out), sobel(held_out))
    model, x = model.double(), held_out[:1].double()
    interp = LinearScope(model).at(x)
    whole, copies, stroke = comb(interp), copy_map(interp), x > 0.5
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(whole.matrix.shape)
    _draw(interp, copies, out / PICTURE)
    values = {
        "mean squared error on held-out digits": error,
        "the same of copying the input": F.mse_loss(held_out, sobel(held_out)),
        "max |Fx + r − y| / max |y|": interp.exactness(),
        "‖r‖ / ‖y‖": interp.bias_share(),
        "the same on the stroke": template_share(interp, stroke),
        "the same on the background": template_share(interp, ~stroke),
        "share of pixels that copy (over half the energy within 2 pixels)": copies.copied.double().mean(),
        "probes for all 784 columns": whole.probes,
        "‖F − Jacobian‖ / ‖Jacobian‖ (frozen statistics)": (whole.matrix - jacobian).norm() / jacobian.norm(),
    }
    details = {
        "singular values": ", ".join(f"{s:.3f}" for s in interp.svd(4).S.tolist()),
        "eigenvalues": ", ".join(f"{complex(v):.3f}" for v in interp.eig(4).L),
    }
    return Outcome({name: float(value) for name, value in values.items()}, details=details)


def _trained(trial: Trial, digits: int, epochs: int) -> tuple[nn.Module, Tensor]:
    """An `EdgeNet` in eval mode, and the held-out digits."""
    arrays = read_npz(find("mnist/mnist_3k.npz", "Reinstall linmap."), ("x_train", "x_test"))
    learn, held_out = (torch.from_numpy(arrays[part]).float()[:, None] / 255 for part in ("x_train", "x_test"))
    learn = learn[:digits]
    torch.manual_seed(trial.seed)
    model = EdgeNet()
    train(
        model,
        lambda net, batch: F.mse_loss(net(batch[0]), batch[1]),
        torch.utils.data.TensorDataset(learn, sobel(learn)),
        config=TrainingConfig(epochs=epochs, batch_size=32, lr=3e-3, schedule="linear", seed=trial.seed),
        out=trial.folder,
        resume=True,
        description="edge network",
    )
    return model.eval(), held_out


def _table(runs: Runs) -> Table:
    """A figure a line, mean ± standard deviation over the seeds; of several values, those of the first."""
    first = runs.of("edge network")[0]
    rows: list[list[str | float | int]] = [
        [name, mean_std(runs.values("edge network", name), 5 if "error" in name else 3)
         if "max" not in name else f"{max(runs.values('edge network', name)):.1e}"]
        for name in first.values
    ]  # fmt: skip
    rows += [[name, text] for name, text in first.details.items()]
    return Table("A digit to its Sobel edges", ["figure", "value"], rows)


def _draw(interp: AffineInterpreter, copies: CopyMap, path: Path) -> None:
    middle = int(interp.output.flatten().argmax())
    row = interp.as_input(interp.row(middle))[0]
    with figure(7.2, 1.9, ncols=5) as (fig, axes):
        show(axes[0], interp.input[0, 0].numpy(), "digit x", cmap="gray")
        show(axes[1], interp.output[0, 0].numpy(), "edges y", cmap="gray")
        show(axes[2], interp.residual[0, 0].numpy(), "residual r", **signed(interp.residual[0, 0]))
        show(axes[3], row.numpy(), "row of one edge", **signed(row))
        show(axes[4], copies.share.numpy(), "copied share", cmap="viridis", vmin=0, vmax=1)
        save_svg(fig, path)
