"""The network that `--model` names, and the images that it is given."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from linmap.data.images import embedded_image, luminance, square, window
from linmap.data.pretrained import efficientnet_lite0, fsrcnn
from linmap.errors import UsageError
from linmap.interpret.linearscope import LinearScope, class_names
from linmap.recipes.linearscope.flags import Reading

CHOICES = "efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2, and package.module:function"
SIDE = 224
"""Pixels on a side of what EfficientNet-lite0 reads."""
LABELS = {285: "Egyptian cat", 967: "espresso", 698: "palace", 985: "daisy", 281: "tabby", 282: "tiger cat"}
"""ImageNet classes that the embedded photographs meet."""


def scope(model: nn.Module, settings: Reading) -> LinearScope:
    """What reads the network; of an answer with `logits`, as Transformers gives them, these."""
    return LinearScope(model, output=logits, **settings.options())


def logits(answer: Any) -> Tensor:
    """The tensor of a network's answer."""
    return getattr(answer, "logits", answer)


def output_names(model: nn.Module, name: str, count: int) -> dict[int, str]:
    """Names of the outputs, as the model that `--model` names or as what it carries says."""
    return dict(LABELS) if name == "efficientnet-lite0" else class_names(model, count)


def model_input(settings: Reading, image: np.ndarray | None, grey: bool) -> Tensor:
    """An image, or an embedded one, as (1, 3, side, side), (pixel - mean) / std, or luminance (1, 1, side, side)."""
    side = settings.side or (32 if grey else SIDE)
    if grey:
        image = window(embedded_image("camera"), 60, 200, 128, 128) if image is None else image
        return torch.from_numpy(luminance(square(image, side)))[None, None].float()
    return normalised(square(embedded_image("chelsea") if image is None else image, side), settings.mean, settings.std)


def normalised(image: np.ndarray, mean: float = 127.0, std: float = 128.0) -> Tensor:
    """(height, width, 3) 8-bit values as (1, 3, height, width), (pixel - mean) / std."""
    return (torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None].contiguous() - mean) / std


def load_model(name: str) -> tuple[nn.Module, bool]:
    """A network by name or by import path, and whether it takes one luminance channel.

    Raises
    ------
    UsageError
        If the name is unknown, the import fails, or what it names does not build an `nn.Module`.
    """
    if name == "efficientnet-lite0":
        return efficientnet_lite0(), False
    if known := re.fullmatch(r"fsrcnn-(small-)?x([234])", name):
        if known[1] and known[2] != "2":
            raise UsageError("--model: the small FSRCNN is there at x2 only: fsrcnn-small-x2.")
        return fsrcnn(int(known[2]), small=bool(known[1])), True
    if name.endswith((".pt2", ".pt", ".pth", ".pkl", ".bin")):
        raise UsageError(
            f"--model {name}: such files are read through pickle, which can run any code in them. Write a function "
            "that builds the network and loads its weights, and give --model package.module:function."
        )
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise UsageError(f"--model {name!r}: there are {CHOICES}.")
    return _built(name, _imported(name)), False


# -- import paths --------------------------------------------------------------------------------------------------


def _imported(name: str) -> Any:
    """What an import path names. Python's own library is never meant and never imported here."""
    module_name, _, attribute = name.partition(":")
    top = module_name.partition(".")[0]
    sys.path.insert(0, str(Path.cwd()))  # the user's own module, as `python -m` would find it
    try:
        if top in sys.stdlib_module_names and not _is_in(Path.cwd(), top):
            raise UsageError(
                f"--model {name}: {top} belongs to Python itself and builds no networks; name a function of your own "
                "that returns an nn.Module."
            )
        return getattr(importlib.import_module(module_name), attribute)
    except UsageError:
        raise
    except Exception as error:  # whatever the module does when it is imported
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"--model {name}: {reason.rstrip('.')}.") from error
    finally:
        sys.path.pop(0)


def _is_in(folder: Path, module: str) -> bool:
    return module not in sys.modules and ((folder / f"{module}.py").is_file() or (folder / module).is_dir())


def _built(name: str, found: Any) -> nn.Module:
    """The network that a function, a class or a variable gives, which is not called unless it can be meant for that."""
    if isinstance(found, nn.Module):
        return found
    if reason := _why_not_to_call(found):
        raise UsageError(f"--model {name}: {reason}; name a function without arguments that returns an nn.Module.")
    try:
        model = found()
    except Exception as error:
        raise UsageError(f"--model {name}: the function failed with {type(error).__name__}: {error}.") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {name}: the function returned a {type(model).__name__}, not an nn.Module.")
    return model


def _why_not_to_call(found: Any) -> str | None:
    """Why an object builds no network, as far as one can tell without calling it."""
    if not callable(found):
        return f"this is a {type(found).__name__}, which cannot be called"
    if inspect.isclass(found) and not issubclass(found, nn.Module):
        return "this class is no nn.Module"
    if not inspect.isclass(found) and _top_module(found) in sys.stdlib_module_names:
        return f"this function belongs to Python's module {_top_module(found)}"
    if not inspect.isclass(found) and not inspect.isroutine(found) and _top_module(type(found)) == "builtins":
        return f"this is a {type(found).__name__}"
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return "this is compiled code, of which nobody knows what it takes"
    try:
        signature.bind()
    except TypeError as error:
        return f"it cannot be called without arguments ({error})"
    return _wrong_annotation(found) or _knows_no_torch(found)


def _top_module(found: Any) -> str:
    return str(getattr(found, "__module__", "") or "").partition(".")[0]


def _knows_no_torch(found: Any) -> str | None:
    """A function of an installed package that knows nothing of PyTorch; of the user's own one cannot tell."""
    names = getattr(found, "__globals__", None)
    if names is None or "site-packages" not in str(names.get("__file__", "")) or "return" in found.__annotations__:
        return None
    if any(_top_module(value) == "torch" or getattr(value, "__name__", "") == "torch" for value in names.values()):
        return None
    return f"nothing in {found.__module__} says that it builds a network"


def _wrong_annotation(found: Any) -> str | None:
    if inspect.isclass(found):
        return None
    try:
        returned = get_type_hints(found).get("return", nn.Module)
        builds = returned is Any or issubclass(returned, nn.Module) or issubclass(nn.Module, returned)
    except Exception:  # an annotation that cannot be resolved, or is no class, says nothing
        return None
    return None if builds else f"its annotation says that it returns {returned.__name__}"
