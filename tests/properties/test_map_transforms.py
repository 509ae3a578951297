"""Every map under `torch.func`, forward-mode differentiation, `torch.export` and on the meta device."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from linmap.errors import SingularMapError
from maps.cases import CASES
from properties.test_map_laws import (
    ONE_EACH,
    assert_near,
    every_batched_map,
    every_compiled_structure,
    every_map,
    over,
    vectors,
    well_conditioned,
)
from typed import present

SPECIAL = ("Rigid(2)", "Cayley(3), based", "Kronecker of Householder, Dense and Cayley.T", "LowRank(4, 4, 3)")
few_maps = over([case for case in CASES if case in ONE_EACH or case.name in SPECIAL])


@every_map
def test_vmap_and_derivatives_are_those_of_the_matrix(case):
    map = case()
    for view in [map, map.T, *([map.inverse()] if well_conditioned(map) else [])]:
        x, M = vectors(3, view.in_features, like=map), view.matrix().detach()
        y = view(x).detach()
        assert_near(torch.vmap(view)(x), y)
        assert_near(torch.func.jvp(view, (x,), (x,))[1], y)
        if not map.dtype.is_complex:
            assert_near(torch.func.jacfwd(view)(x[0]), M)
            assert_near(torch.func.jacrev(view)(x[0]), M)
        with forward_ad.dual_level():
            assert_near(present(forward_ad.unpack_dual(view(forward_ad.make_dual(x, x))).tangent), y)


@few_maps
def test_derivatives_in_the_parameters_agree_in_all_modes(case):
    map = case()
    names, values = zip(*map.named_parameters(), strict=True) if list(map.parameters()) else ((), ())
    if map.dtype.is_complex or not names or any(not value.numel() for value in values):
        return  # PyTorch differentiates neither by complex nor by no numbers
    x = vectors(2, map.in_features, like=map)

    def output(*values):
        return torch.func.functional_call(map, dict(zip(names, values, strict=True)), (x,))

    values = tuple(value.detach() for value in values)
    places = tuple(range(len(values)))
    forward = torch.func.jacfwd(output, places)(*values)
    reverse = torch.func.jacrev(output, places)(*values)
    by_hand = torch.autograd.functional.jacobian(output, values)
    for a, b, c in zip(forward, reverse, by_hand, strict=True):
        assert_near(a, c, 1e-9)
        assert_near(b, c, 1e-9)


@few_maps
def test_an_ensemble_of_maps_runs_under_vmap(case):
    ensemble = [case(seed=seed) for seed in (1, 2)]
    if not list(ensemble[0].parameters()):
        return
    parameters, buffers = torch.func.stack_module_state(ensemble)
    x = vectors(3, ensemble[0].in_features, like=ensemble[0])
    y = torch.vmap(lambda p, b: torch.func.functional_call(ensemble[0], (p, b), (x,)))(parameters, buffers)
    for one, map in zip(y, ensemble, strict=True):
        assert_near(one, map(x))


@few_maps
def test_gradients_of_every_sample_at_once(case):
    map = case()
    parameters = {name: value.detach() for name, value in map.named_parameters()}
    x = vectors(4, map.in_features, like=map)

    def loss(parameters, sample):
        return torch.func.functional_call(map, parameters, (sample,)).abs().square().sum()

    if parameters:
        found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        for i, sample in enumerate(x):
            expected = torch.autograd.grad(loss(dict(map.named_parameters()), sample), list(map.parameters()))
            for gradients, e in zip(found.values(), expected, strict=True):
                assert_near(gradients[i], e, 1e-9)


@every_compiled_structure
@pytest.mark.usefixtures("annotations_unchecked")
def test_export_keeps_the_batch_open(case):
    map = case(torch.float32)
    x = vectors(4, map.in_features, like=map)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(map, (x,), dynamic_shapes=({0: batch},)).module()
    for rows in (1, 4, 9):
        x = vectors(rows, map.in_features, like=map)
        assert_near(program(x), map(x), 1e-5)


@few_maps
def test_the_meta_device_has_shapes_and_no_numbers(case):
    like = case(torch.float32)
    with torch.device("meta"):
        built = case.build(generator=None, dtype=torch.float32, device=None)
    for map in (case.build(generator=None, dtype=torch.float32, device="meta"), like.to("meta"), built):
        x = torch.empty(4, map.in_features, dtype=map.dtype, device="meta")
        y = torch.empty(2, 3, map.out_features, dtype=map.dtype, device="meta")
        assert map(x).shape == (4, map.out_features)
        assert map.T(y).shape == (2, 3, map.in_features)
        assert map.matrix().shape == (map.out_features, map.in_features)
        assert map(x).is_meta
        if well_conditioned(case()):
            assert map.logabsdet().shape == ()
            assert map.inverse()(x).shape == x.shape
        elif map.square and map.rank_bound < map.in_features:
            with pytest.raises(SingularMapError):
                map.inverse()


@every_batched_map
def test_batches_run_on_the_meta_device(case):
    map = case.build(generator=None, dtype=torch.float32, device="meta", batch_shape=(2,))
    assert map(torch.empty(4, map.in_features, dtype=map.dtype, device="meta")).shape == (2, 4, map.out_features)


def test_a_model_of_maps_is_built_and_applied_without_memory():
    from linmap.maps import Householder, Kronecker, Spectral

    with torch.device("meta"):
        model = nn.Sequential(Householder(3000, 3000), Spectral(3000, 3000, 10), Kronecker(60, 50))
        assert model(torch.empty(7, 3000)).shape == (7, 3000)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
