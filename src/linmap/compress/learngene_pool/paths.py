"""What a configuration runs: the embedding and blocks of the front, stitches, further blocks, norm and head."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.learngene_pool.cost import Cost, block_macs, linear_weights
from linmap.compress.learngene_pool.stitches import StitchLayer


class Route(NamedTuple):
    """The parts of a configuration, in the order in which they run."""

    members: tuple[Any, ...]
    parts: tuple[list[nn.Module], ...]
    """The blocks of each member that run."""
    stitches: tuple[StitchLayer, ...]

    @property
    def front(self) -> Any:
        """The member that embeds."""
        return self.members[0]

    @property
    def back(self) -> Any:
        """The member of norm and head."""
        return self.members[-1]

    def after_embedding(self, x: Tensor, block: int = 0) -> Float[Tensor, "batch classes"]:
        """Logits from the tokens before a block of the first part; from the embedding, before block 0."""
        for number, part in enumerate(self.parts):
            if number:
                x = self.stitches[number - 1](x)
            for layer in part[0 if number else block :]:
                x = layer(x)
        return self.back.head(self.back.norm(x)[:, 0])

    def embedding_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the front that are neither in a block nor in norm and head."""
        others = {id(p) for part in (self.front.blocks, self.front.norm, self.front.head) for p in part.parameters()}
        return (p for p in self.front.parameters() if id(p) not in others)

    def modules(self) -> list[nn.Module]:
        """All that runs after the embedding."""
        blocks = [block for part in self.parts for block in part]
        return [*blocks, *self.stitches, self.back.norm, self.back.head]

    def parameters(self) -> list[nn.Parameter]:
        """Each parameter that the configuration uses, once."""
        found = {id(p): p for p in self.embedding_parameters()}
        found |= {id(p): p for module in self.modules() for p in module.parameters()}
        return list(found.values())

    def cost(self) -> Cost:
        """Counted from the modules; for vision transformers it is `descendant_cost`."""
        N, p = self.front.n_tokens, self.front.patch_features
        macs = (N - 1) * p * self.front.embed_dim + linear_weights(self.back.head)
        for member, part in zip(self.members, self.parts, strict=True):
            macs += sum(block_macs(block, N, member.embed_dim) for block in part)
        macs += sum(N * stitch.weight.numel() for stitch in self.stitches)
        return Cost(sum(p.numel() for p in self.parameters()), macs)


def without(module: nn.Module, left_out: set[int]) -> nn.Module:
    """A module like this one, with the same parameters, that lacks the submodules whose `id` is left out."""
    clone = copy.copy(module)
    clone.__dict__ = dict(vars(module))
    clone._parameters, clone._buffers = dict(module._parameters), dict(module._buffers)
    clone._modules = {
        name: None if child is None else without(child, left_out)
        for name, child in module._modules.items()
        if id(child) not in left_out
    }
    return clone


def embedding_of(member: Any) -> nn.Module:
    """The member without blocks, norm and head: what its `embed` needs."""
    return without(member, {id(part) for part in (member.blocks, member.norm, member.head)})
