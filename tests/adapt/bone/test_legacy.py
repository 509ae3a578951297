"""Adapters that PEFT and RWKV-PEFT saved give the same outputs here."""

import json

import pytest
import torch
from peft import MissConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from linmap.adapt.bone import adopt_legacy, bone_delta, load_legacy
from typed import tensor


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4), nn.Linear(4, 2))


def saved_miss(folder, **fields):
    """A folder written by PEFT, and the outputs of its model."""
    config = MissConfig(target_modules=["0", "2"], r=4, modules_to_save=["3"], miss_dropout=0.1, **fields)
    model = get_peft_model(network(), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.eval().save_pretrained(folder)
    x = torch.randn(5, 8)
    return x, model(x).detach()


def as_bone(folder):
    """The same folder as PEFT 0.14 to 0.18 wrote it: another type, other keys, no dropout and no mini_r."""
    file, config_file = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file({key.replace("miss_block", "bone_block"): value for key, value in load_file(file).items()}, file)
    config = json.loads(config_file.read_text()) | {"peft_type": "BONE"}
    config = {key: value for key, value in config.items() if key not in ("mini_r", "miss_dropout")}
    config_file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "fields", [{"init_weights": "bat"}, {}, {"init_weights": False}, {"init_weights": "mini", "mini_r": 2}]
)
def test_folders_of_miss_give_the_same_outputs(fields, tmp_path):
    x, y = saved_miss(tmp_path, **fields)
    config, _ = load_legacy(tmp_path)
    assert config.mode == {"bat": "bat", "mini": "mini"}.get(fields.get("init_weights"), "add")
    assert config.dropout == (0.0 if config.mode == "bat" else 0.1)
    model = adopt_legacy(network(), tmp_path).eval()
    torch.testing.assert_close(model(x), y)


@pytest.mark.parametrize("fields", [{"init_weights": "bat"}, {}])
def test_folders_of_bone_give_the_same_outputs(fields, tmp_path):
    x, y = saved_miss(tmp_path, **fields)
    as_bone(tmp_path)
    assert "mini_r" not in json.loads((tmp_path / "adapter_config.json").read_text())
    torch.testing.assert_close(adopt_legacy(network(), tmp_path, "old").eval()(x), y)


class ChannelMix(nn.Module):
    """The names and the shapes of one RWKV block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.att = nn.ModuleDict({"key": nn.Linear(8, 8, bias=False)})
        self.ffn = nn.ModuleDict({"key": nn.Linear(8, 16, bias=False), "value": nn.Linear(16, 8, bias=False)})


class Rwkv(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([ChannelMix(), ChannelMix()])


def rwkv_file(path, suffix, mode, names=("att.key", "ffn.key", "ffn.value")):
    """A file as RWKV-PEFT writes it, and the weights that its merge gives."""
    model, tensors, merged = Rwkv(), {}, {}
    for i in range(2):
        for name in names:
            weight = tensor(model.get_submodule(f"blocks.{i}.{name}").weight).detach()
            n_out, n_in = weight.shape
            shape = {"bat": (n_out // 4, 4, 4), "bat-row": (n_in // 4, 4, 4), "add": (4, n_out)}[mode]
            D = tensors[f"blocks.{i}.{name}{suffix}"] = 0.3 * torch.randn(shape)
            merged[f"blocks.{i}.{name}"] = weight + bone_delta(weight, D, mode)
    save_file(tensors, path)
    return merged


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".bone", "bat"), (".bone", "bat-row"), (".bone", "add"), (".disha", "bat-row"), (".disha", "add")],
)
def test_files_of_rwkv_peft_give_the_merged_weights(suffix, mode, tmp_path):
    expected = rwkv_file(tmp_path / "adapter.safetensors", suffix, mode)
    config, _ = load_legacy(tmp_path / "adapter.safetensors")
    assert (config.mode, config.r) == (mode, 4)
    merged = adopt_legacy(Rwkv(), tmp_path / "adapter.safetensors").merge_and_unload()
    for name, weight in expected.items():
        torch.testing.assert_close(merged.get_submodule(name).weight, weight)


def test_files_that_do_not_show_their_mode_need_it(tmp_path):
    expected = rwkv_file(tmp_path / "adapter.safetensors", ".bone", "bat", names=["att.key"])
    with pytest.raises(ValueError, match=r"mode='bat'.* or .*mode='bat-row'.* pass the mode"):
        load_legacy(tmp_path / "adapter.safetensors")
    merged = adopt_legacy(Rwkv(), tmp_path / "adapter.safetensors", mode="bat").merge_and_unload()
    for name, weight in expected.items():
        torch.testing.assert_close(merged.get_submodule(name).weight, weight)


@pytest.mark.parametrize("name", ["adapter.pth", "adapter.bin"])
def test_pickles_are_refused_with_the_way_to_convert_them(name, tmp_path):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(
        ValueError, match=rf"{name} is a pickle.*torch.load\('{name}', weights_only=True\).*\.safetensors"
    ):
        load_legacy(tmp_path / name)


def test_a_folder_with_a_pickle_is_refused(tmp_path):
    saved_miss(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin is a pickle"):
        load_legacy(tmp_path)


def test_what_is_no_legacy_adapter_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder nor a file"):
        load_legacy(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_config\.json"):
        load_legacy(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match="peft_type must be 'BONE' or 'MISS', got 'LORA'"):
        load_legacy(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "MISS", "bias": "MiSS_only"}')
    with pytest.raises(ValueError, match="bias='MiSS_only' is not supported"):
        load_legacy(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    with pytest.raises(ValueError, match="cannot be read as a file of safetensors"):
        load_legacy(tmp_path / "broken.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"no keys that end in \.bone or \.disha"):
        load_legacy(tmp_path / "other.safetensors")
    save_file({"a.bone": torch.zeros(2, 4, 4), "b.bone": torch.zeros(2, 2, 2)}, tmp_path / "mixed.safetensors")
    with pytest.raises(ValueError, match=r"mixes the block sizes \[2, 4\]"):
        load_legacy(tmp_path / "mixed.safetensors", mode="bat")
    save_file({"a.bone": torch.zeros(2, 4, 4), "b.bone": torch.zeros(4, 2)}, tmp_path / "modes.safetensors")
    with pytest.raises(ValueError, match="mixes modes"):
        load_legacy(tmp_path / "modes.safetensors")


def test_a_file_for_another_model_is_refused(tmp_path):
    rwkv_file(tmp_path / "adapter.safetensors", ".disha", "bat-row")
    tensors = load_file(tmp_path / "adapter.safetensors")
    save_file(tensors | {"blocks.7.att.key.disha": torch.zeros(2, 4, 4)}, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the model: .*has no place for \['base_model.model.blocks.7"):
        adopt_legacy(Rwkv(), tmp_path / "adapter.safetensors")


@pytest.mark.parametrize("fields", [{}, {"bias": "all"}])
def test_a_folder_that_lacks_any_of_its_tensors_is_refused(fields, tmp_path):
    saved_miss(tmp_path, **fields)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    assert len(tensors) == (8 if fields else 4)
    for key in tensors:
        save_file({name: value for name, value in tensors.items() if name != key}, file)
        with pytest.raises(ValueError, match=r"does not fit the model: it lacks \['base_model\.model\."):
            adopt_legacy(network(), tmp_path, "old")
