"""Before a calibration: with its transforms, and 16 bits, the student of each block must be the block itself.

The transforms cancel only if every part of a block that reads what they change is transformed with it. What reads what
is seen on one window of tokens: further linear layers of an attention or an MLP follow the transform of their input; a
P_v that does not pass through what lies between the values and the output projection is left out; a scale that the
module before cannot take stays in front of its matrix. What still differs then is refused, with the name of the part.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.architecture import LINEARS, BlockPaths, block_paths, replace
from linmap.compress.flatquant.block import SCALED, SITES_OF, StudentBlock, merged_block, readers_of, scaled_norm
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.linear import LinearBits, QuantizedLinear
from linmap.compress.flatquant.teacher import BlockArguments, as_float32, hidden_states, in_float32
from linmap.compress.flatquant.transforms import FixedFactor, InverseFactor, SiteTransform, SVDFactor
from linmap.errors import ArgumentTypeError

TOLERANCE = 1e-3  # of what a block adds to its inputs; rounding in float32 makes 1e-5 of it
SPREAD = 4.0  # of the singular values and scales that are tried: orthogonal ones pass through a norm, others do not
EXACT = LinearBits(16, 16)


@torch.no_grad()
def prove(
    load: Callable[[int], nn.Module],
    inputs: Float[Tensor, "1 length d"],
    arguments: list[BlockArguments],
    config: FlatQuantConfig,
    numbers: list[int],
) -> ProvenConfig:
    """The config with its `readers`, `left_out` and `online_scales`, so that all blocks keep their function.

    Parameters
    ----------
    load
        A block of the original model, by its number.
    inputs, arguments
        One window as the first block receives it, and what the model hands to each block beside.
    numbers
        The blocks that will be quantised.

    Raises
    ------
    TypeError
        If a block would compute something else, with the part that does.
    RuntimeError
        If the outputs of a block are not finite.
    """
    x, proven = inputs, copy.copy(ProvenConfig.of(config))
    for number in range(numbers[-1] + 1):
        block = in_float32(load(number))
        x, into = as_float32(x), as_float32(arguments[number])
        with recorded(block) as seen, named(number, block):
            y = hidden_states(block(x, **into))
        if not bool(y.isfinite().all()):
            raise RuntimeError(
                f"block {number}: {_first_infinite(seen)} holds NaN or infinite numbers; look at its weights."
            )
        if number in numbers:
            _prove_block(block, number, proven, x, into, y, seen)
        x = y
    return proven


@contextmanager
def named(number: int, block: nn.Module) -> Iterator[None]:
    """Errors say in which block, also those of a block that needs more than it gets here."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        raise type(error)(f"block {number}: {error}") from error
    except (AttributeError, LookupError, AssertionError, ValueError) as error:
        raise ArgumentTypeError(
            f"block {number} ({type(block).__name__}) does not run by itself on hidden states "
            f"({type(error).__name__}: {error}); FlatQuant calibrates such blocks only."
        ) from error


def _prove_block(
    block: nn.Module, number: int, config: ProvenConfig, x: Tensor, arguments: BlockArguments, y: Tensor, seen: Seen
) -> None:
    """Note in the config what this block needs."""
    paths = block_paths(block, config.module_map)
    add_readers(config, block, number, further_readers(block, paths, seen))

    def error(sites: tuple[str, ...] | None = None) -> float:
        with named(number, block):
            return difference(hidden_states(exact_student(block, config, sites)(x, **arguments)), x, y)

    if not error() < TOLERANCE:
        if "value" not in config.left_out and not error(("value",)) < TOLERANCE:
            config.left_out = ("value",)
        wrong = [] if error() < TOLERANCE else [site for site in (*SCALED, "cache") if not error((site,)) < TOLERANCE]
        if wrong or not error() < TOLERANCE:
            raise refusal(block, number, config, paths, wrong[0] if wrong else None, x, arguments, seen)
    if not config.scale or not config.quantises_linears:
        return
    config.online_scales = tuple(sorted({*config.online_scales, *unmergeable(block, paths)}))

    def merged_error(online: set[str]) -> float:
        student = exact_student(block, config)
        student.config.online_scales = tuple(sorted(online))
        return difference(hidden_states(exactly_merged(student)(x, **arguments)), x, y)

    online = set(config.online_scales)
    if not merged_error(online) < TOLERANCE:
        online |= {site for site in SCALED if site not in online and not merged_error({*SCALED} - {site}) < TOLERANCE}
        if not merged_error(online) < TOLERANCE:
            raise refusal(block, number, config, paths, None, x, arguments, seen)
    config.online_scales = tuple(sorted(online))


def difference(ours: Tensor, x: Tensor, y: Tensor) -> float:
    """Of outputs that should be y, relative to what the block adds to its inputs x."""
    added = y - x if x.shape == y.shape else y
    size = torch.maximum(added.double().norm(), 1e-3 * y.double().norm()).clamp(min=1e-30)
    return float((ours.double() - y.double()).norm() / size)


# -- what a block reads ------------------------------------------------------------------------------------------------

Seen = dict[str, Tensor]
"""The first input of each module of a block that has no modules inside it, in the order of the pass, and the outputs of
the linear layers under their names with `OUTPUT` behind."""
OUTPUT = " ->"


def _first_infinite(seen: Seen) -> str:
    """Where the first number that is not finite was seen."""
    for name, value in seen.items():
        if not bool(value.isfinite().all()):
            kind = "output" if name.endswith(OUTPUT) else "input"
            return f"the {kind} of {name.removesuffix(OUTPUT)}"
    return "its output"


@contextmanager
def recorded(block: nn.Module) -> Iterator[Seen]:
    """While this is open, a pass through a block fills in what its parts read."""
    seen: Seen = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            if tensors:
                seen.setdefault(name, tensors[0])
            if isinstance(module, nn.Linear):
                seen.setdefault(name + OUTPUT, output)

        return hook

    leaves = {name: module for name, module in block.named_modules() if not len(list(module.children()))}
    handles = [module.register_forward_hook(keep(name), with_kwargs=True) for name, module in leaves.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def further_readers(block: nn.Module, paths: BlockPaths, seen: Seen) -> dict[str, list[str]]:
    """The linear layers beside the seven that read the input of the attention or of the MLP, or the values."""
    sources = {"attention": seen.get(paths.q), "mlp": seen.get(paths.up), "value": seen.get(paths.v + OUTPUT)}
    inside = {"attention": paths.attention, "mlp": paths.mlp, "value": paths.attention}
    own = {getattr(paths, part) for part in LINEARS}
    found: dict[str, list[str]] = {}
    for name, module in block.named_modules():
        if not isinstance(module, nn.Linear) or name in own or name not in seen:
            continue
        for site, source in sources.items():
            if source is not None and name.startswith(f"{inside[site]}.") and _same(seen[name], source):
                found.setdefault(site, []).append(name)
                break
    return found


def _same(x: Tensor, source: Tensor) -> bool:
    return x.shape[-1] == source.shape[-1] and torch.equal(x.flatten(0, -2), source.flatten(0, -2))


def add_readers(config: ProvenConfig, block: nn.Module, number: int, found: dict[str, list[str]]) -> None:
    """Note the layers of a block in the config, which has one list for all blocks.

    Raises
    ------
    TypeError
        If a layer of this name reads something else in a block before.
    """
    noted = {site: list(paths) for site, paths in (config.readers or {}).items()}
    for site, names in found.items():
        noted[site] = [*dict.fromkeys([*noted.get(site, []), *names])]
    config.readers = {site: tuple(paths) for site, paths in noted.items()} or None
    for site, path in readers_of(block, config):
        if path not in found.get(site, []):
            raise ArgumentTypeError(
                f"block {number}: {path} does not read what it reads in other blocks, the input of {site}, so that the "
                "blocks cannot be transformed alike; quantise those of one kind (`blocks`)."
            )


# -- students that do not round ----------------------------------------------------------------------------------------


def exact_student(block: nn.Module, config: ProvenConfig, sites: tuple[str, ...] | None = None) -> StudentBlock:
    """A student in 16 bits whose transforms are far from orthogonal; only those at `sites`, if they are named."""
    config = copy.copy(config)
    config.clip = False
    generator = torch.Generator().manual_seed(0)
    student = StudentBlock(block, config, generator)
    for part in SITES_OF:
        student.linear(part).bits = EXACT
    for name, module in student.sites.items():
        site = cast(SiteTransform, module)
        keeps = sites is None or name in sites
        for i, factor in enumerate(site.factors):
            site.factors[i] = stretched(factor, generator) if keeps else neutral(factor)
        if site.scale is not None and keeps:
            site.scale.data = SPREAD ** (torch.rand(site.n, generator=generator) - 0.5)
    if student.cache is not None:
        student.cache.bits = dict.fromkeys("qkv", 16)
        if student.cache.factor is not None:
            keeps = sites is None or "cache" in sites
            student.cache.factor = (
                stretched(student.cache.factor, generator) if keeps else neutral(student.cache.factor)
            )
    student.to(next(block.parameters()).device)
    student.refresh()
    return student


def stretched(factor: nn.Module, generator: torch.Generator) -> nn.Module:
    """A factor with other singular values than 1, where it has a choice."""
    if isinstance(factor, (SVDFactor, InverseFactor)):
        n = len(factor.left if isinstance(factor, SVDFactor) else factor.weight)
        exponents = torch.rand(n, generator=generator) - 0.5
        if isinstance(factor, InverseFactor):
            factor.weight.data *= SPREAD**exponents
        else:
            factor.diagonal.data = exponents * torch.tensor(SPREAD).log() if factor.exponential else SPREAD**exponents
    return factor


def neutral(factor: nn.Module) -> FixedFactor:
    """The identity, in the size of a factor."""
    return FixedFactor(torch.eye(len(factor().P)))


def exactly_merged(student: StudentBlock) -> nn.Module:
    """The block that a student becomes, but for the rounding of its weights, inputs and cache."""
    new, weights = merged_block(student)
    for part in SITES_OF:
        path = getattr(student.paths, part)
        layer, W = cast(QuantizedLinear, new.get_submodule(path)), weights[part]
        plain = QuantizedLinear(W.shape[1], W.shape[0], layer.bias is not None, EXACT, False, layer.transform)
        plain.weight, plain.bias = W, layer.bias
        replace(new, path, plain)
    if student.cache is not None:
        cast(Any, new.get_submodule(student.paths.attention)).cache_transform.bits = dict.fromkeys("qkv", 16)
    return new


def unmergeable(block: nn.Module, paths: BlockPaths) -> set[str]:
    """The places before which there is no norm that takes a scale."""
    found: set[str] = set()
    for site, path in (("attention", paths.attention_norm), ("mlp", paths.mlp_norm)):
        weight = None if path is None else getattr(block.get_submodule(path), "weight", None)
        if path is None or not isinstance(weight, Tensor):
            found.add(site)
            continue
        try:
            scaled_norm(block.get_submodule(path), torch.linspace(0.5, 2, len(weight), device=weight.device))
        except TypeError:
            found.add(site)
    return found


# -- a refusal ---------------------------------------------------------------------------------------------------------


def refusal(
    block: nn.Module,
    number: int,
    config: ProvenConfig,
    paths: BlockPaths,
    site: str | None,
    x: Tensor,
    arguments: BlockArguments,
    seen: Seen,
) -> TypeError:
    """That this block cannot be transformed, with the part that reads what it should not."""
    student = exact_student(block, config, None if site is None else (site,))
    with recorded(student.block) as ours:
        student(x, **arguments)
    own = {getattr(paths, part) for part in LINEARS} | {path for _, path in readers_of(block, config)}
    part = {"attention": paths.attention, "cache": paths.attention, "mlp": paths.mlp}.get(site or "", "")
    for name, theirs in seen.items():
        if name not in own and name in ours and not _close(ours[name], theirs):
            part = name
            break
    kind = type(block.get_submodule(part)).__name__
    what = {
        "attention": "the inputs of the attention",
        "mlp": "the inputs of the MLP",
        "cache": "queries and keys",
    }.get(site or "", "transformed numbers")
    advice = "set q_bits=16 and k_bits=16" if site == "cache" else "take transform='none' with scale=False"
    return TypeError(
        f"block {number}: {part or 'the block'} ({kind}) uses {what} otherwise than through the linear layers that are "
        f"transformed with them, so that the block would compute something else; {advice}, or leave its number out of "
        "`blocks`."
    )


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours.double(), theirs.double(), rtol=1e-3, atol=1e-4)
