"""The passage: how an input goes into a network, and where the map begins and ends on its way.

An input of floating-point numbers goes in as it is; a language model takes it as embeddings. Token ids have no slope,
so the map begins at the vectors that the model's embedding layer looks up for them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.interpret.linearscope.watch import Exits, Watch


class _StopForward(BaseException):
    """Raised to leave the forward once the layer asked for by `to=` has run."""


@dataclass(frozen=True)
class Passage:
    """A network with the two ends of the map in it."""

    model: nn.Module
    output: Callable[[Any], Tensor] | None = None
    """Takes the tensor out of what the model (or the layer `to`) returns."""
    from_: str | None = None
    to: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the model's forward, by name."""

    def run(self, x: Tensor, marks: Any) -> None:
        """Send x through the model and mark both ends of the map.

        Under a `Watch` in kernels that show their parts and with the exits of the pass watched; under any other marks
        the network runs as it always does.
        """
        starts = [self.from_] if self.from_ else [] if x.is_floating_point() else embedding_paths(self.model)
        name, given = _argument_of(self.model, x), {**_without_cache(self.model), **self.inputs}

        def forward(x: Tensor) -> Any:
            x = x if starts else marks.mark_input(x)
            y = self.model(**{name: x}, **given) if name else self.model(x, **given)
            return marks.mark_output(single_tensor(self.output, y)) if self.to is None else y

        with ExitStack() as stack:
            for path in starts:
                stack.enter_context(_starting_at(self.model, path, marks))
            if self.to:
                stack.enter_context(_stopping_at(self.model, self.to, self.output, marks))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            if isinstance(marks, Watch):
                stack.enter_context(_plain_kernels())
                stack.enter_context(Exits(marks.is_known, marks.leave))
                stack.enter_context(_visiting(self.model, marks.visit))
                stack.enter_context(marks)
            with suppress(_StopForward):
                forward(x.clone())
        for argument, place, marked in (("from_", "".join(starts[:1]), marks.start), ("to", self.to, marks.end)):
            if marked is None:
                raise ArgumentError(f"{argument}={place!r}: this layer did not run in the forward of x (after from_).")


# -- the input ---------------------------------------------------------------------------------------------------------


def embedding_paths(model: nn.Module) -> list[str]:
    """The paths of the layer that looks up vectors for token ids: the one that Transformers names, or the only one.

    T5 has it twice, under one weight; the first that runs counts.
    """
    named = named_embedding(model)
    embeddings = {path: module for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    if named is None:
        return list(embeddings) if len(embeddings) == 1 else []
    if not isinstance(named, nn.Embedding):
        return [path for path, module in model.named_modules() if module is named]
    return [path for path, module in embeddings.items() if module.weight is named.weight]


def named_embedding(model: nn.Module) -> nn.Module | None:
    """The layer that Transformers names as the one for token ids: an embedding, or PEFT's adapter around one."""
    named = None
    with suppress(AttributeError, NotImplementedError):  # not a model of Transformers, or one that takes no ids
        named = cast(Any, model).get_input_embeddings()
    if not isinstance(named, nn.Module) or not isinstance(getattr(named, "weight", None), Tensor):
        return None  # vision transformers name the layer of patches
    return named if any(isinstance(module, nn.Embedding) for module in named.modules()) else None


def _argument_of(model: nn.Module, x: Tensor) -> str | None:
    """The name under which the model takes x; None for its first argument."""
    if not x.is_floating_point() or not embedding_paths(model):
        return None
    return "inputs_embeds" if "inputs_embeds" in inspect.signature(model.forward).parameters else None


def _without_cache(model: nn.Module) -> dict[str, Any]:
    """No cache of keys and values is wanted where one would be made."""
    cached = hasattr(model, "config") and "use_cache" in inspect.signature(model.forward).parameters
    return {"use_cache": False} if cached else {}


# -- the two ends ------------------------------------------------------------------------------------------------------


@contextmanager
def _starting_at(model: nn.Module, path: str, marks: Any) -> Iterator[None]:
    """Mark what goes into the first call of a layer; of an embedding, what comes out of it."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if marks.start is not None:  # not the first call
            return None
        given: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        key = next((key for key, value in given.items() if isinstance(value, Tensor)), None)
        if key is None or not given[key].is_floating_point():
            what = "no tensor" if key is None else f"{given[key].dtype}"
            raise ArgumentTypeError(
                f"from_={path!r}: this layer takes {what}, which has no slope; begin at a layer that takes floating-"
                "point values, or at the embedding layer, whose vectors are then the input."
            )
        given[key] = marks.mark_input(given[key])
        return tuple(given[i] for i in range(len(args))), {name: given[name] for name in kwargs}

    def looked_up(module: nn.Module, args: tuple[Any, ...], vectors: Tensor) -> Any:
        return marks.mark_input(vectors) if marks.start is None else None

    start = layer(model, path, "from_")
    if isinstance(start, nn.Embedding) or start is named_embedding(model):
        handle = start.register_forward_hook(looked_up)
    else:
        handle = start.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _stopping_at(model: nn.Module, path: str, output: Callable[[Any], Tensor] | None, marks: Any) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if marks.start is not None:
            marks.mark_output(single_tensor(output, result))
            raise _StopForward

    handle = layer(model, path, "to").register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _visiting(model: nn.Module, visit: Callable[[str, str, Tensor | None], None]) -> Iterator[None]:
    """Tell `visit` of the tensor that goes into every layer ("start") and of the one that comes out of it ("end")."""

    def before(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        visit(path, "start", _first_tensor((*args, *kwargs.values())))

    def after(path: str, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        visit(path, "end", _first_tensor(result))

    with ExitStack() as stack:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            stack.callback(module.register_forward_pre_hook(partial(before, path), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(partial(after, path)).remove)
        yield


def _first_tensor(values: Any) -> Tensor | None:
    values = values if isinstance(values, tuple | list) else (values,)
    return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)


def layer(model: nn.Module, path: str, argument: str) -> nn.Module:
    """The submodule at `path`, or an error that names the nearest ones."""
    names = dict(model.named_modules())
    if path not in names or path == "":
        near = difflib.get_close_matches(path, names, n=3, cutoff=0.3)
        raise ArgumentError(
            f"{argument}={path!r} is not a layer of {type(model).__name__}; near it: {', '.join(near)}."
        )
    return names[path]


def single_tensor(output: Callable[[Any], Tensor] | None, result: Any) -> Tensor:
    """The output of the map in what a model or a layer returned: the user's choice, else the tensor or the logits."""
    if output is not None:
        result = output(result)
    elif isinstance(getattr(result, "logits", None), Tensor):
        result = result.logits
    elif isinstance(result, tuple | list):  # a layer may return None beside its tensor
        tensors = [part for part in result if isinstance(part, Tensor)]
        result = tensors[0] if len(tensors) == 1 else result
    if not isinstance(result, Tensor):
        inside = f" with keys {sorted(map(str, result))}" if isinstance(result, Mapping) else ""
        raise ArgumentTypeError(
            f"the model returned a {type(result).__name__}{inside}, not a tensor; say which tensor to interpret: "
            'LinearScope(model, output=lambda o: o["logits"]) (or o[0]).'
        )
    return result


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention in its parts instead of fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
