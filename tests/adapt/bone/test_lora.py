"""Additive adapters as LoRA: the same function from plain PEFT, without linmap."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

import fresh
from linmap.adapt.bone import BoneConfig, BoneLinear, save_as_lora, to_lora

OPTIONS = {"add": {"mode": "add"}, "mini": {"mode": "mini", "mini_r": 2}}


class Network(nn.Module):
    """One layer of each kind."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(10, 6)
        self.linear = nn.Linear(6, 8)
        self.conv1d = Conv1D(8, 8)
        self.conv2d = nn.Conv2d(1, 4, (2, 3), padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens):
        image = self.conv2d(self.conv1d(torch.tanh(self.linear(self.embedding(tokens)))).unsqueeze(1))
        return self.head(image.amax((2, 3)))


def adapted(**options):
    targets = ["linear", "conv1d", "conv2d"] + ["embedding"] * (options["mode"] == "add")
    model = get_peft_model(Network(), BoneConfig(r=4, target_modules=targets, modules_to_save=["head"], **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


@pytest.mark.parametrize("mode", ["add", "mini"])
@pytest.mark.parametrize("r", [1, 3, 8])
def test_A_and_B_are_the_change_of_the_weight(mode, r):
    layer = BoneLinear(nn.Linear(8, 6), r=r, **OPTIONS[mode], init_weights=False)
    A, B = to_lora(layer)
    assert A.shape == (r, 8)
    assert B.shape == (6, r)
    torch.testing.assert_close(B @ A, layer.get_delta_weight("default"))
    assert all(torch.equal(*pair) for pair in zip((A, B), to_lora(layer.adapters["default"]), strict=True))


@pytest.mark.parametrize("mode", ["bat", "bat-row"])
def test_modes_that_read_the_weight_have_no_lora(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}' has no LoRA of rank r"):
        to_lora(BoneLinear(nn.Linear(8, 4), r=4, mode=mode))


@pytest.mark.parametrize("mode", ["add", "mini"])
def test_plain_peft_loads_the_folder_and_gives_the_same_output(mode, tmp_path):
    model = adapted(**OPTIONS[mode])
    save_as_lora(model, tmp_path / "lora")
    tokens = torch.randint(0, 10, (3, 5))
    expected = model(tokens)
    loaded = PeftModel.from_pretrained(Network(), tmp_path / "lora").eval()
    torch.testing.assert_close(loaded(tokens), expected)
    assert loaded.peft_config["default"].peft_type == "LORA"
    torch.testing.assert_close(loaded.merge_and_unload()(tokens), expected)


def test_the_folder_loads_in_a_process_without_linmap(tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8))
    model = get_peft_model(base, BoneConfig(r=4, mode="add", target_modules=["0"], init_weights=False))
    save_as_lora(model, tmp_path)
    x = torch.ones(6)
    script = f"""
import sys, torch
from torch import nn
from peft import PeftModel
torch.manual_seed(0)
model = PeftModel.from_pretrained(nn.Sequential(nn.Linear(6, 8)), {str(tmp_path)!r})
assert "linmap" not in sys.modules
print(model(torch.ones(6)).tolist())
"""
    found = fresh.run(script).splitlines()[-1]
    torch.testing.assert_close(torch.tensor(json.loads(found)), model(x).detach())


def test_what_cannot_be_converted_is_refused(tmp_path):
    model = get_peft_model(nn.Sequential(nn.Linear(8, 4)), BoneConfig(r=4, mode="bat", target_modules=["0"]))
    with pytest.raises(ValueError, match="mode 'bat' has no LoRA"):
        save_as_lora(model, tmp_path)
    with pytest.raises(ValueError, match="adapter_name='other' is no Bone adapter of this model"):
        save_as_lora(model, tmp_path, "other")
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    model = get_peft_model(grouped, BoneConfig(r=2, mode="add", target_modules=["0"]))
    with pytest.raises(ValueError, match="0: PEFT's LoRA has no form for a Conv2d of 2 groups"):
        save_as_lora(model, tmp_path)
