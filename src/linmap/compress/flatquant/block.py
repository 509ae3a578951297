"""A decoder block with trainable transforms (the student of its own original), and the quantised block.

The six places of a block (section 3.2): P_a before the query, key and value projections, P_h on keys and queries after
the rotary embedding, P_v on the value heads, P_o across the heads before the output projection, P_ug before the up and
gate projections, P_d before the down projection.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from linmap.compress.architecture import BlockPaths, BlockSizes, block_paths, block_sizes, replace
from linmap.compress.flatquant.attention import (
    OnlineCacheTransform,
    TrainedCacheTransform,
    attach_cache_transform,
    configs_of,
)
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.decoding import decodable
from linmap.compress.flatquant.linear import CalibratedLinear, LinearBits, QuantizedLinear
from linmap.compress.flatquant.transforms import (
    FixedFactor,
    OnlineTransform,
    SiteTransform,
    attach_input_transform,
    check_sizes,
    factor,
    kronecker_apply,
    kronecker_factors,
)
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.maps.hadamard import hadamard_factors

SCALED = ("attention", "mlp", "down")
"""The places with a Kronecker product and a per-channel scale."""
CLIPPING = ("_max", "_min")
"""How the names of clipping logits end."""
SITES_OF = {
    "q": "attention",
    "k": "attention",
    "v": "attention",
    "o": "output",
    "gate": "mlp",
    "up": "mlp",
    "down": "down",
}


def site_lengths(sizes: BlockSizes) -> dict[str, int]:
    """The length of what passes each place that a linear layer stands at."""
    width = sizes.heads * sizes.head_dim
    return {"attention": sizes.hidden, "mlp": sizes.hidden, "down": sizes.intermediate, "output": width}


def factor_sizes(config: ProvenConfig, sizes: BlockSizes) -> dict[str, tuple[int, ...]]:
    """Sizes of the small matrices at each place; a place without matrices is left out."""
    found: dict[str, tuple[int, ...]] = {}
    if config.transform == "none":
        return found
    if config.quantises_linears:
        for site, n in site_lengths(sizes).items():
            if config.transform == "hadamard" or (config.transform == "quarot" and site == "down"):
                found[site] = tuple(len(H) for H in hadamard_factors(n))
            elif config.transform == "flat" and site in SCALED:
                found[site] = (config.factors or {}).get(site) or kronecker_factors(n)
                check_sizes(found[site], n)
        if config.transform != "hadamard":
            found |= _output_sizes(config, sizes)
    passes = "value" not in config.left_out and (config.quantises_linears or config.v_bits < 16)
    if config.transform in ("flat", "quarot") and passes:
        found["value"] = (sizes.head_dim,)
    if min(config.q_bits, config.k_bits) < 16:
        found["cache"] = (sizes.head_dim,)
    return found


def _output_sizes(config: ProvenConfig, sizes: BlockSizes) -> dict[str, tuple[int, ...]]:
    """P_o across the heads, which meets P_v within them; a matrix of all channels where no P_v passes."""
    n = site_lengths(sizes)["output"] if "value" in config.left_out else sizes.heads
    if config.transform == "flat":
        return {"output": kronecker_factors(n) if "value" in config.left_out else (n,)}
    return {"output": tuple(len(H) for H in hadamard_factors(n))} if has_hadamard(n) else {}


def small_matrices(
    config: FlatQuantConfig, site_sizes: tuple[int, ...], generator: torch.Generator | None
) -> list[nn.Module]:
    if config.transform in ("hadamard", "quarot"):
        return [FixedFactor(H) for H in hadamard_factors(math.prod(site_sizes))] if site_sizes else []
    return [factor(n, config.parametrization, generator) for n in site_sizes]


def head_matrix(config: FlatQuantConfig, head_dim: int, generator: torch.Generator | None) -> nn.Module:
    """The one matrix that acts on each head."""
    if config.transform in ("hadamard", "quarot"):
        return FixedFactor(kronecker_apply(torch.eye(head_dim, dtype=torch.float64), hadamard_factors(head_dim)))
    return factor(head_dim, config.parametrization, generator)


def has_hadamard(n: int) -> bool:
    """Whether all factors of this size have entries of one magnitude."""
    return all(torch.allclose(H.abs(), H.abs().mean()) for H in hadamard_factors(n))


class StudentBlock(nn.Module):
    """A decoder block whose linear layers are quantised behind trainable transforms; called as the original is.

    Parameters
    ----------
    block
        The original; its weights are shared and stay as they are.
    config
        Bits and transforms.
    generator
        Source of the initial matrices; None where `load_trained` will set them.

    Attributes
    ----------
    sites
        The transforms by place.
    """

    def __init__(self, block: nn.Module, config: FlatQuantConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.config = config = ProvenConfig.of(config)
        self.paths = block_paths(block, config.module_map)
        self.sizes = block_sizes(block, self.paths)
        self.original = [block]  # in a list: not a submodule
        self.block = shared_copy(block)
        self.sites = nn.ModuleDict()
        self.cache: TrainedCacheTransform | None = None
        matrices = factor_sizes(config, self.sizes)
        if config.quantises_linears:
            for site, n in site_lengths(self.sizes).items():
                factors = small_matrices(config, matrices.get(site, ()), generator)
                self.sites[site] = SiteTransform(factors, n, scale=config.scale and site in SCALED)
        if "value" in matrices:
            P_v = head_matrix(config, self.sizes.head_dim, generator)
            self.sites["value"] = SiteTransform([P_v], self.sizes.head_dim, scale=False)
        self._install_linears()
        if config.quantises_cache:
            P_h = head_matrix(config, self.sizes.head_dim, generator) if "cache" in matrices else None
            self.cache = TrainedCacheTransform(*cache_bits(config), P_h, config.clip)
            attach_cache_transform(self.block.get_submodule(self.paths.attention), self.cache)
        self.requires_grad_(False)
        for parameter in self.trained().values():
            parameter.requires_grad_()
        if generator is not None:
            self.refresh()

    def _install_linears(self) -> None:
        config, values = self.config, self._site("value")
        for part, site in SITES_OF.items():
            path = getattr(self.paths, part)
            linear = cast(nn.Linear, self.block.get_submodule(path))
            own = part in ("o", "down")
            calibrated = CalibratedLinear(
                linear,
                linear_bits(config),
                config.clip,
                self._site(site),
                transforms_input=own,
                values=values if part in ("v", "o") else None,
                is_value=part == "v",
            )
            replace(self.block, path, calibrated)
        for site, path in readers_of(self.block, config):
            given = {"values": values} if site == "value" else {"site": self._site(site)}
            replace(self.block, path, following(cast(nn.Linear, self.block.get_submodule(path)), **given))
        for site, path in (("attention", self.paths.attention), ("mlp", self.paths.mlp)):
            transform = self._site(site)
            if transform is not None:
                attach_input_transform(self.block.get_submodule(path), transform)

    def _site(self, name: str) -> SiteTransform | None:
        if name not in self.sites:
            return None
        return cast(SiteTransform, self.sites[name])

    def refresh(self) -> None:
        """Compute all matrices from the parameters, once a step."""
        for site in self.sites.values():
            cast(SiteTransform, site).refresh()
        if self.cache is not None:
            self.cache.refresh()

    def forget(self) -> None:
        """Drop the computed matrices (they hold the graph of their gradients)."""
        for site in self.sites.values():
            cast(SiteTransform, site).pairs = []
        if self.cache is not None:
            self.cache.pair = (None, None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.refresh()
        return self.block(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What a model asks of a block (its kind of attention) is the original's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "block":
                raise
            return getattr(super().__getattr__("block"), name)

    def linear(self, part: str) -> CalibratedLinear:
        return cast(CalibratedLinear, self.block.get_submodule(getattr(self.paths, part)))

    def trained(self) -> dict[str, nn.Parameter]:
        """All trainable parameters by name: matrices, scales and clipping logits."""
        found = {f"sites.{name}": p for name, p in self.sites.named_parameters()}
        for part in SITES_OF:
            found |= {f"{part}.{name}": p for name, p in self.linear(part).named_parameters(recurse=False)}
        if self.cache is not None:
            found |= {f"cache.{name}": p for name, p in self.cache.named_parameters()}
        return found

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices and scales at one learning rate, clipping logits at the other."""
        trained = self.trained()
        clips = [name for name in trained if name.endswith(CLIPPING)]
        rest = [name for name in trained if name not in clips]
        rates = ((rest, self.config.lr), (clips, self.config.clip_lr))
        groups = [{"params": [trained[name] for name in names], "lr": lr} for names, lr in rates]
        return [group for group in groups if group["params"]]

    def load_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all trainable parameters.

        Raises
        ------
        ValueError
            If names or shapes are those of another block or config.
        """
        parameters = self.trained()
        if set(tensors) != set(parameters):
            differing = ", ".join(sorted(set(tensors) ^ set(parameters))[:4])
            raise ArgumentError(f"these transforms are those of another config or model: {differing} are not in both.")
        with torch.no_grad():
            for name, p in parameters.items():
                if p.shape != tensors[name].shape:
                    raise ArgumentError(
                        f"{name} has shape {tuple(tensors[name].shape)} in the file and {tuple(p.shape)} in this model."
                    )
                p.copy_(tensors[name])
        self.refresh()


def shared_copy(block: nn.Module) -> nn.Module:
    """A copy of the modules that shares all parameters and buffers, and the model's config."""
    shared = [*block.parameters(), *block.buffers()]
    shared += configs_of(block)
    return copy.deepcopy(block, {id(part): part for part in shared})


def readers_of(block: nn.Module, config: ProvenConfig) -> Iterator[tuple[str, str]]:
    """Place and path of each further layer of this block that reads what a transform changes."""
    there = dict(block.named_modules())
    for site, paths in (config.readers or {}).items():
        for path in paths:
            if path in there and not (site == "value" and "value" in config.left_out):
                yield site, path


def following(
    linear: nn.Linear, site: SiteTransform | None = None, values: SiteTransform | None = None
) -> CalibratedLinear:
    """A layer that is not rounded, behind inputs that were transformed for others."""
    return CalibratedLinear(linear, LinearBits(16, 16), False, site, transforms_input=False, values=values)


def linear_bits(config: FlatQuantConfig) -> LinearBits:
    return LinearBits(config.w_bits, config.a_bits, config.w_symmetric, config.a_symmetric)


def cache_bits(config: FlatQuantConfig) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    bits = (config.q_bits, config.k_bits, config.v_bits)
    return bits, (config.q_symmetric, config.k_symmetric, config.v_symmetric)


# -- the quantised block -----------------------------------------------------------------------------------------------


def quantised_block(block: nn.Module, config: FlatQuantConfig) -> nn.Module:
    """A copy of a block with the structure of the quantised one; its new buffers are not set yet.

    Parameters that stay (norms) are shared with the original. Scales, matrices and clipping logits are in float32
    at least, also in a model of half precision.
    """
    paths = block_paths(block, config.module_map)
    weight = cast(nn.Linear, block.get_submodule(paths.q)).weight
    with weight.device:
        return _structure(block, paths, ProvenConfig.of(config), torch.promote_types(weight.dtype, torch.float32))


def _structure(block: nn.Module, paths: BlockPaths, config: ProvenConfig, dtype: torch.dtype) -> nn.Module:
    sizes = block_sizes(block, paths)
    new = shared_copy(block)
    matrices = factor_sizes(config, sizes)
    online = {site: _online(config, site, n, matrices, dtype) for site, n in site_lengths(sizes).items()}
    for part, site in SITES_OF.items():
        path = getattr(paths, part)
        linear = cast(nn.Linear, block.get_submodule(path))
        layer = QuantizedLinear(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            linear_bits(config),
            config.clip,
            transform=online[site] if part in ("o", "down") else None,
            group_size=config.group_size,
            dtype=linear.weight.dtype,
        )
        replace(new, path, layer)
    for site, path in (("attention", paths.attention), ("mlp", paths.mlp)):
        transform = online[site]
        if transform is not None:
            attach_input_transform(new.get_submodule(path), transform)
    if config.quantises_cache:
        cache = OnlineCacheTransform(*cache_bits(config), sizes.head_dim, "cache" in matrices, config.clip, dtype)
        attach_cache_transform(new.get_submodule(paths.attention), cache)
    return decodable(new)


def _online(
    config: ProvenConfig, site: str, n: int, matrices: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> OnlineTransform | None:
    scale = config.scale and config.quantises_linears and site in config.online_scales
    return OnlineTransform(matrices.get(site, ()), n, scale, dtype) if scale or site in matrices else None


@torch.no_grad()
def merged_block(student: StudentBlock) -> tuple[nn.Module, dict[str, Tensor]]:
    """The quantised block of a student, all but its weights, and the weights transformed in float64 (section 7).

    Scales go into the norms before the attention and the MLP and into the rows of the up projection, but for those in
    `config.online_scales`. Weights are clipped, and wait for rounding in float32 or the model's own wider format.
    """
    config, paths = student.config, student.paths
    new = quantised_block(student.original[0], config)
    wide = _in_float64(student)
    weights: dict[str, Tensor] = {}
    for part, site in SITES_OF.items():
        original = wide.linear(part).linear
        W, bias = wide.linear(part).transformed_weight()
        original.weight = nn.Parameter(W.new_empty(0), requires_grad=False)  # a block in float64 is two of float32
        layer = cast(QuantizedLinear, new.get_submodule(getattr(paths, part)))
        if part == "up" and _merges(student, "down"):
            c = cast(Tensor, wide.sites["down"].scale)
            W, bias = W * c[:, None], None if bias is None else bias * c
        weights[part] = W.to(torch.promote_types(student.linear(part).linear.weight.dtype, torch.float32))
        if layer.bias is not None:
            cast(Tensor, layer.bias).copy_(cast(Tensor, bias))
        trained = student.linear(part)
        if layer.input_max is not None:
            cast(Tensor, layer.input_max).copy_(cast(Tensor, trained.input_max))
            cast(Tensor, layer.input_min).copy_(cast(Tensor, trained.input_min))
        if layer.transform is not None:
            _fill(layer.transform, wide.sites[site])
    for _, path in readers_of(new, config):
        replace(new, path, _followed(student.block.get_submodule(path), wide.block.get_submodule(path)))
    for site, path, norm in (
        ("attention", paths.attention, paths.attention_norm),
        ("mlp", paths.mlp, paths.mlp_norm),
    ):
        module = new.get_submodule(path)
        if hasattr(module, "input_transform"):
            _fill(cast(OnlineTransform, module.input_transform), wide.sites[site])
        if _merges(student, site):
            c = cast(Tensor, wide.sites[site].scale)
            replace(new, cast(str, norm), scaled_norm(new.get_submodule(cast(str, norm)), c))
    if student.cache is not None:
        _fill_cache(cast(OnlineCacheTransform, new.get_submodule(paths.attention).cache_transform), wide.cache)
    return new, weights


def _followed(trained: nn.Module, wide: nn.Module) -> nn.Linear:
    """The plain layer that `following` made of one, in the format that it has."""
    layer = copy.copy(cast(CalibratedLinear, trained).linear)
    W = cast(CalibratedLinear, wide).transformed_weight()[0]
    layer._parameters = layer._parameters | {"weight": nn.Parameter(W.to(layer.weight.dtype), requires_grad=False)}
    return layer


def _in_float64(student: StudentBlock) -> StudentBlock:
    shared = [*student.original, student.config, *configs_of(student)]
    student.forget()
    wide = copy.deepcopy(student, {id(part): part for part in shared}).double()
    wide.refresh()
    student.refresh()
    return wide


def _merges(student: StudentBlock, site: str) -> bool:
    return site in student.sites and student.sites[site].scale is not None and site not in student.config.online_scales


def _fill(online: OnlineTransform, site: nn.Module) -> None:
    for i, pair in enumerate(cast(SiteTransform, site).pairs):
        getattr(online, f"factor_{i}").copy_(pair.P)
    if online.scale is not None:
        online.scale.copy_(cast(Tensor, site.scale))


def _fill_cache(online: OnlineCacheTransform, trained: TrainedCacheTransform | None) -> None:
    assert trained is not None
    P, P_inv_T = trained.matrices()
    if P is not None and P_inv_T is not None:
        cast(Tensor, online.key_matrix).copy_(P)
        cast(Tensor, online.query_matrix).copy_(P_inv_T)
    for name, p in trained.named_parameters(recurse=False):
        getattr(online, name).copy_(p)


def scaled_norm(norm: nn.Module, c: Tensor) -> nn.Module:
    """A norm whose output is c times that of `norm`: its gain g, or 1 + g, is multiplied.

    Raises
    ------
    TypeError
        If the output cannot be scaled through the gain.
    """
    wide = copy.deepcopy(norm).to(torch.promote_types(cast(Tensor, norm.weight).dtype, torch.float32))
    probe = torch.linspace(-2, 3, len(c), device=c.device).to(cast(Tensor, wide.weight).dtype)
    expected = wide(probe) * c.to(probe.dtype)
    for offset in (0.0, 1.0):
        if torch.allclose(_scaled(wide, c, offset)(probe), expected, rtol=1e-4, atol=1e-5):
            return _scaled(norm, c, offset)
    raise ArgumentTypeError(f"the gain of {type(norm).__name__} cannot take a scale.")


def _scaled(norm: nn.Module, c: Tensor, offset: float) -> nn.Module:
    """A copy whose gain, but for an offset, is c times as large."""
    new = copy.deepcopy(norm)
    gain, bias = cast(Tensor, new.weight), cast("Tensor | None", getattr(new, "bias", None))
    gain.data = ((gain.double() + offset) * c - offset).to(gain.dtype)
    if bias is not None:
        bias.data = (bias.double() * c).to(bias.dtype)
    return new
