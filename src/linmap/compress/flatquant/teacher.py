"""What calibration takes from the original model: inputs of the blocks, and the statistics of a block's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.compress.flatquant.architecture import BlockPaths

BlockArguments = dict[str, Any]
"""What a model hands to a block beside the hidden states: masks and positions of one window, for any batch."""


class _Record(nn.Module):
    """Stands for a block: keeps what it is called with, and returns the hidden states as they are."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = [block]
        self.arguments: BlockArguments = {}

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert not args
        self.arguments = kwargs
        return hidden_states

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattribute__("__dict__")["block"][0], name)


@torch.no_grad()
def embedded(
    model: nn.Module, ids: Int[Tensor, "n length"], path: str
) -> tuple[Float[Tensor, "n length d"], list[BlockArguments]]:
    """The inputs of the first block of the list at `path`, and all blocks' further arguments; no block is run."""
    blocks = cast(nn.ModuleList, model.get_submodule(path))
    records = nn.ModuleList([_Record(block) for block in blocks])
    parent, _, name = path.rpartition(".")
    holder = model.get_submodule(parent)
    found: list[Tensor] = []
    first = cast(_Record, records[0])
    first.register_forward_hook(lambda module, args, output: found.append(cast(Tensor, output)))
    setattr(holder, name, records)
    try:
        decoder = holder  # the module that embeds the tokens and runs the blocks, without the head
        for window in ids:
            decoder(input_ids=window[None], use_cache=False)
    finally:
        setattr(holder, name, blocks)
    arguments = [cast(_Record, record).arguments | {"past_key_values": None, "use_cache": False} for record in records]
    return torch.cat(found), arguments


@dataclass
class Channels:
    """max |x| of every channel at the places with a scale, over all calibration tokens."""

    maxima: dict[str, Tensor] = field(default_factory=dict)
    norm_feeds: dict[str, bool] = field(default_factory=dict)
    """Whether the norm's output is the input of the attention (of the MLP), and of nothing else."""


@torch.no_grad()
def teacher_outputs(
    block: nn.Module, paths: BlockPaths, inputs: Float[Tensor, "n length d"], arguments: BlockArguments, batch_size: int
) -> tuple[Float[Tensor, "n length d"], Channels]:
    """What the original block makes of its inputs, and the statistics of the pass (section 6.2 of the method).

    Raises
    ------
    RuntimeError
        If numbers that are not finite come up.
    """
    with observed(block, paths) as channels:
        return block_outputs(block, inputs, arguments, batch_size), channels


@torch.no_grad()
def block_outputs(
    block: nn.Module, inputs: Float[Tensor, "n length d"], arguments: BlockArguments, batch_size: int
) -> Float[Tensor, "n length d"]:
    """A block applied to all windows, batch by batch."""
    return torch.cat([hidden_states(block(batch, **arguments)) for batch in inputs.split(batch_size)])


def hidden_states(output: Any) -> Tensor:
    """Older blocks return a tuple that begins with them."""
    return output[0] if isinstance(output, tuple) else output


def in_half_precision(x: Tensor) -> torch.autocast:
    """Products in bfloat16 where x is of half precision; transforms keep to float32."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype in (torch.float16, torch.bfloat16))


@contextmanager
def observed(block: nn.Module, paths: BlockPaths) -> Iterator[Channels]:
    """While this is open, every pass through `block` updates the statistics."""
    channels = Channels()
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def watch(site: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            if not bool(torch.isfinite(x).all()):
                raise RuntimeError(
                    f"the input of {site} holds NaN or infinite numbers ({x.dtype}); load the model in float32."
                )
            top = x.detach().abs().flatten(0, -2).amax(0).float()
            channels.maxima[site] = torch.maximum(channels.maxima.get(site, torch.full_like(top, 1e-5)), top)
            inputs[site] = x
            for name in ("attention", "mlp"):
                if site == name and name in outputs:
                    channels.norm_feeds[name] = x is outputs[name]
            if site == "mlp" and inputs["attention"] is x:  # one norm for both
                channels.norm_feeds.update(attention=False, mlp=False)

        return hook

    places = {"attention": paths.attention, "mlp": paths.mlp, "down": paths.down}
    handles = [
        block.get_submodule(path).register_forward_pre_hook(watch(site), with_kwargs=True)
        for site, path in places.items()
    ]
    for site, path in (("attention", paths.attention_norm), ("mlp", paths.mlp_norm)):
        if path is not None:
            keep = block.get_submodule(path).register_forward_hook(
                lambda module, args, output, site=site: outputs.__setitem__(site, cast(Tensor, output))
            )
            handles.append(keep)
    try:
        yield channels
    finally:
        for handle in handles:
            handle.remove()
