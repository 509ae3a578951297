"""An image-to-image network with instance norm, from MNIST digits to their edges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.interpret.linearscope import AffineInterpreter, CopyMap, LinearScope, comb, copy_map, template_share
from linmap.pictures import figure, save_svg
from linmap.recipes.linearscope.pictures import show, signed
from linmap.recipes.linearscope.settings import Settings
from linmap.training import TrainingConfig, train


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
    copies: CopyMap
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
