"""SALT inside PEFT: what is trained, saved and loaded, and the singular basis of a loading process."""

import copy
import json
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import scipy.linalg
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from adapt.cases import inside, llama, logits, tokens, tuner_of
from linmap.adapt import SaltConfig, SaltLinear, signed_svd
from linmap.adapt.salt import basis as bases
from typed import of_class

pytestmark = pytest.mark.usefixtures("annotations_unchecked")


class Network(nn.Module):
    """Layers of every kind that SALT adapts, and norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm1 = nn.BatchNorm2d(8)
        self.proj = nn.Linear(8, 10)
        self.ln_f = nn.LayerNorm(10)
        self.head = nn.Linear(10, 2)

    def forward(self, x):
        x = self.norm1(self.conv(x)).relu().mean((2, 3))
        return self.head(self.ln_f(self.proj(x)))


def network(seed=0):
    torch.manual_seed(seed)
    return Network().double().eval()


def images(seed=1):
    return torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def adapted(seed=0, **options):
    model = get_peft_model(network(seed), SaltConfig(**({"target_modules": ["conv", "proj"], "r": 2} | options)))
    move(model)
    return model


@torch.no_grad()
def move(model, seed=3, adapter="default"):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if f".{adapter}." in name:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def other_lapack(W):
    """What another machine may find: another driver, other signs."""
    U, S, Vt = scipy.linalg.svd(W.double().numpy(), full_matrices=False, lapack_driver="gesvd")
    return torch.tensor(-U).to(W.dtype), torch.tensor(S).to(W.dtype), torch.tensor(-Vt).to(W.dtype)


@pytest.fixture
def another_machine(monkeypatch):
    monkeypatch.setattr(bases, "_kept", type(bases._kept)())
    monkeypatch.setattr(bases, "signed_svd", other_lapack)


# -- also_train ------------------------------------------------------------------------------------------------------


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad and "salt" not in name}


def test_norms_are_trained_saved_and_loaded(tmp_path):
    model = adapted()
    names = {
        f"base_model.model.{norm}.modules_to_save.default.{part}"
        for norm in ("norm1", "ln_f")
        for part in ("weight", "bias")
    }
    assert trained(model) == names
    model.train()(images()).square().sum().backward()  # moves the running mean of norm1
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(network(), tmp_path).eval()
    y = model.eval()(images())
    torch.testing.assert_close(loaded(images()), y, rtol=0, atol=1e-12)
    assert (y - network()(images())).abs().max() > 1e-2
    with loaded.disable_adapter():
        torch.testing.assert_close(loaded(images()), network()(images()), rtol=0, atol=0)
    torch.testing.assert_close(loaded.merge_and_unload()(images()), y)


def test_also_train_takes_names_and_can_be_empty():
    assert trained(adapted(also_train=())) == set()
    heads = trained(adapted(also_train=("head",)))
    assert heads == {f"base_model.model.head.modules_to_save.default.{part}" for part in ("weight", "bias")}
    both = adapted(also_train=("head", "norm"), modules_to_save=["head"])
    assert of_class(SaltConfig, both.peft_config["default"]).modules_to_save == ["head", "norm1", "ln_f"]
    with pytest.raises(ValueError, match="also_train names 'pos_embed', and the model has no such module"):
        adapted(also_train=("pos_embed",))


def test_of_several_active_adapters_the_weights_add_up_and_the_last_norms_count():
    model = adapted()
    model.add_adapter("second", SaltConfig(target_modules=["proj"], r=1, relu="none"))
    move(model, 5, "second")
    proj = inside(model).proj
    with pytest.warns(UserWarning, match="do not add up: those of 'second' are used"):
        tuner_of(model).set_adapter(["default", "second"])
    changes = sum(proj.get_delta_weight(name) for name in ("default", "second"))
    weight, bias = proj.base_layer.weight, proj.base_layer.bias
    torch.testing.assert_close(proj(torch.eye(8).double()) - bias, (weight + changes).mT)
    assert inside(model).ln_f.active_adapters == ["second"]
    assert all(p.requires_grad for name in ("default", "second") for p in proj.adapters[name].parameters())
    model.set_adapter("default")
    assert inside(model).ln_f.active_adapters == ["default"]


# -- saved and loaded in whatever basis ------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", ["all", "diag", "none"])
def test_another_lapack_gives_the_same_output(tmp_path, another_machine, monkeypatch, relu):
    with monkeypatch.context() as trained_here:
        trained_here.setattr(bases, "signed_svd", signed_svd)
        model = adapted(relu=relu).eval()
        model.save_pretrained(tmp_path)
    bases._kept.clear()
    loaded = PeftModel.from_pretrained(network(), tmp_path).eval()
    theirs = inside(loaded).proj.adapters["default"].spectral
    assert torch.equal(theirs.S, other_lapack(network().proj.weight.detach())[1])
    torch.testing.assert_close(loaded(images()), model(images()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("save", ["factors", "basis", "delta"])
@pytest.mark.parametrize("relu", ["all", "diag"])
def test_transformers_own_loader_meets_the_same_checks(tmp_path, another_machine, monkeypatch, relu, save):
    """It sets the tensors of a file one by one, past `load_state_dict`."""
    options: dict[str, Any] = {"save": "delta"} if save == "delta" else {}
    configured = partial(SaltConfig, r=3, relu=relu, save_basis=save == "basis", target_modules=["q_proj", "v_proj"])
    with monkeypatch.context() as trained_here:
        trained_here.setattr(bases, "signed_svd", signed_svd)
        model = get_peft_model(llama(), configured(**options))
        move(model.eval())
        model.save_pretrained(tmp_path)
    bases._kept.clear()
    loaded = llama()
    loaded.load_adapter(str(tmp_path))
    torch.testing.assert_close(logits(loaded, tokens()), logits(model, tokens()), rtol=0, atol=1e-6)
    if save == "factors":
        torch.manual_seed(7)
        other = type(loaded)(llama().config).double()
        with pytest.raises(ValueError, match=r"trained in another singular basis.*save_basis=True"):
            other.load_adapter(str(tmp_path))


def test_without_the_fingerprint_the_output_would_be_another(another_machine, monkeypatch):
    model = adapted(also_train=())
    state = {name: value for name, value in model.state_dict().items() if "salt" in name and "fingerprint" not in name}
    bases._kept.clear()
    monkeypatch.setattr(bases, "signed_svd", half_turned)
    other = adapted(also_train=())
    other.load_state_dict(state, strict=False)
    assert (other.eval()(images()) - model.eval()(images())).abs().max() > 1e-3


def half_turned(W):
    """Other signs of the first half of the singular vectors."""
    U, S, Vt = other_lapack(W)
    s = torch.ones_like(S)
    s[: len(s) // 2 + 1] = -1
    return U * s, S, s[:, None] * Vt


@pytest.mark.slow  # the contract of all methods holds it for the defaults
def test_an_adapter_loads_in_a_fresh_process(tmp_path):
    model = adapted().eval()
    model.save_pretrained(tmp_path)
    code = (
        "import torch, linmap.adapt; from adapt.salt.test_config import *; "
        f"m = PeftModel.from_pretrained(network(), {str(tmp_path)!r}).eval(); print(json.dumps(m(images()).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "tests", "OMP_NUM_THREADS": "2"},
    )
    y = torch.tensor(json.loads(done.stdout.splitlines()[-1]), dtype=torch.float64)
    torch.testing.assert_close(y, model(images()), rtol=0, atol=1e-9)


def test_an_adapter_of_another_model_is_refused_with_a_way_out(tmp_path):
    adapted().save_pretrained(tmp_path)
    message = "base_model.model.conv: the adapter was trained in another singular basis.*save_basis=True.*save='delta'"
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(network(seed=1), tmp_path)


def equal_values(model):
    with torch.no_grad():
        model.proj.weight.copy_(torch.linalg.qr(torch.randn(10, 8, dtype=torch.float64)).Q)
    return model


def test_a_basis_that_is_not_unique_loads_only_if_it_was_saved(tmp_path, monkeypatch):
    base = equal_values(network())
    options = {"target_modules": ["proj"], "r": 2}
    with pytest.warns(UserWarning, match="singular basis is not unique"):
        plain = get_peft_model(copy.deepcopy(base), SaltConfig(**options))
    kept = get_peft_model(copy.deepcopy(base), SaltConfig(save_basis=True, **options))
    delta = get_peft_model(copy.deepcopy(base), SaltConfig(save="delta", **options))
    outputs = {}
    for name, model in {"plain": plain, "kept": kept, "delta": delta}.items():
        move(model)
        model.save_pretrained(tmp_path / name)
        outputs[name] = model.eval()(images())
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    found = bases.basis_of(base.proj.weight)
    monkeypatch.setattr(bases, "_kept", type(bases._kept)())
    monkeypatch.setattr(bases, "signed_svd", lambda W: (found.U @ turn, found.S, turn.mT @ found.Vt))
    with pytest.warns(UserWarning, match="not unique"), pytest.raises(ValueError, match="another singular basis"):
        PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "plain")
    for name in ("kept", "delta"):
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / name).eval()
        torch.testing.assert_close(loaded(images()), outputs[name], rtol=0, atol=1e-9)


def test_what_is_in_the_file(tmp_path):
    cases: tuple[dict[str, Any], ...] = ({}, {"save_basis": True}, {"save": "delta"})
    for options in cases:
        adapted(also_train=(), **options).save_pretrained(tmp_path)
        file = load_file(tmp_path / "adapter_model.safetensors")
        names = {name.rpartition("linmap_salt_adapters.")[2] for name in file}
        plain = {
            "spectral.scale_minus_one",
            "spectral.shift",
            "core.A",
            "core.B",
            "fingerprint_values",
            "fingerprint_vectors",
        }
        basis = {"spectral.U", "spectral.S", "spectral.Vt"}
        assert names == ({"change"} if "save" in options else plain | basis if options else plain)


def test_a_saved_change_is_not_trained_on(tmp_path):
    model = adapted(save="delta")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="load it with is_trainable=False"):
        PeftModel.from_pretrained(network(), tmp_path, is_trainable=True)
    loaded = PeftModel.from_pretrained(network(), tmp_path)
    assert not [name for name, p in loaded.named_parameters() if p.requires_grad]
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    y = PeftModel.from_pretrained(network(), again).eval()(images())
    torch.testing.assert_close(y, model.eval()(images()), rtol=0, atol=1e-12)


def test_loading_a_saved_basis_leaves_the_kept_one_alone(tmp_path):
    model = adapted(save_basis=True)
    spectral = inside(model).proj.adapters["default"].spectral
    before = bases.basis_of(network().proj.weight).U.clone()
    with torch.no_grad():
        spectral.U.mul_(-1)
    assert torch.equal(bases.basis_of(network().proj.weight).U, before)


def test_low_cpu_mem_usage(tmp_path):
    model = adapted().eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(network(), tmp_path, low_cpu_mem_usage=True).eval()
    torch.testing.assert_close(loaded(images()), model(images()), rtol=0, atol=1e-12)
    with torch.device("meta"):
        empty = Network()
    with pytest.raises(ValueError, match="conv: its weight is on the meta device"):
        PeftModel.from_pretrained(empty, tmp_path, low_cpu_mem_usage=True)


def test_training_goes_on_from_a_file(tmp_path):
    adapted().save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(network(), tmp_path, is_trainable=True)
    model(images()).square().sum().backward()
    adapter = inside(model).proj.adapters["default"]
    assert all(p.grad is not None for p in adapter.parameters())
    assert isinstance(inside(model).proj, SaltLinear)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, r"ratio=.* must be in"),
        ({"ratio": 0.1, "k": 3}, "give ratio or k, not both"),
        ({"r": 0}, r"r=.* must be at least 1 where ratio=0.1"),
        ({"relu": True}, r"relu=.* must be one of"),
        ({"init": ""}, r"init=.* must be"),
        ({"save": "all"}, r"save=.* must be 'adapter' or 'delta'"),
        ({"save": "delta", "save_basis": True}, "drop save_basis=True"),
        ({"also_train": "norm"}, "also_train must be a sequence"),
    ],
)
def test_fields_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SaltConfig(**options)


def test_the_layer_is_named_in_errors():
    model = network()
    model.proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="proj: its weight holds NaN"):
        get_peft_model(model, SaltConfig(target_modules=["conv", "proj"], r=2))
    with pytest.raises(ValueError, match="proj: k=9 exceeds the 8 singular values"):
        get_peft_model(network(), SaltConfig(target_modules=["proj"], k=9, r=2))
    with pytest.raises(ValueError, match="No modules were targeted"):
        get_peft_model(network(), SaltConfig(target_modules=["nothing_like_it"]))


def test_a_tenth_is_the_default_and_k_takes_its_place():
    assert (SaltConfig().ratio, SaltConfig().k, SaltConfig().r) == (0.1, None, 8)
    config = SaltConfig(k=3)
    assert (config.ratio, config.k) == (None, 3)
