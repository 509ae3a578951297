"""What can be read: checks of the model and of the input, before anything runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError, OutOfRangeError
from linmap.interpret.linearscope.passage import embedding_paths, named_embedding


def check_model(model: Any) -> None:
    """An eager module of floating-point weights, or an error that says what to give instead."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentTypeError("scripted and traced models hide their operations; give the eager nn.Module.")
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise ArgumentTypeError(
            "compiled models hide their operations; give the module that was compiled (model._orig_mod)."
        )
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be an nn.Module, got {type(model).__name__}.")
    quantised = [path for path, module in model.named_modules() if ".quantized" in type(module).__module__]
    if quantised or any(tensor.is_quantized for tensor in model.state_dict().values() if isinstance(tensor, Tensor)):
        raise ArgumentTypeError(
            f"the model is quantised ({quantised[0] if quantised else 'weights'}); give the float model."
        )


def check_input(model: nn.Module, x: Any, batched: bool, from_: str | None) -> None:
    """One finite input on the model's device and in its precision, or an error that says what is wrong with it."""
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(
            f"x must be a tensor, got {type(x).__name__}; for an image torch.from_numpy(...)[None].float()."
        )
    if x.is_complex() or not (x.is_floating_point() or from_ or embedding_paths(model)):
        raise ArgumentTypeError(_not_floating(model, x))
    if batched:
        _check_batch_axis(model, x)
    weights = next((p for p in [*model.parameters(), *model.buffers()] if p.is_floating_point()), None)
    if weights is not None and weights.device != x.device:
        raise ArgumentError(
            f"the model is on {weights.device}, x on {x.device}; move one: x.to({str(weights.device)!r})."
        )
    if x.is_floating_point():
        _check_precision(x, weights)
    elif weights is not None:
        _check_coarse(weights, "model.float()")
    if x.numel() == 0 or not bool(torch.isfinite(x).all()):
        raise ArgumentError("x is empty or holds NaN or infinite values; clean it first.")
    if not x.is_floating_point() and from_ is None:
        _check_ids(x, named_embedding(model))


def _check_ids(ids: Tensor, embedding: Any) -> None:
    """Whether the embedding layer that Transformers names has a vector for every id."""
    weight = getattr(embedding, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= len(weight):
        raise OutOfRangeError(
            f"x holds token id {low if low < 0 else high}, and the model has embeddings for 0 to {len(weight) - 1}; "
            "take the model's own tokenizer."
        )


def _not_floating(model: nn.Module, x: Tensor) -> str:
    embeddings = [path for path, module in model.named_modules() if isinstance(module, nn.Embedding)]
    if x.is_complex() or not embeddings:
        return f"x holds {x.dtype}: convert to float and normalise as in training."
    return (
        f"x holds {x.dtype}, token ids as it seems, and a map has no slope along ids. from_=PATH names the embedding "
        f"whose vectors are the input of the map; there are {', '.join(map(repr, embeddings))}."
    )


def _check_batch_axis(model: nn.Module, x: Tensor) -> None:
    """One input, the batch axis first. What the axes behind it mean is the network's affair."""
    spatial = next(
        (int(type(m).__name__[4]) for m in model.modules() if type(m) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)), None
    )
    if x.ndim == 0 or (x.shape[0] != 1 and (x.ndim == 1 or (spatial is not None and x.ndim == spatial + 1))):
        raise ArgumentError(
            f"x has no batch axis: shape {tuple(x.shape)}; use x[None] (or batched=False for a network without one)."
        )
    if x.shape[0] != 1:
        raise ArgumentError(
            f"interpret one input at a time: got batch {x.shape[0]} (shape {tuple(x.shape)}); x[i : i + 1] (or "
            "batched=False for a network without batch axis)."
        )


def _check_precision(x: Tensor, weights: Tensor | None) -> None:
    if weights is not None and weights.dtype != x.dtype:
        raise ArgumentError(f"the model is {weights.dtype}, x is {x.dtype}; use x.to({weights.dtype}).")
    _check_coarse(x, "model.float() and x.float()")


def _check_coarse(values: Tensor, instead: str) -> None:
    if values.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        raise ArgumentError("autocast on the CPU is too coarse for an exact reading; read outside of it.")
    if values.device.type == "cpu" and values.dtype in (torch.float16, torch.bfloat16):
        raise ArgumentError(f"{values.dtype} on the CPU is too coarse for an exact reading; use {instead}.")
