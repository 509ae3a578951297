"""The trace: one pass of the real input through the network, in which every operation takes its decisions.

The pass is watched below autograd, where PyTorch has taken functions, methods, operators and modules apart into ATen
operations. So no operation escapes, and a module that is called twice simply gives two operations. Writes in place
are read as their plain forms, followed by an update of every other tensor on the same memory (`aliasing`).
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from linmap.errors import LinmapError
from linmap.interpret.linearscope.aliasing import Aliases, Overlap, same_elements
from linmap.interpret.linearscope.rules import Answer, Call, Options, Refusal, Rule, find_rule
from linmap.interpret.linearscope.rules.units import MARKS, SOFTMAXES
from linmap.interpret.linearscope.tape import Frozen, Place, Step

Sink = Callable[[Step, tuple[Any, ...]], Any]
"""Receives every frozen operation with what it returned for the operation's inputs."""

HOW_TO_REGISTER = (
    "linmap.interpret.linearscope.register_rule({name!r}, fn) teaches its frozen form: fn(*args) returns "
    "(slope, offset) with slope * z + offset equal to the operation on x, or a function of the probes"
)


class UnknownOperationError(LinmapError, ValueError):
    """The output depends on an operation that has no frozen form; the message names it, its module and its line."""


class _StopForward(BaseException):
    """Raised to leave the forward once the layer asked for by `to=` has run."""


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a tensor of x0's pass that depends on the input."""

    number: int
    mark: str | None = None
    refusal: str | None = None
    carried: Any = None
    """What the sink returned for the operation that made the tensor."""


class Trace(TorchDispatchMode):
    """Watch a pass from `mark_input` to `mark_output` and hand every frozen operation to the sink."""

    def __init__(
        self, model: nn.Module, options: Options, own_rules: Mapping[str, Rule], strict: bool, sink: Sink, probe: Any
    ) -> None:
        super().__init__()
        self.options, self.own_rules, self.strict, self.sink, self.probe = options, own_rules, strict, sink, probe
        self.module_paths = {id(module): path for path, module in model.named_modules()}
        self.values: Any = WeakTensorKeyDictionary()
        self.aliases = Aliases()
        self.state = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
        self.logits: Any = WeakTensorKeyDictionary()  # of every tensor that a softmax made
        self.count = 0
        self.start: Tensor | None = None
        self.end: Tensor | None = None
        self.ignored: list[str] = []
        self._marking: str | None = None

    def mark_input(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` that is the input of the map."""
        self._marking = "input"
        return tensor.clone()

    def mark_output(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` that is the output of the map."""
        self._marking = "output"
        return tensor.clone()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = _written(func, args, kwargs)
        before = args
        if written is not None:
            if written.untyped_storage()._cdata in self.state:
                raise UnknownOperationError(f"{self._place(func)} overwrites a parameter or a buffer of the model.")
            if args and args[0] is written:  # keep z0 from being overwritten
                before = (written.clone(), *args[1:])
                if written in self.values:
                    self.values[before[0]] = self.values[written]
        tracked = any(map(self._is_known, pytree.tree_leaves((before, kwargs))))
        output = func(*args, **kwargs)
        for leaf in pytree.tree_leaves((args, output)):
            self.aliases.add(leaf)
        if self._marking and func is torch.ops.aten.clone.default:
            self._mark(output, args[0])
        elif tracked:
            self._freeze(func, before, {key: value for key, value in kwargs.items() if value is not written}, output)
        elif torch.Tag.nondeterministic_seeded in func.tags and self.start is not None:
            self._refuse(output, f"{self._place(func)} draws random numbers; make the model deterministic", None)
        if written is not None and tracked:
            self._update_aliases(written, self._place(func))
        return output

    def _mark(self, output: Tensor, source: Tensor) -> None:
        marking, self._marking = self._marking, None
        if marking == "input":
            self.start = output
            self.values[output] = Value(0, carried=self.probe)
            return
        self.end = output
        for known in (self.values, self.logits):
            if source in known:
                known[output] = known[source]

    def _freeze(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = Call(func, args, kwargs, output, self.options, self._is_known, lambda z: self.values[z].mark)
        place = self._place(func)
        outputs = list(output) if isinstance(output, tuple | list) else [output]
        if func is torch.ops.aten._local_scalar_dense.default:
            self._refuse(None, f"{place} reads a number out of the pass, which hides what depends on the input", None)
            return
        if not any(isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) for leaf in outputs):
            return  # a comparison, an index: a decision
        answers = self._answer(call)
        refused = (self.values[z].refusal for z in pytree.tree_leaves((args, kwargs)) if self._is_known(z))
        earlier = next(filter(None, refused), None)  # the cause, where this operation is a consequence
        if call.name in SOFTMAXES:
            self.logits[output] = args[0]
        for leaf, answer in zip(outputs, answers * len(outputs) if len(answers) == 1 else answers, strict=False):
            if isinstance(answer, Refusal):
                self._refuse(leaf, earlier or f"{place}: {answer.reason}", MARKS.get(call.name))
            elif isinstance(answer, Frozen):
                self._record(leaf, answer, call, place)
            elif isinstance(leaf, Tensor):
                self.values.pop(leaf, None)  # a decision, perhaps written over a tensor

    def _answer(self, call: Call) -> list[Frozen | Refusal | None]:
        rule = find_rule(call, self.own_rules)
        if rule is None:
            reason = (
                f"this operation is neither linear nor known to LinearScope. {HOW_TO_REGISTER.format(name=call.name)}"
            )
            answer: Answer = Refusal(reason)
        else:
            answer = rule(call)
        return answer if isinstance(answer, list) else [answer]

    def _record(self, output: Tensor, frozen: Frozen, call: Call, place: Place) -> None:
        inputs = tuple(self.values[z] for z in frozen.inputs)
        refusals = [value.refusal for value in inputs if value.refusal]
        if refusals:
            self.values[output] = Value(self._next(), frozen.mark, refusals[0])
            return
        linear = frozen.linear
        if frozen.inputs[0].dtype != output.dtype:
            kind, original = output.dtype, linear
            linear = lambda *probes: original(*probes).to(kind)  # noqa: E731
        arguments = tuple(pytree.tree_map(lambda a: a.shape if isinstance(a, Tensor) else a, call.args))
        self._emit(output, inputs, linear, frozen.offset, place, frozen.mark, frozen.unit, arguments)

    def _update_aliases(self, written: Tensor, place: Place) -> None:
        """After a write: what every other tensor on the same memory holds now."""
        new = self.values.get(written)
        for other in self.aliases.of(written):
            old = self.values.get(other)
            if other is written or (new is None and old is None):
                continue
            if same_elements(other, written):
                self._assign(other, new)
            elif (overlap := Overlap.between(other, written)) is not None:
                values = tuple(value for value in (old, new) if value is not None)
                refusals = [value.refusal for value in values if value.refusal]
                if refusals:
                    self.values[other] = Value(self._next(), None, refusals[0])
                    continue
                linear, offset = overlap.merge(other, old is not None, new is not None)
                self._emit(other, values, linear, offset, place)

    def _assign(self, tensor: Tensor, value: Value | None) -> None:
        if value is None:
            self.values.pop(tensor, None)
        else:
            self.values[tensor] = value

    def _emit(
        self, output: Tensor, inputs: tuple[Value, ...], linear: Any, offset: Tensor | None, place: Place,
        mark: str | None = None, unit: bool = False, arguments: tuple[Any, ...] = (),
    ) -> None:  # fmt: skip
        """Hand a step to the sink and remember its output."""
        number = self._next()
        step = Step(tuple(v.number for v in inputs), number, linear, offset, unit, place, arguments, output.shape)
        self.values[output] = Value(number, mark, None, self.sink(step, tuple(v.carried for v in inputs)))

    def _refuse(self, output: Any, reason: str, mark: str | None) -> None:
        """An error only if the map's output turns out to depend on it; without `strict` a constant of x0."""
        if not self.strict:
            self.ignored.append(reason)
            if isinstance(output, Tensor):
                self.values.pop(output, None)
        elif output is None:
            raise UnknownOperationError(reason)
        elif isinstance(output, Tensor):
            self.values[output] = Value(self._next(), mark, reason)

    def _is_known(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf in self.values

    def _next(self) -> int:
        self.count += 1
        return self.count

    def _place(self, func: Any) -> Place:
        """The module and the line that called an operation, read off the Python stack."""
        frame, module, line, fallback = sys._getframe(1), None, "", ""
        while frame is not None and (frame.f_code.co_name, frame.f_code.co_filename) != ("run", __file__):
            file = frame.f_code.co_filename
            owner = frame.f_locals.get("self")
            if module is None and isinstance(owner, nn.Module) and id(owner) in self.module_paths:
                module = self.module_paths[id(owner)]
                fallback = f"{file}:{frame.f_lineno}"
            if not line and not file.startswith(_NOT_THE_USERS):
                line = f"{file}:{frame.f_lineno}"
            frame = frame.f_back
        return Place(func.name().removeprefix("aten::"), module or "", line or fallback)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that an operation writes to, if it writes to one."""
    if not func._schema.is_mutable:
        return None
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return args[position] if position < len(args) else kwargs.get(argument.name)
    return None


# Frames of PyTorch, of this package and of wrappers that check annotations are not where a user looks for an operation.
_NOT_THE_USERS = tuple(str(Path(file).parent) for file in (torch.__file__, jaxtyping.__file__, __file__))


def run(
    model: nn.Module,
    x: Tensor,
    trace: Trace,
    output: Callable[[Any], Tensor] | None = None,
    from_: str | None = None,
    to: str | None = None,
) -> None:
    """Send x through the model (from the input of layer `from_` to the output of layer `to`) under the trace."""

    def forward(x: Tensor) -> Any:
        y = model(x if from_ else trace.mark_input(x))
        return trace.mark_output(_single_tensor(output(y) if output else y)) if to is None else y

    with ExitStack() as stack:
        if from_:
            stack.enter_context(_starting_at(model, from_, trace))
        if to:
            stack.enter_context(_stopping_at(model, to, output, trace))
        stack.enter_context(_plain_kernels())
        stack.enter_context(trace)
        with suppress(_StopForward):
            forward(x.clone())
    for name, place, marked in (("from_", from_, trace.start), ("to", to, trace.end)):
        if marked is None:
            raise ValueError(f"{name}={place!r}: this layer did not run in the forward of x (after from_).")


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """No autograd, no inference tensors, and attention in its parts instead of fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _starting_at(model: nn.Module, path: str, trace: Trace) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if trace.start is None:  # the first call
            return (trace.mark_input(_single_tensor(args[0])), *args[1:])

    handle = layer(model, path, "from_").register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _stopping_at(model: nn.Module, path: str, output: Callable[[Any], Tensor] | None, trace: Trace) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if trace.start is not None:
            trace.mark_output(_single_tensor(output(result) if output else result))
            raise _StopForward

    handle = layer(model, path, "to").register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def layer(model: nn.Module, path: str, argument: str) -> nn.Module:
    """The submodule at `path`, or an error that names the nearest ones."""
    names = dict(model.named_modules())
    if path not in names or path == "":
        near = difflib.get_close_matches(path, names, n=3, cutoff=0.3)
        raise ValueError(f"{argument}={path!r} is not a layer of {type(model).__name__}; near it: {', '.join(near)}.")
    return names[path]


def _single_tensor(result: Any) -> Tensor:
    if not isinstance(result, Tensor):
        inside = f" with keys {sorted(map(str, result))}" if isinstance(result, Mapping) else ""
        raise TypeError(
            f"the model returned a {type(result).__name__}{inside}, not a tensor; say which tensor to interpret: "
            'LinearScope(model, output=lambda o: o["logits"]) (or o[0]).'
        )
    return result
