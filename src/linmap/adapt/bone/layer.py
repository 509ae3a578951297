"""Bone's adapters, and the layers that carry them."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.adapt.bone.product import bat_forward, bat_row_around, bat_row_forward
from linmap.adapt.bone.transform import Mode, block_shape, bone_weight
from linmap.adapt.layer import Adapter, AdapterLayer, AdditiveAdapter, Layer
from linmap.adapt.weights import sizes
from linmap.errors import ArgumentError
from linmap.maps import BlockAffine
from linmap.maps.block_affine import fold

WORST_CONDITION = 1e6  # of I + D_g, beyond which W' does not tell W any more


class BoneAdapter(Adapter):
    """The trainable D of one weight.

    Attributes
    ----------
    r, mode, mini_r
        As in `BoneConfig`.
    D
        (na, r, r) in mode "bat", (nb, r, r) in "bat-row", (r, out) in "add", (r, mini_r) in "mini".
    """

    mode: Mode
    D: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.D.dtype

    @property
    def r(self) -> int:
        return self.D.shape[-1] if self.D.ndim == 3 else self.D.shape[0]

    def weight(self, W: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
        return bone_weight(W, self.D, self.mode)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, r={self.r}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, parameter in self.named_parameters():
            found = state_dict.get(prefix + name)
            if found is not None and found.shape != parameter.shape:
                raise ArgumentError(
                    f"{prefix}{name}: mode {self.mode!r} with r={self.r} expects D of shape {tuple(parameter.shape)} "
                    f"here, and the saved one has {tuple(found.shape)}; {_likely(found.shape)}"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


class BatAdapter(BoneAdapter):
    """Modes "bat" and "bat-row": W'_ab = W_ab (I + D_g) + D_g, with g the block row or the block column."""

    def __init__(self, n_out: int, n_in: int, r: int, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        self.reads_weight = mode == "bat"
        self.D = nn.Parameter(torch.zeros(block_shape(n_out, n_in, r, mode)))

    def unmerged(self, W: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
        """W_ab = (W'_ab - D_g) (I + D_g)^-1."""
        r, D = self.r, self.D.to(torch.promote_types(W.dtype, self.D.dtype))
        factor = torch.eye(r, dtype=D.dtype, device=D.device) + D
        condition = torch.linalg.cond(factor.double())
        worst = int(condition.argmax())
        if not condition[worst] <= WORST_CONDITION:
            raise ArgumentError(
                f"the block I + D[{worst}] has the condition number {float(condition[worst]):.1e}, and beyond "
                f"{WORST_CONDITION:.0e} the weight of before cannot be computed; merge with keep_base=True."
            )
        blocks = W.unflatten(0, (-1, r)).unflatten(2, (-1, r)).transpose(1, 2)  # W'_ab: (na, nb, r, r)
        if self.mode == "bat":
            D, factor = D.unsqueeze(1), factor.unsqueeze(1)
        W_ab = torch.linalg.solve(factor, blocks - D, left=False)
        return W_ab.transpose(1, 2).reshape(W.shape).to(W.dtype)

    def needs_weight(self, x: Tensor) -> bool:
        return self.reads_weight

    def linear(self, x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
        product = bat_forward if self.mode == "bat" else bat_row_forward
        return product(x, W, bias, self.D)

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        return bat_row_around(x, layer, self.D)


class AddAdapter(BoneAdapter, AdditiveAdapter):
    """Modes "add" and "mini": W' = W + the matrix that repeats D.

    Dropout acts on the input of the adapter; before an active adapter that reads W' ("bat") there is no such input.
    """

    def __init__(self, n_out: int, n_in: int, r: int, mode: Mode, mini_r: int, dropout: float) -> None:
        super().__init__()
        self.mode = mode
        self.map = BlockAffine(n_in, n_out, *block_shape(n_out, n_in, r, mode, mini_r))
        self.dropout = dropout

    @property
    def D(self) -> Tensor:
        return self.map.D

    @property
    def mini_r(self) -> int:
        return self.D.shape[1]

    def delta_weight(self) -> Float[Tensor, "n_out n_in"]:
        return self.map.matrix()

    def delta(self, x: Tensor) -> Tensor:
        return self.map.forward(self.dropped(x))  # its __call__ would check the width of x again

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        """y + fold(x) D in one operation where nothing is to be cast or repeated."""
        y, D = layer(x), self.D
        if not (x.dtype is y.dtype is D.dtype and D.shape[1] == y.shape[-1]):
            return (y + self.delta(x.to(D.dtype))).to(y.dtype)
        s = fold(self.dropped(x), D.shape[0])
        if y.ndim == 2:
            return torch.addmm(y, s, D)
        return torch.addmm(y.reshape(-1, y.shape[-1]), s.reshape(-1, s.shape[-1]), D).view(y.shape)

    def dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def rows(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch n_out"]:
        """`delta` of one-hot vectors: row i mod r of D for token i."""
        kept = self.dropped(torch.ones_like(tokens, dtype=self.dtype))
        return kept.unsqueeze(-1) * F.embedding(tokens % self.r, self.D)


class BoneLayer(AdapterLayer):
    """A layer whose weight Bone changes; parameters as of `make_adapter`."""

    adapters_name = "linmap_bone_adapters"

    def make_adapter(
        self, r: int = 64, mode: Mode = "bat", mini_r: int = 1, dropout: float = 0.0, init_weights: bool = True
    ) -> BoneAdapter:
        """A new D, as `BoneConfig` describes it."""
        n_out, n_in = sizes(self.get_base_layer())
        if mode in ("add", "mini"):
            adapter = AddAdapter(n_out, n_in, r, mode, mini_r, dropout)
        else:
            adapter = BatAdapter(n_out, n_in, r, mode)
        if not init_weights:
            nn.init.kaiming_uniform_(adapter.D, a=math.sqrt(5))
        return adapter


class BoneLinear(BoneLayer):
    """An `nn.Linear`, or GPT-2's `Conv1D`, with Bone on its weight."""


class BoneConv2d(BoneLayer):
    """An `nn.Conv2d` with Bone on its weight as a matrix (out_channels, in_channels * height * width of the kernel)."""


class BoneEmbedding(BoneLayer):
    """An `nn.Embedding` with Bone on it, mode "add": token i gets row i mod r of D added."""

    def make_adapter(self, r: int = 64, mode: Mode = "add", **options: Any) -> BoneAdapter:
        if mode != "add":
            raise ArgumentError(f"an Embedding can be adapted in mode 'add' only, got {mode!r}.")
        return super().make_adapter(r, mode, **options)

    def adapted(self, x: Tensor, active: list[Adapter]) -> Tensor:
        if type(self.base_layer).forward is not nn.Embedding.forward:  # scaled ones
            return super().adapted(x, active)
        y = self.base_layer(x)
        for adapter in cast("list[AddAdapter]", active):
            y = (y + adapter.rows(x)).to(y.dtype)
        return y


def _likely(shape: torch.Size) -> str:
    """Which adapters have a D of this shape."""
    if len(shape) == 3 and shape[1] == shape[2]:
        r = shape[-1]
        return (
            f"that is mode 'bat' of {shape[0] * r} output features or 'bat-row' of {shape[0] * r} inputs, with r={r}."
        )
    if len(shape) == 2:
        return f"that is mode 'add' with r={shape[0]} and {shape[1]} output features, or 'mini' with mini_r={shape[1]}."
    return "no mode of Bone has such a D."
