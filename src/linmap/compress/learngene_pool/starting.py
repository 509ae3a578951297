"""Step 3: how stitches start."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from linmap import artifacts
from linmap.compress.learngene_pool.members import evaluating
from linmap.compress.learngene_pool.stitches import NormalEquations, lstsq_stitch, pinv_stitch, transform_stitch
from linmap.errors import ArgumentError, ArgumentTypeError, ArtifactError

if TYPE_CHECKING:
    from linmap.compress.learngene_pool.losses import Transforms
    from linmap.compress.learngene_pool.pool import LearngenePool

METHODS = ("lstsq", "transform", "pinv", "composed", "identity", "random")
FROM_TRANSFORMS = ("transform", "pinv", "composed")
USED_BY = {"transforms": FROM_TRANSFORMS, "data": ("lstsq",), "out": ("lstsq",)}
SUMS = "learngene_pool_sums"
SAVE_EVERY = 32  # batches

Members = tuple[int, int]
Groups = dict[Members, dict[int, list[tuple[int, int]]]]
"""For each two members, the pairs of blocks of each stitch layer."""
Solution = tuple[Tensor, Tensor]


def start(
    pool: LearngenePool,
    method: str,
    transforms: Mapping[int, Transforms] | None,
    data: Tensor | Iterable[Any] | None,
    generator: torch.Generator | None,
    out: Path | None,
    resume: bool,
) -> None:
    """As of `LearngenePool.init_stitches`."""
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} must be one of {', '.join(METHODS)}.")
    given = {"transforms": transforms, "data": data, "out": out}
    for name, value in given.items():
        if value is not None and method not in USED_BY[name]:
            raise ArgumentError(
                f"method={method!r} does not use {name}, which is for {', '.join(USED_BY[name])}; leave it out."
            )
    if out is not None and isinstance(data, Tensor):
        raise ArgumentError("out keeps the sums over batches, and data is one tensor; give an iterable of batches.")
    if resume and out is None:
        raise ArgumentError("resume=True needs `out`, the folder of the sums to go on with.")
    if method == "lstsq":
        if data is None:
            raise ArgumentError("method='lstsq' needs data: images as a tensor, or an iterable of batches.")
        from_features(pool, data, out, resume)
    elif method in FROM_TRANSFORMS:
        from_transforms(pool, method, transforms)
    else:
        by_shape(pool, method, generator)


def groups(pool: LearngenePool) -> Groups:
    """Which pairs of blocks each stitch layer joins, in the configurations that there are."""
    found: Groups = {}
    for config in pool.configs:
        for number, (point, layer) in enumerate(zip(config.points, config.layers, strict=True)):
            layers = found.setdefault((config.members[number], config.members[number + 1]), {})
            pairs = layers.setdefault(layer, [])
            if point not in pairs:
                pairs.append(point)
    return found


# -- least squares -----------------------------------------------------------------------------------------------------


def from_features(pool: LearngenePool, data: Tensor | Iterable[Any], out: Path | None, resume: bool) -> None:
    """Least squares between members that run alone; the mean over the pairs that share a layer."""
    joined = groups(pool)
    if isinstance(data, Tensor):
        if not len(data):
            raise ArgumentError("data is empty; least squares needs images.")
        tokens = _tokens(pool, data)
        solutions = {
            (pair, point): lstsq_stitch(tokens[pair[0]][point[0] + 1], tokens[pair[1]][point[1]])
            for pair, layers in joined.items()
            for points in layers.values()
            for point in points
        }
    else:
        solutions = _over_batches(pool, joined, data, out, resume)
    for pair, layers in joined.items():
        for layer, points in layers.items():
            found = [solutions[pair, point] for point in points]
            weight, bias = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
            pool.stitch(*pair, layer).set(weight, bias)


def _tokens(pool: LearngenePool, x: Tensor) -> list[list[Tensor]]:
    """For each member, the embedding and the output of each block."""
    found = []
    with evaluating(*pool.members):
        for member in cast("list[Any]", pool.members):
            h = member.embed(x.to(next(member.parameters()).device))
            outputs = [h]
            for block in member.blocks:
                h = block(h)
                outputs.append(h)
            found.append(outputs)
    return found


def _over_batches(
    pool: LearngenePool, joined: Groups, data: Iterable[Any], out: Path | None, resume: bool
) -> dict[tuple[Members, tuple[int, int]], Solution]:
    """The solution of every pair of blocks, from sums over batches; pairs of one front block share a Gram matrix."""
    backs: dict[tuple[Members, int], list[int]] = {}
    for pair, layers in joined.items():
        for e, f in (point for points in layers.values() for point in points):
            backs.setdefault((pair, e), []).append(f)
    dims = [member.embed_dim for member in cast("list[Any]", pool.members)]
    sums = {key: NormalEquations(dims[key[0][0]], len(fs) * dims[key[0][1]]) for key, fs in backs.items()}
    identity = _fingerprint(pool)
    done = _restore(out, sums, identity) if resume and out is not None else 0
    count = 0
    for count, batch in enumerate(islice(data, done, None), done + 1):
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(x, Tensor):
            raise ArgumentTypeError(f"data gave a batch of type {type(x).__name__}; expected tensors of images.")
        tokens = _tokens(pool, x)
        for ((a, b), e), fs in backs.items():
            sums[(a, b), e].add(tokens[a][e + 1], torch.cat([tokens[b][f] for f in fs], -1))
        if out is not None and count % SAVE_EVERY == 0:
            _keep(out, sums, count, identity)
    if not max(count, done):
        raise ArgumentError("data gave no batch; least squares needs images.")
    if out is not None and count:
        _keep(out, sums, count, identity)
    solutions = {}
    for (pair, e), fs in backs.items():
        weight, bias = sums[pair, e].solve()
        parts = zip(weight.chunk(len(fs)), bias.chunk(len(fs)), strict=True)
        solutions |= {(pair, (e, f)): part for f, part in zip(fs, parts, strict=True)}
    return solutions


def _name(key: tuple[Members, int]) -> str:
    return f"{key[0][0]}-{key[0][1]}-{key[1]}"


def _keep(out: Path, sums: Mapping[Any, NormalEquations], count: int, identity: int) -> None:
    """The sums in one file, so that they and their count are of one moment."""
    tensors = {f"{_name(key)}.{name}": value for key, part in sums.items() for name, value in part.state().items()}
    metadata = {"batches": str(count), "members": str(identity)}
    artifacts.write_tensors(out / f"{SUMS}.safetensors", tensors, metadata)


def _restore(out: Path, sums: Mapping[Any, NormalEquations], identity: int) -> int:
    """Take up the sums of a folder; how many batches are in them, 0 if there are none."""
    from safetensors import SafetensorError, safe_open

    path = out / f"{SUMS}.safetensors"
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if metadata["members"] != str(identity):
                raise ArgumentError(f"{path} is of members with other weights or blocks; start anew without resume.")
            for key, part in sums.items():
                part.restore({name: file.get_tensor(f"{_name(key)}.{name}") for name in part.state()})
            return int(metadata["batches"])
    except ArgumentError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); start anew without resume.") from None


def _fingerprint(pool: LearngenePool) -> int:
    """A checksum of the members' weights and of what is stitched."""
    checksum = zlib.crc32(repr(sorted(groups(pool).items())).encode())
    for name, value in pool.members.state_dict().items():
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(data.data, zlib.crc32(name.encode(), checksum))
    return checksum


# -- others ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def from_transforms(pool: LearngenePool, method: str, transforms: Mapping[int, Transforms] | None) -> None:
    """All layers between two members start alike, from the matrices of their distillation."""
    if transforms and not (isinstance(transforms, Mapping) and all(hasattr(T, "T_map") for T in transforms.values())):
        raise ArgumentTypeError("transforms must be a mapping: {member: what distill returned for it}.")
    if not transforms:
        raise ArgumentError(f"method={method!r} needs transforms: {{member: what distill returned for it}}.")
    for (a, b), layers in groups(pool).items():
        T_a, b_a = _stacked(pool, transforms, a, method)
        if method == "composed" or T_a.shape[2] != pool.members[b].embed_dim:
            T_b, b_b = _stacked(pool, transforms, b, method)
        else:
            T_b = b_b = None
        if method == "transform":
            weight, bias = transform_stitch(T_a, T_b), None
        else:
            weight, bias = pinv_stitch(T_a, b_a, T_b, b_b)
        for layer in layers:
            pool.stitch(a, b, layer).set(weight, bias)


def _stacked(pool: LearngenePool, transforms: Mapping[int, Transforms], member: int, method: str) -> Solution:
    if member not in transforms:
        raise ArgumentError(f"method={method!r} needs transforms of member {member}; got those of {list(transforms)}.")
    maps: Any = list(transforms[member].T_map)
    T, bias = torch.stack([map.weight for map in maps]), torch.stack([map.bias for map in maps])
    if T.shape[1] != pool.members[member].embed_dim:
        raise ArgumentError(
            f"transforms of member {member} have weights of shape {tuple(T.shape[1:])}; expected "
            f"({pool.members[member].embed_dim}, width of the teacher)."
        )
    return T, bias


@torch.no_grad()
def by_shape(pool: LearngenePool, method: str, generator: torch.Generator | None) -> None:
    """Identities, or random numbers."""
    for (a, b), layers in groups(pool).items():
        for layer in layers:
            stitch = pool.stitch(a, b, layer)
            if method == "random":
                stitch.draw(generator)
                continue
            d_out, d_in = stitch.weight.shape
            if d_in != d_out:
                raise ArgumentError(
                    f"method='identity' is for members of equal widths; members {a} and {b} have {d_in} and {d_out}."
                )
            stitch.set(torch.eye(d_in))
