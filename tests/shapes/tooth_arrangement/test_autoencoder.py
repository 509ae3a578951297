"""The masked autoencoder of meshes: its masks, its targets, and that it learns."""

import numpy as np
import pytest
import torch
from torch import nn

from linmap.shapes.tooth_arrangement import MeshEncoder
from linmap.shapes.tooth_arrangement.autoencoder import MeshAutoencoder, Patches, _chamfer, as_patches, pretrain
from shapes.tooth_arrangement.crowns import ball

SMALL = {"width": 16, "depth": 1, "heads": 2}


def meshes(n: int = 4):
    """Balls with 320 faces, five patches each, of different forms."""
    V, F = ball(0.1, level=2)
    stretch = np.random.default_rng(0).uniform(0.6, 1.4, (n, 1, 3))
    return [(torch.from_numpy(v).float(), torch.from_numpy(F)) for v in V * stretch]


def test_half_of_the_patches_that_are_there_are_masked():
    model = MeshAutoencoder(MeshEncoder(16, 1, 2), **SMALL)
    mask = torch.arange(10) < torch.tensor([[10], [6], [2], [1]])
    hidden = model.choose(mask, torch.Generator().manual_seed(0))
    assert hidden.sum(1).tolist() == [5, 3, 1, 1]
    assert not (hidden & ~mask).any()


def test_chamfer_is_a_loop():
    A, B = torch.randn(3, 4, 3), torch.randn(3, 5, 3)
    total = 0.0
    for a, b in zip(A, B, strict=True):
        total += sum(min(float((p - q).norm()) for q in b) for p in a) / 4
        total += sum(min(float((p - q).norm()) for q in a) for p in b) / 5
    assert float(_chamfer(A, B)) == pytest.approx(total / 6, rel=1e-5)


def test_hidden_patches_are_not_seen():
    model = MeshAutoencoder(MeshEncoder(16, 1, 2), **SMALL).eval()
    patches = as_patches(meshes(2))
    hidden = model.choose(patches.mask, torch.Generator().manual_seed(1))
    guesses = []
    model.features.register_forward_hook(lambda module, inputs, output: guesses.append(output))
    model(patches, hidden)
    features = patches.features.clone()
    features[hidden] = 99.0
    model(Patches(features, patches.centers, patches.vertices, patches.mask), hidden)
    assert torch.equal(guesses[0], guesses[1])


def test_meshes_of_different_sizes_go_together():
    small, large = meshes(1)[0], ball(0.1, level=3)
    patches = as_patches([small, (torch.from_numpy(large[0]).float(), torch.from_numpy(large[1]))])
    assert patches.mask.sum(1).tolist() == [5, 20]
    model = MeshAutoencoder(MeshEncoder(16, 1, 2), **SMALL).eval()
    loss = model(patches, model.choose(patches.mask, torch.Generator().manual_seed(0)))
    assert float(loss.total) == pytest.approx(0.5 * float(loss.vertices) + float(loss.features), rel=1e-5)


def test_pre_training_lowers_the_error_and_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    encoders = [MeshEncoder(16, 1, 2) for _ in range(2)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    settings = {"batch_size": 4, "lr": 3e-3, "warmup_epochs": 0, "epochs": 12, **SMALL}
    state = torch.get_rng_state()
    history = pretrain(encoders[0], meshes(), **settings)
    assert history.epochs[-1].loss < 0.8 * history.epochs[0].loss
    assert torch.equal(state, torch.get_rng_state())
    first = nn.utils.parameters_to_vector(encoders[0].parameters())
    pretrain(encoders[1], meshes(), checkpoints=tmp_path, **settings)
    assert torch.equal(first, nn.utils.parameters_to_vector(encoders[1].parameters()))
    resumed = pretrain(encoders[1], meshes(), checkpoints=tmp_path, resume=True, **settings)
    assert resumed.steps == history.steps


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: pretrain(MeshEncoder(16, 1, 2), []), "meshes is empty"),
        (lambda: pretrain(MeshEncoder(16, 1, 2), [ball(level=0)]), "multiple of 64"),
        (lambda: MeshAutoencoder(MeshEncoder(16, 1, 2), mask_ratio=1.0), "mask_ratio"),
    ],
)
def test_what_does_not_fit_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()
