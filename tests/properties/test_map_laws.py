"""The laws that every map obeys, over all the cases of tests/maps/cases.py."""

import copy
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrize

from linmap.errors import SingularMapError
from linmap.maps import LinearMap
from maps.cases import CASES, Case
from typed import gradient_of, present


def vectors(*shape: int, like: LinearMap, seed: int = 1) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal in shape and dtype, and in value to `tolerance` of the largest expected entry."""
    scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def well_conditioned(map: LinearMap) -> bool:
    """Square and of full rank, judged from the dense matrix alone."""
    return map.square and bool((torch.linalg.cond(map.matrix().detach()) < 1e6).all())


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ONE_EACH = list({type(case()): case for case in reversed(CASES)}.values())  # the first case of each structure


def over(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=repr)


every_map = over(CASES)
every_structure = over(ONE_EACH)
every_trained_structure = over([case for case in ONE_EACH if list(case().parameters())])
every_real_map = over([case for case in CASES if not case().dtype.is_complex])
every_batched_map = over([case for case in CASES if case.batched])
every_invertible_map = over([case for case in CASES if well_conditioned(case())])
every_singular_map = over([case for case in CASES if not well_conditioned(case())])

every_map_found_from_its_matrix = over([case for case in CASES if case.from_matrix is not None])
every_compiled_structure = over([case for case in ONE_EACH if case.compiles])
every_device = pytest.mark.parametrize("device", DEVICES)


def one_and_a_batch(case: Case) -> list[LinearMap]:
    """The map alone and, where its constructor takes a batch_shape, two of them."""
    return [case(), case(batch_shape=(2,))] if case.batched else [case()]


def invertible(case: Case) -> list[LinearMap]:
    return [map for map in one_and_a_batch(case) if well_conditioned(map)]


def singular(case: Case) -> list[LinearMap]:
    return [map for map in one_and_a_batch(case) if not well_conditioned(map)]


# -- applying ------------------------------------------------------------------------------------------------------


@every_device
@every_map
def test_forward_is_the_product_with_the_matrix(case, device):
    map = case(device=device)
    M = map.matrix()
    assert M.shape == (*map.batch_shape, map.out_features, map.in_features)
    for shape in [(), (4,), (2, 3), (0,)]:
        x = vectors(*shape, map.in_features, like=map)
        assert_near(map(x), x @ M.mT)


@every_batched_map
@pytest.mark.parametrize("batch_shape", [(1,), (2,), (3, 2)], ids=str)
def test_batched_parameters_broadcast_as_matmul_does(case, batch_shape):
    map = case(batch_shape=batch_shape)
    M = map.matrix()
    assert M.shape == (*batch_shape, map.out_features, map.in_features)
    for shape in [(), (4,), (1, 4), (*batch_shape, 5)]:
        x = vectors(*shape, map.in_features, like=map)
        y = vectors(*shape, map.out_features, like=map)
        assert_near(map(x), x @ M.mT)
        assert_near(map.T(y), y @ M)


@every_batched_map
def test_batch_entries_are_maps_of_their_own(case):
    matrices = case(batch_shape=(8,)).matrix().detach()
    if matrices.shape[-1] > 1:
        assert len({tuple(matrix.flatten().tolist()) for matrix in matrices}) > 1


@every_map
def test_a_vector_of_another_length_is_refused(case):
    map = case()
    for view, size in [(map, map.in_features), (map.T, map.out_features)]:
        for shape in [(size + 1,), (3, size + 1), ()]:
            with pytest.raises(ValueError, match=rf"x must have {size} features .* got shape"):
                view(vectors(*shape, like=map))


@every_map
def test_transpose_is_the_adjoint(case):
    map = case()
    x, y = vectors(4, map.in_features, like=map), vectors(4, map.out_features, like=map, seed=2)
    assert_near((map(x) * y).sum(), (x * map.T(y)).sum())
    assert_near(map.T.matrix(), map.matrix().mT)
    assert (map.T.in_features, map.T.out_features) == (map.out_features, map.in_features)


@every_map
def test_transposing_twice_changes_nothing(case):
    map = case()
    x = vectors(4, map.in_features, like=map)
    assert_near(map.T.T(x), map(x))
    assert_near(map.T.T.matrix(), map.matrix())


@every_map
def test_views_share_the_parameters(case):
    map = case()
    own = {id(parameter) for parameter in map.parameters()}
    assert {id(parameter) for parameter in map.T.parameters()} == own
    if well_conditioned(map):
        assert {id(parameter) for parameter in map.inverse().parameters()} == own


# -- inverse and determinant -----------------------------------------------------------------------------------------


@every_invertible_map
def test_inverse_undoes_forward_on_both_sides(case):
    for map in invertible(case):
        n = map.in_features
        x = vectors(3, n, like=map).expand(*map.batch_shape, -1, -1)
        inverse, inverse_T = map.inverse(), map.T.inverse()
        for there, back in [(map, inverse), (inverse, map), (map.T, inverse_T), (inverse_T, map.T), (map.T, inverse.T)]:
            assert_near(back(there(x)), x, 1e-8)
        assert_near(inverse.inverse()(x), map(x))
        assert_near(inverse.matrix() @ map.matrix(), torch.eye(n, dtype=x.dtype).expand_as(map.matrix()), 1e-8)


@every_singular_map
def test_a_map_without_an_inverse_says_so(case):
    for map in singular(case):
        for view in (map, map.T):
            with pytest.raises(SingularMapError, match=r"\w+\(\d.* has no inverse: "):
                view.inverse()


@every_invertible_map
def test_logabsdet_is_that_of_the_matrix(case):
    for map in invertible(case):
        expected = torch.linalg.slogdet(map.matrix()).logabsdet
        for view, sign in [(map, 1), (map.T, 1), (map.inverse(), -1)]:
            assert_near(view.logabsdet(), sign * expected)


@every_singular_map
def test_logabsdet_without_an_inverse(case):
    for map in singular(case):
        if map.square:
            assert map.logabsdet().shape == map.batch_shape
            assert bool((map.logabsdet() < -25).all())  # |det| is zero up to rounding
        else:
            with pytest.raises(SingularMapError, match="has no determinant"):
                map.logabsdet()


# -- composition -----------------------------------------------------------------------------------------------------


@every_structure
def test_composition_associates_and_is_the_matrix_product(case):
    inner = case(seed=1)
    for outer in (other for other in (c() for c in ONE_EACH) if other.in_features == inner.out_features):
        if outer.dtype != inner.dtype:
            continue
        last = outer.T
        x = vectors(4, inner.in_features, like=inner)
        product = last.matrix() @ outer.matrix() @ inner.matrix()
        left, right = (last @ outer) @ inner, last @ (outer @ inner)
        for composed in (left, right):
            assert_near(composed(x), last(outer(inner(x))))
            assert_near(composed.matrix(), product)
        assert_near(left.T.matrix(), product.mT)


# -- gradients -------------------------------------------------------------------------------------------------------


def gradients_are_right(map: LinearMap, function, *inputs: Tensor) -> bool:
    """gradcheck of function(map, *inputs) in the inputs and in every parameter of the map."""
    evaluation = _Evaluation(map, function)
    names = [name for name, _ in evaluation.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in evaluation.parameters()]

    def evaluate(*arguments: Tensor) -> Tensor:
        parameters = dict(zip(names, arguments, strict=False))
        return torch.func.functional_call(evaluation, parameters, arguments[len(names) :])

    arguments = [*values, *(x.requires_grad_() for x in inputs)]
    return not arguments or torch.autograd.gradcheck(evaluate, arguments, atol=1e-5, rtol=1e-4)


class _Evaluation(nn.Module):
    def __init__(self, map: LinearMap, function) -> None:
        super().__init__()
        self.map, self.function = map, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self.map, *inputs)


@every_map
def test_gradients_of_forward_transpose_and_matrix(case):
    map = case()
    x, y = vectors(2, map.in_features, like=map), vectors(2, map.out_features, like=map)
    assert gradients_are_right(map, lambda m, x: m(x), x)
    assert gradients_are_right(map, lambda m, y: m.T(y), y)
    assert gradients_are_right(map, lambda m: m.matrix())


@every_invertible_map
def test_gradients_of_inverse_and_logabsdet(case):
    map = case()
    y = vectors(2, map.out_features, like=map)
    assert gradients_are_right(map, lambda m, y: m.inverse()(y), y)
    assert gradients_are_right(map, lambda m, y: m.inverse().T(y), y)
    assert gradients_are_right(map, lambda m: m.logabsdet())


# -- precision -------------------------------------------------------------------------------------------------------


@every_device
@every_map
def test_lower_precision_stays_near(case, device):
    exact = case(torch.float64, device)
    x = vectors(4, exact.in_features, like=exact)
    y = exact(x).detach()
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.bfloat16, 0.06)]:
        map = copy.deepcopy(exact).to(dtype)
        result = map(x.to(map.dtype))
        assert result.dtype == map.dtype == map.matrix().dtype
        assert_near(result.to(y.dtype), y, tolerance)
        assert_near(map.T.matrix().to(y.dtype), exact.matrix().mT.detach(), tolerance)
        if well_conditioned(exact) and torch.linalg.cond(exact.matrix()).max() < 100:
            assert_near(map.logabsdet().double(), exact.logabsdet().detach(), 5 * tolerance)
            assert_near(map.inverse()(result).to(x.dtype), x, 30 * tolerance)


@every_device
@every_map
def test_autocast_changes_the_precision_only(case, device):
    map = case(torch.float32, device)
    x = vectors(4, map.in_features, like=map).requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        y = map(x)
    assert_near(y.to(x.dtype), map(x), 0.06)
    y.abs().sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in map.parameters())]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@every_structure
def test_matrix_follows_the_dtype_of_the_module(case):
    map = case(torch.float32)
    for dtype in (torch.float64, torch.float32):
        map.to(dtype)
        assert map.T.dtype == map.dtype == map.matrix().dtype
        assert map.dtype.to_real() == dtype


@every_trained_structure
def test_a_view_follows_the_dtype_of_its_map(case):
    map = case(torch.float32)
    views = [map.T, map.T.T, *([map.inverse()] if well_conditioned(map) else [])]
    map.double()
    assert all(view.dtype == view.matrix().dtype == map.dtype for view in views)


# -- storage ---------------------------------------------------------------------------------------------------------


@every_map
def test_state_dict_and_safetensors_round_trip_bit_for_bit(case, tmp_path):
    map = case(seed=1)
    for saved, other in [(map, case(seed=2)), (map.T, case(seed=3).T)]:
        save_file(saved.state_dict(), tmp_path / "map.safetensors")
        other.load_state_dict(load_file(tmp_path / "map.safetensors"))
        assert torch.equal(other.matrix(), saved.matrix())


@every_map
def test_one_seed_gives_one_map(case):
    assert torch.equal(case(seed=5).matrix(), case(seed=5).matrix())
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    case(seed=5)
    assert torch.equal(torch.random.get_rng_state(), before), "a draw ignored the generator"


@every_map
def test_a_copy_is_independent(case):
    map = case()
    before = map.matrix().detach().clone()
    with torch.no_grad():
        for parameter in copy.deepcopy(map).parameters():
            parameter.add_(1)
    assert torch.equal(map.matrix(), before)


@every_map
def test_tensors_are_parameters_or_buffers(case):
    """What DDP, FSDP2 and `.to` move: nothing else may hold numbers; and parameters are real and contiguous."""
    for view in (map := case(), map.T):
        for module in view.modules():
            loose = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
            assert not loose, f"{module}: {loose}"
        for name, parameter in view.named_parameters():
            assert parameter.is_leaf, name
            assert parameter.is_contiguous(), name
            assert not parameter.is_complex(), name


# -- in models ---------------------------------------------------------------------------------------------------------


@every_compiled_structure
@pytest.mark.usefixtures("annotations_unchecked")
def test_torch_compile_traces_the_whole_map(case):
    torch._dynamo.reset()
    map = case(torch.float32)
    x = vectors(4, map.in_features, like=map).requires_grad_()
    model = nn.Sequential(map) if not map.dtype.is_complex else map
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_near(compiled(x), map(x), 1e-5)
    expected = torch.autograd.grad(map(x).abs().sum(), [x, *map.parameters()])
    actual = torch.autograd.grad(compiled(x).abs().sum(), [x, *map.parameters()])
    for a, e in zip(actual, expected, strict=True):
        assert_near(a, e, 1e-4)


@pytest.mark.slow
@every_compiled_structure
@pytest.mark.usefixtures("annotations_unchecked")
def test_torch_compile_with_inductor(case):
    torch._dynamo.reset()
    map = case(torch.float32)
    x = vectors(4, map.in_features, like=map)
    assert_near(torch.compile(map, fullgraph=True)(x), map(x), 1e-5)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """One process that is a process group."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@every_trained_structure
@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_data_parallel_wrappers_change_neither_output_nor_gradient(case, wrap, mesh):
    map = case(torch.float32)
    x = vectors(4, map.in_features, like=map)
    copied = copy.deepcopy(map)
    wrapped = nn.parallel.DistributedDataParallel(copied) if wrap == "ddp" else fully_shard(copied, mesh=mesh)
    outputs = [model(x) for model in (wrapped, map)]
    assert_near(outputs[0], outputs[1], 1e-6)
    for y in outputs:
        y.abs().sum().backward()
    for parameter, expected in zip(wrapped.parameters(), map.parameters(), strict=True):
        found: Any = parameter.grad
        assert_near(found.full_tensor() if wrap == "fsdp2" else found, gradient_of(expected), 1e-6)


@every_real_map
def test_parametrize_on_the_weight_of_a_layer(case):
    map = case()
    layer = nn.Linear(map.in_features, 3, dtype=map.dtype)
    before = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", map, unsafe=not map.square)
    if well_conditioned(map):
        assert_near(layer.weight, before, 1e-7)  # through right_inverse
    parametrizations: Any = layer.parametrizations
    original = parametrizations.weight.original
    assert_near(layer.weight, map(original))
    parameters = [original, *map.parameters()]
    found = torch.autograd.grad(layer.weight.square().sum(), parameters)
    expected = torch.autograd.grad((original @ map.matrix().mT).square().sum(), parameters)
    for gradient, wanted in zip(found, expected, strict=True):
        assert_near(gradient, wanted, 1e-6)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    assert layer.weight.shape == (3, map.out_features)


@every_map
def test_flops_grow_with_the_vectors(case):
    map = case()
    assert map.flops(6) == 6 * map.flops()
    assert map.T.flops(2) >= 0
    assert map.flops() >= 0
    if any(True for _ in map.parameters()):
        assert map.flops() > 0
    if case.batched:
        assert case(batch_shape=(3, 2)).flops(4) == 6 * map.flops(4)


# -- orthogonality ---------------------------------------------------------------------------------------------------


def trained_orthogonal(cases: list[Case]) -> list[Case]:
    return [case for case in cases if case().orthogonal and list(case().parameters())]


def stays_orthogonal(case: Case, dtype: torch.dtype, tolerance: float) -> bool:
    map = case(dtype)
    x, y = vectors(2, map.in_features, like=map), vectors(2, map.out_features, like=map, seed=2)
    optimiser = torch.optim.Adam(map.parameters(), lr=0.03)
    start = map.matrix().detach().clone()
    for _ in range(1000):
        optimiser.zero_grad()
        (map(x) - y).square().sum().backward()
        optimiser.step()
    M = map.matrix().detach()
    assert (M - start).abs().max() > 0.01 or map.in_features == 1, "nothing was trained"
    return bool((M.mT @ M - torch.eye(map.in_features, dtype=dtype)).abs().max() < tolerance)


both_precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])


@over(trained_orthogonal(ONE_EACH))
@both_precisions
@pytest.mark.usefixtures("annotations_unchecked")
def test_orthogonal_maps_stay_orthogonal_in_training(case, dtype, tolerance):
    assert stays_orthogonal(case, dtype, tolerance)


@pytest.mark.slow
@over(trained_orthogonal([case for case in CASES if case not in ONE_EACH]))
@both_precisions
@pytest.mark.usefixtures("annotations_unchecked")
def test_orthogonal_maps_of_other_sizes_stay_orthogonal_in_training(case, dtype, tolerance):
    assert stays_orthogonal(case, dtype, tolerance)


# -- from a matrix -----------------------------------------------------------------------------------------------------


@every_map_found_from_its_matrix
def test_from_matrix_finds_what_the_structure_can_represent(case):
    for map in one_and_a_batch(case):
        M = map.matrix().detach()
        found = type(map).from_matrix(M, **case.from_matrix)
        assert_near(found.matrix(), M, 1e-5)
        assert present(found.residual) < 1e-5
        assert found.dtype == map.dtype
        assert found.batch_shape == map.batch_shape
        assert all(parameter.requires_grad for parameter in found.parameters())


@every_map_found_from_its_matrix
def test_from_matrix_states_its_residual(case):
    map = case()
    M = vectors(map.out_features, map.in_features, like=map, seed=9)
    found = type(map).from_matrix(M, **case.from_matrix)
    error = float(torch.linalg.vector_norm(M - found.matrix().detach()) / torch.linalg.vector_norm(M))
    assert math.isclose(found.residual, error, rel_tol=1e-6, abs_tol=1e-12)


@every_map_found_from_its_matrix
def test_from_matrix_refuses_what_is_no_matrix(case):
    map = case()
    M = map.matrix().detach()
    with_nan = M.clone()
    with_nan[..., 0, 0] = torch.nan
    for bad, message in [(M[0], "at least 2 dimensions"), (with_nan, "NaN or infinite"), (M.real.long(), "floating")]:
        with pytest.raises(ValueError, match=message):
            type(map).from_matrix(bad, **case.from_matrix)
