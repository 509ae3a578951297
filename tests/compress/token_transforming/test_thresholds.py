"""Merging by thresholds, against loops written from the rules, and the laws of transformations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.compress.token_transforming import references

from compress.tiny_encoders import tiny, tiny_timm
from linmap.compress.token_transforming import AdaptiveMerging, LocalGlobalMerging, compose, compress
from linmap.compress.vision_transformer import VisionTransformer
from typed import other

seeds = st.integers(0, 2**16)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def groups_of(transform, b):
    """Which tokens each output with mass stands for."""
    return {frozenset(row.nonzero().flatten().tolist()) for row in transform.P[b] if row.any()}


def all_groups(N, merges):
    """Groups of N tokens where each (source, destination) merges."""
    groups = {i: {i} for i in range(N)}
    for source, destination in merges:
        groups[destination].add(source)
        del groups[source]
    return {frozenset(group) for group in groups.values()}


def pairs_above(f, s, threshold, by_size):
    """Pairs that ATM merges in one sample with token 0 protected."""
    f, N = references.unit(f), len(f)
    places = [*range(0, N, 2), *range(1, N, 2)]
    if by_size:
        places = sorted(places, key=lambda i: s[i])
    half = (N + 1) // 2
    merges = []
    for i in places[:half]:
        open_to = [j for j in places[half:] if j > 0]
        best = max(open_to, key=lambda j: f[i] @ f[j])
        if i > 0 and f[i] @ f[best] >= threshold:
            merges.append((i, best))
    return merges


@given(st.integers(6, 12), st.floats(-0.5, 0.9), st.booleans(), seeds)
def test_adaptive_merging_is_its_rule(N, threshold, by_size, seed):
    x = normal(2, N, 3, seed=seed)
    s = torch.randint(1, 4, (2, N), generator=torch.Generator().manual_seed(seed)).double()
    transform = AdaptiveMerging(threshold=threshold, by_size=by_size).build(x, M=2, mass=s)
    merges = [pairs_above(x[b].numpy(), s[b].numpy(), threshold, by_size) for b in range(2)]
    fewest = min(len(each) for each in merges)
    assert transform.P.shape == (2, N - fewest, N)
    for b in range(2):
        assert groups_of(transform, b) == all_groups(N, merges[b])


def windows_alike(f, side, threshold):
    """Pairs (source, destination) of the windows of 2 x 2 that ALGM merges, token 0 being the class token."""
    f, merges = references.unit(f), []
    for i in range(0, side - 1, 2):
        for j in range(0, side - 1, 2):
            tokens = [1 + (i + a) * side + j + b for a in (0, 1) for b in (0, 1)]
            cosines = [f[a] @ f[b] for a in tokens for b in tokens if a != b]
            if np.mean(cosines) >= threshold:
                merges += [(token, tokens[-1]) for token in tokens[:-1]]
    return merges


@given(st.integers(2, 5), st.floats(-0.4, 0.6), seeds)
def test_windows_merge_first(side, threshold, seed):
    N = side * side + 1
    x = normal(2, N, 3, seed=seed)
    transform = LocalGlobalMerging(threshold=threshold).build(x, M=2)
    merges = [windows_alike(x[b].numpy(), side, threshold) for b in range(2)]
    fewest = min(len(each) for each in merges)
    assert transform.P.shape == (2, N - fewest, N)
    for b in range(2):
        assert groups_of(transform, b) == all_groups(N, merges[b])


@given(st.integers(6, 14), st.integers(1, 9), seeds)
def test_pairs_far_above_the_mean_merge_later(N, layer, seed):
    x = normal(1, N, 3, seed=seed)
    transform = LocalGlobalMerging(layer=layer).build(x, M=2, mass=torch.ones(1, N).double())
    f = references.unit(x[0].numpy())
    best = {i: max(range(1, N, 2), key=lambda j: f[i] @ f[j]) for i in range(2, N, 2)}
    values = np.array([f[i] @ f[j] for i, j in best.items()])
    limit = values.mean() + (values.std(ddof=1) if len(values) > 1 else 0) / layer
    merges = [(i, j) for i, j in best.items() if f[i] @ f[j] >= limit]
    assert groups_of(transform, 0) == all_groups(N, merges)


WAYS = [AdaptiveMerging(threshold=0.9), LocalGlobalMerging(threshold=0.0)]


@pytest.mark.parametrize("way", WAYS)
def test_mass_is_kept_and_outputs_without_mass_are_zeros(way):
    x = normal(3, 26, 3)
    x[0, 1:] = x[0, 1:2]  # one sample that merges all it can
    first = way.build(x, M=2)
    y = first.apply(x)
    second = way.build(y, M=2, mass=first.mass_out)
    W, R = compose([first, second])
    for transform in (first, second):
        torch.testing.assert_close(transform.mass_out.sum(-1), torch.full((3,), 26.0).double())
        real = transform.mass_out > 0
        if transform is first:
            assert real.sum(-1).max() == transform.P.shape[1] > real.sum(-1).min()
        assert (transform.matrix().sum(-1)[~real] == 0).all()
        torch.testing.assert_close(transform.matrix().sum(-1)[real], torch.ones(int(real.sum())).double())
    torch.testing.assert_close(R.sum(-1), torch.ones(3, 26).double())
    torch.testing.assert_close(W @ x, second.apply(y))


@pytest.mark.parametrize("way", WAYS)
def test_at_least_m_tokens_are_left_and_protected_ones_stay(way):
    x = torch.ones(2, 26, 3)
    for M in (2, 14, 21, 25, 26):
        transform = way.build(x, M=M)
        assert transform.P.shape[1] >= M
        assert transform.P[:, 0, 0].tolist() == [1, 1]
        assert transform.P[:, 0].sum() == transform.P[:, :, 0].sum() == 2


def test_padding_neither_merges_nor_is_merged_into():
    x = torch.ones(1, 9, 3)
    mass = torch.tensor([[1.0, 1, 1, 1, 1, 0, 0, 0, 0]])
    for way in WAYS:
        transform = way.build(x, M=2, mass=mass)
        assert transform.mass_out.sum() == 5
        assert (transform.P[..., 5:] == 0).all()


@pytest.mark.usefixtures("annotations_unchecked")
def test_what_means_nothing_here_is_refused():
    with pytest.raises(ValueError, match="takes no assign"):
        AdaptiveMerging(assign="soft")
    with pytest.raises(ValueError, match="takes no min_sim"):
        LocalGlobalMerging(min_sim=0.5)
    with pytest.raises(ValueError, match="threshold is a cosine"):
        AdaptiveMerging(threshold=1.5)
    with pytest.raises(TypeError, match="threshold must be a number"):
        AdaptiveMerging(threshold=other("high"))
    with pytest.raises(ValueError, match="at least two"):
        LocalGlobalMerging(window=(1, 1))
    with pytest.raises(ValueError, match="are no grid"):
        LocalGlobalMerging().build(torch.ones(1, 8, 2), M=2)
    with pytest.raises(ValueError, match="does not fit"):
        LocalGlobalMerging(window=(3, 3)).build(torch.ones(1, 5, 2), M=2)
    assert math.isfinite(LocalGlobalMerging(grid=(1, 7), window=(1, 2)).build(torch.ones(1, 8, 2), M=2).P.sum())


WITHIN = [
    AdaptiveMerging(threshold=0.5),
    AdaptiveMerging(threshold=0.5, by_size=False),
    LocalGlobalMerging(threshold=0.1, layer=3),
]


@pytest.mark.parametrize("way", WITHIN)
def test_a_model_does_not_see_outputs_without_mass(way):
    """Samples that merge more than others in their batch come out as they do alone."""
    torch.manual_seed(0)
    model = VisionTransformer(24, 4, 1, 3, dim=16, depth=4, heads=2).eval()
    images = torch.randn(3, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    images[0] = 0.1 * images[0] + 1
    with torch.no_grad(), compress(model, schedule={0: 2, 2: 2}, transform=way) as handle:
        together = model(images)
        counts = (handle.mass > 0).sum(-1)
        assert counts.max() == handle.mass.shape[1] < 37
        assert counts.min() < counts.max()
        alone = torch.cat([model(image) for image in images.split(1)])
    torch.testing.assert_close(together, alone)


ALIKE = [
    AdaptiveMerging(threshold=0.96),
    AdaptiveMerging(threshold=0.96, by_size=False),
    LocalGlobalMerging(threshold=0.9, layer=3),
]


def one_plain_image(name):
    """A model, three images of which the first is one colour, and what the model gives, a row for each image."""
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images[0] = 1
    if name == "timm":
        model = tiny_timm(global_pool="avg")
        model.pos_embed.data *= 0.2
        return model, images, model
    model = tiny(name)
    for key, parameter in model.named_parameters():
        if "position_embedding" in key:
            parameter.data *= 0.2

    def given(x):
        found = model(pixel_values=x, output_hidden_states=True)
        states = [found.last_hidden_state, *found.hidden_states] if name == "dinov2" else []
        return torch.cat([state.flatten(1) for state in [found.pooler_output, *states]], 1)

    return model, images, given


@pytest.mark.parametrize("way", ALIKE)
@pytest.mark.parametrize("name", ["timm", "dinov2", "siglip"])
def test_a_sample_that_merges_nothing_does_not_keep_others_from_it(name, way):
    """A sample gives the same alone and in its batch, whatever the others merge."""
    model, images, given = one_plain_image(name)
    way = replace(way, protect=int(name == "dinov2"))
    restore = "end" if name == "dinov2" else None
    with torch.no_grad(), compress(model, schedule={0: 2, 1: 2}, transform=way, restore=restore) as handle:
        together = given(images)
        first = handle.transforms[0]
        left = (first.mass_out > 0).sum(-1).tolist()
        assert left[0] < left[1] == first.shape[1] == first.shape[2]
        alone = torch.cat([given(image) for image in images.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
