"""Bone through PEFT: what its configuration refuses, and what it saves."""

import json
import struct

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from linmap.adapt.bone import BoneConfig
from linmap.adapt.bone.transform import MODES


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)).double()


def trained(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "linmap_bone" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 0}, "r=0 must be an integer of at least 1"),
        ({"r": "4"}, "r='4' must be an integer of at least 1"),
        ({"mode": "row"}, r"mode=.* must be one of"),
        ({"mode": "mini", "mini_r": -1}, "mini_r=-1 must be an integer of at least 1"),
        ({"mode": "add", "dropout": 1.0}, "dropout=1.0 must be a probability below 1"),
        ({"mode": "bat", "dropout": 0.1}, "dropout=0.1 has no meaning in mode 'bat'"),
        ({"bias": "some"}, "bias must be 'none' or 'all'"),
        ({"target_modules": ".*q", "layers_to_transform": [1]}, "layers_to_transform cannot be given"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BoneConfig(**fields)


def test_targets_that_match_nothing_are_refused():
    with pytest.raises(ValueError, match="nothing"):
        get_peft_model(network(), BoneConfig(r=4, target_modules=["nothing"]))


def test_the_layer_is_named_when_the_blocks_do_not_fit():
    with pytest.raises(ValueError, match=r"^0: mode 'bat' cuts .* r=3 does not divide both in_features=8"):
        get_peft_model(network(), BoneConfig(r=3, target_modules=["0"]))


def test_unsupported_modules_are_named():
    with pytest.raises(TypeError, match="1: a Tanh cannot be adapted by BoneModel"):
        get_peft_model(network(), BoneConfig(r=4, target_modules=["1"]))


def test_different_modes_on_one_layer_keep_their_own_mode():
    """PEFT's MiSS keeps the mode once a layer, so that a second adapter of another mode is computed wrongly."""
    x = torch.randn(3, 8, dtype=torch.float64)
    alone = {}
    for mode in MODES:
        model = trained(get_peft_model(network(), BoneConfig(r=4, mode=mode, mini_r=2, target_modules=["0", "2"])))
        alone[mode] = (model(x), {key: value for key, value in model.state_dict().items() if "linmap_bone" in key})
    model = get_peft_model(
        network(), BoneConfig(r=4, mode=MODES[0], mini_r=2, target_modules=["0", "2"]), adapter_name=MODES[0]
    )
    for mode in MODES[1:]:
        model.add_adapter(mode, BoneConfig(r=4, mode=mode, mini_r=2, target_modules=["0", "2"]))
    for mode, (y, state) in alone.items():
        model.load_state_dict({key.replace("default", mode): value for key, value in state.items()}, strict=False)
        model.set_adapter(mode)
        torch.testing.assert_close(model(x), y)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_holds_the_trained_numbers_and_nothing_else(mode, tmp_path):
    model = trained(get_peft_model(network(), BoneConfig(r=4, mode=mode, mini_r=2, target_modules=["0", "2"])))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    (header,) = struct.unpack("<Q", file.read_bytes()[:8])
    numbers = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert file.stat().st_size == 8 + header + 8 * numbers  # float64
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["mode"], config["r"]) == ("LINMAP_BONE", mode, 4)
    x = torch.randn(3, 8, dtype=torch.float64)
    assert torch.equal(PeftModel.from_pretrained(network(), tmp_path)(x), model(x))


def test_a_saved_adapter_of_another_mode_is_refused_on_loading(tmp_path):
    trained(get_peft_model(network(), BoneConfig(r=4, mode="add", target_modules=["0"]))).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(file.read_text().replace('"mode": "add"', '"mode": "mini"').replace('"mini_r": 1', '"mini_r": 2'))
    with pytest.raises(ValueError, match=r"mode 'mini' with r=4 expects D of shape \(4, 2\) here, .* \(4, 12\)"):
        PeftModel.from_pretrained(network(), tmp_path)
