"""Run the Triton kernels on inputs from a file: `python run_triton.py DEVICE INPUTS OUTPUTS`.

A process of its own, since Triton decides when it is imported whether it interprets (`TRITON_INTERPRET=1`).
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file, save_file

from linmap.compress.flatquant import triton_kernel

DEVICE, INPUTS, OUTPUTS = sys.argv[1:]

tensors = load_file(INPUTS, device=DEVICE)
results = {}
for name in sorted({key.rpartition("/")[0] for key in tensors}):
    x, clips = tensors[f"{name}/x"], tensors[f"{name}/clips"]
    if f"{name}/left" in tensors:
        left, right = tensors[f"{name}/left"], tensors[f"{name}/right"]
        packed, scale = triton_kernel.transform_quantize_pack(x, left, right, clips[0], clips[1])
    else:
        packed, scale = triton_kernel.quantize_pack(x, clips[0], clips[1])
    results |= {f"{name}/packed": packed.cpu(), f"{name}/scale": scale.cpu()}

FACTORS = ((64, 64), (64, 128), (86, 128), (128, 128), (112, 256))
SHARED = (99 * 1024, 163 * 1024, 227 * 1024)  # bytes, of compute capabilities 8.6, 8.0 and 9.0
results["fits"] = torch.tensor([[triton_kernel.fits_one_program(*n, shared) for shared in SHARED] for n in FACTORS])
save_file(results, OUTPUTS)
