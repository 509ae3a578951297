"""What calibration starts from: windows of text, the inputs of the blocks for them, and statistics of these inputs."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.compress.architecture import BlockPaths
from linmap.compress.flatquant.attention import configs_of
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.data import door, require_content
from linmap.data.text import read_text
from linmap.errors import ArgumentError, ArgumentTypeError, DataError

BlockArguments = dict[str, Any]
"""What a model hands to a block beside the hidden states: masks and positions of one window, for any batch."""


class _Record(nn.Module):
    """Stands for a block: keeps what it is called with, and returns the hidden states as they are."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = [block]
        self.inputs: list[Tensor] = []
        self.arguments: list[BlockArguments] = []

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        hidden_states, *rest = args if args else (kwargs.pop("hidden_states"),)
        parameters = inspect.signature(self.block[0].forward).parameters.values()
        names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
        if len(rest) > len(names):
            raise ArgumentTypeError(f"{type(self.block[0]).__name__} receives {len(rest)} arguments without names.")
        self.inputs.append(hidden_states)
        self.arguments.append(dict(zip(names, rest, strict=False)) | kwargs)
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
    """The inputs of the first block of the list at `path`, and all blocks' further arguments; no block is run.

    Raises
    ------
    TypeError
        If the blocks are not run once each, or receive something beside the hidden states that depends on the tokens.
    """
    blocks = cast(nn.ModuleList, model.get_submodule(path))
    records = [_Record(block) for block in blocks]
    parent, _, name = path.rpartition(".")
    holder = model.get_submodule(parent)
    decoder = _embedding_module(model, parent)  # it embeds the tokens and runs the blocks, without the head
    setattr(holder, name, nn.ModuleList(records))
    try:
        for window in ids:
            decoder(input_ids=window[None], use_cache=False)
    finally:
        setattr(holder, name, blocks)
    for number, record in enumerate(records):
        _check_record(number, record, len(ids))
    arguments = [record.arguments[0] | {"past_key_values": None, "use_cache": False} for record in records]
    return torch.cat(records[0].inputs), arguments


def _embedding_module(model: nn.Module, parent: str) -> nn.Module:
    """The innermost module around the list of blocks that takes token ids."""
    while parent:
        module = model.get_submodule(parent)
        if "input_ids" in inspect.signature(module.forward).parameters:
            return module
        parent = parent.rpartition(".")[0]
    return model


def _check_record(number: int, record: _Record, n_windows: int) -> None:
    kind = type(record.block[0]).__name__
    if len(record.arguments) != n_windows:
        raise ArgumentTypeError(
            f"block {number} ({kind}) is run {len(record.arguments) / n_windows:g} times for a window of tokens, and "
            "FlatQuant calibrates blocks that are run once each, one after the other."
        )
    for name, value in record.arguments[0].items():
        if not _equal(value, record.arguments[min(1, n_windows - 1)].get(name)):
            raise ArgumentTypeError(
                f"block {number} ({kind}) receives {name}, which depends on the tokens; FlatQuant calibrates blocks "
                "whose only such input is the hidden states."
            )


def _equal(a: Any, b: Any) -> bool:
    """Whether two arguments have the same numbers; what holds none is taken for equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and bool(torch.equal(a, b)))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return (a is None) == (b is None)


@dataclass
class Channels:
    """max |x| of every channel at the places with a scale, over all calibration tokens."""

    maxima: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def teacher_outputs(
    block: nn.Module,
    paths: BlockPaths | None,
    inputs: Float[Tensor, "n length d"],
    arguments: BlockArguments,
    batch_size: int,
) -> tuple[Float[Tensor, "n length d"], Channels]:
    """What the original block makes of its inputs, and the statistics of the pass (section 6.2 of the method).

    A block without `paths`, which is not quantised, has none.

    Raises
    ------
    RuntimeError
        If numbers that are not finite come up.
    """
    if paths is None:
        return block_outputs(block, inputs, arguments, batch_size), Channels()
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

    def watch(site: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            if not bool(torch.isfinite(x).all()):
                raise RuntimeError(
                    f"the input of {site} holds NaN or infinite numbers ({x.dtype}); look at the weights before it."
                )
            top = x.detach().abs().flatten(0, -2).amax(0).float()
            channels.maxima[site] = torch.maximum(channels.maxima.get(site, torch.full_like(top, 1e-5)), top)

        return hook

    places = {"attention": paths.attention, "mlp": paths.mlp, "down": paths.down}
    handles = [
        block.get_submodule(path).register_forward_pre_hook(watch(site), with_kwargs=True)
        for site, path in places.items()
    ]
    try:
        yield channels
    finally:
        for handle in handles:
            handle.remove()


# -- float32 -----------------------------------------------------------------------------------------------------------

FLOAT16 = (torch.float16,)
"""What large activations overflow, so that calibration does not compute in it."""
HALF = (torch.float16, torch.bfloat16)


def in_float32(block: nn.Module, dtypes: tuple[torch.dtype, ...] = HALF) -> nn.Module:
    """A block with parameters in one of these formats as a copy in float32; others as they are."""
    if not any(p.dtype in dtypes for p in block.parameters()):
        return block
    wide = copy.deepcopy(block).float()
    for config in configs_of(wide):
        if "flash" in str(config._attn_implementation):  # kernels of half precision alone
            config._attn_implementation = "sdpa"
    return wide


def as_float32(value: Any, dtypes: tuple[torch.dtype, ...] = HALF) -> Any:
    """Tensors in one of these formats, also inside tuples, lists and dictionaries, in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in dtypes else value
    if isinstance(value, dict):
        return {name: as_float32(item, dtypes) for name, item in value.items()}
    return type(value)(as_float32(item, dtypes) for item in value) if type(value) in (tuple, list) else value


# -- windows of text ---------------------------------------------------------------------------------------------------


TEXTS = (".txt", ".md", ".txt.gz", ".md.gz")
LONGEST_PATH = 4096


def calibration_windows(
    tokens: Any, config: FlatQuantConfig, vocabulary: int, text: str | Path | None = None
) -> Int[Tensor, "n length"]:
    """`config.n_samples` random windows of `config.sequence_length` tokens, or the rows of `tokens` as they are.

    Parameters
    ----------
    tokens
        A stream of token ids (one dimension), windows of them (two dimensions), or a tokenizer of Transformers.
    vocabulary
        Number of tokens that the model knows.
    text
        What a tokenizer reads: a text, or the path of a file, also as a string.

    Raises
    ------
    TypeError
        If `tokens` is neither, or its numbers are not integers.
    ValueError
        If there are fewer tokens than the windows have, fewer windows than a batch, or unknown tokens; DataError if a
        file is missing or empty.
    """
    ids = _tokenised(tokens, text) if callable(tokens) else _integers(tokens, text)
    if ids.ndim == 1:
        ids = _drawn(ids, config)
    n, length = ids.shape
    if n < config.batch_size or length < 1:
        raise ArgumentError(
            f"{n} calibration windows of {length} tokens are fewer than a batch of batch_size={config.batch_size}; "
            "give more windows or a smaller batch."
        )
    return _known(ids, vocabulary)


def distillation_windows(
    tokens: Any, config: FlatQuantConfig, vocabulary: int, text: str | Path | None = None
) -> Int[Tensor, "steps length"]:
    """A window for each of `config.distil_steps`: random ones of a stream, or the rows of `tokens` in turn.

    Parameters and errors are those of `calibration_windows`.
    """
    ids = _tokenised(tokens, text) if callable(tokens) else _integers(tokens, text)
    steps, length = config.distil_steps, config.distil_length
    if ids.ndim == 1:
        if len(ids) < length:
            raise ArgumentError(
                f"the calibration text has {len(ids)} tokens, fewer than distil_length={length}; give more text or "
                "shorter windows."
            )
        starts = torch.randint(len(ids) - length + 1, (steps,), generator=torch.Generator().manual_seed(config.seed))
        ids = ids.unfold(0, length, 1)[starts]
    else:
        ids = ids[torch.arange(steps) % len(ids)]
    return _known(ids, vocabulary)


def _drawn(stream: Tensor, config: FlatQuantConfig) -> Tensor:
    needed = config.n_samples * config.sequence_length
    if len(stream) < needed:
        raise ArgumentError(
            f"the calibration text has {len(stream)} tokens, and n_samples={config.n_samples} windows of "
            f"sequence_length={config.sequence_length} need {needed}; give more text, or fewer or shorter windows."
        )
    generator = torch.Generator().manual_seed(config.seed)
    starts = torch.randint(len(stream) - config.sequence_length + 1, (config.n_samples,), generator=generator)
    return stream.unfold(0, config.sequence_length, 1)[starts]


def _known(ids: Tensor, vocabulary: int) -> Tensor:
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise ArgumentError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}, and the model has {vocabulary} tokens (0 to "
            f"{vocabulary - 1}); use the model's own tokenizer."
        )
    return ids


def _tokenised(tokenizer: Any, text: str | Path | None) -> Tensor:
    if text is None:
        raise ArgumentError("a tokenizer came without text; give text=, a string or the path of a text file.")
    return torch.tensor(
        tokenizer(_content(text), add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long
    )


def _content(text: str | Path) -> str:
    """A text, or that of the file which it is the path of.

    Raises
    ------
    DataError
        If a path has no file behind it, or the file cannot be read.
    """
    if isinstance(text, str) and not _is_path(text):
        return text
    path = Path(os.path.expanduser(text))
    if path.name.lower().endswith(TEXTS):
        return read_text(path)
    door.refuse_special(path)
    if not path.is_file():
        raise DataError(f"text={str(text)!r} is no file; give the path of one, or a text.")
    require_content(path)
    return door.read_text(path)


def _is_path(text: str) -> bool:
    """Whether a string is the path of a file, or looks like one: a single word that ends as text files do."""
    if "\n" in text or len(text) > LONGEST_PATH:
        return False
    return os.path.isfile(os.path.expanduser(text)) or (
        text.lower().endswith(TEXTS) and not any(map(str.isspace, text))
    )


def _integers(tokens: Any, text: str | Path | None) -> Tensor:
    if text is not None:
        raise ArgumentError("text= needs a tokenizer as second argument; token ids are used as they are.")
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"expected a tokenizer, a stream of token ids or windows of equal length, got {type(tokens).__name__}."
        ) from error
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.ndim not in (1, 2):
        raise ArgumentTypeError(
            f"token ids must be integers in one dimension (a stream) or two (windows), got {ids.dtype} of shape "
            f"{tuple(ids.shape)}."
        )
    return ids.long().cpu()
