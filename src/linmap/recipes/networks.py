"""A network of the user's own, which `--model package.module:function` names."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from linmap.errors import UsageError

PICKLED = (".pt2", ".pt", ".pth", ".pkl", ".bin")


def is_import_path(name: str) -> bool:
    """Whether this is `package.module:name`."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None


def imported_network(name: str) -> nn.Module:
    """The network that a function without arguments, a class or a variable gives.

    Raises
    ------
    UsageError
        If `name` is a pickled file or no import path, the import fails, or what it names does not build a network.
    """
    if name.endswith(PICKLED):
        raise UsageError(
            f"--model {name}: such files are read through pickle, which can run any code in them. Write a function "
            "that builds the network and loads its weights, and give --model package.module:function."
        )
    if not is_import_path(name):
        raise UsageError(f"--model {name!r} is no import path; give package.module:function.")
    return _built(name, _imported(name))


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
