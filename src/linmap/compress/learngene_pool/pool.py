"""The pool: auxiliaries, the stitches between them, and all models that these make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.compress.learngene_pool import choice, starting, storage, tuning
from linmap.compress.learngene_pool.cost import Cost, segments
from linmap.compress.learngene_pool.descendant import Descendant
from linmap.compress.learngene_pool.enumeration import Config, enumerate_configs, paired_windows
from linmap.compress.learngene_pool.losses import Transforms
from linmap.compress.learngene_pool.members import as_member, check_members
from linmap.compress.learngene_pool.paths import Route
from linmap.compress.learngene_pool.stitches import StitchLayer
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.training import TrainingConfig, TrainingHistory

if TYPE_CHECKING:
    import pandas as pd


class LearngenePool(nn.Module):
    """Models of many sizes out of few: blocks of narrow auxiliaries, a stitch, blocks of wider ones.

    Parameters
    ----------
    members
        The auxiliaries, from narrow to wide; see `as_member`.
    kernel, stride, nearest, combos, share_stitch, unequal
        Which configurations there are; as of `enumerate_configs`.

    Attributes
    ----------
    members
        The auxiliaries.
    configs
        The configurations; the place of one is its id.
    active
        The id that `forward` runs where none is named.
    accuracy
        What `evaluate` has found, by id.

    Raises
    ------
    ValueError
        If there are no members, or their token counts, patch sizes or class counts differ, a width is less than the
        one before, or depths differ without unequal=True.
    TypeError
        If one of them is no member.
    """

    def __init__(
        self,
        members: Sequence[Any],
        *,
        kernel: int = 2,
        stride: int = 1,
        nearest: bool = False,
        combos: Sequence[Sequence[int]] | None = None,
        share_stitch: bool = True,
        unequal: bool = False,
    ) -> None:
        super().__init__()
        found = [as_member(member) for member in members]
        check_members(found, unequal)
        self.members = nn.ModuleList(found)
        self.options: dict[str, Any] = {
            "kernel": kernel,
            "stride": stride,
            "nearest": nearest,
            "share_stitch": share_stitch,
            "unequal": unequal,
            "combos": None if combos is None else [list(combo) for combo in combos],
        }
        self.depths = [len(member.blocks) for member in found]
        depth = self.depths if unequal else self.depths[0]
        self.configs = enumerate_configs(depth, len(found), **self.options)
        self._ids = {config: number for number, config in enumerate(self.configs)}
        self.active = 0
        self.accuracy: dict[int, float] = {}
        self._costs: dict[int, Cost] = {}
        self.stitches = nn.ModuleDict()
        generator = torch.Generator().manual_seed(0)
        for (a, b), count in self._layers_of_pairs().items():
            d_in, d_out = found[a].embed_dim, found[b].embed_dim
            dtype = next(found[b].parameters()).dtype
            layers = (StitchLayer(d_in, d_out, generator=generator, dtype=dtype) for _ in range(count))
            self.stitches[f"{a}-{b}"] = nn.ModuleList(layers)

    def _layers_of_pairs(self) -> dict[tuple[int, int], int]:
        pairs = {pair for config in self.configs for pair in pairs_of(config)}
        options = self.options
        if options["unequal"]:
            return {(a, b): self.depths[a] for a, b in sorted(pairs)}
        windows, n_layers = paired_windows(self.depths[0], options["kernel"], options["stride"])
        return dict.fromkeys(sorted(pairs), n_layers if options["share_stitch"] else len(windows))

    # -- running -------------------------------------------------------------------------------------------------------

    def stitch(self, a: int, b: int, layer: int) -> StitchLayer:
        """A stitch layer from member a to member b.

        Raises
        ------
        TypeError
            If the id is no whole number.
        ValueError
            If there is none such.
        """
        key = f"{a}-{b}"
        if key not in self.stitches:
            there = ", ".join(self.stitches) or "none"
            raise ArgumentError(f"no stitch leads from member {a} to member {b}; there are {there}.")
        layers = cast("Sequence[StitchLayer]", self.stitches[key])
        if not 0 <= layer < len(layers):
            raise ArgumentError(f"layer={layer} must lie in 0..{len(layers) - 1}.")
        return layers[layer]

    def set_config(self, id: SupportsIndex) -> None:
        """Let `forward` run a configuration from now on; with threads, name it in each call instead."""
        self.config(id)
        self.active = index(id)

    def config(self, id: SupportsIndex) -> Config:
        """The configuration of an id.

        Raises
        ------
        ValueError
            If there is none such.
        """
        if not isinstance(id, SupportsIndex) or isinstance(id, bool):
            raise ArgumentTypeError(f"id must be a whole number, got {id!r}.")
        number = index(id)
        if not 0 <= number < len(self.configs):
            raise ArgumentError(f"config id {number} is out of range: the pool has ids 0..{len(self.configs) - 1}.")
        return self.configs[number]

    def route(self, config: SupportsIndex | Config) -> Route:
        """The modules that a configuration runs.

        Raises
        ------
        ValueError
            If it is no configuration of the pool.
        """
        if not isinstance(config, Config):
            config = self.config(config)
        elif config not in self._ids:
            raise ArgumentError(f"{config} is no configuration of this pool.")
        members = tuple(cast(Any, self.members[m]) for m in config.members)
        spans = segments(config, self.depths)
        parts = tuple(list(m.blocks)[start:stop] for m, (start, stop) in zip(members, spans, strict=True))
        stitches = tuple(self.stitch(a, b, n) for (a, b), n in zip(pairs_of(config), config.layers, strict=True))
        return Route(members, parts, stitches)

    def forward(self, x: Tensor, config: SupportsIndex | Config | None = None) -> Float[Tensor, "batch classes"]:
        """Logits of a configuration.

        Parameters
        ----------
        x
            What the members embed: images, or token ids.
        config
            An id, a configuration of the pool, or None for the active one.

        Raises
        ------
        ValueError
            If it is no configuration of the pool.
        """
        route = self.route(self.active if config is None else config)
        return route.after_embedding(route.front.embed(x))

    # -- making --------------------------------------------------------------------------------------------------------

    def init_stitches(
        self,
        method: str = "lstsq",
        *,
        transforms: Mapping[int, Transforms] | None = None,
        data: Tensor | Iterable[Any] | None = None,
        generator: torch.Generator | None = None,
        out: Path | str | None = None,
        resume: bool = False,
    ) -> None:
        """Give all stitches their start.

        Parameters
        ----------
        method
            "lstsq" (SN-Net's): least squares from the output of block e of the front to the input of block f of the
            back, the mean over the pairs that share a layer. "transform" (official code): the transposed matrices of
            the distillation. "pinv" (ours): their pseudo-inverses. "composed" (ours): pinv, then the matrix of the
            second member, whatever its width. "identity": for equal widths. "random".
        transforms
            For "transform", "pinv" and "composed": what `distill` returned for each member, by its number.
        data
            For "lstsq": images as one tensor, solved at once; or an iterable of batches (the first entry of a tuple
            counts), of which sums are kept, so that memory does not grow with their number.
        generator
            Of "random".
        out, resume
            With an iterable of batches: a folder for the sums so far, and whether to go on from them. The iterable must
            give the same batches again; those that are summed already are read and skipped.

        Raises
        ------
        ValueError
            If the method is unknown, what it needs is missing or has other shapes, what it does not use is given, or
            there is no batch.
        """
        self.accuracy.clear()  # of other stitches
        starting.start(self, method, transforms, data, generator, None if out is None else Path(out), resume)

    def fit(
        self,
        data: Dataset,
        *,
        config: TrainingConfig,
        sampler: str = "uniform",
        ids: Sequence[SupportsIndex] | None = None,
        teacher: Any = None,
        kd_weight: float = 0.5,
        T: float = 1.0,
        freeze: Sequence[int] = (),
        out: Path | str | None = None,
        resume: bool = False,
    ) -> TrainingHistory:
        """Train the configurations in turn; what a step does not draw stays as it is, in every bit.

        Parameters
        ----------
        data
            Samples (x, y), y a class or a row of probabilities; or what `record_teacher` made.
        config
            Of the training; its seed is also that of the draws.
        sampler
            As of `draw`; "sandwich" takes the mean of the losses of its three paths.
        ids
            The configurations to draw from; all if None.
        teacher
            The ancestry model, in evaluation mode; then kd_weight times the soft cross-entropy to its logits is added.
        kd_weight, T
            Of that term.
        freeze
            Members whose parameters stay as they are.
        out, resume
            Folder of checkpoints, and whether to go on from the last one.

        Raises
        ------
        ValueError
            If an argument is out of its range, or an id has nothing to train.
        """
        chosen = None if ids is None else [index(id) for id in ids]
        return tuning.tune(
            self, data, config=config, sampler=sampler, ids=chosen, teacher=teacher, kd_weight=kd_weight, T=T,
            freeze=freeze, out=out, resume=resume,
        )  # fmt: skip

    # -- choosing ------------------------------------------------------------------------------------------------------

    def cost(self, id: SupportsIndex) -> Cost:
        """Parameters, and MACs for one input, of a configuration."""
        number = index(id)
        if number not in self._costs:
            self._costs[number] = self.route(number).cost()
        return self._costs[number]

    def evaluate(
        self, data: Dataset, *, ids: Sequence[SupportsIndex] | None = None, batch_size: int = 256
    ) -> pd.DataFrame:
        """The accuracy of configurations, in evaluation mode; it is kept in `accuracy`.

        Members and their first blocks run once a batch, whatever the number of configurations that go on from them.

        Parameters
        ----------
        data
            Samples (x, y), y a class.
        ids
            Which; all if None.
        batch_size
            Samples of a forward pass.

        Returns
        -------
        table
            Columns id, params, macs, and accuracy in [0, 1].
        """
        return choice.evaluate(self, data, None if ids is None else [index(id) for id in ids], batch_size)

    def frontier(self) -> list[int]:
        """The evaluated ids that no other dominates, by MACs.

        One dominates another if its MACs are no larger and its accuracy no lower, one of them strictly; of exact ties
        the lowest id stays.
        """
        return choice.frontier(self)

    def build(
        self,
        id: SupportsIndex | None = None,
        *,
        max_params: float | None = None,
        max_macs: float | None = None,
        max_latency_ms: float | None = None,
        objective: str = "accuracy",
        share: bool = False,
        example: Tensor | None = None,
    ) -> Descendant:
        """A model of its own: of an id, or the best one under budgets.

        Parameters
        ----------
        id
            Which; then no budget.
        max_params, max_macs, max_latency_ms
            Budgets. Milliseconds are those of a forward pass of `example` on this machine, the median of several.
        objective
            "accuracy": the best of `accuracy` (of equal ones, the fewest MACs); the most MACs where nothing under the
            budgets has been evaluated. "macs": the most MACs.
        share
            Use the pool's own modules instead of copies.
        example
            Inputs that are timed; one black image where None, for vision transformers of linmap.

        Raises
        ------
        ValueError
            If nothing fits, with the smallest figure there is; or the arguments do not go together.
        """
        budgets = {"max_params": max_params, "max_macs": max_macs, "max_latency_ms": max_latency_ms}
        chosen = choice.choose(self, None if id is None else index(id), budgets, objective, example)
        return Descendant(self.route(chosen), self.configs[chosen], share=share)

    # -- keeping -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write weights, sizes, options and measured accuracies to a folder that `load` reads."""
        storage.save(self, folder)

    @classmethod
    def load(cls, folder: Path | str, members: Sequence[Any] | None = None) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            The folder.
        members
            Models of the sizes of the pool's, which take the stored weights; needed where a member is no
            `VisionTransformer` of linmap.

        Raises
        ------
        ValueError
            If a member's heads, width, depth or another size is not that of the pool; heads change what a model
            computes, and not the shape of any weight.
        ArtifactError
            If the folder holds no readable pool.
        """
        return storage.load(cls, folder, members)


def pairs_of(config: Config) -> list[tuple[int, int]]:
    """The members that each stitch of a configuration joins."""
    return list(pairwise(config.members))
