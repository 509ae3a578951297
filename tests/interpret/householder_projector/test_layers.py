import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from linmap.interpret.householder_projector import (
    HouseholderProjector,
    ProjectedFirstLayer,
    named_directions,
    nearest_isometry,
    project_layers,
    sefa,
)
from linmap.interpret.householder_projector.layers import restrict_
from linmap.interpret.householder_projector.weights import settle_
from typed import other, present, tensor

pytestmark = pytest.mark.usefixtures("annotations_unchecked")


class Generator(nn.Module):
    """As small generators are built: a mapping, a first transposed convolution, and more of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mapping = nn.Sequential(nn.Linear(6, 6), nn.LeakyReLU(0.2))
        self.first = nn.ConvTranspose2d(6, 5, (2, 3))
        self.blocks = nn.ModuleList([nn.Conv2d(5, 4, 1), nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)])

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.first(self.mapping(z)[..., None, None])
        for block in self.blocks:
            x = block(x)
        return x


def test_layers_are_replaced_by_name_or_predicate_in_the_order_of_the_model():
    model = Generator()
    names = ["blocks.0", "mapping.0", "first"]
    plain = copy.deepcopy(model)
    found = project_layers(model, names, 3)
    assert list(found) == ["mapping.0", "first", "blocks.0"]
    assert all(found[name] is dict(model.named_modules())[name] for name in names)
    assert [found[name].dim for name in found] == [-1, 1, 1]
    assert list(project_layers(plain, lambda name, module: name in names, 3)) == list(found)
    z = torch.randn(2, 6)
    torch.testing.assert_close(plain(z), model(z))


def test_a_projected_layer_starts_at_the_nearest_isometry_of_what_the_layer_did():
    model = Generator()
    plain = copy.deepcopy(model)
    found = project_layers(model, ["first", "blocks.0"], 4, gain=1.0, n_reflectors="full")
    matrix = plain.first.weight.detach().flatten(1).mT
    torch.testing.assert_close(found["first"].weight, nearest_isometry(matrix, 4))
    with torch.no_grad():  # a convolution of that very weight
        plain.first.weight.copy_(found["first"].weight.mT.reshape(plain.first.weight.shape))
        tensor(plain.blocks[0].weight).copy_(found["blocks.0"].weight[..., None, None])
    z = torch.randn(2, 6)
    torch.testing.assert_close(model(z), plain(z))
    torch.testing.assert_close(sefa(plain.first, 2)[1], torch.ones(2))


def test_a_first_layer_refuses_a_larger_input_by_name():
    model = Generator()
    first = project_layers(model, ["first"], 3)["first"]
    assert isinstance(first, ProjectedFirstLayer)
    for x in (torch.ones(2, 6, 2, 2), torch.ones(2, 6), torch.ones(2, 6, 1)):
        with pytest.raises(ValueError, match=r"first was a transposed convolution .* 1 x 1 input"):
            first(x)
    with pytest.raises(ValueError, match="6 features"):
        first(torch.ones(2, 5, 1, 1))
    for twin in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert torch.equal(twin(torch.ones(2, 6, 1, 1)), first(torch.ones(2, 6, 1, 1)))


def test_a_layer_in_two_places_is_replaced_in_both():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    for names in (["0"], ["2.0"], ["0", "2.0"]):
        twin = copy.deepcopy(model)
        found = project_layers(twin, names, 2)
        assert len(found) == 1
        assert twin[0] is dict(twin.named_modules(remove_duplicate=False))["2.0"] is next(iter(found.values()))


def test_dtype_bias_and_mode_are_kept():
    model = nn.ModuleDict({"a": nn.Linear(4, 3, bias=False), "b": nn.Conv2d(3, 2, 1)}).double().eval()
    found = project_layers(model, ["a", "b"], 2)
    assert found["a"].bias is None
    assert torch.equal(present(found["b"].bias), present(found["b"].bias).double())
    assert all(layer.U.dtype == torch.float64 and not layer.training for layer in found.values())


@pytest.mark.parametrize(
    ("layers", "rank", "message"),
    [
        (["mapping.9"], 2, r"no layer 'mapping.9' in the model; it has .*mapping.0, first, blocks.0"),
        (["mapping.1"], 2, r"'mapping.1' is a LeakyReLU"),
        (["mapping.0", "blocks.1"], 2, r"'blocks.1' is a ConvTranspose2d"),
        ([], 2, "nothing"),
        (lambda name, module: False, 2, "nothing"),
        (["mapping.0", "blocks.0"], 5, r"layer 'blocks.0': rank .* got 5"),
        (["mapping.0"], 0, r"layer 'mapping.0': rank"),
    ],
)
def test_what_cannot_be_replaced_is_refused_and_nothing_is(layers, rank, message):
    model = Generator()
    before = list(model.modules())
    with pytest.raises(ValueError, match=message):
        project_layers(model, layers, rank)
    assert all(a is b for a, b in zip(before, model.modules(), strict=True))


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv1d(4, 4, 1),
    ],
    ids=str,
)
def test_another_convolution_is_told_which_can_be_replaced(convolution):
    with pytest.raises(ValueError, match=rf"'0' is a {type(convolution).__name__} .*1x1"):
        project_layers(nn.Sequential(convolution), ["0"], 2)


def test_a_name_in_place_of_names_is_refused_and_so_is_a_projector():
    with pytest.raises(TypeError, match=r"write \['first'\]"):
        project_layers(Generator(), other("first"), 2)
    with pytest.raises(ValueError, match="a projector already"):
        project_layers(nn.Sequential(HouseholderProjector(4, 4, 2)), ["0"], 2)


def test_latent_codes_of_few_dimensions_warn():
    w = torch.randn(50, 2) @ torch.randn(2, 6) + 5
    with pytest.warns(UserWarning, match=r"latent.* 2 dimensions, rank=3"):
        project_layers(Generator(), ["first"], 3, w_samples=w)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project_layers(Generator(), ["first"], 2, w_samples=w)
        project_layers(Generator(), ["first"], 6, w_samples=torch.randn(50, 6))
    with pytest.raises(ValueError, match="w_samples must be finite"):
        project_layers(Generator(), ["first"], 2, w_samples=torch.full((3, 6), math.nan))


def test_directions_of_all_projectors_by_name():
    model = Generator()
    with pytest.raises(ValueError, match="project_layers"):
        named_directions(model)
    found = project_layers(model, ["first", "mapping.0"], 3)
    directions = named_directions(model)
    assert list(directions) == ["mapping.0", "first"]
    for name, rows in directions.items():
        assert torch.equal(rows, found[name].directions)
        assert not rows.requires_grad


def test_a_swapped_model_reloads_into_one_that_is_swapped_alike():
    model, fresh = Generator(), Generator()
    project_layers(model, ["first"], 3)
    nn.init.normal_(present(fresh.first).weight)
    project_layers(fresh, ["first"], 3)
    fresh.load_state_dict(model.state_dict())
    z = torch.randn(2, 6)
    assert torch.equal(fresh(z), model(z))


def test_a_restricted_layer_reads_the_span_of_the_directions_alone():
    z = torch.randn(4, 6)
    D = torch.linalg.qr(torch.randn(6, 2))[0].mT
    for layer in (nn.Linear(6, 3), nn.Conv2d(6, 3, 1), nn.ConvTranspose2d(6, 3, 2)):
        shape = (4, 6) if isinstance(layer, nn.Linear) else (4, 6, 1, 1)
        expected = layer((z @ D.mT @ D).reshape(shape))
        restrict_(layer, D)
        torch.testing.assert_close(layer(z.reshape(shape)), expected)


NORMALISED = {
    "plain": lambda layer: layer,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
    "pruned by a hook": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("kind", NORMALISED)
def test_the_weight_that_a_layer_applies_is_projected_also_before_its_first_forward(kind):
    def layer() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(NORMALISED[kind](nn.Linear(6, 8))).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("weight", "weight_orig", "original", "original0")):
                    weight.mul_(3)  # what a hook has computed is now of an earlier state
        return model

    plain, model, settled = layer(), layer(), layer()
    eye, zero = torch.eye(6), torch.zeros(6, 6)
    A = (plain(eye) - plain(zero)).mT.detach()
    torch.testing.assert_close(sefa(model[0], 3), sefa(A, 3), atol=1e-5, rtol=0)
    projector = project_layers(model, ["0"], 3)["0"]
    torch.testing.assert_close(projector.weight, projector.gain * nearest_isometry(A, 3), atol=1e-5, rtol=0)
    settle_(settled[0])
    torch.testing.assert_close(settled(eye), plain(eye))
    assert "weight" in dict(settled[0].named_parameters())


def test_hooks_of_the_user_act_on_the_projector_and_can_be_removed():
    model = nn.Sequential(nn.Linear(6, 8))
    seen = []
    model[0].register_forward_pre_hook(lambda _, x: (2 * x[0],))
    handle = model[0].register_forward_hook(lambda *call: seen.append(call[2]))
    projector = project_layers(model, ["0"], 3)["0"]
    x = torch.randn(4, 6)
    torch.testing.assert_close(model(x), 2 * x @ projector.weight.mT + present(projector.bias))
    assert len(seen) == 1
    handle.remove()
    model(x)
    assert len(seen) == 1


class Equalised(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, 0.25 * self.weight, self.bias)


class Adapted(nn.Module):
    """As adapters wrap a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.low = nn.Linear(4, 4), nn.Linear(4, 4)

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Equalised(4, 4), r"layer '0' is a Equalised .* forward of its own"),
        (Adapted(), r"layer '0' is a Adapted .* wraps other layers \(base, low\)"),
        (nn.LazyLinear(4), "layer '0': LazyLinear has no weight yet"),
        (nn.Linear(4, 4, device="meta"), "layer '0': the weight of Linear is on the meta device"),
    ],
)
def test_a_layer_whose_weight_is_not_its_map_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        project_layers(nn.Sequential(layer), ["0"], 2)


def test_a_wrapped_layer_gives_no_weight():
    for call in (lambda: HouseholderProjector.from_linear(Adapted(), 2), lambda: sefa(Adapted(), 2)):
        with pytest.raises(TypeError, match="wraps other layers"):
            call()


@pytest.mark.parametrize("shape", [(50, 9), (0, 6)])
def test_codes_of_no_layer_are_refused(shape):
    with pytest.raises(ValueError, match=r"w_samples must hold codes .* \(S, 6\) for layer '0'"):
        project_layers(nn.Sequential(nn.Linear(6, 8)), ["0"], 2, w_samples=torch.zeros(shape))
