"""The PEFT method: ranks by module, and adapters that come back with the ranks that they had."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

import fresh
from adapt.cases import inside, tuner_of
from adapt.triadaptlora.problem import Net, adapted, batch, config_of, configured, train, trainable
from linmap.adapt import RankAllocator, TriAdaptLinear

FRESH = """
import sys, torch
from peft import PeftModel
import linmap.adapt
from adapt.triadaptlora.problem import Net, batch
torch.manual_seed(0)
model = PeftModel.from_pretrained(Net().double(), sys.argv[1])
x, _ = batch(99)
print(model(x).detach().flatten().tolist())
"""


def grown(**options):
    model, allocator = adapted(**options)
    train(model, allocator, torch.optim.AdamW(trainable(model), lr=0.02), range(1, 9))
    assert len(set(allocator.ranks().values())) > 1, "ranks should be uneven"
    return model, allocator


@pytest.mark.parametrize("storage", ["prealloc", "append"])
def test_uneven_ranks_come_back_from_the_file(tmp_path, storage):
    model, allocator = grown(storage=storage)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == allocator.ranks()
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    R = allocator.ranks()["layer0"]
    shapes = {name.rsplit(".", 1)[1]: tuple(t.shape) for name, t in tensors.items() if "layer0" in name}
    assert shapes == {"A": (R, 6), "B": (8, R), "lower": (R, R), "upper": (R, R)}

    x, _ = batch(99)
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(Net().double(), tmp_path, is_trainable=True)
    torch.testing.assert_close(again(x), model(x), rtol=1e-12, atol=1e-12)
    assert RankAllocator(again, config_of(again)).ranks() == allocator.ranks()
    lean = PeftModel.from_pretrained(Net().double(), tmp_path)
    assert inside(lean).layer0.adapters["default"].map.max_rank == R


def test_uneven_ranks_come_back_in_a_fresh_process(tmp_path):
    model, _ = grown()
    model.save_pretrained(tmp_path)
    found = json.loads(fresh.run(FRESH, str(tmp_path)))
    x, _ = batch(99)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), model(x).flatten())


def test_an_adapter_without_ranks_of_its_own_takes_those_of_the_file(tmp_path):
    model, allocator = grown()
    model.save_pretrained(tmp_path)
    other, _ = adapted()
    other.load_adapter(str(tmp_path), "default", is_trainable=True)
    x, _ = batch(99)
    torch.testing.assert_close(other(x), model(x))
    assert config_of(other).rank_pattern == allocator.ranks()


def test_an_adapter_of_other_ranks_is_refused_by_the_names_of_its_layers(tmp_path):
    model, allocator = grown()
    model.save_pretrained(tmp_path)
    here = {**allocator.ranks(), "layer1": allocator.ranks()["layer1"] + 1}
    other, _ = adapted(rank_pattern=here)
    message = f"other ranks than this one \\(layer1: {allocator.ranks()['layer1']} saved, {here['layer1']} here\\)"
    with pytest.raises(ValueError, match=message):
        other.load_adapter(str(tmp_path), "default", is_trainable=True)


def test_several_adapters_grow_apart_and_add_up():
    model, first = adapted()
    model.add_adapter("second", configured(reference_rank=2, target_total_rank=5, init_rank=1))
    model.set_adapter("second")
    second = RankAllocator(model, config_of(model, "second"), "second")
    train(model, second, torch.optim.Adam(trainable(model), lr=0.02), range(1, 13))
    assert sum(second.ranks().values()) == 5
    assert set(first.ranks().values()) == {1}
    tuner_of(model).set_adapter(["default", "second"])
    train(model, first, torch.optim.Adam(trainable(model), lr=0.02), range(1, 13))
    assert sum(first.ranks().values()) == 12
    x, _ = batch(99)
    y = model(x)
    model.merge_adapter()
    torch.testing.assert_close(model(x), y)
    model.unmerge_adapter()
    with model.disable_adapter():
        torch.manual_seed(0)
        torch.testing.assert_close(model(x), Net().double()(x))


def test_rank_pattern_is_read_by_the_longest_ending():
    config = configured(rank_pattern={"q": 2, "b.q": 3}, init_rank=1)
    assert [config.rank_of(path) for path in ("a.q", "b.q", "a.b.q", "bq")] == [2, 3, 3, 1]
    model = get_peft_model(Net(), configured(rank_pattern={"layer2": 4}))
    assert inside(model).layer2.adapters["default"].rank == 4
    assert inside(model).layer1.adapters["default"].rank == 1


PATTERNS = [
    {"layer1": 2},
    {r"layer[12]": 2},
    {".*1": 2},
    {"^layer1": 2},
    {"layer": 2},
    {r"inner\.layer.": 2, "layer1": 3},
    {"inner.layer0": 2},
    {r"(layer0|inner\.layer2)": 2},
]


class Nested(Net):
    def __init__(self):
        super().__init__()
        self.inner = Net()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.filterwarnings("ignore:.*did not match any targeted module")
def test_rank_pattern_gives_the_ranks_that_it_gives_in_lora(pattern):
    ours = get_peft_model(Nested(), configured(rank_pattern=pattern, init_rank=1))
    theirs = get_peft_model(Nested(), LoraConfig(r=1, rank_pattern=pattern, target_modules=r".*layer\d"))
    expected = {name: m.r["default"] for name, m in theirs.named_modules() if hasattr(m, "lora_A")}
    found = {name: m.adapters["default"].rank for name, m in ours.named_modules() if isinstance(m, TriAdaptLinear)}
    assert len(found) == 8
    assert found == expected


def test_ranks_that_growth_wrote_are_read_by_whole_paths():
    config = configured(rank_pattern={"layer1": 2, "inner.layer1": 3})
    assert [config.rank_of(path) for path in ("layer1", "inner.layer1")] == [2, 3]


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 7, 101])
def test_any_reference_rank_has_a_default_growth(rank):
    assert configured(reference_rank=rank, incre_rank_num=None).add_rank == max(1, rank // 2)
    assert configured(reference_rank=rank, incre_rank_num=3).add_rank == 3


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_step": 5, "init_warmup": 5}, "total_step = 5 must be above init_warmup = 5"),
        ({"incre_rank_num": 0}, "incre_rank_num=0 must be at least 1"),
        ({"incre_interval": 0}, "incre_interval=0 must be at least 1"),
        ({"init_warmup": -1}, r"init_warmup=.* must not be negative"),
        ({"growth": "exponential"}, "growth='exponential' must be 'linear', 'nonlinear' or 'none'"),
        ({"reference_rank": 0}, "reference_rank=0 must be a positive integer"),
        ({"orth_reg_weight": -1.0}, r"orth_reg_weight=.* must not be negative"),
        ({"rank_pattern": {"layer(0": 2}}, r"rank_pattern has the key 'layer\(0', which is no regular expression"),
        ({"rank_pattern": {"layer0": 0}}, "rank_pattern gives layer0 the rank 0"),
        ({"r_max": 0}, "r_max=0 must be a positive integer"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        configured(**options)
