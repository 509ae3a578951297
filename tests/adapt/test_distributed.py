"""Two processes train every adapter as one does: data parallel (DDP) and sharded (FSDP2), on gloo."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapt.cases import METHODS
from adapt.distributed import GROWING, train_method
from linmap.training import checkpoint
from two_processes import launch
from typed import present

pytestmark = pytest.mark.slow  # two processes for seven adapters; tests/training has the loop in two by default
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("one")
    for method in (*METHODS, GROWING):
        ranks = train_method(method, out / method)
        assert ranks is None or len(set(ranks.values())) > 1  # some have grown more than others
    return out


@pytest.fixture(scope="module", params=[{}, FSDP2], ids=["ddp", "fsdp2"])
def two(tmp_path_factory, request) -> Path:
    out = tmp_path_factory.mktemp("two")
    launch(Path(__file__).with_name("distributed.py"), str(out), environment=request.param)
    return out


@pytest.mark.parametrize("method", [*METHODS, GROWING])
def test_two_processes_give_the_adapter_of_one(one, two, method) -> None:
    for name in ("model", "optimizer"):
        ours = load_file(present(checkpoint.latest(two / method)) / f"{name}.safetensors")
        theirs = load_file(present(checkpoint.latest(one / method)) / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert ours
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-7, atol=1e-9)
