from pathlib import Path

import pytest
import torch
from torch import nn

from compress.flatquant.models import tiny
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.measures import folder_tensors, model_tensors, sizes


def test_tensors_of_a_folder_are_those_of_the_model(tmp_path: Path) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    assert folder_tensors(tmp_path) == model_tensors(model)
    assert sum(n for n, _ in folder_tensors(tmp_path).values()) == sum(p.numel() for p in model.parameters())


def test_what_is_tied_counts_once() -> None:
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
    assert sum(n for n, _ in model_tensors(model).values()) == 64
    model[1].weight = model[0].weight
    assert sum(n for n, _ in model_tensors(model).values()) == 32


@pytest.mark.parametrize(("bits", "codes"), [(4, 0.5), (3, 0.5), (8, 1.0)])
def test_codes_scales_and_nothing_else_make_the_size_of_a_quantised_layer(bits: int, codes: float) -> None:
    original, model = tiny("llama"), tiny("llama")
    rtn = FlatQuantConfig(w_bits=bits, transform="none", scale=False, clip=False)
    calibrate(model, None, rtn)
    found = sizes(model_tensors(original), model_tensors(model))
    linears = [m for block in original.model.layers for m in block.modules() if isinstance(m, nn.Linear)]
    weights, rows = sum(m.weight.numel() for m in linears), sum(m.out_features for m in linears)
    assert found.linears_float16 == 2 * weights
    assert found.linears == codes * weights + 4 * rows
    assert found.share == found.linears / found.linears_float16
    assert found.float16 == 2 * sum(p.numel() for p in original.parameters())
    others = sum(p.nbytes for p in original.parameters()) - 4 * weights
    assert found.stored == others + found.linears


def test_transforms_count_with_the_layers_that_they_serve() -> None:
    original, model = tiny("llama"), tiny("llama")
    plain, transformed = tiny("llama"), model
    calibrate(plain, None, FlatQuantConfig(transform="none", scale=False, clip=False, k_bits=4, v_bits=4))
    calibrate(transformed, None, FlatQuantConfig(epochs=0, scale=False, clip=False, k_bits=4, v_bits=4))
    more = [sizes(model_tensors(original), model_tensors(m)) for m in (plain, transformed)]
    matrices = 4**2 + 6**2 + 4**2 + 4**2 + 6**2 + 5**2 + 8**2 + 2 * 6**2  # P_a, P_o, P_ug, P_d, P_h and its inverse
    assert more[1].linears - more[0].linears == 2 * 4 * matrices
    assert more[1].stored - more[0].stored == more[1].linears - more[0].linears


def test_a_model_that_is_not_quantised_has_no_share() -> None:
    tensors = {"a.weight": (10, 40), "b": (1, 4)}
    found = sizes(tensors, tensors)
    assert (found.share, found.linears, found.stored, found.float16) == (1.0, 0, 44, 22)
    assert torch.tensor(found.linears_float16) == 0
