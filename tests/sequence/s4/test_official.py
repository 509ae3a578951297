"""The authors' weights: their definitions written out are the second implementation."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linmap.sequence.s4 import S4, S4D, load_official


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def after(y: Tensor, state: dict[str, Tensor]) -> Tensor:
    """GELU, linear map, gate, of y (B, H, L)."""
    weight = state["output_linear.0.weight"].flatten(1)
    return F.glu(F.linear(F.gelu(y).mT, weight, state["output_linear.0.bias"]), -1)


def convolved(u: Tensor, K: Tensor, D: Tensor) -> Tensor:
    L = u.shape[1]
    y = torch.stack([torch.stack([K[:, j] * u[:, i - j] for j in range(i + 1)]).sum(0) for i in range(L)], -1)
    return y + D.unsqueeze(-1) * u.mT


def test_the_stand_alone_s4d() -> None:
    H, n, L = 3, 4, 9
    state = {
        "kernel.log_dt": -2 + draw(H),
        "kernel.log_A_real": draw(H, n, seed=1),
        "kernel.A_imag": draw(H, n, seed=2).abs(),
        "kernel.C": draw(H, n, 2, seed=3),
        "D": draw(H, seed=4),
        "output_linear.0.weight": draw(2 * H, H, 1, seed=5),
        "output_linear.0.bias": draw(2 * H, seed=6),
    }
    A = torch.complex(-state["kernel.log_A_real"].exp(), state["kernel.A_imag"])
    z = A * state["kernel.log_dt"].exp().unsqueeze(-1)
    C = torch.view_as_complex(state["kernel.C"]) * (z.exp() - 1) / A
    K = 2 * (C.unsqueeze(-1) * torch.exp(z.unsqueeze(-1) * torch.arange(L))).sum(1).real
    layer, u = S4D(H, 2 * n).double(), draw(2, L, H, seed=7)
    load_official(layer, state)
    torch.testing.assert_close(layer(u), after(convolved(u, K, state["D"]), state), rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [0, 9])
def test_diagonal_plus_low_rank_of_version_4(length: int) -> None:
    H, n, L = 3, 4, 9
    state = {
        "layer.D": draw(1, H),
        "layer.kernel.inv_dt": -3 + draw(H, 1, seed=1),
        "layer.kernel.A_real": draw(1, n, seed=2),
        "layer.kernel.A_imag": draw(1, n, seed=3).abs(),
        "layer.kernel.B": draw(1, 1, n, 2, seed=4),
        "layer.kernel.P": draw(1, 1, n, 2, seed=5),
        "layer.kernel.C": draw(1, H, n, 2, seed=6),
        "output_linear.0.weight": draw(2 * H, H, seed=7),
        "output_linear.0.bias": draw(2 * H, seed=8),
    }
    diagonal = torch.complex(-state["layer.kernel.A_real"][0].exp(), -state["layer.kernel.A_imag"][0])
    P, B, C = (torch.view_as_complex(state[f"layer.kernel.{x}"])[0] for x in "PBC")
    both = torch.cat([P[0], P[0].conj()]).unsqueeze(-1)
    A = torch.diag(torch.cat([diagonal, diagonal.conj()])) - both @ both.mH
    stored, K = state["layer.kernel.C"].clone(), []
    for h, dt in enumerate(F.softplus(state["layer.kernel.inv_dt"][:, 0])):
        eye = torch.eye(2 * n, dtype=torch.complex128)
        dA = torch.linalg.solve(eye - dt / 2 * A, eye + dt / 2 * A)
        x = torch.linalg.solve(eye - dt / 2 * A, dt * torch.cat([B[0], B[0].conj()]))
        row = torch.cat([C[h], C[h].conj()])
        stored[0, h] = torch.view_as_real((row @ (eye - torch.linalg.matrix_power(dA, L)))[:n])
        K.append(torch.stack([(row @ torch.linalg.matrix_power(dA, l) @ x).real for l in range(L)]))
    if length:
        state |= {"layer.kernel.C": stored, "layer.kernel.l_kernel": torch.tensor(length)}
    layer, u = S4(H, 2 * n, n_ssm=1, dt_transform="softplus").double(), draw(2, L, H, seed=9)
    load_official(layer, state)
    expected = after(convolved(u, torch.stack(K), state["layer.D"][0]), state)
    torch.testing.assert_close(layer(u), expected, rtol=0, atol=1e-9)


def test_other_names_and_sizes_are_told() -> None:
    with pytest.raises(ValueError, match=r"'kernel.what' is no tensor of the authors' layers"):
        load_official(S4D(2, 4), {"kernel.what": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"kernel.C has shape \(3, 2, 2\), the layer's C shape \(1, 2, 2, 2\)"):
        load_official(S4D(2, 4), {"kernel.C": torch.zeros(3, 2, 2)})
    with pytest.raises(RuntimeError, match="Missing key"):
        load_official(S4D(2, 4), {"D": torch.zeros(2)})
