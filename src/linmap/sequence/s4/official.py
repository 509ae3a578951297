"""Weights of the authors' layers (state-spaces/s4, version 4, and its small stand-alone S4D)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.sequence.s4.kernels import matrix_power, real_row, real_system
from linmap.sequence.s4.layers import StateSpaceLayer
from linmap.sequence.s4.low_rank import S4

NAMES = {
    "inv_dt": "raw_dt",
    "log_dt": "raw_dt",
    "A_real": "log_decay",
    "log_A_real": "log_decay",
    "A_imag": "frequency",
    "B": "B",
    "P": "P",
    "C": "C",
    "D": "D",
    "output_linear.0.weight": "output.0.weight",
    "output_linear.0.bias": "output.0.bias",
}


def load_official(layer: StateSpaceLayer, state: Mapping[str, Tensor]) -> None:
    """Load the authors' weights into an `S4D` or `S4` of the same sizes.

    Names may have a prefix such as "kernel." or "layer.kernel.". The layer's options must be those of the authors'
    layer: `dt_transform` is "softplus" in version 4 unless its configuration says otherwise, and "exp" in the
    stand-alone S4D, whose modes turn the other way (Im A > 0: C is conjugated) and whose B is one. Version 4 stores
    C (I - dA^L) of a diagonal-plus-low-rank layer that has been used, with L in `l_kernel`; the plain C is solved for.

    Raises
    ------
    ValueError
        If a name is not one of the authors', or a tensor does not fit.
    RuntimeError
        If a tensor is missing.
    """
    own, found, length = layer.state_dict(), dict[str, Tensor](), 0
    for name, tensor in state.items():
        if name.rpartition(".")[2] == "l_kernel":
            length = int(tensor)
            continue
        ending = next((e for e in sorted(NAMES, key=len, reverse=True) if name == e or name.endswith(f".{e}")), None)
        if ending is None:
            raise ArgumentError(f"{name!r} is no tensor of the authors' layers; expected names like kernel.A_real.")
        ours = NAMES[ending]
        if ours not in own or tensor.numel() != own[ours].numel():
            size = f"shape {tuple(own[ours].shape)}" if ours in own else "no such tensor"
            raise ArgumentError(f"{name} has shape {tuple(tensor.shape)}, the layer's {ours} {size}; build it alike.")
        if ending == "log_A_real":
            found["B"] = torch.stack([torch.ones_like(tensor), torch.zeros_like(tensor)], -1)
        found[ours] = tensor.reshape(own[ours].shape)
    if any(name.rpartition(".")[2] == "log_A_real" for name in state):
        found["C"] = found["C"] * torch.tensor([1.0, -1.0])
    layer.load_state_dict(found)
    if length and isinstance(layer, S4):
        _solve_for_C(layer, length)


@torch.no_grad()
def _solve_for_C(layer: S4, L: int) -> None:
    """C from C~ = C (I - dA^L), in float64."""
    A, P = layer._modes().to(torch.complex128), layer._spread(layer._complex(layer.P)).to(torch.complex128)
    B, dt = layer._spread(layer._complex(layer.B)).to(torch.complex128), layer.dt.double()
    dA, _ = real_system(A, P, P, B, dt)
    left = torch.eye(dA.shape[-1], dtype=dA.dtype, device=dA.device) - matrix_power(dA, L)
    row = real_row(torch.view_as_complex(layer.C.double()))
    row = torch.linalg.solve(left, row.unsqueeze(-2), left=False).squeeze(-2)
    real, imaginary = row.chunk(2, -1)
    layer.C.copy_(torch.stack([real, -imaginary], -1) / 2)
