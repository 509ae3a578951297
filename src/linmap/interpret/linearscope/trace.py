"""The trace: one pass of the real input through the network, in which every operation takes its decisions.

The pass is watched below autograd, where PyTorch has taken functions, methods, operators and modules apart into ATen
operations. So no operation escapes, and a module that is called twice simply gives two operations. Writes in place
are read as their plain forms, followed by an update of every other tensor on the same memory (`aliasing`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils.weak import WeakTensorKeyDictionary

from linmap.errors import LinmapError
from linmap.interpret.linearscope import passage
from linmap.interpret.linearscope.aliasing import Overlap, same_elements
from linmap.interpret.linearscope.arguments import leaves, shapes
from linmap.interpret.linearscope.rules import Answer, Call, Options, Refusal, Rule, find_rule, plain
from linmap.interpret.linearscope.rules.refused import reason_to_refuse
from linmap.interpret.linearscope.rules.units import MARKS, SOFTMAXES
from linmap.interpret.linearscope.tape import Frozen, Place, Step
from linmap.interpret.linearscope.watch import Watch

Sink = Callable[[Step, tuple[Any, ...]], Any]
"""Receives every frozen operation with what it returned for the operation's inputs."""

HOW_TO_REGISTER = (
    "linmap.interpret.linearscope.register_rule({name!r}, fn) teaches its frozen form: fn(*args) returns "
    "(slope, offset) with slope * z + offset equal to the operation on x, or a function of the probes"
)


HOW_TO_AVOID_COMPLEX = "A Fourier transform of real numbers is two matrix products, with cosines and with sines"


class UnknownOperationError(LinmapError, ValueError):
    """The output depends on an operation that has no frozen form; the message names it, its module and its line."""


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a tensor of x0's pass that depends on the input."""

    number: int
    mark: str | None = None
    refusal: str | None = None
    carried: Any = None
    """What the sink returned for the operation that made the tensor."""


class Trace(Watch):
    """Watch a pass from `mark_input` to `mark_output` and hand every frozen operation to the sink."""

    supports_higher_order_operators = True  # to refuse them by name

    def __init__(
        self, model: nn.Module, options: Options, own_rules: Mapping[str, Rule], strict: bool, sink: Sink, probe: Any
    ) -> None:
        super().__init__(model)
        self.options, self.own_rules, self.strict, self.sink, self.probe = options, own_rules, strict, sink, probe
        self.module_paths = {id(module): path for path, module in model.named_modules()}
        self.values: Any = WeakTensorKeyDictionary()
        self.logits: Any = WeakTensorKeyDictionary()  # of every tensor that a softmax made
        self.count = 0
        self.ignored: list[str] = []
        self.layers: dict[tuple[str, str], int] = {}
        self._marking: str | None = None

    def mark_input(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` that is the input of the map."""
        self._marking = "input"
        return tensor.clone()

    def mark_output(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` that is the output of the map."""
        self._marking = "output"
        return tensor.clone()

    def visit(self, path: str, side: str, tensor: Tensor | None) -> None:
        """Note the values at the two ends of a layer, at its first call."""
        if self.is_known(tensor):
            self.layers.setdefault((path, side), self.values[tensor].number)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise UnknownOperationError(
                f"{self._place(func)} hides what it computes; for attention take "
                "model.set_attn_implementation('eager') or 'sdpa'."
            )
        self.notice(func, args, kwargs)
        written = _written(func, args, kwargs)
        if written is not None and not isinstance(written, Tensor):
            return self._write_many(func, written, args, kwargs)
        overwritten = None if torch.Tag.inplace_view in func.tags else written  # or only looked at in another shape
        before = args
        if written is not None:
            if written.untyped_storage()._cdata in self.state:
                raise UnknownOperationError(f"{self._place(func)} overwrites a parameter or a buffer of the model.")
            if args and args[0] is written:  # keep z0 from being overwritten, or from being seen in another shape
                before = (written.clone() if written is overwritten else torch.ops.aten.alias(written), *args[1:])
                if written in self.values:
                    self.values[before[0]] = self.values[written]
        if overwritten is not None:
            self.logits.pop(overwritten, None)  # no softmax any more
        tracked = any(map(self.is_known, leaves(before, kwargs)))
        output = func(*args, **kwargs)
        if not self._marking and args and self._is_softmax(args[0]) and _name(func) in _SHAPES:
            self.logits[output] = self.__torch_dispatch__(func, types, (self.logits[args[0]], *args[1:]), kwargs)
        self.remember(func, args, kwargs, output)
        if self._marking and func is torch.ops.aten.clone.default:
            self._mark(output, args[0])
        elif tracked:
            self._freeze(func, before, kwargs, output)
        elif torch.Tag.nondeterministic_seeded in func.tags and self.start is not None:
            self._refuse(output, f"{self._place(func)} draws random numbers; make the model deterministic", None)
        if overwritten is not None and tracked:
            self._update_aliases(overwritten, self._place(func))
        return output

    def _write_many(self, func: Any, written: Sequence[Tensor], args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation that writes to several tensors at once, which networks do not use but optimisers."""
        if any(map(self.is_known, leaves(args, kwargs))):
            reason = f"{self._place(func)} writes to several tensors at once; write to one after the other"
            self._refuse(None, reason, None)
            for tensor in written:
                for other in self.aliases.of(tensor):
                    self.values.pop(other, None)
        return func(*args, **kwargs)

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
        kwargs = {key: value for key, value in kwargs.items() if key not in _outputs(func)}
        call = Call(plain(func), args, kwargs, output, self.options, self.is_known, lambda z: self.values[z].mark)
        place = self._place(func)
        outputs = list(output) if isinstance(output, tuple | list) else [output]
        if func is torch.ops.aten._local_scalar_dense.default:
            self._refuse(None, f"{place} reads a number out of the pass, which hides what depends on the input", None)
            return
        if func is torch.ops.aten.view.dtype:
            self._refuse(None, f"{place} reads the bits of numbers, which hides what depends on the input", None)
            return
        if not any(isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) for leaf in outputs):
            if torch.Tag.nondeterministic_seeded in func.tags:
                self._refuse(output, f"{place} draws random numbers; make the model deterministic", None)
            return  # a comparison, an index: a decision
        answers = self._answer(call)
        refused = (self.values[z].refusal for z in leaves(args, kwargs) if self.is_known(z))
        earlier = next(filter(None, refused), None)  # the cause, where this operation is a consequence
        if call.name in SOFTMAXES:
            self.logits[output] = args[0]
        for leaf, answer in zip(outputs, answers * len(outputs) if len(answers) == 1 else answers, strict=False):
            if isinstance(answer, Refusal):
                self._refuse(leaf, earlier or f"{place}: {answer.reason}", _mark_of_refused(call))
            elif isinstance(answer, Frozen):
                self._record(leaf, answer, call, place)
            elif isinstance(leaf, Tensor):
                self.values.pop(leaf, None)  # a decision, perhaps written over a tensor

    def _answer(self, call: Call) -> list[Frozen | Refusal | None]:
        if any(map(_is_complex, leaves(call.args, call.kwargs, call.output))):
            return [Refusal(f"complex numbers are not followed. {HOW_TO_AVOID_COMPLEX}")]
        rule = find_rule(call, self.own_rules)
        if rule is None:
            reason = reason_to_refuse(call.name) or "this operation is neither linear nor known to LinearScope"
            answer: Answer = Refusal(f"{reason}. {HOW_TO_REGISTER.format(name=call.name)}")
        else:
            answer = rule(call)
        return answer if isinstance(answer, list) else [answer]

    def _record(self, output: Tensor, frozen: Frozen, call: Call, place: Place) -> None:
        inputs = tuple(self.values[z] for z in frozen.inputs)
        refusals = [value.refusal for value in inputs if value.refusal]
        if refusals:
            self.values[output] = Value(self._next(), frozen.mark, refusals[0])
            return
        linear, offset = self._in_precision(output, frozen)
        arguments = tuple(map(shapes, call.args))
        mixing = self._mixing(call)
        self._emit(output, inputs, linear, offset, place, frozen.mark, frozen.unit, arguments, mixing)

    def _in_precision(self, output: Tensor, frozen: Frozen) -> tuple[Callable[..., Tensor], Tensor | None]:
        """The affine form in the precision of the map where the network computes an operation in a lower one.

        Transformers' RMS norms do so in float64. Rounding is not linear: what it does to x0 becomes an offset.
        """
        linear, offset, kind = frozen.linear, frozen.offset, output.dtype
        assert self.start is not None
        full = self.start.dtype
        if torch.finfo(kind).eps > torch.finfo(full).eps:
            kinds = [z.dtype for z in frozen.inputs]
            with suppress(RuntimeError):  # an operation that does not mix precisions is replayed in the network's
                value = linear(*(z.to(full) for z in frozen.inputs))
                if value.dtype == full:
                    return linear, output - value
            value = linear(*frozen.inputs).to(full)
            return (lambda *probes: linear(*map(Tensor.to, probes, kinds)).to(full)), output - value
        if frozen.inputs[0].dtype == kind:
            return linear, offset
        return (lambda *probes: linear(*probes).to(kind)), offset

    def _mixing(self, call: Call) -> Tensor | None:
        """The probabilities of an attention, (..., to, from), where an operation mixes values by them."""
        if call.name not in ("bmm", "mm"):
            return None
        left, right = call.args[:2]
        if self._is_softmax(left) == self._is_softmax(right):
            return None
        return left.detach() if self._is_softmax(left) else right.detach().mT

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
        self,
        output: Tensor,
        inputs: tuple[Value, ...],
        linear: Any,
        offset: Tensor | None,
        place: Place,
        mark: str | None = None,
        unit: bool = False,
        arguments: tuple[Any, ...] = (),
        mixing: Tensor | None = None,
    ) -> None:
        """Hand a step to the sink and remember its output."""
        number = self._next()
        numbers = tuple(v.number for v in inputs)
        step = Step(numbers, number, linear, offset, unit, place, arguments, output.shape, mixing)
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

    def leave(self, way: str) -> None:
        """A tensor that depends on the input leaves PyTorch."""
        self._refuse(
            None,
            f"{self._place(way)}: values of the input leave PyTorch here, and F would miss what becomes of them; do "
            "this part in PyTorch operations",
            None,
        )

    def notice(self, func: Any, args: Any, kwargs: Any) -> None:
        """As in any pass; and find tensors of the pass in handles that no operation made (`nn.Parameter(z)`)."""
        super().notice(func, args, kwargs)
        for leaf in leaves(args, kwargs):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf not in self.values:
                self._recognise(leaf, func)

    def where(self, func: Any) -> str:
        return str(self._place(func))

    def _recognise(self, handle: Tensor, func: Any) -> None:
        owners = self.aliases.of(handle) if handle.layout == torch.strided else []
        tracked = [owner for owner in owners if owner in self.values]
        if not tracked or any(owner is handle for owner in owners):
            return
        twin = next((owner for owner in tracked if same_elements(owner, handle)), None)
        if twin is not None:
            self.values[handle] = self.values[twin]
        elif any(Overlap.between(handle, owner) for owner in tracked):
            reason = f"{self._place(func)} reads a view of the input's values that was made out of sight"
            self._refuse(handle, reason, None)

    def _is_softmax(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf in self.logits

    def is_known(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf in self.values

    def _next(self) -> int:
        self.count += 1
        return self.count

    def _place(self, func: Any) -> Place:
        """The module and the line that called an operation (or a way out), read off the Python stack."""
        frame, module, line, fallback = sys._getframe(1), None, "", ""
        while frame is not None and (frame.f_code.co_name, frame.f_code.co_filename) != ("run", passage.__file__):
            file = frame.f_code.co_filename
            owner = frame.f_locals.get("self")
            if module is None and isinstance(owner, nn.Module) and id(owner) in self.module_paths:
                module = self.module_paths[id(owner)]
                fallback = f"{file}:{frame.f_lineno}"
            if not line and not file.startswith(_NOT_THE_USERS) and "__tracebackhide__" not in frame.f_code.co_varnames:
                line = f"{file}:{frame.f_lineno}"
            frame = frame.f_back
        name = func if isinstance(func, str) else func.name().removeprefix("aten::")
        return Place(name, module or "", line or fallback)


def _mark_of_refused(call: Call) -> str | None:
    """What a later division or product may still make of it: a norm, a deviation, the root of a variance."""
    if call.name == "sqrt" and call.is_tracked(call.args[0]):
        return call.mark(call.args[0])
    if call.name == "pow" and isinstance(call.args[1], float) and call.args[1] < 0:
        return "gate"  # (mean square) ** -0.5, as rsqrt
    return MARKS.get(call.name)


def _is_complex(leaf: Any) -> bool:
    return leaf.is_complex() if isinstance(leaf, Tensor) else isinstance(leaf, complex)


_VIEWS = {"view", "_unsafe_view", "select", "slice", "squeeze", "unsqueeze", "transpose", "permute", "t", "expand"}
_SHAPES = _VIEWS | {"clone", "alias", "detach", "_to_copy"}
"""What may still happen to a softmax at the end, and then happens to its logits."""


def _name(func: Any) -> str:
    return func.name().removeprefix("aten::").split(".")[0]


def _outputs(func: Any) -> set[str]:
    """The arguments by which an operation is told where to write its output."""
    return {argument.name for argument in func._schema.arguments if argument.is_out}


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | Sequence[Tensor] | None:
    """The tensor (or tensors) that an operation writes to, if it writes to one."""
    if not func._schema.is_mutable:
        return None
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return args[position] if position < len(args) else kwargs.get(argument.name)
    return None


# Frames of PyTorch, of this package and of checkers of annotations are not where a user looks for an operation; nor are
# those that hide from tracebacks.
_NOT_THE_USERS = (*(str(Path(file).parent) for file in (torch.__file__, jaxtyping.__file__, __file__)), "<@beartype")
