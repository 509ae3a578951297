"""The deletion test: does a score name the pixels that decide? What is left of a class without the highest ones."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def logits(answer: Any) -> Tensor:
    """The tensor of a network's answer, which Transformers wraps."""
    return getattr(answer, "logits", answer)


@torch.no_grad()
def class_probabilities(model: nn.Module, x: Float[Tensor, "1 channels height width"]) -> Float[Tensor, " classes"]:
    """The softmax of a classifier's output, or the output where it is one."""
    y = logits(model(x))[0]
    return y if bool((y >= 0).all()) and abs(float(y.sum()) - 1) < 1e-3 else y.softmax(0)


def gradient_of_top(
    model: nn.Module, x: Float[Tensor, "1 channels height width"]
) -> tuple[int, Float[Tensor, "channels height width"]]:
    """The likeliest class and the gradient of its logit, which saliency maps are made of."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = logits(model(x))
        target = int(y.argmax())
        (gradient,) = torch.autograd.grad(y[0, target], x)
    return target, gradient[0]


def probability_left(
    model: nn.Module,
    x: Float[Tensor, "1 channels height width"],
    score: Float[Tensor, "height width"],
    target: int,
    share: float = 0.1,
) -> float:
    """The probability of a class without the pixels that a score names first: the lower, the better the score.

    Parameters
    ----------
    model
        A classifier in eval mode.
    x
        Its input.
    score
        Of each pixel: `interp.votes(target).sum(0)` of a reading, for example.
    target
        The class.
    share
        Of the pixels, that are set to zero in all channels.
    """
    deleted = torch.zeros(score.numel(), dtype=torch.bool, device=x.device)
    deleted[score.flatten().topk(round(share * score.numel())).indices] = True
    return float(class_probabilities(model, x.masked_fill(deleted.reshape(score.shape), 0))[target])
