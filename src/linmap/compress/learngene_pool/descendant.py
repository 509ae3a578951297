"""Descendants: models that run, train, save and export without the pool they come from."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap import artifacts
from linmap.compress.learngene_pool.cost import Cost
from linmap.compress.learngene_pool.enumeration import Config
from linmap.compress.learngene_pool.paths import Route, embedding_of
from linmap.compress.learngene_pool.stitches import StitchLayer
from linmap.compress.vision_transformer import Block, VisionTransformer
from linmap.data.schema import Range, check_parameters, typed
from linmap.errors import ArgumentError, ArgumentTypeError, ArtifactError

SYSTEM, KIND = "learngene_pool", "descendant"


class SavedConfig(TypedDict):
    """A configuration in JSON."""

    members: list[int]
    points: list[tuple[int, int]]
    layers: list[int]


class Saved(TypedDict):
    """What a folder says of a descendant."""

    kind: Literal["descendant"]
    config: dict[str, Any]
    members: list[dict[str, Any]]
    drop_path: list[list[Annotated[float, Range(0, 1)]]]
    checksum: str


class Descendant(nn.Module):
    """One configuration of a pool as a model of its own, in evaluation mode; made by `LearngenePool.build`.

    Parameters
    ----------
    route
        What the configuration runs.
    config
        The configuration.
    share
        Use the modules of the pool instead of copies: what trains one trains the other.

    Attributes
    ----------
    config, cost
        The configuration, and its parameters and MACs; `sum(p.numel() for p in parameters())` is `cost.params`.
    """

    def __init__(self, route: Route, config: Config, *, share: bool = False) -> None:
        super().__init__()
        self.config = config
        self.cost: Cost = route.cost()
        self.sizes = [sizes_of(member) for member in route.members]
        self.embedding = embedding_of(route.front)
        self.parts = nn.ModuleList(nn.ModuleList(part) for part in route.parts)
        self.stitches = nn.ModuleList(route.stitches)
        self.norm, self.head = route.back.norm, route.back.head
        if not share:
            for name, module in copy.deepcopy(self._modules).items():  # in one go: what two parts share stays shared
                setattr(self, name, module)
            self.eval()

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        x = cast(Any, self.embedding).embed(x)
        for number, part in enumerate(self.parts):
            if number:
                x = self.stitches[number - 1](x)
            for block in cast(nn.ModuleList, part):
                x = block(x)
        return self.head(self.norm(x)[:, 0])

    def save(self, folder: Path | str) -> None:
        """Write it to a folder that `load` reads.

        Raises
        ------
        TypeError
            If a member is no `VisionTransformer` of linmap; save its `state_dict()` then, and load it into what `build`
            of the same pool makes.
        """
        if None in self.sizes:
            raise ArgumentTypeError(
                "save writes descendants of linmap's VisionTransformer; save the state_dict() of this one, and load it "
                "into what its pool builds."
            )
        parts = cast("list[list[Block]]", self.parts)
        stored = {
            "kind": KIND,
            "config": artifacts.plain(self.config),
            "members": self.sizes,
            "drop_path": [[block.drop_path1.p for block in part] for part in parts],
        }
        artifacts.save(folder, SYSTEM, signed(stored, stored), unshared(self.state_dict()))

    def export(self, path: Path | str, *, example: Tensor | None = None) -> Path:
        """Write it as ONNX, of any number of inputs; `images` in, `logits` out.

        Parameters
        ----------
        path
            Of the file.
        example
            Inputs, of which the first is used; a black image if None, for vision transformers of linmap.

        Raises
        ------
        ValueError
            If an example is needed.
        ImportError
            If onnx or onnxscript is not installed.
        """
        from linmap.compress.learngene_pool import exchange

        return exchange.export(self, path, example)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote; no pool is needed. It is in evaluation mode.

        Raises
        ------
        ArtifactError
            If the folder holds no readable descendant.
        """
        stored, tensors = artifacts.load(folder, SYSTEM)
        if not is_descendant(stored):
            raise ArtifactError(
                f"{folder} holds a whole pool; LearngenePool.load reads it, and its build makes a model."
            )
        with artifacts.reading(folder):
            saved = typed(Saved, stored, "config")
            config = config_from(typed(SavedConfig, saved["config"], "config: config"))
            check_signed(stored, ("kind", "config", "members", "drop_path"))
            members = [
                empty_member(sizes | {"depth": len(rates)})
                for sizes, rates in zip(saved["members"], saved["drop_path"], strict=True)
            ]
            stitches = tuple(
                StitchLayer(a.embed_dim, b.embed_dim, generator=torch.Generator()) for a, b in pairwise(members)
            )
            route = Route(tuple(members), tuple(list(member.blocks) for member in members), stitches)
            for part, rates in zip(route.parts, saved["drop_path"], strict=True):
                for block, rate in zip(part, rates, strict=True):
                    cast(Block, block).drop_path1.p = cast(Block, block).drop_path2.p = rate
            check_parts(config, [len(part) for part in route.parts])
            descendant = cls(route, config, share=True)
            descendant.load_state_dict(tensors, assign=True)
        return descendant.requires_grad_().eval()


# -- what a folder says of a model -------------------------------------------------------------------------------------


def is_descendant(stored: Mapping[str, Any]) -> bool:
    """Whether a saved configuration is that of one model, not of a pool; one of the two keys may lack."""
    return stored.get("kind") == KIND or "drop_path" in stored


def sizes_of(member: Any) -> dict[str, Any] | None:
    """The arguments that build a `VisionTransformer` of these sizes; None for another model."""
    if type(member) is not VisionTransformer:
        return None
    same = ("image_size", "patch_size", "in_channels", "n_classes", "mlp_ratio", "drop_path", "eps")
    sizes = {name: getattr(member, name) for name in same}
    return sizes | {"dim": member.embed_dim, "depth": len(member.blocks), "heads": member.num_heads}


def empty_member(sizes: Mapping[str, Any]) -> VisionTransformer:
    """A vision transformer of these sizes, to be filled.

    Raises
    ------
    TypeError
        If there are others, or one is of another type.
    """
    check_parameters(VisionTransformer, dict(sizes))
    return VisionTransformer(**sizes, generator=torch.Generator())


def config_from(stored: SavedConfig) -> Config:
    """A configuration out of JSON."""
    return Config(tuple(stored["members"]), tuple((e, f) for e, f in stored["points"]), tuple(stored["layers"]))


def check_parts(config: Config, lengths: Sequence[int]) -> None:
    """Refuse a configuration that runs other numbers of blocks than these; that of the last member is not told."""
    starts, stops = [0, *(f for _, f in config.points)], [e + 1 for e, _ in config.points]
    told = [stop - start for start, stop in zip(starts, stops, strict=False)]
    if len(config.members) != len(lengths) or told != list(lengths)[: len(told)] or len(told) != len(lengths) - 1:
        raise ArgumentError(f"{config} does not run parts of {list(lengths)} blocks")


def signed(stored: Mapping[str, Any], of: Iterable[str]) -> dict[str, Any]:
    """What is stored, with a checksum of these entries, which say what the weights compute.

    Heads, and the eps of norms, change that and the shape of no weight.
    """
    stored = artifacts.plain(stored)
    text = json.dumps({name: stored[name] for name in of}, sort_keys=True)
    return {**stored, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def check_signed(stored: Mapping[str, Any], of: Iterable[str]) -> None:
    """Refuse entries that were edited by hand."""
    if signed(stored, of)["checksum"] != stored["checksum"]:
        raise ArgumentError(
            f"its config.json was edited: {', '.join(of)} are not what was saved with the weights, which would compute "
            "something else"
        )


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own for a file, though two names be one parameter."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
