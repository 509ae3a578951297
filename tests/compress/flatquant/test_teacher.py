"""What calibration takes from the original model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.flatquant.models import FAMILIES, tiny, tokens
from linmap.compress.architecture import BlockPaths, block_paths
from linmap.compress.flatquant.teacher import block_outputs, embedded, hidden_states, observed, teacher_outputs

PATH = "model.layers"


def first_block(model: PreTrainedModel, n: int = 6) -> tuple[nn.Module, BlockPaths, Tensor, Any]:
    inputs, arguments = embedded(model, tokens(n), PATH)
    block = model.get_submodule(f"{PATH}.0")
    return block, block_paths(block), inputs, arguments[0]


# -- the inputs of the blocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_block_after_block_is_the_model(family: str) -> None:
    """Masks, positions and sliding windows of every block come with it."""
    model, ids = tiny(family), tokens(5)
    x, arguments = embedded(model, ids, PATH)
    for block, into in zip(model.get_submodule(PATH).children(), arguments, strict=True):
        x = block_outputs(block, x, into, batch_size=2)
    expected = model.get_submodule("model")(ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(model.get_submodule("model.norm")(x), expected, rtol=1e-5, atol=1e-5)


def test_no_block_is_run_and_the_model_is_as_before() -> None:
    model = tiny()
    blocks, calls = model.get_submodule(PATH), []
    for block in blocks.children():
        block.register_forward_hook(lambda *_: calls.append(1))
    inputs, arguments = embedded(model, tokens(3), PATH)
    assert not calls
    assert model.get_submodule(PATH) is blocks
    assert torch.equal(inputs, model.get_input_embeddings()(tokens(3)))
    assert all(into["past_key_values"] is None and into["use_cache"] is False for into in arguments)


def test_the_blocks_come_back_after_an_error() -> None:
    model = tiny()
    blocks = model.get_submodule(PATH)
    with pytest.raises(IndexError):
        embedded(model, torch.tensor([[3, 1000]]), PATH)
    assert model.get_submodule(PATH) is blocks


@pytest.mark.parametrize("size", [1, 2, 4, 6, 9])
@torch.no_grad()
def test_batches_change_nothing(size: int) -> None:
    block, _, x, arguments = first_block(tiny())
    whole = hidden_states(block(x, **arguments))
    torch.testing.assert_close(block_outputs(block, x, arguments, size), whole, rtol=1e-5, atol=1e-6)


def test_hidden_states_come_first_in_a_tuple() -> None:
    x = torch.ones(1)
    assert hidden_states((x, None)) is x
    assert hidden_states(x) is x


# -- the statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@torch.no_grad()
def test_maxima_are_those_of_all_tokens(batch_size: int) -> None:
    block, paths, x, arguments = first_block(tiny())
    y, channels = teacher_outputs(block, paths, x, arguments, batch_size)
    torch.testing.assert_close(y, block_outputs(block, x, arguments, batch_size), rtol=0, atol=0)
    seen: dict[str, Tensor] = {}

    def keep(site: str) -> Any:
        return lambda module, args: seen.__setitem__(site, args[0])

    for site, path in (("attention", paths.q), ("mlp", paths.up), ("down", paths.down)):
        block.get_submodule(path).register_forward_pre_hook(keep(site))
    block(x, **arguments)
    assert channels.maxima.keys() == seen.keys()
    for site, values in seen.items():
        torch.testing.assert_close(channels.maxima[site], values.abs().flatten(0, -2).amax(0), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_maxima_start_above_zero_and_grow() -> None:
    block, paths, x, arguments = first_block(tiny())
    with observed(block, paths) as channels:
        block(torch.zeros_like(x), **arguments)
        assert channels.maxima["attention"].tolist() == pytest.approx([1e-5] * 24)
        block(x, **arguments)
        first = channels.maxima["attention"]
        assert (first > 1e-5).all()
        block(0.5 * x, **arguments)
        assert torch.equal(channels.maxima["attention"] >= first, torch.ones(24, dtype=torch.bool))


@torch.no_grad()
def test_nothing_is_watched_afterwards() -> None:
    block, paths, x, arguments = first_block(tiny())
    with observed(block, paths) as channels:
        block(x, **arguments)
    before = {site: values.clone() for site, values in channels.maxima.items()}
    block(100 * x + 1, **arguments)
    assert all(torch.equal(channels.maxima[site], values) for site, values in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    block, paths, x, arguments = first_block(tiny())
    block.get_submodule(paths.up).get_parameter("weight").data[3] = value
    with pytest.raises(RuntimeError, match=r"input of down holds NaN or infinite numbers \(torch.float32\)"):
        teacher_outputs(block, paths, x, arguments, 2)
    assert not block.get_submodule(paths.down)._forward_pre_hooks
