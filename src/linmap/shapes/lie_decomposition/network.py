"""`LieResNet`: the reference network, whose logits are invariant to the group as far as its samples reach."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from linmap.errors import ArgumentError, ArgumentTypeError, check_count
from linmap.geometry.groups import GroupSamples, HaarSampler, PolarGroup, Sampler
from linmap.shapes.lie_decomposition.checks import at_least_float32, check_group, check_image
from linmap.shapes.lie_decomposition.convolutions import LieConv2d, MeasureSide
from linmap.shapes.lie_decomposition.coordinates import Angle, Mask
from linmap.shapes.lie_decomposition.draws import Draws, FixedSamples
from linmap.shapes.lie_decomposition.lifting import LieLift2d
from linmap.shapes.lie_decomposition.pooling import LieGlobalPool, LiePool2d
from linmap.training import Dropout

SAMPLES = ("first.", "second.")
MOST_DRAWN = 2**10
"""Samples of a layer, and draws of a prediction: no weight has their number, which a stranger's run may say."""


class LieResNet(nn.Module):
    """A lifting, a residual block of two group convolutions, a third one, the global maximum, and a head.

    Each forward pass draws two sets of samples: that of the lifting and the block, and the output set of the last
    convolution. Layers are followed by a layer norm over channels, samples and pixels without weights, and GELU.

    Parameters
    ----------
    group
        SO2(), SLn(2) or GLnPlus(2).
    in_channels
        Channels of the images.
    num_classes
        Number of outputs.
    num_samples
        Group samples of each layer, at most 1024. No weight depends on it.
    channels
        Channels of each layer.
    kernel_size
        Of each layer; odd, for the block to keep the size of its features.
    hidden, w0
        Width and frequency of the kernel networks.
    head
        Width of the head.
    dropout
        Share of the head's features that training drops.
    sampler
        What draws the samples; None: `HaarSampler(group)`.
    mask, angle, measure_side, normalize_samples, separable
        As of `LieConv2d`.
    early_pool
        Halve the features after the lifting, before the block, not after it: a quarter of the block's work.
    deterministic
        Draw both sets once, now, and keep them in the state.
    eval_draws
        In evaluation mode, the logits are the mean over so many draws, at most 1024.
    generator
        Source of the weights, and of all samples that are drawn without another; None: PyTorch's global one.

    Raises
    ------
    ValueError
        If an argument is out of its range; the message names it.
    TypeError
        If the group is no `PolarGroup`, a size no integer, dropout no number, or sampler no sampler.

    References
    ----------
    Mironenco and Forré, "Lie Group Decompositions for Equivariant Neural Networks", ICLR 2024.
    """

    def __init__(
        self,
        group: PolarGroup,
        in_channels: int = 1,
        num_classes: int = 10,
        *,
        num_samples: int = 10,
        channels: int = 40,
        kernel_size: int = 5,
        hidden: int = 60,
        head: int = 256,
        dropout: float = 0.3,
        sampler: Sampler | None = None,
        mask: Mask = "auto",
        angle: Angle = "cos_sin",
        measure_side: MeasureSide = "input",
        normalize_samples: bool = False,
        separable: bool = False,
        w0: float = 10.0,
        early_pool: bool = False,
        deterministic: bool = False,
        eval_draws: int = 1,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.group = check_group(group)
        self.num_samples, self.eval_draws = (
            check_count("num_samples", num_samples),
            check_count("eval_draws", eval_draws),
        )
        if max(self.num_samples, self.eval_draws) > MOST_DRAWN:
            raise ArgumentError(
                f"num_samples={num_samples} and eval_draws={eval_draws} must be at most {MOST_DRAWN}; each takes "
                "memory and time."
            )
        if isinstance(dropout, bool) or not isinstance(dropout, Real):
            raise ArgumentTypeError(f"dropout must be a number in [0, 1), got {dropout!r}.")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout must lie in [0, 1), got {dropout}.")
        if check_count("kernel_size", kernel_size) % 2 == 0:
            raise ArgumentError(f"kernel_size must be odd, for the block adds its input, got {kernel_size}.")
        if deterministic and eval_draws > 1:
            raise ArgumentError(
                f"eval_draws={eval_draws} needs deterministic=False: fixed samples are not drawn again."
            )
        if sampler is not None and not callable(getattr(sampler, "sample", None)):
            raise ArgumentTypeError(f"sampler must be a sampler such as HaarSampler(group), got {sampler!r}.")
        self.sampler = HaarSampler(group) if sampler is None else sampler
        shared: dict[str, Any] = {"mask": mask, "hidden": hidden, "w0": w0, "generator": generator}
        self.lift = LieLift2d(group, in_channels, channels, kernel_size, **shared)
        shared |= {"angle": angle, "measure_side": measure_side, "separable": separable}
        shared |= {"normalize_samples": normalize_samples}
        padded: dict[str, Any] = shared | {"padding": kernel_size // 2}
        self.conv1 = LieConv2d(group, channels, channels, kernel_size, **padded)
        self.conv2 = LieConv2d(group, channels, channels, kernel_size, **padded)
        self.conv3 = LieConv2d(group, channels, channels, kernel_size, **shared)
        self.pool, self.global_pool = LiePool2d(2), LieGlobalPool()
        self.head = _head(channels, head, num_classes, dropout, generator)
        self.draws = Draws(generator)
        self.deterministic, self.early_pool = bool(deterministic), bool(early_pool)
        if deterministic:
            source = generator or self.draws.next(training=True)
            self.first = FixedSamples(self.sampler, num_samples, source)
            self.second = FixedSamples(self.sampler, num_samples, source)

    def forward(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        samples: GroupSamples | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch num_classes"]:
        """Logits.

        Parameters
        ----------
        x
            Images.
        samples
            The input and output set of every layer; None: new ones, or the fixed ones of a deterministic network.
        generator
            What new samples are drawn from, instead of the network's own stream.

        Raises
        ------
        ValueError
            If x has another rank or number of channels, or is too small for the kernels.
        TypeError
            If x is not of floating point.
        """
        self._check(x)
        if samples is not None:
            return self._logits(x, samples, samples)
        many = 1 if self.training else self.eval_draws
        logits = [self._logits(x, *self._sets(x, generator)) for _ in range(many)]
        return logits[0] if many == 1 else torch.stack(logits).mean(0)

    def features(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        samples: GroupSamples | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch channels"]:
        """What the head takes, of one draw: the maxima over samples and pixels. Arguments as of `forward`."""
        self._check(x)
        first, second = (samples, samples) if samples is not None else self._sets(x, generator)
        return self._features(x, first, second).to(x.dtype)

    def _logits(self, x: Tensor, first: GroupSamples, second: GroupSamples) -> Tensor:
        """In the type of x; the head works in that of its weights."""
        weights = cast(nn.Linear, self.head[0]).weight
        return self.head(self._features(x, first, second).to(weights.dtype)).to(x.dtype)

    def _sets(self, x: Tensor, generator: Generator | None) -> tuple[GroupSamples, GroupSamples]:
        """The samples of the lifting and the block, and those of the last convolution."""
        like = at_least_float32(x)
        if self.deterministic:
            return self.first(like), self.second(like)
        generator = self.draws.next(self.training) if generator is None else generator
        first, second = (self.sampler.sample(self.num_samples, generator=generator, dtype=like.dtype) for _ in range(2))
        return first.to(device=x.device), second.to(device=x.device)

    def _features(self, x: Tensor, first: GroupSamples, second: GroupSamples) -> Tensor:
        """In at least float32."""
        y = self.lift(at_least_float32(x), first)
        if self.conv1.separable:
            y = y.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, y.shape[1:3])
        y = _normed(y)
        y = self.pool(y) if self.early_pool else y
        z = _normed(self.conv1(y, first, first))
        z = _normed(self.conv2(z, first, first))
        y = F.gelu(z + y)
        y = F.gelu(_norm(y) if self.early_pool else self.pool(_norm(y)))
        y = _normed(self.conv3(y, first, second))
        return self.global_pool(y)

    def _check(self, x: Tensor) -> None:
        check_image(x, self.lift.in_channels, self.lift.kernel_size, 0)
        k = self.lift.kernel_size
        if (min(x.shape[-2:]) - k + 1) // 2 < k:
            raise ArgumentError(
                f"x has images of {x.shape[-2]} x {x.shape[-1]}; with kernel_size={k} they must be at least "
                f"{3 * k - 1} x {3 * k - 1}."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if not self.deterministic:  # the samples of a network that has fixed ones are no weights
            for name in [name for name in state_dict if name.startswith(tuple(prefix + part for part in SAMPLES))]:
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _norm(y: Tensor) -> Tensor:
    """Layer norm over channels, samples and pixels, in the order in which they lie in memory."""
    last = y.permute(0, 3, 4, 1, 2)
    if last.is_contiguous():
        return F.layer_norm(last, last.shape[1:]).permute(0, 3, 4, 1, 2)
    return F.layer_norm(y, y.shape[1:])


def _normed(y: Tensor) -> Tensor:
    return F.gelu(_norm(y))


def _head(channels: int, width: int, num_classes: int, dropout: float, generator: Generator | None) -> nn.Sequential:
    """PyTorch's initial values of linear layers, from a generator."""
    check_count("head", width)
    check_count("num_classes", num_classes)
    first: Any = nn.utils.skip_init(nn.Linear, channels, width, bias=False)
    last: Any = nn.utils.skip_init(nn.Linear, width, num_classes)
    with torch.no_grad():
        for tensor, inputs in _tensors([first, last]):
            tensor.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return nn.Sequential(first, nn.LayerNorm(width), nn.GELU(), Dropout(dropout), last)


def _tensors(layers: Sequence[nn.Linear]) -> list[tuple[Tensor, int]]:
    return [(tensor, layer.in_features) for layer in layers for tensor in layer.parameters()]
