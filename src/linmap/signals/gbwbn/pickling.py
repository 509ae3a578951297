"""Parametrised modules that can be pickled, and so saved whole, sent to other processes and kept by joblib."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization


class Pickled(nn.Module):
    """To inherit from first: a module whose parametrised tensors survive `pickle`, bit for bit.

    `torch.nn.utils.parametrize` gives such a module a class of its own, made on the fly, which `pickle` cannot find
    again. Here the class that was written down is found, and parametrised anew.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not is_parametrized(self):
            return super().__reduce_ex__(protocol)
        written = type(self).__mro__[1]
        names: Any = self.parametrizations
        return _parametrised, (written, list(names)), dict(vars(self)), None, None, _restore


def _parametrised(written: type[nn.Module], names: list[str]) -> nn.Module:
    """An empty module of a class, some of whose tensors are parametrised."""
    module = written.__new__(written)
    nn.Module.__init__(module)
    for name in names:
        module.register_parameter(name, nn.Parameter(torch.empty(0)))
        register_parametrization(module, name, nn.Identity())
    return module


def _restore(module: nn.Module, state: dict[str, Any]) -> None:
    vars(module).update(state)
