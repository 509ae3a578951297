"""Read your own network at your own input as one affine map: `python examples/linearscope.py`"""

import torch
from torch import nn

from linmap.interpret.linearscope import LinearScope, bias_split

# Any network in eval mode; here a small one with a squeeze-and-excitation gate and in-place units.
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.head = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stem(x)
        return self.head(features * self.gate(features))


model, x = Net().eval().requires_grad_(False), torch.randn(1, 3, 16, 16)
interp = LinearScope(model).at(x)  # y = F x + r, exact at x

y = interp.matvec(x) + interp.residual
print(f"F x + r equals the network to {float((y - model(x)).abs().max()):.1e}")

top = int(interp.output.argmax())
votes = interp.votes(top)  # (3, 16, 16): what every pixel adds to the top class
print(
    f"class {top}: {float(interp.output[0, top]):+.3f} = {float(votes.sum()):+.3f} from the pixels "
    f"{float(interp.residual[0, top]):+.3f} from the biases"
)

for term in bias_split(interp, top):
    print(f"  {term.module:8s} {term.operation:18s} {term.contribution:+.4f}")

U, S, Vh = interp.svd(3)
print("singular values", [round(s, 3) for s in S.tolist()])
print("the input that the network amplifies most has shape", tuple(interp.as_input(Vh[0]).shape))
print("units that took a decision:", interp.report()["units"])
