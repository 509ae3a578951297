"""Other scores of tokens, to hold the reading against: what their papers say, at the same embeddings and target."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.interpret.linearscope.language.faithfulness import embedded, next_logits
from linmap.interpret.linearscope.mixing import rollout


def gradient_times_input(model: nn.Module, ids: Sequence[int], target: int) -> Float[Tensor, " tokens"]:
    """The target's gradient times the embeddings: one forward and one backward pass."""
    x = embedded(model, ids)
    return (_gradient(model, x, target)[0] * x[0]).sum(-1)


def integrated_gradients(model: nn.Module, ids: Sequence[int], target: int, steps: int) -> Float[Tensor, " tokens"]:
    """The mean gradient on the way from zero embeddings to the text's, times these; Gauss-Legendre points.

    Parameters
    ----------
    model, ids, target
        A causal language model, the text's tokens, and the token whose logit is explained.
    steps
        Points on the way: a forward and a backward pass each.

    References
    ----------
    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.
    """
    import numpy as np

    if steps < 1:
        raise ArgumentError(f"steps={steps} must be 1 or more.")
    places, weights = np.polynomial.legendre.leggauss(steps)
    x = embedded(model, ids)
    total = torch.zeros_like(x)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        total += float(weight) * _gradient(model, x * float(place), target)
    return (total[0] * x[0]).sum(-1)


def attention_rollout(model: nn.Module, ids: Sequence[int]) -> Float[Tensor, " tokens"]:
    """The last position's row of the product of the layers' mean attention: one forward pass, whatever the target.

    References
    ----------
    Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """
    whole: Any = model
    with eager(model), torch.no_grad():
        found = whole(inputs_embeds=embedded(model, ids), use_cache=False, output_attentions=True).attentions
    return rollout([layer[0] for layer in found])[-1]


def attn_lrp(model: nn.Module, ids: Sequence[int], target: int) -> Float[Tensor, " tokens"]:
    """AttnLRP's relevances by its rules as gradient times input: one forward and one backward pass.

    The identity rule holds norms and activations at their slope from zero, the uniform rule gives either factor of a
    product (a gate and what it gates, queries and keys, probabilities and values) half; the softmax keeps its gradient.

    Raises
    ------
    ArgumentError
        If the model is not of the Llama kind: RMS norms, gated feed-forward layers, Transformers' eager attention.

    References
    ----------
    Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024.
    """
    x = embedded(model, ids)
    with eager(model), _lrp_rules(model):
        return (_gradient(model, x, target)[0] * x[0]).sum(-1)


def _gradient(model: nn.Module, x: Tensor, target: int) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(next_logits(model, x)[0, target], x)
    return found


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Attention in separate operations meanwhile, which gives its probabilities."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# -- AttnLRP's rules ---------------------------------------------------------------------------------------------------


@contextmanager
def _lrp_rules(model: nn.Module) -> Iterator[None]:
    """Other forwards for the norms, the feed-forward layers and attention of a model, until the end of the block."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    gated = [m for m in model.modules() if all(hasattr(m, part) for part in ("gate_proj", "up_proj", "down_proj"))]
    sources = {sys.modules[type(module).__module__] for module in gated}
    if not norms or not gated or not all(hasattr(source, "eager_attention_forward") for source in sources):
        raise ArgumentError(f"AttnLRP's rules are written for models of the Llama kind, not {type(model).__name__}.")
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_replaced(norm, "forward", _identity_rule(norm.forward)))
        for layer in gated:
            stack.enter_context(_replaced(layer, "forward", _gate_rule(layer)))
        for source in sources:
            stack.enter_context(
                _replaced(source, "eager_attention_forward", _attention_rule(source.eager_attention_forward))
            )
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if own is None else setattr(owner, name, own)


def _identity_rule(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """z times the constant function(z) / z."""

    def forward(z: Tensor) -> Tensor:
        with torch.no_grad():
            value = function(z)
            slope = torch.where(z == 0, torch.zeros_like(z), value / torch.where(z == 0, torch.ones_like(z), z))
        return z * slope

    return forward


def _gate_rule(layer: Any) -> Callable[[Tensor], Tensor]:
    def forward(z: Tensor) -> Tensor:
        gate = _identity_rule(layer.act_fn)(layer.gate_proj(z))
        return layer.down_proj(_share(gate * layer.up_proj(z), 2))

    return forward


def _attention_rule(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Half at the product of probabilities and values, and half of that again at the one of queries and keys."""

    def shared(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        return forward(module, _share(query, 4), _share(key, 4), _share(value, 2), *args, **options)

    return shared


def _share(z: Tensor, parts: int) -> Tensor:
    """z itself, with its gradient divided."""
    return z / parts + (z - z / parts).detach()
