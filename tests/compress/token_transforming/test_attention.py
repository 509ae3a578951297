"""Attention and pooling with masses."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.compress.token_transforming import references

from linmap.compress.token_transforming import mass_channel, mass_pool, proportional_attention
from typed import other

seeds = st.integers(0, 2**16)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def heads(N, d, seed):
    return normal(3, 2, 2, N, d, seed=seed).unbind(0)


def some_masses(N, seed):
    mass = torch.randint(0, 4, (2, N), generator=torch.Generator().manual_seed(seed)).double()
    mass[:, 0] = 1
    return mass


@given(st.integers(1, 8), st.integers(1, 9), seeds)
def test_proportional_attention_is_its_definition(N, d, seed):
    (q, k, v), mass = heads(N, d, seed), some_masses(N, seed)
    y = proportional_attention(q, k, v, mass, scale=0.3)
    for b in range(2):
        A = references.attention(q[b].numpy(), k[b].numpy(), mass[b].numpy(), 0.3)
        torch.testing.assert_close(y[b], torch.from_numpy(A) @ v[b])


@given(st.integers(1, 8), st.integers(1, 17), seeds)
def test_one_more_channel_does_the_same(N, d, seed):
    (q, k, v), mass = heads(N, d, seed), some_masses(N, seed)
    wide = mass_channel(q, k, v, mass, scale=0.3)
    assert all(part.shape[-1] % 8 == 0 and part.shape[-1] > d for part in wide)
    y = F.scaled_dot_product_attention(*wide, scale=1.0)
    torch.testing.assert_close(y[..., :d], proportional_attention(q, k, v, mass, scale=0.3))


def test_long_padding_does_not_poison_the_channel():
    q, k, v = (part.float() for part in heads(1100, 8, 0))
    mass = torch.ones(2, 1100)
    mass[:, 3:] = 0
    y = F.scaled_dot_product_attention(*mass_channel(q, k, v, mass), scale=1.0)[..., :8]
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, k[..., :3, :], v[..., :3, :]))


@given(st.floats(0.1, 50), seeds)
def test_equal_masses_change_nothing(c, seed):
    q, k, v = heads(5, 4, seed)
    y = proportional_attention(q, k, v, torch.full((2, 5), c, dtype=torch.float64))
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, k, v))
    assert torch.equal(proportional_attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_masks_come_on_top_of_masses():
    (q, k, v), mass = heads(6, 4, 1), some_masses(6, 1)
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    bias = torch.zeros(6, 6).masked_fill(~seen, -torch.inf)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.double() + mass.log()[:, None, None])
    for mask in (seen, bias, bias.expand(2, 1, 6, 6)):
        torch.testing.assert_close(proportional_attention(q, k, v, mass, mask), expected)
    torch.testing.assert_close(
        proportional_attention(q, k, v, mask=seen), F.scaled_dot_product_attention(q, k, v, is_causal=True)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_attention_and_pools_keep_the_type(dtype):
    q, k, v = (part.to(dtype) for part in heads(6, 8, 2))
    mass = some_masses(6, 2).float()
    with torch.autocast("cpu"):
        assert proportional_attention(q, k, v, mass).dtype == dtype
        assert all(part.dtype == dtype for part in mass_channel(q, k, v, mass))
        assert mass_pool(q[:, 0], mass).dtype == dtype


@given(st.integers(2, 7), seeds)
def test_pooling_is_the_mean_of_what_tokens_stand_for(N, seed):
    x, mass = normal(1, N, 3, seed=seed), some_masses(N, seed)[:1]
    repeated = x[0].repeat_interleave(mass[0].long(), 0)
    torch.testing.assert_close(mass_pool(x, mass)[0], repeated.mean(0))
    if mass[0, 1:].sum() > 0:
        torch.testing.assert_close(mass_pool(x, mass, skip=1)[0], repeated[1:].mean(0))
    torch.testing.assert_close(mass_pool(x, None, skip=1), x[:, 1:].mean(1))


@pytest.mark.usefixtures("annotations_unchecked")
def test_what_does_not_fit_is_refused():
    q, k, v = heads(4, 4, 0)
    with pytest.raises(ValueError, match="shapes"):
        proportional_attention(q, k[..., :2], v)
    with pytest.raises(ValueError, match="mass must have the shape"):
        proportional_attention(q, k, v, torch.ones(2, 5))
    with pytest.raises(ValueError, match="mask must broadcast"):
        proportional_attention(q, k, v, mask=torch.ones(3, 4))
    with pytest.raises(TypeError, match="mask must be a tensor"):
        proportional_attention(q, k, v, mask=other([[1.0]]))
    with pytest.raises(ValueError, match="skip = 4 leaves none"):
        mass_pool(q[:, 0], None, skip=4)
