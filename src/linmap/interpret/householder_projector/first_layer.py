"""The first layer of a convolutional generator: a transposed convolution of a code that is one pixel.

On a 1 x 1 input it is a linear map from c channels to c' x h x w features, so a projector followed by a reshape.
"""

from __future__ import annotations

from typing import Literal, Self

from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.interpret.householder_projector.projector import HouseholderProjector, Reflectors
from linmap.interpret.householder_projector.weights import applied_weight


class ProjectedFirstLayer(HouseholderProjector):
    """A `HouseholderProjector` in the place of a transposed convolution whose input is 1 x 1.

    It maps (batch, i, 1, 1) to (batch, channels, height, width), o = channels * height * width; each output feature
    has a bias of its own. `project_layers` makes it.

    Attributes
    ----------
    output_shape
        (channels, height, width).
    name
        Of the layer in its model, for the message that refuses a larger input.
    """

    output_shape: tuple[int, int, int]
    name: str = "the layer"

    @classmethod
    def from_convolution(
        cls,
        convolution: nn.ConvTranspose2d,
        rank: int = 10,
        *,
        gain: float | Literal["match"] = "match",
        n_reflectors: Reflectors = "rank",
        name: str = "the layer",
    ) -> Self:
        """Start at gain times the nearest partial isometry of the map from the code to the features.

        Raises
        ------
        ValueError
            If the convolution has a stride, padding, dilation or groups; otherwise as `from_weight`.
        """
        if not is_first_layer(convolution):
            raise ArgumentError(
                f"{name} must be a transposed convolution of stride 1 without padding, dilation or groups, got "
                f"{convolution}."
            )
        weight = applied_weight(convolution)
        assert weight is not None
        weight = weight.detach()
        area = weight[0, 0].numel()
        bias = None if convolution.bias is None else convolution.bias.detach().repeat_interleave(area)
        new = cls._started(weight.flatten(1).mT, rank, bias, gain, n_reflectors, dim=1)
        new.output_shape = (weight.shape[1], weight.shape[2], weight.shape[3])
        new.name = name
        return new.train(convolution.training)

    def forward(self, x: Float[Tensor, "batch i 1 1"]) -> Float[Tensor, "batch channels height width"]:
        """W x + b as an image; ValueError, by the layer's name, unless x is (batch, i, 1, 1)."""
        if x.ndim != 4 or x.shape[2:] != (1, 1):
            raise ArgumentError(
                f"{self.name} was a transposed convolution and is now a projector of a 1 x 1 input: x must have shape "
                f"(batch, {self.in_features}, 1, 1), got {tuple(x.shape)}."
            )
        return super().forward(x).reshape(x.shape[0], *self.output_shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, output_shape={self.output_shape}"


def is_first_layer(module: nn.Module) -> bool:
    """Whether a transposed convolution maps a 1 x 1 input to its kernel's size."""
    return (
        isinstance(module, nn.ConvTranspose2d)
        and set(module.stride) | set(module.dilation) == {1}
        and not any((*module.padding, *module.output_padding))
        and module.groups == 1
    )
