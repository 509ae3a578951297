"""From x' = A x + B u to x_l = dA x_{l-1} + dB u_l, the input being held for a step dt."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from linmap.errors import ArgumentError

METHODS = ("bilinear", "zoh", "forward", "backward")


def discretize(
    A: Shaped[Tensor, "*batch N N"], B: Shaped[Tensor, "*batch N"], dt: float, method: str | float = "bilinear"
) -> tuple[Shaped[Tensor, "*batch N N"], Shaped[Tensor, "*batch N"]]:
    """dA and dB.

    Parameters
    ----------
    A, B
        Of the continuous system; A may be singular.
    dt
        Step, in the unit of time that A is in.
    method
        "zoh" (exact for inputs that are constant over a step), or the generalised bilinear transform
        dA = (I - a dt A)^-1 (I + (1 - a) dt A), dB = (I - a dt A)^-1 dt B: "forward" (a = 0), "bilinear" (1/2),
        "backward" (1), or a itself.

    Raises
    ------
    ValueError
        If dt is not positive, or there is no such method.
    """
    if not dt > 0:
        raise ArgumentError(f"dt must be a positive step, got {dt}.")
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    if method == "zoh":
        both = torch.cat([A, B.unsqueeze(-1)], -1) * dt  # exp [[A, B], [0, 0]] dt = [[dA, dB], [0, 1]]
        both = torch.cat([both, torch.zeros_like(both[..., :1, :])], -2)
        power = torch.linalg.matrix_exp(both)
        return power[..., :-1, :-1], power[..., :-1, -1]
    a = implicitness(method)
    left = identity - a * dt * A
    return torch.linalg.solve(left, identity + (1 - a) * dt * A), torch.linalg.solve(left, (dt * B).unsqueeze(-1))[
        ..., 0
    ]


def implicitness(method: str | float) -> float:
    """The a of the generalised bilinear transform."""
    named = {"forward": 0.0, "bilinear": 0.5, "backward": 1.0}
    if isinstance(method, str) and method not in named:
        raise ArgumentError(f"there is no method {method!r}; choose from {', '.join(METHODS)}, or a number in [0, 1].")
    a = named[method] if isinstance(method, str) else float(method)
    if not 0 <= a <= 1:
        raise ArgumentError(f"method = {a} must lie in [0, 1], from forward to backward Euler.")
    return a


def zoh_factor(
    A: Shaped[Tensor, "*modes"], dt: Float[Tensor, "*modes"] | Shaped[Tensor, "*modes"]
) -> Shaped[Tensor, "*modes"]:
    """(e^{dt A} - 1) / A of diagonal modes; dt itself where A is 0."""
    z = dt * A
    small = z.abs() < 1e-4
    series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4))
    safe = torch.where(small, torch.ones_like(z), z)
    return dt * torch.where(small, series, _expm1(safe) / safe)


def _expm1(z: Tensor) -> Tensor:
    """e^z - 1 without cancellation; complex: expm1(x) cos y - 2 sin^2(y / 2) + i e^x sin y."""
    if not z.is_complex():
        return torch.expm1(z)
    x, y = z.real, z.imag
    return torch.complex(torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2).square(), torch.exp(x) * torch.sin(y))
