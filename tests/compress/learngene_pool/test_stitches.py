"""How stitches start: least squares in memory and over batches, and the matrices of the distillation."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.learngene_pool.models import images, pool_of, vit
from linmap.compress.learngene_pool import (
    LearngenePool,
    NormalEquations,
    StitchLayer,
    Transforms,
    lstsq_stitch,
    pinv_stitch,
    transform_stitch,
)
from linmap.compress.learngene_pool.stitches import rows
from typed import of_class

sizes = st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 5), st.integers(0, 99))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the layer ---------------------------------------------------------------------------------------------------------


def test_a_stitch_is_affine(generator):
    stitch = StitchLayer(3, 5, generator=generator, dtype=torch.float64)
    x = drawn(2, 4, 3)
    torch.testing.assert_close(stitch(x), x @ stitch.weight.T + stitch.bias)
    assert {name: tuple(p.shape) for name, p in stitch.named_parameters()} == {"weight": (5, 3), "bias": (5,)}


def test_its_start_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    one, two = (StitchLayer(3, 5, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert one.weight.abs().max() <= 3**-0.5
    assert torch.equal(before, torch.get_rng_state())


def test_wide_to_narrow_is_refused():
    with pytest.raises(ValueError, match="d_in=5, d_out=3"):
        StitchLayer(5, 3)


# -- least squares -----------------------------------------------------------------------------------------------------


@given(sizes)
def test_an_affine_map_is_recovered(size):
    d_a, more, extra, seed = size
    d_b, n = d_a + more, d_a + 2 + extra
    X, M, c = drawn(2, n, d_a, seed=seed), drawn(d_b, d_a, seed=seed + 1), drawn(d_b, seed=seed + 2)
    Y = X @ M.T + c
    weight, bias = lstsq_stitch(X, Y)
    torch.testing.assert_close(weight, M, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bias, c, rtol=1e-6, atol=1e-6)
    sums = NormalEquations(d_a, d_b)
    sums.add(X[0], Y[0])
    sums.add(X[1], Y[1])
    weight, bias = sums.solve(ridge=0)
    torch.testing.assert_close(weight, M, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias, c, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
@pytest.mark.filterwarnings("ignore:.*minimum-norm")
def test_it_is_numpys_least_squares(n, d_a, d_b, seed):
    X, Y = drawn(n, d_a, seed=seed), drawn(n, d_b, seed=seed + 1)
    A = np.concatenate([X.numpy(), np.ones((n, 1))], 1)
    expected = np.linalg.lstsq(A, Y.numpy(), rcond=max(n, d_a + 1) * np.finfo(float).eps)[0]
    weight, bias = lstsq_stitch(X, Y)
    np.testing.assert_allclose(weight.numpy(), expected[:-1].T, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), expected[-1], rtol=1e-7, atol=1e-9)
    residual = Y - X @ weight.T - bias
    assert (torch.from_numpy(A).T @ residual).abs().max() < 1e-8


def test_dependent_columns_get_the_least_norm():
    X = drawn(30, 3)
    X = torch.cat([X, X[:, :1]], 1)
    Y = drawn(30, 5, seed=1)
    weight, _ = lstsq_stitch(X, Y)
    torch.testing.assert_close(weight[:, 0], weight[:, 3])
    sums = NormalEquations(4, 5)
    sums.add(X, Y)
    torch.testing.assert_close(sums.solve(ridge=0)[0], weight, rtol=1e-6, atol=1e-6)


def test_singular_values_below_rcond_count_as_zero():
    X = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1e-3], [0.0, -1e-3]], dtype=torch.float64)
    Y = X @ torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(lstsq_stitch(X, Y)[0], torch.eye(2, dtype=torch.float64))
    cut = lstsq_stitch(X, Y, rcond=0.1)[0]
    torch.testing.assert_close(cut, torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_the_dtype_is_that_of_x_and_the_solution_is_found_in_float64():
    X = (drawn(200, 3) + 1e3).float()
    Y = X.double() @ drawn(4, 3, seed=1).T
    weight, bias = lstsq_stitch(X, Y.float())
    assert weight.dtype == bias.dtype == torch.float32
    torch.testing.assert_close(weight.double(), drawn(4, 3, seed=1), rtol=1e-3, atol=1e-3)


def test_few_rows_warn():
    with pytest.warns(UserWarning, match="3 rows for 6 unknowns.*minimum-norm"):
        lstsq_stitch(drawn(3, 5), drawn(3, 6))
    sums = NormalEquations(5, 6)
    sums.add(drawn(3, 5), drawn(3, 6))
    with pytest.warns(UserWarning, match="minimum-norm"):
        sums.solve()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lstsq_stitch(drawn(6, 5), drawn(6, 6))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["X", "Y"])
def test_values_that_are_not_finite_are_refused(which, bad):
    features = {"X": drawn(8, 2), "Y": drawn(8, 3)}
    features[which][3, 1] = bad
    with pytest.raises(ValueError, match=f"{which} has 1 values that are not finite"):
        lstsq_stitch(features["X"], features["Y"])
    with pytest.raises(ValueError, match=f"{which} has 1 values that are not finite"):
        NormalEquations(2, 3).add(features["X"], features["Y"])


@pytest.mark.usefixtures("annotations_unchecked")
def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="equal leading shapes"):
        lstsq_stitch(drawn(8, 2), drawn(7, 3))
    with pytest.raises(ValueError, match="no rows"):
        lstsq_stitch(drawn(0, 2), drawn(0, 3))
    with pytest.raises(ValueError, match="widths 2 and 3; expected 2 and 4"):
        NormalEquations(2, 4).add(drawn(8, 2), drawn(8, 3))
    with pytest.raises(ValueError, match="no rows to solve"):
        NormalEquations(2, 4).solve()
    full = NormalEquations(2, 3)
    full.add(drawn(8, 2), drawn(8, 3))
    with pytest.raises(ValueError, match="ridge=-1"):
        full.solve(ridge=-1)


# -- over batches ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 50))
def test_batches_give_what_all_rows_give(batches, seed):
    X, Y = drawn(60, 4, seed=seed) + 3, drawn(60, 6, seed=seed + 1) - 2
    sums = NormalEquations(4, 6)
    for x, y in zip(X.tensor_split(batches), Y.tensor_split(batches), strict=True):
        sums.add(x, y)
    assert sums.n_rows == 60
    for found, expected in zip(sums.solve(ridge=0), lstsq_stitch(X, Y), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    for found, expected in zip(sums.solve(), lstsq_stitch(X, Y), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_ridge_is_that_of_the_centred_problem():
    X, Y, ridge = drawn(40, 4) + 7, drawn(40, 6, seed=1), 0.3
    sums = NormalEquations(4, 6)
    sums.add(X, Y)
    weight, bias = sums.solve(ridge)
    Xc, Yc = X - X.mean(0), Y - Y.mean(0)
    penalty = (ridge * float((Xc**2).sum()) / 4) ** 0.5
    A = torch.cat([Xc, penalty * torch.eye(4, dtype=torch.float64)])
    expected = torch.linalg.lstsq(A, torch.cat([Yc, Yc.new_zeros(4, 6)])).solution.T
    torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(bias, Y.mean(0) - expected @ X.mean(0))


class Batches:
    """So many batches of images, made when they are asked for."""

    def __init__(self, count: int, size: int = 64) -> None:
        self.count, self.size = count, size

    def __iter__(self):
        for number in range(self.count):
            yield images(self.size, seed=number)


def peak(pool: LearngenePool, batches: int) -> int:
    """Bytes at the peak of PyTorch's CPU allocations, beyond what was there."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        pool.init_stitches("lstsq", data=Batches(batches))
    now = highest = 0
    profiler: Any = run.profiler
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


def test_memory_does_not_grow_with_the_number_of_batches():
    pool = pool_of((8, 16))
    few, many = peak(pool, 3), peak(pool, 24)
    assert few > 64 * 5 * 16 * 4  # it is the tokens of one batch at least
    assert many <= 1.05 * few


# -- from the distillation ---------------------------------------------------------------------------------------------


def test_the_transposed_means():
    T_a, T_b = drawn(3, 4, 9), drawn(2, 6, 9, seed=1)
    torch.testing.assert_close(transform_stitch(T_a), sum(T.T for T in T_a) / 3)
    torch.testing.assert_close(transform_stitch(T_a, T_b), (T_b[0] + T_b[1]) / 2 @ sum(T.T for T in T_a) / 3)


def test_the_transpose_undoes_orthonormal_rows():
    rows = torch.linalg.qr(drawn(9, 4)).Q.T
    torch.testing.assert_close(rows @ transform_stitch(rows[None]), torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(pinv_stitch(rows[None], drawn(1, 4))[0], transform_stitch(rows[None]))


@given(st.integers(0, 99))
def test_the_pseudo_inverse_undoes_the_mean_map(seed):
    T_a, b_a = drawn(3, 4, 9, seed=seed), drawn(3, 4, seed=seed + 1)
    W, c = pinv_stitch(T_a, b_a)
    h = drawn(5, 4, seed=seed + 2)
    torch.testing.assert_close((h @ W.T + c) @ T_a.mean(0).T + b_a.mean(0), h)
    T_b, b_b = drawn(2, 6, 9, seed=seed + 3), drawn(2, 6, seed=seed + 4)
    onward = (h @ W.T + c) @ T_b.mean(0).T + b_b.mean(0)
    W, c = pinv_stitch(T_a, b_a, T_b, b_b)
    torch.testing.assert_close(h @ W.T + c, onward)


def test_equal_widths_are_transposed_in_the_right_sense():
    T = drawn(1, 5, 5)
    torch.testing.assert_close(transform_stitch(T), T[0].T)
    assert not torch.allclose(transform_stitch(T), T[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: transform_stitch(drawn(4, 9)), "T_a must have shape"),
        (lambda: transform_stitch(drawn(2, 4, 9), drawn(2, 6, 8)), "widths 9 and 8"),
        (lambda: pinv_stitch(drawn(2, 4, 9), drawn(2, 5)), "b_a has shape"),
        (lambda: pinv_stitch(drawn(2, 4, 9), drawn(2, 4), drawn(2, 6, 9)), "go together"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_matrices_that_do_not_fit_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# -- a pool's stitches -------------------------------------------------------------------------------------------------


def tokens_of(member, x):
    found = [member.embed(x)]
    for block in member.blocks:
        found.append(block(found[-1]))
    return found


def test_a_pools_layers_are_the_means_over_their_pairs():
    pool, x = pool_of(), images(20)
    pool.init_stitches("lstsq", data=x)
    with torch.no_grad():
        tokens = [tokens_of(member, x) for member in pool.members]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for layer, pairs in enumerate([[(0, 0), (0, 1), (1, 0), (1, 1)], [(1, 2), (2, 1), (2, 2)]]):
            found = []
            for e, f in pairs:
                A = tokens[a][e + 1].reshape(-1, pool.members[a].embed_dim).double()
                A = torch.cat([A, A.new_ones(len(A), 1)], 1)
                Y = tokens[b][f].reshape(-1, pool.members[b].embed_dim).double()
                found.append(torch.linalg.pinv(A) @ Y)
            mean = torch.stack(found).mean(0)
            stitch = pool.stitch(a, b, layer)
            torch.testing.assert_close(stitch.weight.double(), mean[:-1].T, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(stitch.bias.double(), mean[-1], rtol=1e-3, atol=1e-4)


def test_a_pools_batches_give_what_one_tensor_gives():
    one, two, x = pool_of(), pool_of(), images(40)
    one.init_stitches("lstsq", data=x)
    two.init_stitches("lstsq", data=[(part, None) for part in x.split(7)])
    for (name, expected), found in zip(one.stitches.named_parameters(), two.stitches.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, msg=name)


def test_members_that_are_rotations_of_each_other_are_stitched_exactly():
    Q = torch.linalg.qr(drawn(6, 6)).Q.float()

    class Rotated(torch.nn.Module):
        """Blocks without norms; the second member is the first one in rotated coordinates."""

        def __init__(self, turn: torch.Tensor) -> None:
            super().__init__()
            self.turn = turn
            self.blocks = torch.nn.ModuleList(Mix(turn, seed) for seed in range(3))
            self.norm, self.head = torch.nn.Identity(), torch.nn.Linear(6, 3)
            with torch.no_grad():
                self.head.weight.copy_(drawn(3, 6, seed=9).float() @ turn.T)
                self.head.bias.zero_()
            self.embed_dim, self.num_heads, self.n_tokens, self.n_classes, self.patch_features = 6, 1, 4, 3, 6

        def embed(self, x):
            return x @ self.turn.T

    class Mix(torch.nn.Module):
        def __init__(self, turn: torch.Tensor, seed: int) -> None:
            super().__init__()
            self.attn = torch.nn.Linear(6, 6, bias=False)
            with torch.no_grad():
                self.attn.weight.copy_(turn @ (0.3 * drawn(6, 6, seed=20 + seed).float()) @ turn.T)

        def forward(self, x):
            return x + self.attn(x)

    one, two = Rotated(torch.eye(6)).eval(), Rotated(Q).eval()
    pool, x = LearngenePool([one, two], share_stitch=False).eval(), drawn(30, 4, 6, seed=3).float()
    pool.init_stitches("lstsq", data=x)
    for id, config in enumerate(pool.configs):
        if config.points and config.points[0][1] == config.points[0][0] + 1:
            torch.testing.assert_close(pool.stitch(0, 1, config.layers[0]).weight, Q, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(pool(x, config=id), one.head(tokens_of(one, x)[-1][:, 0]), rtol=1e-4, atol=1e-4)


def test_the_matrices_of_the_distillation_start_all_layers_of_a_pair():
    pool = pool_of()
    transforms = {
        m: Transforms(16, d, 2, generator=torch.Generator().manual_seed(m)) for m, d in enumerate((8, 12, 16))
    }
    maps = {m: [of_class(torch.nn.Linear, map) for map in T.T_map] for m, T in transforms.items()}
    mean = {m: torch.stack([map.weight for map in of_m]).mean(0).detach() for m, of_m in maps.items()}
    bias = {m: torch.stack([map.bias for map in of_m]).mean(0).detach() for m, of_m in maps.items()}
    pool.init_stitches("transform", transforms=transforms)
    for layer in (0, 1):
        torch.testing.assert_close(pool.stitch(0, 2, layer).weight.data, mean[0].T)
        torch.testing.assert_close(pool.stitch(1, 2, layer).weight.data, mean[1].T)
        torch.testing.assert_close(pool.stitch(0, 1, layer).weight.data, mean[1] @ mean[0].T)
        assert not pool.stitch(0, 1, layer).bias.any()
    pool.init_stitches("pinv", transforms=transforms)
    inverse = torch.linalg.pinv(mean[0])
    torch.testing.assert_close(pool.stitch(0, 2, 1).weight.data, inverse)
    torch.testing.assert_close(pool.stitch(0, 2, 1).bias.data, -inverse @ bias[0])
    torch.testing.assert_close(pool.stitch(0, 1, 0).weight.data, mean[1] @ inverse)
    torch.testing.assert_close(pool.stitch(0, 1, 0).bias.data, bias[1] - mean[1] @ inverse @ bias[0])
    pool.init_stitches("composed", transforms=transforms)
    torch.testing.assert_close(pool.stitch(0, 2, 0).weight.data, mean[2] @ inverse)


def test_random_comes_from_the_generator_and_identity_needs_equal_widths():
    pool = pool_of()
    pool.init_stitches("random", generator=torch.Generator().manual_seed(5))
    first = pool.stitch(0, 1, 0).weight.clone()
    pool.init_stitches("random", generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, pool.stitch(0, 1, 0).weight)
    with pytest.raises(ValueError, match="members 0 and 1 have 8 and 12"):
        pool.init_stitches("identity")


def test_flags_come_back():
    pool = pool_of(drop := (8, 12))
    pool.train()
    pool.members[1].get_submodule("blocks.2").eval()
    before = [module.training for module in pool.modules()]
    pool.init_stitches("lstsq", data=images(20))
    assert [module.training for module in pool.modules()] == before, drop


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "best"}, "method='best'"),
        ({}, "needs data"),
        ({"data": []}, "no batch"),
        ({"data": torch.zeros(0, 1, 8, 8)}, "data is empty"),
        ({"method": "transform"}, "needs transforms"),
        ({"method": "pinv", "transforms": {0: Transforms(16, 8, 1)}}, "transforms of member 1"),
        ({"method": "transform", "transforms": {0: Transforms(16, 9, 1)}}, r"shape \(9, 16\)"),
        ({"data": [], "resume": True}, "resume=True needs `out`"),
        ({"method": "random", "data": torch.zeros(2, 1, 8, 8)}, "'random' does not use data, which is for lstsq"),
        ({"method": "transform", "data": torch.zeros(2, 1, 8, 8)}, "'transform' does not use data"),
        ({"data": [], "transforms": {}}, "'lstsq' does not use transforms, which is for transform, pinv, composed"),
        ({"method": "identity", "out": "sums"}, "'identity' does not use out"),
        ({"data": torch.zeros(2, 1, 8, 8), "out": "sums"}, "out keeps the sums over batches"),
    ],
)
def test_what_cannot_start_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        pool_of().init_stitches(**options)


# -- resuming ----------------------------------------------------------------------------------------------------------


class Breaks(Exception):
    pass


def test_sums_that_broke_off_go_on_to_the_same_stitches(tmp_path, monkeypatch):
    from linmap.compress.learngene_pool import starting

    monkeypatch.setattr(starting, "SAVE_EVERY", 2)

    def breaking():
        for number, batch in enumerate(Batches(7, size=10)):
            if number == 5:
                raise Breaks
            yield batch

    whole, broken = pool_of(), pool_of()
    whole.init_stitches("lstsq", data=Batches(7, size=10))
    with pytest.raises(Breaks):
        broken.init_stitches("lstsq", data=breaking(), out=tmp_path)
    broken.init_stitches("lstsq", data=Batches(7, size=10), out=tmp_path, resume=True)
    for expected, found in zip(whole.stitches.parameters(), broken.stitches.parameters(), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="other weights or blocks"):
        LearngenePool([vit(8, seed=7), vit(12), vit(16)]).init_stitches(
            "lstsq", data=Batches(1), out=tmp_path, resume=True
        )


@pytest.mark.parametrize("X", [torch.ones(9, 2, dtype=torch.long), torch.ones(9, 2) * 1j])
def test_least_squares_takes_real_tensors_only(X):
    with pytest.raises(TypeError, match="X must be a tensor of floating-point numbers"):
        rows(X, torch.randn(9, 3))


def test_a_negative_rcond_is_refused():
    with pytest.raises(ValueError, match="rcond=-1 must not be negative"):
        lstsq_stitch(torch.randn(9, 2), torch.randn(9, 3), rcond=-1)


def test_batches_that_are_no_tensors_are_refused():
    with pytest.raises(TypeError, match="data gave a batch of type ndarray"):
        pool_of((8, 12)).init_stitches(data=[images(2).numpy()])


@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_a_stitch_is_drawn_as_a_linear_layer_is(d_in: int, more: int, seed: int) -> None:
    """Weight, then bias, uniform within 1 / sqrt(d_in) on both sides of zero."""
    shape = (d_in + more, d_in)
    stitch = StitchLayer(*shape[::-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    generator, bound = torch.Generator().manual_seed(seed), d_in**-0.5
    for parameter, size in ((stitch.weight, shape), (stitch.bias, shape[:1])):
        expected = bound * (2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1)
        torch.testing.assert_close(parameter.detach(), expected)
