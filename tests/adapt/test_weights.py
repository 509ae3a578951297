"""W' reaches the layer wherever its weight is: a parameter, computed from others, sharded, offloaded, in codes."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from adapt.cases import METHODS, inside, move, with_adapter
from linmap.adapt import BoneLinear
from linmap.adapt.layer import AdapterLayer
from linmap.adapt.weights import matrix_of, weight_from
from typed import of_class, tensor

every_method = pytest.mark.parametrize("method", METHODS)
TARGETS = ["conv", "point", "linear"]


class Net(nn.Module):
    def __init__(self, around=lambda layer: layer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = around(nn.Conv2d(20, 20, 3, padding=1))
        self.point = around(nn.Conv2d(20, 20, 1))
        self.linear = around(nn.Linear(20, 20))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.point(self.conv(x)).mean((2, 3)))


def plain(net: nn.Module) -> Net:
    """The same function with ordinary weights."""
    net(images())  # hooks compute their weight
    new = Net()
    for name in TARGETS:
        layer, original = getattr(new, name), getattr(net, name)
        layer.weight.data = original.weight.detach().clone()
        layer.bias.data = original.bias.detach().clone()
    return new


def images(rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 20, 4, 4, generator=generator, dtype=torch.float64)


def trained(net: nn.Module, method: str) -> PeftModel:
    torch.manual_seed(1)
    model = with_adapter(net, METHODS[method](target_modules=TARGETS))
    move(model)
    return model.eval()


def gradients(model: nn.Module) -> list[Tensor]:
    model(images()).square().sum().backward()
    return [p.grad for layer in layers(model) for p in layer.adapters.parameters() if p.requires_grad]


def layers(model: nn.Module) -> list[AdapterLayer]:
    return [module for module in model.modules() if isinstance(module, AdapterLayer)]


class Doubled(nn.Module):
    def forward(self, W: Tensor) -> Tensor:
        return 2 * W


def doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "a parametrisation of one's own": doubled,
    "weight_norm by hooks": nn.utils.weight_norm,
    "spectral_norm by hooks": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", amount=0.3),
}


@every_method
@pytest.mark.parametrize("way", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_an_adapter_works_on_a_computed_weight_as_on_that_weight(method, way):
    base = Net(COMPUTED[way])
    base(images())
    expected, model = trained(plain(base), method), trained(base, method)
    found, right = model(images()), expected(images())
    assert (right - base_output(expected)).abs().max() > 1e-3
    torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-7)
    for ours, theirs in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(model(images()), right, rtol=1e-7, atol=1e-7)


def base_output(model: PeftModel) -> Tensor:
    with model.disable_adapter():
        return model(images())


@every_method
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("way", ["weight_norm", "weight_norm by hooks"])
def test_merging_into_a_computed_weight_is_refused_before_anything_changes(method, way):
    def around(layer):
        return COMPUTED[way](layer) if isinstance(layer, nn.Linear) else layer

    model = trained(Net(around), method)
    y = model(images())
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(TypeError, match=r"linear: .* computed from other tensors .*unload\(\)"):
            merge()
        assert not any(layer.merged for layer in layers(model))
    torch.testing.assert_close(model(images()), y)


@every_method
def test_hooks_of_the_layer_are_called_and_the_adapter_works(method):
    model, seen = trained(Net(), method), []
    y = model(images())
    for layer in layers(model):
        layer.base_layer.register_forward_hook(lambda module, args, output: seen.append(module) or output + 1)
        layer.base_layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    found = model(images())
    assert len(seen) == 3
    assert (found - y).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(model(images()), found)


@every_method
def test_fsdp_that_takes_the_parameters_away_leaves_the_adapters_their_effect(method, tmp_path):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        expected = trained(Net(), method)
        model = fsdp.FullyShardedDataParallel(
            trained(Net(), method), use_orig_params=True, device_id=torch.device("cpu")
        )
        torch.testing.assert_close(model(images()), expected(images()))
        model(images()).square().sum().backward()
        right = {name: p.grad for name, p in expected.named_parameters() if p.requires_grad}
        gradients(expected)
        right = {name: p.grad for name, p in expected.named_parameters() if p.grad is not None}
        found = {name.removeprefix("_fsdp_wrapped_module."): p.grad for name, p in model.named_parameters()}
        for name, gradient in right.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-7)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", [method for method in METHODS if "salt" not in method])
def test_an_offloaded_layer_fetches_its_weight_first(method):
    from accelerate import cpu_offload

    def offloaded(layer):
        cpu_offload(layer, execution_device=torch.device("cpu"))
        return layer

    net = Net()
    for name in TARGETS:
        offloaded(getattr(net, name))
    model, expected = trained(net, method), trained(Net(), method)
    assert net.conv.base_layer.weight.is_meta
    with torch.no_grad():
        torch.testing.assert_close(model(images()), expected(images()))
    with pytest.raises(TypeError, match=r"conv: .* has no values here"):
        model.merge_adapter()


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_layer_that_no_other_weight_can_reach_is_refused_by_name():
    def net() -> nn.Module:
        return nn.Sequential(OrderedDict(only=doubled(OwnForward(20, 20).double())))

    with pytest.raises(TypeError, match=r"only: .* a forward of its own and a weight that is no parameter"):
        with_adapter(net(), METHODS["bone bat"](target_modules=["only"]))
    model = with_adapter(net(), METHODS["bone add"](target_modules=["only"]))
    assert model(torch.ones(2, 20, dtype=torch.float64)).shape == (2, 20)


# -- quantised weights -------------------------------------------------------------------------------------------------


class Codes(Tensor):
    """A weight in int8, as torchao and quanto keep them: it looks like numbers, and most operations are not there."""

    @staticmethod
    def __new__(cls, codes: Tensor, step: float) -> "Codes":
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float64, device=codes.device)

    def __init__(self, codes: Tensor, step: float) -> None:
        self.codes, self.step = codes, step

    def dequantize(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.codes.double() * self.step

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear:
            x, weight, bias = args  # as torchao: by position only
            return F.linear(x, weight.dequantize(), bias)
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].step)
        raise NotImplementedError(f"{function} on codes")


def in_codes(net: Net) -> Net:
    weight = net.linear.weight.detach()
    net.linear.weight = nn.Parameter(Codes((weight * 200).round().to(torch.int8), 1 / 200), requires_grad=False)
    return net


@every_method
def test_an_adapter_beside_a_quantised_weight_works_as_on_the_numbers_it_stands_for(method):
    exact = Net()
    exact.linear.weight.data = in_codes(Net()).linear.weight.dequantize()
    model, expected = trained(in_codes(Net()), method), trained(exact, method)
    for rows in (1, 3, 40):
        x, right = images(rows), expected(images(rows))
        torch.testing.assert_close(model(x), right, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(model(x), right, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@every_method
def test_merging_into_a_quantised_weight_is_refused_and_no_method_is_recommended_for_it(method):
    model = trained(in_codes(Net()), method)
    with pytest.raises(TypeError, match=r"linear: .* quantised \(Codes of torch.float64\).* full precision") as caught:
        model.merge_adapter()
    assert "Bone" not in str(caught.value)
    assert not any(layer.merged for layer in layers(model))


class Float8Linear(nn.Linear):
    """Codes in 8-bit floating point numbers, and their scale beside them, as checkpoints of such models have them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)
        weight = self.weight.detach()
        self.scale = nn.Parameter(weight.abs().amax() / 448, requires_grad=False)
        self.weight = nn.Parameter((weight / self.scale).to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale)


@every_method
@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_8_bit_floating_point_numbers_are_codes_too(method, autocast_adapter_dtype):
    torch.manual_seed(0)
    net, x = nn.Sequential(Float8Linear(20, 20)), torch.randn(4, 20)
    right = net(x)
    if method in ("bone bat", "salt all", "salt diag"):
        with pytest.raises(TypeError, match=r"0: the weight of this Float8Linear is quantised .*'bat-row'"):
            with_adapter(net, METHODS[method](target_modules=["0"]), autocast_adapter_dtype=autocast_adapter_dtype)
        return
    model = with_adapter(net, METHODS[method](target_modules=["0"]), autocast_adapter_dtype=autocast_adapter_dtype)
    torch.testing.assert_close(model(x), right)
    move(model)
    adapter = inside(model)[0].adapters["default"]
    codes = of_class(Float8Linear, of_class(AdapterLayer, net[0]).get_base_layer())
    numbers = codes.weight.float() * codes.scale
    torch.testing.assert_close(model(x), F.linear(x, adapter.weight(numbers)))
    assert not torch.allclose(model(x), right)
    with pytest.raises(TypeError, match=r"0: .* no adapter can be merged into codes"):
        model.merge_adapter()


def quantised_by_torchao(net: nn.Sequential) -> nn.Sequential:
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(net, quantization.Int8WeightOnlyConfig())
    return net


def quantised_by_quanto(net: nn.Sequential) -> nn.Sequential:
    quanto = pytest.importorskip("optimum.quanto")
    quanto.quantize(net, weights=quanto.qint4)
    quanto.freeze(net)
    return net


@every_method
@pytest.mark.parametrize("quantised", [quantised_by_torchao, quantised_by_quanto])
def test_bases_of_other_libraries(method, quantised):
    def base() -> nn.Sequential:
        torch.manual_seed(0)
        return quantised(nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)))

    def on_numbers() -> nn.Sequential:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
        for layer, original in zip(net, base(), strict=True):
            of_class(nn.Linear, layer).weight.data = tensor(original.weight).dequantize().detach().clone()
        return net

    def trained(net: nn.Module) -> PeftModel:
        torch.manual_seed(1)
        model = with_adapter(net, METHODS[method](target_modules=["0", "1"]))
        move(model)
        return model.eval()

    model, expected, x = trained(base()), trained(on_numbers()), torch.randn(4, 20)
    torch.testing.assert_close(model(x), expected(x), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="no adapter can be merged into codes"):
        model.merge_adapter()


@pytest.mark.parametrize("kind", [nn.Linear(3, 5), nn.Conv2d(2, 4, 3), nn.Embedding(7, 3)])
def test_the_matrix_goes_back_into_the_layout_of_the_layer(kind):
    assert torch.equal(weight_from(kind, matrix_of(kind)), kind.weight)


def test_a_layer_alone_is_refused_by_its_kind():
    layer = BoneLinear(in_codes(Net()).linear, r=4, mode="add")
    with pytest.raises(TypeError, match="Codes"):
        layer.merge()
