"""`calibrate`: a pretrained decoder in, its quantised form out (section 3.3 of the paper).

Given the teacher's activations the blocks do not depend on each other. So they are calibrated one by one, several at
once, or divided among the processes of a launcher, with the same result; then they are rounded, first to last.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from linmap.compress.architecture import LINEARS, BlockPaths, block_paths, decoder_blocks
from linmap.compress.flatquant.block import StudentBlock
from linmap.compress.flatquant.blockwise import BlockReport, TrainedBlock, is_trained, trained_student
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.distillation import distil, teacher_of
from linmap.compress.flatquant.head import checked_vocabulary, quantise_head
from linmap.compress.flatquant.parallel import LoadBlock, WorkFolder, processes, trained_blocks
from linmap.compress.flatquant.passes import can_compile
from linmap.compress.flatquant.pretrained import Decoder, finish, is_quantised, quantised_numbers
from linmap.compress.flatquant.proof import prove
from linmap.compress.flatquant.rounding import rounded_blocks
from linmap.compress.flatquant.teacher import BlockArguments, calibration_windows, distillation_windows, embedded
from linmap.errors import ArgumentError, ArgumentTypeError

DRAWN = 32  # tokens of a window that only shows what a block computes
WORTH_COMPILING = 2e9  # weights rounded: ten seconds are saved


@dataclass
class CalibrationReport:
    """How a calibration went, by number of the block."""

    blocks: dict[int, BlockReport] = field(default_factory=dict)
    distillation: list[float] = field(default_factory=list)
    """KL(original || quantised) at each step, where all blocks were trained together."""


def calibrate(
    model: Decoder,
    tokens: Any = None,
    config: FlatQuantConfig | None = None,
    *,
    text: str | Path | None = None,
    work: Path | str | None = None,
    n_jobs: int = 1,
    resume: bool = False,
) -> Decoder:
    """Quantise the decoder blocks of a language model in place, and return it.

    Under `accelerate launch` or `torchrun` the blocks are divided among the processes; every process ends with the
    whole model. `model.flatquant` holds a `CalibrationReport`.

    Parameters
    ----------
    model
        A causal language model of Transformers. Its embeddings and its head stay as they are, but for a head of 8 bits.
    tokens
        A stream of token ids, windows of them (n, length), or a tokenizer with `text`. None where the config needs no
        calibration (no scales, nothing to train, no GPTQ).
    config
        Bits, transforms and calibration; the defaults of `FlatQuantConfig` if None.
    text
        A text, or the path of a text file (`.txt` or `.md`, perhaps with `.gz` behind), for a tokenizer.
    work
        Folder that keeps each block as soon as it is calibrated.
    n_jobs
        Blocks to calibrate at once, each in a process of its own with its share of the threads. The result is that of
        one job; where the threads of a block differ, to rounding.
    resume
        Go on from the blocks in `work`; without it they are deleted.

    Raises
    ------
    TypeError
        If the parts of the model are not recognised.
    ValueError
        If tokens or config do not fit the model, a linear layer stands at two places, `work` holds a calibration of
        something else, or a trained transform cannot be inverted.
    RuntimeError
        If the model is quantised already, or its activations are not finite.
    """
    blocks, trained = _with_students(model, tokens, config, text, work, n_jobs, resume)
    for number, block in enumerate(trained.rounded(blocks)):
        blocks[number] = block
    quantise_head(model, trained.config)
    return finish(model, trained.config)


def student_model(
    model: Decoder,
    tokens: Any = None,
    config: FlatQuantConfig | None = None,
    *,
    text: str | Path | None = None,
    work: Path | str | None = None,
    n_jobs: int = 1,
    resume: bool = False,
) -> Decoder:
    """The first half of `calibrate`: every block replaced by its calibrated `StudentBlock`, still trainable.

    With `config.distil_steps` they are then trained together. Whoever wants yet another objective trains the students
    further, and calls `merge_model`.
    """
    _with_students(model, tokens, config, text, work, n_jobs, resume)
    return model


def _with_students(
    model: PreTrainedModel,
    tokens: Any,
    config: FlatQuantConfig | None,
    text: str | Path | None,
    work: Path | str | None,
    n_jobs: int,
    resume: bool,
) -> tuple[nn.ModuleList, TrainedBlocks]:
    """Put the calibrated students into a model; its list of blocks, and what their rounding needs."""
    config = checked_config(model, config, n_jobs)
    model.eval()
    _, blocks = decoder_blocks(model, config.module_map)
    load = cast(LoadBlock, blocks.__getitem__)
    trained = train_blocks(model, load, tokens, config, text, work, n_jobs, resume)
    model.requires_grad_(False)
    teacher = teacher_of(model) if config.distil_steps else None
    for number, block in enumerate(trained.students()):
        blocks[number] = block
    report = trained.report()
    if teacher is not None:
        weight = cast(nn.Embedding, model.get_input_embeddings()).weight
        windows = distillation_windows(tokens, config, len(weight), text).to(weight.device)
        folder = trained.folder.distillation(windows, config)
        report.distillation = distil(model, teacher, windows, trained.config, folder, resume)
    cast(Any, model).flatquant = report
    return blocks, trained


def merge_model(model: Decoder, tokens: Any = None, *, text: str | Path | None = None) -> Decoder:
    """The second half of `calibrate`: transforms merged, weights rounded; GPTQ needs the calibration tokens again.

    Raises
    ------
    RuntimeError
        If the model has no `StudentBlock`.
    """
    path, blocks, config = students_of(model)
    ids = needed_windows(model, tokens, config, text) if rounds_by_inputs(config) else None
    inputs, arguments = (None, None) if ids is None else embedded(model, ids, path)
    for number, block in enumerate(rounded_blocks(blocks, inputs, arguments, config.batch_size)):
        blocks[number] = from_main_process(block)
    quantise_head(model, config)
    return finish(model, config)


# -- the one path of a model in memory and of one that is read block by block ------------------------------------------


@dataclass
class TrainedBlocks:
    """What was trained for the blocks of a model, and what their rounding needs."""

    config: ProvenConfig
    load: LoadBlock
    inputs: Float[Tensor, "n length d"] | None
    """Of the first block, for GPTQ."""
    arguments: list[BlockArguments] | None
    total: int
    found: dict[int, TrainedBlock]
    """By the number of the block; the others are not quantised."""
    folder: WorkFolder

    def students(self) -> Iterator[nn.Module]:
        """All blocks of the model one after the other: the student of each that is quantised."""
        for number in range(self.total):
            block = self.load(number)
            yield trained_student(block, self.config, self.found[number]) if number in self.found else block

    def rounded(self, students: Iterable[nn.Module]) -> Iterator[nn.Module]:
        """The blocks of the quantised model, one after the other."""
        return map(from_main_process, rounded_blocks(students, self.inputs, self.arguments, self.config.batch_size))

    def report(self) -> CalibrationReport:
        return CalibrationReport({number: block.report for number, block in self.found.items()})


def train_blocks(
    model: PreTrainedModel,
    load: LoadBlock,
    tokens: Any,
    config: FlatQuantConfig,
    text: str | Path | None,
    work: Path | str | None,
    n_jobs: int,
    resume: bool,
) -> TrainedBlocks:
    """Calibrate the blocks of a model that embeds its tokens, and whose blocks `load` gives by their numbers."""
    path, blocks = decoder_blocks(model, config.module_map)
    numbers, ids = quantised_numbers(len(blocks), config), needed_windows(model, tokens, config, text)
    inputs, arguments = (None, None) if ids is None else embedded(model, ids, path)
    proven = prove(load, *first_window(model, inputs, arguments, path), config, numbers)
    folder = WorkFolder(work, proven, ids, cast(nn.Embedding, model.get_input_embeddings()).weight, resume)
    found = trained_blocks(load, inputs, arguments, proven, numbers, folder, n_jobs)
    kept = inputs if rounds_by_inputs(proven) else None
    return TrainedBlocks(proven, load, kept, arguments, len(blocks), found, folder)


# -- what is asked for, and whether the model has it -------------------------------------------------------------------


def checked_config(model: PreTrainedModel, config: FlatQuantConfig | None, n_jobs: int = 1) -> FlatQuantConfig:
    """A copy of the config for this model."""
    config = FlatQuantConfig() if config is None else copy.deepcopy(config)
    if is_quantised(model) or any(isinstance(module, StudentBlock) for module in model.modules()):
        raise RuntimeError(f"this {type(model).__name__} is quantised already; start from the original model.")
    if config.head_bits != 16:
        checked_vocabulary(model)
    if config.blocks == []:
        raise ArgumentError("blocks is empty; give the numbers of blocks to quantise, or None for all.")
    if n_jobs < 1:
        raise ArgumentError(f"n_jobs={n_jobs} must be at least 1.")
    path, blocks = decoder_blocks(model, config.module_map)
    places = {f"{path}.{i}.{getattr(paths, part)}" for i, paths in paths_of(blocks, config).items() for part in LINEARS}
    check_unshared(model, places)
    for place in sorted(places):
        columns = cast(nn.Linear, model.get_submodule(place)).in_features
        if config.group_size is not None and (config.group_size < 1 or columns % config.group_size):
            raise ArgumentError(
                f"group_size={config.group_size} does not divide the {columns} columns of {place}; choose a divisor or "
                "None."
            )
    if config.compile is None:
        weights = sum(cast(nn.Linear, model.get_submodule(place)).weight.numel() for place in places)
        config.compile = pays_to_compile(config, weights) and can_compile()
    return config


def paths_of(blocks: nn.ModuleList, config: FlatQuantConfig) -> dict[int, BlockPaths]:
    """The parts of each block that is to be quantised; a TypeError says in which block one is missing."""
    found: dict[int, BlockPaths] = {}
    for number in quantised_numbers(len(blocks), config):
        try:
            found[number] = block_paths(blocks[number], config.module_map)
        except TypeError as error:
            raise ArgumentTypeError(
                f"block {number}: {error}"[:-1] + ", or leave this number out of `blocks`."
            ) from None
    return found


def pays_to_compile(config: FlatQuantConfig, weights: int) -> bool:
    """Whether training rounds so many weights in all its steps that compiled loops win back their time."""
    steps = config.epochs * (config.n_samples // config.batch_size) if is_trained(config) else 0
    return (steps + config.distil_steps) * weights >= WORTH_COMPILING


def check_unshared(model: nn.Module, places: set[str]) -> None:
    """Each linear layer that will be quantised must hold a weight that nothing else in the model uses.

    Raises
    ------
    ValueError
        With the two places.
    """
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        place = name.rpartition(".")[0]
        first = owners.setdefault(id(parameter), place)
        if first != place and {first, place} & places:
            raise ArgumentError(
                f"{first} and {place} share a weight, and a quantised layer needs its own; give {place} a copy "
                "(tie_word_embeddings=False, or a clone of the parameter)."
            )


def rounds_by_inputs(config: FlatQuantConfig) -> bool:
    return config.weights == "gptq" and config.w_bits < 16


def needed_windows(
    model: PreTrainedModel, tokens: Any, config: FlatQuantConfig, text: str | Path | None
) -> Int[Tensor, "n length"] | None:
    """The calibration windows, on the model's device; None where the config needs none."""
    scales = config.scale and config.quantises_linears
    if not (scales or is_trained(config) or rounds_by_inputs(config)):
        return None
    if tokens is None:
        raise ArgumentError(
            "this config is calibrated on text (scales, training or GPTQ), and no tokens came; give token ids, or a "
            "tokenizer with text=."
        )
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    return calibration_windows(tokens, config, len(embedding.weight), text).to(embedding.weight.device)


def first_window(
    model: nn.Module, inputs: Tensor | None, arguments: list[BlockArguments] | None, path: str
) -> tuple[Float[Tensor, "1 length d"], list[BlockArguments]]:
    """What the blocks receive for one window, which is drawn where the config needs no calibration."""
    if inputs is not None and arguments is not None:
        return inputs[:1], arguments
    embedding = cast(nn.Embedding, cast(Any, model).get_input_embeddings())
    ids = torch.randint(len(embedding.weight), (1, DRAWN), generator=torch.Generator().manual_seed(0))
    return embedded(model, ids.to(embedding.weight.device), path)


def students_of(model: nn.Module) -> tuple[str, nn.ModuleList, ProvenConfig]:
    """Path and list of the blocks of a model with students, and their config."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            config = next((block.config for block in module if isinstance(block, StudentBlock)), None)
            if config is not None:
                return path, module, config
    raise RuntimeError(f"this {type(model).__name__} has no students to merge; `student_model` puts them in.")


# -- the end -----------------------------------------------------------------------------------------------------------


def from_main_process(block: nn.Module) -> nn.Module:
    """The tensors of a quantised block as the main process has them, so that all have the same bytes."""
    if processes().num_processes > 1:
        for tensor in block.state_dict().values():
            tensor.copy_(cast(Tensor, broadcast(tensor.to(processes().device).contiguous())))
    return block
