"""Descendants as ONNX, for runtimes without PyTorch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linmap import artifacts
from linmap.compress.learngene_pool.members import evaluating
from linmap.errors import ArgumentError

if TYPE_CHECKING:
    from linmap.compress.learngene_pool.descendant import Descendant


def export(model: Descendant, path: Path | str, example: Tensor | None) -> Path:
    """As of `Descendant.export`."""
    import onnxscript  # noqa: F401 (torch.onnx needs it, and says so less plainly)

    if example is None:
        example = example_of(model.sizes[0], next(model.parameters()))
    news = logging.getLogger("torch.onnx")
    level = news.level
    news.setLevel(logging.ERROR)  # about packages that are not there, and not needed
    try:
        with evaluating(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (torch.cat([example[:1]] * 2),),
                dynamo=True,  # of two: one would be taken as fixed
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    finally:
        news.setLevel(level)
    assert program is not None
    with artifacts.atomic_path(path) as partial:
        program.save(str(partial))
    return Path(path)


def example_of(sizes: dict[str, Any] | None, like: Tensor) -> Tensor:
    """A black image of a member's sizes.

    Raises
    ------
    ValueError
        If the member is not linmap's, so that its sizes are not known.
    """
    if sizes is None:
        raise ArgumentError("give an example of the inputs; those of models that are not linmap's are not known.")
    return like.new_zeros(1, sizes["in_channels"], sizes["image_size"], sizes["image_size"])
