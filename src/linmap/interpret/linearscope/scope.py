"""`LinearScope`: freeze a network's decisions at one input and hand out the affine map that it became."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.interpret.linearscope.checks import check_input, check_model
from linmap.interpret.linearscope.interpreter import AffineInterpreter, Parallel, Recorded, Scene
from linmap.interpret.linearscope.passage import Passage, layer
from linmap.interpret.linearscope.proof import InexactReadingError, Marks, detour, prove_exactness
from linmap.interpret.linearscope.rules import Options, Rule
from linmap.interpret.linearscope.rules.registry import UserRule, operation_name, user_rule
from linmap.interpret.linearscope.tape import Layers, Step, Tape
from linmap.interpret.linearscope.trace import Sink, Trace, UnknownOperationError
from linmap.interpret.linearscope.watch import NUDGE, Watch

if TYPE_CHECKING:
    from linmap.interpret.linearscope.language.reading import LanguageReading


class LinearScope:
    """Read a network in eval mode as one affine map per input: y = F x + r, exact at x.

    Every non-linear unit is replaced by the affine form that it took on x (a ReLU by its mask, a max pool by its
    indices, a gate or an instance norm by its value on x); the linear layers stay as they are. F is therefore the
    Jacobian of a piecewise-linear network, but not of one with gates or instance norms: there the Jacobian also
    differentiates the gate and the statistics, and F holds them fixed on purpose.

    Parameters
    ----------
    model
        The network, in eval mode. Nothing stays on it between calls. An interpreter keeps references to its weights:
        make a new one after changing them.
    mode
        "record" keeps the decisions of x and replays linear operations only; "parallel" keeps nothing and sends x
        through the network again for every product, the probes beside it (rows and F^T u record for that product).
    smooth
        Smooth units (ELU, softplus, sigmoid, tanh, SiLU, GELU, ...): "secant" is the line through u(0) and u(z), for
        z g(z) the frozen gate g(z); "taylor" the tangent at z, with which F is their Jacobian.
    origin
        The input from which votes and the residual count: y = F (x - origin) + residual. A number, or a tensor that
        broadcasts to x; zero when left out.
    strict
        Refuse an operation without a frozen form, and a model in training mode. Off, such an operation becomes a
        constant of x and the model is switched to eval mode meanwhile, each with a warning; y = F x + r still holds,
        but F misses what went through the operation.
    sigmoid
        "secant" (offset 1/2) or "ratio", sigmoid(z) / z without offset, which has a pole at 0.
    gate
        Which factor of a product is frozen where both depend on the input and not exactly one of them went through a
        sigmoid or a softmax last; such a product is refused when left out.
    strip_softmax
        Interpret the logits where the model ends in a softmax or a log-softmax (with a warning). Off, a softmax at the
        end is an error and a log-softmax holds its normaliser.
    allow_secant
        Allow divisions, exponentials, logarithms and powers of the input, as secants (a / b as a / b(x)).
    softmax
        Attention: "value" holds its probabilities, and the values are mixed linearly by them. "full" also follows how
        the probabilities move with x, by the tangents of the softmax and of the two matrix products around it: F then
        holds the attention's Jacobian, and r takes up the tangents' offsets. Both are exact at x.
    output
        Takes the tensor out of what the model (or the layer `to`) returns; the `logits` of Transformers' outputs when
        left out.
    from_, to
        Paths of layers: the map starts at the input of `from_` (at the output of an embedding) and ends at the output
        of `to` (their first calls).
    batched
        False: x has no batch axis, and the network wants none (one signal (channels, times), the nodes of a graph).

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used; `UnknownOperationError` (a ValueError) names an operation without frozen form.

    References
    ----------
    Navarrete Michelini, Liu, Lu, Jiang, "A Tour of Convolutional Networks Guided by Linear Interpreters", ICCV 2019.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    >>> x = torch.randn(1, 1, 8, 8)
    >>> interp = LinearScope(net).at(x)
    >>> torch.allclose(interp.matvec(x.flatten()) + interp.residual.flatten(), net(x).flatten(), atol=1e-5)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mode: Literal["record", "parallel"] = "record",
        smooth: Literal["secant", "taylor"] = "secant",
        origin: Tensor | float | None = None,
        strict: bool = True,
        sigmoid: Literal["secant", "ratio"] = "secant",
        gate: Literal["left", "right"] | None = None,
        strip_softmax: bool = True,
        allow_secant: bool = False,
        softmax: Literal["value", "full"] = "value",
        output: Callable[[Any], Tensor] | None = None,
        from_: str | None = None,
        to: str | None = None,
        batched: bool = True,
    ) -> None:
        check_model(model)
        for name, value, allowed in (
            ("mode", mode, ("record", "parallel")),
            ("smooth", smooth, ("secant", "taylor")),
            ("sigmoid", sigmoid, ("secant", "ratio")),
            ("gate", gate, ("left", "right", None)),
            ("softmax", softmax, ("value", "full")),
        ):
            if value not in allowed:
                raise ArgumentError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")
        for name, path in (("from_", from_), ("to", to)):
            if path is not None:
                layer(model, path, name)
        self.model, self.mode, self.origin, self.strict = model, mode, origin, strict
        self.options = Options(smooth, sigmoid, gate, allow_secant, softmax)
        self.strip_softmax, self.output, self.from_, self.to = strip_softmax, output, from_, to
        self.batched = batched
        self._own_rules: dict[str, Rule] = {}

    def register_rule(self, op: Any, fn: UserRule) -> None:
        """Like the function `register_rule`, for this scope only."""
        self._own_rules[operation_name(op)] = user_rule(fn)

    def at(self, x: Tensor, **inputs: Any) -> AffineInterpreter:
        """The affine map that the network is at x.

        Parameters
        ----------
        x
            One input, (1, ...) on the model's device and in its precision; without the batch axis where `batched` is
            off. Of a language model its token ids (1, tokens), whose embeddings become the input of the map, or the
            embeddings themselves.
        **inputs
            Further arguments of the model's forward by name, such as `attention_mask` or `logits_to_keep=1`; constants
            of x.

        Raises
        ------
        TypeError, ValueError
            If x is not one finite floating-point input with a batch axis on the model's device, the model is in
            training mode, its answer holds NaN, or the output depends on an operation without a frozen form;
            `InexactReadingError` (a ValueError) if y = F x + r does not hold or some of the input went around PyTorch.
        """
        check_input(self.model, x, self.batched, self.from_)
        passage = Passage(self.model, self.output, self.from_, self.to, inputs)
        steps: list[Step] = []
        with self._evaluating():
            trace = self._trace(passage, x, lambda step, _: steps.append(step), None)
            ignored = tuple(dict.fromkeys([*trace.ignored, *self._detours(passage, x, trace)]))
            start, end = self._ends(trace)
        if ignored:
            warnings.warn("treated as constants of x: " + "; ".join(ignored), stacklevel=2)
        scene = Scene(start, end, self._origin_like(start), self.mode, self.options, ignored, self.batched)
        if self.mode == "record":
            interp = AffineInterpreter(
                scene, Recorded(Tape.of(steps, 0, trace.values[end].number, trace.layers), start)
            )
        else:
            interp = AffineInterpreter(scene, Parallel(partial(self._again, passage, x), start))
        if bool(interp.output.isnan().any()):
            raise ArgumentError(f"{type(self.model).__name__} answers NaN at this input; look at its weights.")
        if self.strict:
            self._prove(passage, x, trace, interp)
        return interp

    def text(self, text: str, tokenizer: Any) -> LanguageReading:
        """A causal language model at a text: what every token adds to what comes next, and in which words.

        Parameters
        ----------
        text
            The beginning of a text; a chat as the tokenizer's own template writes it.
        tokenizer
            The model's, of Transformers or shaped like it.

        Raises
        ------
        TypeError, ValueError
            As of `at`; or if the model says no next token, or the text has no tokens.
        """
        from linmap.interpret.linearscope.language.reading import read_text

        return read_text(self, text, tokenizer)

    def _detours(self, passage: Passage, x: Tensor, trace: Trace) -> list[str]:
        """Where values went around the pass, by a second pass beside x; an error if strict."""
        moved = Watch(self.model, NUDGE)
        passage.run(x.detach(), moved)
        found = detour(trace, moved)
        if found and self.strict:
            raise InexactReadingError(f"{found}; do this part in PyTorch operations on the thread of the forward.")
        return [found] if found else []

    def _prove(self, passage: Passage, x: Tensor, trace: Trace, interp: AffineInterpreter) -> None:
        """Against the network itself, with nobody watching."""
        plain = Marks()
        passage.run(x.detach(), plain)
        assert trace.end is not None
        assert plain.end is not None
        prove_exactness(interp, trace.end, plain.end)

    def _trace(self, passage: Passage, x: Tensor, sink: Sink, probe: Any) -> Trace:
        trace = Trace(self.model, self.options, self._own_rules, self.strict, sink, probe)
        passage.run(x.detach(), trace)
        return trace

    def _again(self, passage: Passage, x: Tensor, sink: Sink, probe: Any) -> tuple[Any, Layers]:
        """Send x through once more with a probe beside it; what the sink returned for the output, and the layers."""
        with warnings.catch_warnings(action="ignore"), self._evaluating():
            trace = self._trace(passage, x, sink, probe)
            return trace.values[self._ends(trace)[1]].carried, trace.layers

    def _ends(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """Input and output of the map on x0, the logits in place of a final softmax."""
        start, end = trace.start, trace.end
        assert start is not None
        assert end is not None
        if end in trace.logits and self.strip_softmax:
            warnings.warn("the model ends in a softmax: its logits are interpreted instead", stacklevel=3)
            end = trace.logits[end]
        elif end in trace.logits and end not in trace.values:
            raise ArgumentError("the model ends in a softmax, which has no linear part; use strip_softmax=True.")
        if end not in trace.values:
            held = f" Taken as constants of x: {'; '.join(dict.fromkeys(trace.ignored))}." if trace.ignored else ""
            raise ArgumentError(f"the output does not depend on the input through any operation with a slope.{held}")
        if trace.values[end].refusal:
            raise UnknownOperationError(trace.values[end].refusal + ".")
        return start, end

    def _origin_like(self, start: Tensor) -> Tensor | None:
        if self.origin is None:
            return None
        origin = torch.as_tensor(self.origin, dtype=start.dtype, device=start.device)
        try:
            return origin.expand_as(start)
        except RuntimeError:
            raise ArgumentError(
                f"origin of shape {tuple(origin.shape)} does not broadcast to the input's shape {tuple(start.shape)}; "
                "a colour is a tensor of shape (channels, 1, 1)."
            ) from None

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Insist on eval mode; if not strict, switch to it and back."""
        training = [(path, module) for path, module in self.model.named_modules() if module.training]
        if training and self.strict:
            path = training[0][0] or "the model"
            raise ArgumentError(f"{path} is in training mode; call model.eval() first (or use strict=False).")
        if training:
            warnings.warn("the model is in training mode: switched to eval mode meanwhile", stacklevel=3)
        try:
            for _, module in training:
                module.training = False
            yield
        finally:
            for _, module in training:
                module.training = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to undo: hooks live only inside `at`, which removes them whatever happens."""
