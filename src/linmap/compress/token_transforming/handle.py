"""`Compressed`: what `compress` gives back. It holds the model's replaced methods, and what the last pass did."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.token_transforming.attention import mass_pool
from linmap.compress.token_transforming.flow import Flow
from linmap.compress.token_transforming.patches import Hook, Patch
from linmap.compress.token_transforming.token_transform import TokenTransform
from linmap.compress.token_transforming.transform import Transform, compose
from linmap.errors import ArgumentError

Restore = Literal["end", "block"] | None
Pruned = Literal["error", "zero", "nearest"]


class Compressed:
    """A compressed model; also a context manager that undoes the compression when it is left.

    Attributes
    ----------
    model
        The model that was given, of its own class, with its own state_dict.
    transform
        How its tokens are transformed.
    restores, hard_restore, pruned
        As given to `compress`.
    """

    def __init__(
        self,
        model: nn.Module,
        transform: TokenTransform,
        *,
        restores: Restore = None,
        hard_restore: bool = False,
        pruned: Pruned = "error",
    ) -> None:
        self.model, self.transform = model, transform
        self.restores: Restore = restores
        self.hard_restore = hard_restore
        self.pruned: Pruned = pruned
        self._patches: list[Patch | Hook] = []
        self._last: Flow | None = None
        self._thread = threading.local()

    @property
    def transforms(self) -> dict[int, Transform]:
        """{layer: transformation} of the last forward pass, of those layers that left fewer tokens."""
        return dict(self._ran().transforms)

    @property
    def mass(self) -> Float[Tensor, "batch outputs"]:
        """What each token stood for at the end of the last forward pass."""
        return self._ran().masses()

    def matrix(self) -> Float[Tensor, "batch outputs tokens"]:
        """W_L ... W_1 of the last forward pass: how each final token is made of the original ones."""
        return self._composed()[0]

    def recovery(self, hard: bool = False) -> Float[Tensor, "batch tokens outputs"]:
        """R_1 ... R_L of the last forward pass; with `hard`, one 1 per row at its largest entry."""
        R = self._composed()[1]
        if not hard:
            return R
        rows = torch.nn.functional.one_hot(R.argmax(-1), R.shape[-1]).to(R.dtype)
        return rows * (R.sum(-1, keepdim=True) > 0)

    def pool(self, y: Float[Tensor, "batch outputs channels"], *, skip: int = 0) -> Float[Tensor, "batch channels"]:
        """The mean of tokens by what they stand for, without the first `skip`: of the last pass's final tokens, or of
        all N.
        """
        flow = self._ran()
        whole = y.shape[1] == flow.n_first and (self.gives_all or flow.count < flow.n_first)
        masses = flow.masses_first() if whole else flow.masses()
        return mass_pool(y, masses.to(y.device), skip=skip)

    def restore(
        self,
        y: Float[Tensor, "batch outputs channels"],
        *,
        hard: bool | None = None,
        pruned: Pruned | None = None,
        layer: int | None = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """R y: the tokens after any layer of the last forward pass, for all N tokens of the plain model.

        Decoders of several layers read taps: each is restored with the transformations that lie behind it, which the
        number of its tokens tells. Where several layers gave as many (merging by thresholds, in a batch of which one
        sample merges nothing), the last of them is meant, unless `layer` is given.

        Parameters
        ----------
        y
            Tokens after a layer, (B, M, C).
        hard
            Give each token its one main output. None for `hard_restore`.
        pruned
            What dropped tokens get: "error", "zero" or "nearest". None for `pruned` of `compress`.
        layer
            After which layer y was taken, from 0 on; -1 for what entered the first one.

        Raises
        ------
        ValueError
            If y has a number of tokens that no layer gave, or not that of `layer`; if tokens were dropped and
            pruned="error".
        """
        flow = self._ran()
        if layer is None and self.gives_all and y.shape[1] == flow.n_first:
            return y
        hard = self.hard_restore if hard is None else hard
        return flow.restore(y, hard=hard, pruned=self.pruned if pruned is None else pruned, layer=layer)

    @property
    def gives_all(self) -> bool:
        """Whether the model hands out its tokens restored already."""
        return False

    def schedule(self, n_tokens: int) -> dict[int, int]:
        """{layer: M} for so many tokens."""
        raise NotImplementedError

    def macs(self, n_tokens: int) -> int:
        """MACs of one sample of so many tokens, the transformations included."""
        raise NotImplementedError

    def remove(self) -> None:
        """Make the model what it was, bit for bit; a second call does nothing.

        Raises
        ------
        ValueError
            If another library has replaced a method of the model since.
        """
        for patch in self._patches:
            patch.check()
        for patch in reversed(self._patches):
            patch.remove()
        self._patches = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        passing = {"_thread": None, "_last": None}
        return self.__dict__ | passing

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._thread = threading.local()

    # What follows is for the replaced methods.

    def install(self, patches: Sequence[Patch | Hook]) -> None:
        """Put methods and hooks in place."""
        for patch in patches:
            patch.install()
        self._patches = list(patches)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The plain model for a while."""
        patches = self._patches
        self.remove()
        try:
            yield
        finally:
            self.install(patches)

    def flow(self) -> Flow | None:
        """The forward pass that runs, in this thread; under torch.compile the one that is traced."""
        return self._last if torch.compiler.is_compiling() else getattr(self._thread, "flow", None)

    def _ran(self) -> Flow:
        if self._last is None:
            raise ArgumentError("the compressed model has not run yet; call it once.")
        return self._last

    def _composed(self) -> tuple[Tensor, Tensor]:
        flow = self._ran()
        if self.restores == "block":
            raise ArgumentError("with restore='block' each block is restored by itself; see handle.transforms.")
        return compose(list(flow.transforms.values()) or [Transform.identity(flow.masses())])


def compressed(model: nn.Module) -> Compressed | None:
    """The handle of a compressed model, or of a copy of one; None for a plain model."""
    for module in model.modules():
        forward = module.__dict__.get("forward")
        handle = getattr(forward, "handle", None)
        if isinstance(forward, Patch) and isinstance(handle, Compressed):
            return handle
    return None
