"""The Triton kernels against the form in PyTorch: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress.flatquant.kernels.cases import CLIPS, DTYPES, SIZES, any_numbers, exact
from linmap.compress.flatquant import kernels
from linmap.compress.flatquant.quantizer import unpack_int4

pytestmark = pytest.mark.slow  # Triton's interpreter takes 12 s for these sizes
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LONG = 2500  # more than a block of the kernel without a transform


def inputs() -> dict[str, dict[str, Tensor]]:
    named = {}
    for case, ((n1, n2), dtype) in enumerate(product(SIZES, DTYPES)):
        i, clips = case % 2, CLIPS[case % 2]  # in turns, so that every size and every type meets both
        for kind, make in (("exact", exact), ("any", any_numbers)):
            named[f"{kind}/{n1}x{n2}/{dtype}/{i}"] = {**make(n1, n2, dtype), "clips": torch.tensor(clips)}
    named["none/0"] = {"x": torch.zeros(0, 6), "left": torch.eye(2), "right": torch.eye(3), "clips": torch.ones(2)}
    for n in (1, 2, 63, LONG, LONG + 1):
        named[f"rows/{n}"] = {"x": any_numbers(1, n, torch.float32)["x"], "clips": torch.tensor(CLIPS[1])}
    return named


@pytest.fixture(scope="module", params=DEVICES)
def results(request, tmp_path_factory) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("kernels")
    flat = {f"{name}/{key}": tensor for name, case in inputs().items() for key, tensor in case.items()}
    save_file(flat, folder / "inputs")
    script = Path(__file__).with_name("run_triton.py")
    command = [sys.executable, script, request.param, folder / "inputs", folder / "outputs"]
    environment = os.environ | {"TRITON_INTERPRET": "1" if request.param == "cpu" else "0"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return load_file(folder / "outputs")


def expected(case: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    clips = case["clips"][0], case["clips"][1]
    if "left" in case:
        return kernels.transform_quantize_pack(case["x"], case["left"], case["right"], *clips)
    return kernels.quantize_pack(case["x"], *clips)


def test_same_bits_where_sums_are_exact(results):
    cases = {name: case for name, case in inputs().items() if not name.startswith("any")}
    assert len(cases) == len(SIZES) * len(DTYPES) + 6
    for name, case in cases.items():
        packed, scale = expected(case)
        assert torch.equal(results[f"{name}/scale"], scale), name
        assert torch.equal(results[f"{name}/packed"], packed), name


def test_codes_differ_only_where_a_value_lies_between_two(results):
    for name, case in inputs().items():
        if not name.startswith("any"):
            continue
        packed, scale = expected(case)
        torch.testing.assert_close(results[f"{name}/scale"], scale, rtol=1e-5, atol=0, msg=name)
        ours, theirs = unpack_int4(results[f"{name}/packed"]).int(), unpack_int4(packed).int()
        L, R = case["left"].double(), case["right"].double()
        Y = (L.mT @ (case["x"].double().unflatten(-1, (len(L), len(R))) @ R)).flatten(-2)
        to_half = ((Y / scale).abs() % 1 - 0.5).abs()
        differs = (ours != theirs)[..., : Y.shape[-1]]
        assert bool((to_half[differs] < 1e-3).all()), name
        assert bool(((ours - theirs).abs() <= 1).all()), name


def test_sizes_that_one_program_holds(results):
    """64 x 64, 64 x 128, 86 x 128, 128 x 128 and 112 x 256 on GPUs of compute capability 8.6, 8.0 and 9.0."""
    smallest, middle, largest = results["fits"].T.tolist()
    assert smallest == [True, True, False, False, False]
    assert middle == smallest
    assert largest == [True, True, True, True, False]
