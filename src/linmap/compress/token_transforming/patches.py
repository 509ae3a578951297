"""Methods of a module that are replaced on the object alone, and put back: its class and its state_dict stay."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from linmap.errors import ArgumentError


class Patch:
    """Stands for the method `name` of `module` from `install` to `remove`; copies of the module get copies of it."""

    def __init__(self, module: nn.Module, name: str = "forward") -> None:
        self.module, self.name = module, name
        self.previous: Callable[..., Any] | None = module.__dict__.get(name)

    def install(self) -> None:
        setattr(self.module, self.name, self)

    def check(self) -> None:
        """That it still stands there.

        Raises
        ------
        ValueError
            If another library has replaced the method since.
        """
        if self.module.__dict__.get(self.name) is not self:
            raise ArgumentError(
                f"{type(self.module).__name__}.{self.name} was replaced after the model was compressed; undo that "
                "first."
            )

    def remove(self) -> None:
        """Put back what was there."""
        if self.previous is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.previous)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """What the module did before."""
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        return getattr(type(self.module), self.name)(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """Of the method that is replaced: pipelines and trainers read it."""
        if self.previous is not None:
            return inspect.signature(self.previous)
        signature = inspect.signature(getattr(type(self.module), self.name))
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Hook:
    """A hook of a module, from `install` to `remove`."""

    def __init__(self, module: nn.Module, hook: Callable[..., Any], *, before: bool = False, keywords: bool = False):
        self.module, self.hook, self.before, self.keywords = module, hook, before, keywords
        self.registered: RemovableHandle | None = None

    def install(self) -> None:
        register = self.module.register_forward_pre_hook if self.before else self.module.register_forward_hook
        self.registered = register(self.hook, with_kwargs=self.keywords)

    def check(self) -> None:
        """Hooks stay where they are."""

    def remove(self) -> None:
        if self.registered is not None:
            self.registered.remove()
            self.registered = None
