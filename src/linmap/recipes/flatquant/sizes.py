"""What a quantised model takes on disk, beside the same model in float16."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

CODES = ".weight_scale"  # beside the codes of a quantised linear layer


@dataclass(frozen=True)
class Sizes:
    """Bytes of a whole model, and of its quantised linear layers with their scales and transforms."""

    stored: int
    float16: int
    linears: int
    linears_float16: int

    @property
    def share(self) -> float:
        """Of the linear layers' float16 size; 1 if none is quantised."""
        return self.linears / self.linears_float16 if self.linears_float16 else 1.0


def sizes(original: Mapping[str, tuple[int, int]], quantised: Mapping[str, tuple[int, int]]) -> Sizes:
    """Sizes from the (numbers, bytes) of the tensors of a model before and after, by name."""
    layers = {name.removesuffix(CODES) for name in quantised if name.endswith(CODES)}
    shared = [name for name in quantised if ".input_transform." in name or ".cache_transform." in name]
    parts = [name for name in quantised if name not in shared and _layer(name, layers)]
    return Sizes(
        stored=sum(size for _, size in quantised.values()),
        float16=2 * sum(numbers for numbers, _ in original.values()),
        linears=sum(quantised[name][1] for name in [*parts, *shared]),
        linears_float16=2 * sum(original[name][0] for name in original if _layer(name, layers)),
    )


def _layer(name: str, layers: set[str]) -> bool:
    """Whether a tensor is of one of these layers, or of a module inside it."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in layers:
            return True
    return False


def model_tensors(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Of a model in memory; what is tied counts once."""
    tensors = {tensor.data_ptr() if tensor.numel() > 1 else name: (name, tensor)
               for name, tensor in reversed(model.state_dict().items())}  # fmt: skip
    return {name: (tensor.numel(), tensor.nbytes) for name, tensor in tensors.values()}


def folder_tensors(folder: Path) -> dict[str, tuple[int, int]]:
    """Of the safetensors files of a folder, by their headers."""
    found: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                numbers = 1
                for n in entry["shape"]:
                    numbers *= n
                found[name] = (numbers, end - begin)
    return found
