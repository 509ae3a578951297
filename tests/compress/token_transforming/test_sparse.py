"""Shares kept as entries give what the dense matrices give, to the rounding of float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from linmap.compress.token_transforming import TokenTransform, assignment, compose, informativeness, select_centres
from linmap.compress.token_transforming.few import FewTransform
from linmap.compress.token_transforming.sparse import SMALLEST, SparseTransform
from linmap.compress.token_transforming.transform import Transform

B, N, M, C = 16, 90, 50, 12


def tokens(seed: int, padded: bool, batch: int = B) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(6, C, generator=g)
    x = centre[torch.randint(6, (batch, N), generator=g)] + 0.3 * torch.randn(batch, N, C, generator=g)
    mass = torch.rand(batch, N, generator=g) + 0.5
    if padded:
        mass[0, 70:] = 0
        mass[1, 30:] = 0  # fewer than M
    return x, torch.rand(batch, N, generator=g), mass


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("protect", [0, 1, 3])
@pytest.mark.parametrize("batch", [3, B])
def test_it_is_the_assignment_of_the_steps(padded: bool, protect: int, batch: int) -> None:
    x, importance, mass = tokens(protect, padded, batch)
    kept = TokenTransform(protect=protect).build(x, M=M, importance=importance, mass=mass)
    many = batch * M * N >= SMALLEST
    assert type(kept) is (SparseTransform if many else Transform if padded else FewTransform)
    centres = select_centres(informativeness(x, importance, mass=mass, protect=protect), M)
    P = assignment(x, centres, mass=mass, protect=protect)
    dense = Transform(P, mass, centres)
    torch.testing.assert_close(kept.P, P, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.mass_out, dense.mass_out, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(kept.mass_out.sum(-1), mass.sum(-1))
    torch.testing.assert_close(kept.matrix().sum(-1), (kept.mass_out > 0).float())
    torch.testing.assert_close(kept.apply(x), dense.apply(x), atol=2e-5, rtol=1e-5)
    y = kept.apply(x)
    torch.testing.assert_close(kept.restore(y), dense.restore(y), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(kept.restore(y, hard=True), dense.restore(y, hard=True))
    torch.testing.assert_close(compose([kept])[1], kept.recovery())


@pytest.mark.parametrize("tau", [1e-9, 1e-40])
@pytest.mark.parametrize("batch", [3, B])
def test_a_temperature_below_what_float32_tells_is_hard(batch: int, tau: float) -> None:
    x, importance, mass = tokens(0, False, batch)
    kept = TokenTransform(tau=tau).build(x, M=M, importance=importance, mass=mass)
    centres = select_centres(informativeness(x, importance, mass=mass), M)
    torch.testing.assert_close(kept.P, assignment(x, centres, mass=mass, hard=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.mass_out.sum(-1), mass.sum(-1))


def test_batches_that_are_built_in_parts_are_the_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, importance, mass = tokens(7, False)
    monkeypatch.setattr("linmap.compress.token_transforming.token_transform.AT_ONCE", 3 * N * N)
    whole = TokenTransform().build(x, M=M, importance=importance, mass=mass)
    assert isinstance(whole, SparseTransform)
    for i in (0, 4, B - 1):
        alone = TokenTransform().build(x[i : i + 1], M=M, importance=importance[i : i + 1], mass=mass[i : i + 1])
        torch.testing.assert_close(whole.P[i], alone.P[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(whole.apply(x)[i], alone.apply(x[i : i + 1])[0], atol=2e-5, rtol=1e-5)


def test_gradients_and_other_types_take_the_dense_products() -> None:
    x, importance, _ = tokens(1, False)
    kept = TokenTransform().build(x, M=M, importance=importance)
    leaf = x.clone().requires_grad_()
    kept.apply(leaf).square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0
    assert not isinstance(TokenTransform().build(leaf, M=M, importance=importance), SparseTransform)
    assert not isinstance(TokenTransform().build(x.double(), M=M, importance=importance), SparseTransform)
    half = x.to(torch.bfloat16)
    assert kept.apply(half).dtype == kept.restore(kept.apply(half)).dtype == torch.bfloat16
    wide = kept.apply(x.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), kept.apply(x), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("masses", [True, False])
def test_the_order_of_a_batch_and_equal_importances_do_not_matter_to_a_few_tokens(masses: bool) -> None:
    """Of equals the lower one is the more important, with as few operators as in the steps."""
    x, importance, mass = tokens(3, False, 2)
    x[:, 40:60] = x[:, 10:30]  # alike, and as important
    importance = (importance * 8).round()
    kept = TokenTransform().build(x, M=M, importance=importance, mass=mass if masses else None)
    assert isinstance(kept, FewTransform)
    s = mass if masses else torch.ones_like(mass)
    torch.testing.assert_close(kept.centres, select_centres(informativeness(x, importance, mass=s), M))
    torch.testing.assert_close(kept.mass, s)
    for half in (torch.bfloat16, torch.float64):
        assert kept.apply(x.to(half)).dtype == kept.restore(kept.apply(x.to(half))).dtype == half


@pytest.mark.parametrize("n", [300, 700])
def test_similarities_in_blocks_are_those_of_one_product(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    x, importance = torch.randn(2, n, 8, generator=g), torch.rand(2, n, generator=g)
    kept = TokenTransform().build(x, M=n // 2, importance=importance)
    P = assignment(x, select_centres(informativeness(x, importance), n // 2))
    torch.testing.assert_close(kept.P, P, atol=1e-5, rtol=0)


def test_the_memory_of_similarities_is_used_again_and_nothing_that_is_returned_lies_in_it() -> None:
    g = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 1, 400, 8, generator=g)
    importance = torch.rand(1, 400, generator=g)
    with torch.inference_mode():
        first = TokenTransform().build(x, M=200, importance=importance)
        before = first.P.clone()
    hard = TokenTransform(assign="hard").build(other, M=200, importance=importance)
    targets = hard.P.clone()
    again = TokenTransform().build(x, M=200, importance=importance)
    assert torch.equal(first.P, before)
    assert torch.equal(again.P, before)
    assert torch.equal(hard.P, targets)
