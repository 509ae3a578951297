"""What the paper reads off the map: filters, copies, templates and where the biases come from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linmap.errors import ArgumentError, OutOfRangeError
from linmap.interpret.linearscope.interpreter import AffineInterpreter
from linmap.interpret.linearscope.receptive import projective_field
from linmap.maps.implicit import MAX_ELEMENTS

# -- filters -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gabor:
    """The Gabor function that fits a filter best: amplitude * exp(-r^2 / 2 sigma^2) * cos(2 pi f u + phase)."""

    frequency: float
    """Cycles per input pixel."""
    orientation: float
    """Direction of the wave in degrees, [0, 180); 0 points along the columns axis (to the right)."""
    sigma: float
    """Width of the envelope in input pixels."""
    r2: float
    """Share of the filter's energy that the fit explains."""


@dataclass(frozen=True)
class FilterBank:
    """The rows of F at the scale^2 outputs of one input pixel, as images of the input's shape."""

    filters: Float[Tensor, "phases channels height width"]
    spectra: Float[Tensor, "phases channels height width"]
    """Magnitude of the 2-D Fourier transform, zero frequency in the middle."""
    gains: Float[Tensor, " phases"]
    """Sum of each filter: its response to a constant image."""
    centres: Float[Tensor, "phases 2"]
    """Centre of energy (row, column) in input pixels."""
    gabors: list[Gabor]
    """Of the filters summed over channels."""


@torch.no_grad()
def filter_bank(interp: AffineInterpreter, pixel: tuple[int, int], scale: int = 1, channel: int = 0) -> FilterBank:
    """The filters with which a network that enlarges by `scale` writes the outputs of input pixel (row, column).

    Raises
    ------
    ValueError
        If input and output are not images of which the second is `scale` times the first.
    """
    channels, height, width = _image_shape(interp.input, "input")
    outputs = _image_shape(interp.output, "output")
    if outputs[1:] != (scale * height, scale * width):
        raise ArgumentError(
            f"scale={scale} does not lead from {height} x {width} to {outputs[1]} x {outputs[2]} pixels."
        )
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise OutOfRangeError(f"pixel {pixel} lies outside the input of {height} x {width} pixels.")
    places = [
        interp.output_index((channel, scale * pixel[0] + dy, scale * pixel[1] + dx))
        for dy in range(scale)
        for dx in range(scale)
    ]
    filters = interp.rows(places).reshape(-1, channels, height, width)
    spectra = torch.fft.fftshift(torch.fft.fft2(filters).abs(), (-2, -1))
    energy = filters.square().sum(1)
    weight = energy / energy.sum((1, 2), keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)
    rows, columns = torch.arange(height).to(weight), torch.arange(width).to(weight)
    centres = torch.stack([(weight.sum(2) * rows).sum(1), (weight.sum(1) * columns).sum(1)], 1)
    gabors = [fit_gabor(image) for image in filters.sum(1)]
    return FilterBank(filters, spectra, filters.sum((1, 2, 3)), centres, gabors)


def fit_gabor(image: Float[Tensor, "height width"]) -> Gabor:
    """Least squares from the strongest frequency and the strongest pixel of a filter."""
    from scipy.optimize import least_squares

    values = image.detach().double().cpu().numpy()
    peak = max(np.abs(values).max(), np.finfo(float).tiny)
    values = values / peak
    row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
    spectrum = np.abs(np.fft.fft2(values))
    strongest = np.unravel_index(spectrum.argmax(), spectrum.shape)
    fy, fx = (np.fft.fftfreq(n)[i] for n, i in zip(values.shape, strongest, strict=True))
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]

    def gabor(p: np.ndarray) -> np.ndarray:
        amplitude, y, x, log_sigma, fy, fx, phase = p
        envelope = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * np.exp(2 * log_sigma)))
        return amplitude * envelope * np.cos(2 * math.pi * (fy * (rows - y) + fx * (columns - x)) + phase)

    start = np.array([values[row, column], row, column, math.log(1.5), fy, fx, 0.0])
    widest = math.log(max(values.shape))
    low = np.array([-np.inf, row - 1, column - 1, math.log(0.2), -0.5, -0.5, -np.inf])  # 0.5: the Nyquist frequency
    high = np.array([np.inf, row + 1, column + 1, widest, 0.5, 0.5, np.inf])
    inside = np.clip(start, low + 1e-9, high - 1e-9)
    found = least_squares(lambda p: (gabor(p) - values).ravel(), inside, bounds=(low, high), max_nfev=200).x
    unexplained = ((gabor(found) - values) ** 2).sum() / (values**2).sum().clip(np.finfo(float).tiny)
    return Gabor(
        frequency=float(np.hypot(found[4], found[5])),
        orientation=float(np.degrees(np.arctan2(found[4], found[5])) % 180),
        sigma=float(np.exp(found[3])),
        r2=float(1 - unexplained),
    )


# -- copies and templates ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopyMap:
    """For every output pixel: where it looks, and whether it copies from there."""

    offset: Int[Tensor, "2 height width"]
    """Row and column of the largest weight's input pixel, less the output pixel's own place in the input."""
    share: Float[Tensor, "height width"]
    """Share of the row's energy within `radius` of that pixel."""
    copied: Bool[Tensor, "height width"]
    """share > 0.5."""


@torch.no_grad()
def copy_map(interp: AffineInterpreter, radius: int = 2, batch_size: int = 16) -> CopyMap:
    """Where an image-to-image network copies from; the energy of a pixel counts all its channels, in and out."""
    channels, height, width = _image_shape(interp.input, "input")
    out_channels, out_height, out_width = _image_shape(interp.output, "output")
    pixels = out_height * out_width
    per_group = max(1, batch_size // out_channels)
    rows, columns = torch.arange(height, device=interp.device), torch.arange(width, device=interp.device)
    places, shares = [], []
    for group in torch.arange(pixels).split(per_group):
        outputs = (group[:, None] + pixels * torch.arange(out_channels)).flatten()
        weights = interp.rows(outputs, batch_size).reshape(len(group), out_channels * channels, height, width)
        energy = weights.square().sum(1)
        best = energy.flatten(1).argmax(1)
        at = torch.stack([best // width, best % width], 1)
        near = ((rows - at[:, :1]).abs() <= radius)[:, :, None] & ((columns - at[:, 1:]).abs() <= radius)[:, None]
        total = energy.sum((1, 2)).clamp_min(torch.finfo(energy.dtype).tiny)
        places.append(at.cpu())
        shares.append(((energy * near).sum((1, 2)) / total).cpu())
    index = torch.arange(pixels)
    own = torch.stack([index // out_width * height // out_height, index % out_width * width // out_width], 1)
    offset = (torch.cat(places) - own).T.reshape(2, out_height, out_width)
    share = torch.cat(shares).reshape(out_height, out_width)
    return CopyMap(offset, share, share > 0.5)


def template_share(interp: AffineInterpreter, region: Bool[Tensor, "*outputs"] | None = None) -> float:
    """norm(residual) / norm(y) over a region of the output: near 1 where the network paints from memory."""
    y, r = interp.output.reshape(-1), interp.residual.reshape(-1)
    if region is not None:
        if region.numel() != y.numel() or not bool(region.any()):
            raise ArgumentError(f"region must mark some of the {y.numel()} outputs, got shape {tuple(region.shape)}.")
        y, r = y[region.reshape(-1)], r[region.reshape(-1)]
    return float(r.norm() / y.norm())


# -- where the residual comes from ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class BiasContribution:
    """What one operation's offset adds to one output."""

    module: str
    operation: str
    contribution: float


def bias_split(interp: AffineInterpreter, output: int | tuple[int, ...]) -> list[BiasContribution]:
    """residual[output] as a sum over the operations that add a constant, in the order of the forward.

    On a ReLU network the terms are bias * gradient, FullGrad's completeness; the frozen offsets of other units have
    terms of their own, and an origin other than zero adds the term of module "origin".
    """
    i, tape = interp.output_index(output), interp.tape()
    steps = [step for step in tape.steps if step.offset is not None]
    kept: dict[int, list[Tensor]] = {step.output: [] for step in steps}
    with torch.inference_mode(False), torch.enable_grad():
        start = torch.zeros_like(interp.input).requires_grad_()
        y = tape.replay(start, affine=False, keep=kept).reshape(-1)[i]
        points = [values[0] for values in kept.values()]
        gradients = torch.autograd.grad(y, [*points, start])
    terms = [
        BiasContribution(step.place.module, step.place.name, step.added(gradient))
        for step, gradient in zip(steps, gradients[:-1], strict=True)
    ]
    if bool(interp.origin.any()):
        terms.append(BiasContribution("origin", "", float((gradients[-1] * interp.origin).sum())))
    return terms


# -- many columns at once ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comb:
    """All of F from few probes."""

    matrix: Float[Tensor, "out_features in_features"]
    period: tuple[int, int]
    """Distance between the impulses of one probe, in rows and columns."""
    probes: int


@torch.no_grad()
def comb(interp: AffineInterpreter, batch_size: int = 16, max_elements: float = MAX_ELEMENTS) -> Comb:
    """F by the comb trick: one probe carries impulses so far apart that their columns cannot overlap.

    The distance is proved from the reach of every pixel through the recorded operations.

    Raises
    ------
    ReceptiveFieldError
        If the network has an operation whose reach is not traced.
    ValueError
        If F is larger than `max_elements`.
    """
    channels, height, width = _image_shape(interp.input, "input")
    out_channels, out_height, out_width = _image_shape(interp.output, "output")
    if interp.in_features * interp.out_features > max_elements:
        raise ArgumentError(
            f"F has {interp.in_features * interp.out_features:,} entries, more than max_elements; use columns."
        )
    rows, columns = projective_field(interp.tape(), tuple(interp.input.shape))
    period = rows.period(), columns.period()
    F = torch.zeros(
        out_channels, out_height, out_width, channels, height, width, dtype=interp.dtype, device=interp.device
    )
    combs = [(c, a, b) for c in range(channels) for a in range(period[0]) for b in range(period[1])]
    for first in range(0, len(combs), batch_size):
        group = combs[first : first + batch_size]
        probes = torch.zeros(len(group), channels, height, width, dtype=interp.dtype, device=interp.device)
        for probe, (c, a, b) in zip(probes, group, strict=True):
            probe[c, a :: period[0], b :: period[1]] = 1
        images = interp.matvec(probes.flatten(1)).reshape(-1, out_channels, out_height, out_width)
        for image, (c, a, b) in zip(images, group, strict=True):
            for i in range(a, height, period[0]):
                for j in range(b, width, period[1]):
                    part = (slice(None), slice(rows.lo[i], rows.hi[i] + 1), slice(columns.lo[j], columns.hi[j] + 1))
                    if rows.lo[i] <= rows.hi[i] and columns.lo[j] <= columns.hi[j]:
                        F[(*part, c, i, j)] = image[part]
    return Comb(F.reshape(interp.out_features, interp.in_features), period, len(combs))


def _image_shape(tensor: Tensor, side: str) -> tuple[int, int, int]:
    if tensor.ndim != 4:
        raise ArgumentError(f"the {side} must be an image (1, channels, height, width), got {tuple(tensor.shape)}.")
    channels, height, width = tensor.shape[1:]
    return channels, height, width
