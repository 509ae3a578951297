"""What a whole model predicts does not depend on its kernels (the perplexity table of docs/compress.md)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.kernels import active_kernels, use
from linmap.compress.flatquant.measures import window_losses
from linmap.data import find
from linmap.data.models import load_pretrained, load_tokenizer, model_folder
from linmap.data.text import read_text
from linmap.data.tokens import plain_tokens

WINDOWS, LENGTH = 3, 128
LAST_BITS = 2**-22  # of the embeddings; as much as other orders of summation change
TIMES = 4  # how much further apart kernels may be than runs of one kernel are that differ in their last bits


@pytest.mark.slow  # a minute each: all 30 blocks of SmolLM2, three passes
@pytest.mark.parametrize(
    ("bits", "most"),
    [
        ({"a_bits": 16}, 0.05),
        ({"a_bits": 8, "k_bits": 8, "v_bits": 8, "head_bits": 8}, 0.25),
        ({"a_bits": 4, "k_bits": 4, "v_bits": 4}, 1.0),  # not calibrated, one code that turns over moves the rest
    ],
    ids=str,
)
def test_losses_are_those_of_the_operations_of_pytorch(bits: dict[str, int], most: float) -> None:
    """Apart by no more than codes explain that turn over where the last bits of an input change."""
    kernels = active_kernels()
    if kernels == "torch":
        pytest.skip("there is no C++ compiler")
    tokenizer = load_tokenizer(model_folder("smollm2-135m"))
    text = read_text(find("text/austen_test.txt.gz", "Reinstall linmap."))[:6000]
    ids = torch.tensor(plain_tokens(text, tokenizer))
    model: Any = load_pretrained(model_folder("smollm2-135m"), "language", "float32")
    options: dict[str, Any] = {**bits, "scale": False, "epochs": 0}
    model = calibrate(model, None, FlatQuantConfig(**options)).eval()

    def losses(name: str) -> Tensor:
        with use(name):
            return torch.tensor(window_losses(model, ids, LENGTH, WINDOWS, batch_size=WINDOWS), dtype=torch.float64)

    native, plain = losses(kernels.removesuffix("-vnni")), losses("torch")
    generator = torch.Generator().manual_seed(0)

    def disturb(module: Any, args: Any, output: Tensor) -> Tensor:
        return output * (1 + LAST_BITS * torch.randn(output.shape, generator=generator))

    with model.get_input_embeddings().register_forward_hook(disturb):
        disturbed = losses("torch")
    explained = TIMES * (disturbed - plain).abs().max() + 1e-5
    assert (native - plain).abs().max() <= explained
    assert explained < most  # or the bound says nothing
