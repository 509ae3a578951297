"""Features, encoders, denoiser and losses."""

from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from torch import nn

from linmap.shapes.tooth_arrangement import (
    MeshEncoder,
    PointEncoder,
    ToothContext,
    ToothDenoiser,
    apply_motion,
    arrangement_loss,
    face_features,
    load_official,
    patch_features,
    patch_vertices,
    rotation_from_six,
    time_embedding,
)
from shapes.tooth_arrangement.crowns import ball


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- features ----------------------------------------------------------------------------------------------------------


def bumpy():
    V, faces = ball(4.0, level=2)
    return V * (1 + 0.1 * np.sin(3 * V[:, :1])) * [1.0, 0.7, 1.2], faces


def test_face_features_are_trimeshs():
    V, faces = bumpy()
    mesh = trimesh.Trimesh(V, faces, process=False)
    products = (mesh.vertex_normals[faces] * mesh.face_normals[:, None]).sum(-1)
    expected = np.column_stack([mesh.area_faces, mesh.face_normals, np.sort(mesh.face_angles, 1), np.sort(products, 1)])
    assert np.allclose(face_features(V, faces).numpy(), expected, atol=1e-9)


def test_permuting_vertices_and_corners_changes_no_feature():
    V, faces = bumpy()
    order = np.random.default_rng(0).permutation(len(V))
    renamed = np.argsort(order)[faces][:, [1, 2, 0]]
    assert torch.allclose(face_features(V[order], renamed), face_features(V, faces))


def test_slot_j_of_patch_p_is_face_j_n_plus_p():
    V, faces = bumpy()
    n = len(faces) // 64
    features, centers = patch_features(V, faces)
    assert features.shape == (n, 64, 10)
    for p, j in ((0, 0), (1, 5), (n - 1, 63)):
        assert torch.equal(features[p, j], face_features(V, faces)[j * n + p])
        assert np.allclose(centers[p, j].numpy(), V[faces[j * n + p]].mean(0))


def test_a_patch_of_three_subdivisions_has_45_vertices():
    V, base = ball(4.0, level=0)
    mesh = trimesh.Trimesh(V, base, process=False)
    for _ in range(3):
        mesh = mesh.subdivide()
    V, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    n = len(base)
    order = (
        np.arange(len(faces)).reshape(n, 64).T.ravel()
    )  # trimesh puts the four children of a face next to each other
    vertices = patch_vertices(V, faces[order])
    assert vertices.shape == (n, 45, 3)
    assert all(len(patch.unique(dim=0)) == 45 for patch in vertices)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda V, f: (V, np.concatenate([f, [[0, 1, 1], [2, 2, 2]]])), "2 zero-area"),
        (lambda V, f: (np.where(np.arange(len(V))[:, None] == 3, np.nan, V), f), "vertices"),
        (lambda V, f: (V[:, :2], f), "vertices"),
        (lambda V, f: (V, f[:, :2]), "faces"),
        (lambda V, f: (V, f + 500), "faces"),
    ],
)
def test_broken_meshes_are_refused(change, word):
    for function in (face_features, patch_features):
        V, faces = change(*bumpy())
        if function is patch_features and len(faces) % 64:
            continue
        with pytest.raises(ValueError, match=word):
            function(V, faces)


def test_faces_that_make_no_patches_are_refused():
    V, faces = bumpy()
    with pytest.raises(ValueError, match="multiple of 64"):
        patch_features(V, faces[:-1])


# -- encoders ----------------------------------------------------------------------------------------------------------


def test_masked_patches_change_nothing():
    encoder = MeshEncoder(width=24, depth=2, heads=3).eval()
    features, centers = torch.randn(2, 6, 64, 10), torch.randn(2, 6, 64, 3)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    found = encoder(features, centers, mask)
    features[1, 4:], centers[1, 4:] = float("nan"), 7.0
    assert torch.equal(encoder(features, centers, mask), found)
    assert torch.allclose(encoder(features[1:, :4], centers[1:, :4])[0], found[1], atol=1e-5)
    assert not encoder(features, centers, mask & False).any()


def test_the_order_of_patches_changes_nothing():
    encoder = MeshEncoder(width=24, depth=2, heads=3).eval()
    features, centers = torch.randn(1, 6, 64, 10), torch.randn(1, 6, 64, 3)
    order = torch.randperm(6)
    assert torch.allclose(encoder(features[:, order], centers[:, order]), encoder(features, centers), atol=1e-5)


def test_the_full_sizes():
    assert sum(p.numel() for p in MeshEncoder().parameters()) > 85e6
    context = ToothContext(depth=1).eval()
    found = context(torch.randn(1, 32, 768), torch.randn(1, 1024), torch.randn(1, 32, 3))
    assert found.shape == (1, 32, 1827)
    assert torch.allclose(found.mean(-1), torch.zeros(1, 32), atol=1e-5)


def test_absent_teeth_change_no_vector_of_the_jaws():
    encoder = PointEncoder().eval()
    points, mask = torch.rand(1, 32, 4, 3, generator=seeded()), torch.ones(1, 32, dtype=torch.bool)
    mask[0, 5:9] = False
    with torch.no_grad():
        found = encoder(points, mask)
        assert found.shape == (1, 1024)
        points[0, 5:9] = float("nan")
        assert torch.equal(encoder(points, mask), found)
        assert not torch.allclose(encoder(points.nan_to_num(0.0), mask | True), found)
    with pytest.raises(ValueError, match="mask leaves case 0"):
        encoder(points, mask & False)


def test_absent_teeth_change_no_context():
    context = ToothContext(depth=2).eval()
    mesh, jaws, centroid = torch.randn(2, 32, 768), torch.randn(2, 1024), torch.randn(2, 32, 3)
    mask = torch.rand(2, 32, generator=seeded()) < 0.7
    found = context(mesh, jaws, centroid, mask)
    mesh[~mask], centroid[~mask] = float("nan"), 9.0
    assert torch.equal(context(mesh, jaws, centroid, mask), found)


# -- denoiser ----------------------------------------------------------------------------------------------------------


def official(state, y, t, context):
    """The U-ViT written out from weights by name."""

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def block(name, x, skip=None):
        if skip is not None:
            x = linear(f"{name}.skip_linear", torch.cat([x, skip], -1))
        B, L, width = x.shape
        q, k, v = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x)).reshape(B, L, 3, 9, 3).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 3**0.5).softmax(-1)
        x = x + linear(f"{name}.attn.proj", (weights @ v).transpose(1, 2).reshape(B, L, width))
        hidden = F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x)))
        return x + linear(f"{name}.mlp.fc2", hidden)

    x = torch.cat([time_embedding(t, 288).reshape(-1, 32, 9), context, y], -1) + state["pos_embed"]
    skips = []
    for i in range(6):
        x = block(f"in_blocks.{i}", x)
        skips.append(x)
    x = block("mid_block", x)
    for i in range(6):
        x = block(f"out_blocks.{i}", x, skips.pop())
    x = linear("decoder_pred", norm("norm", x))
    return norm("final_layer", linear("mlp.2", F.gelu(linear("mlp.0", x))))


def test_the_faithful_denoiser_is_the_u_vit_of_named_weights():
    generator = seeded()
    denoiser = ToothDenoiser(faithful=True).eval()
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.3
        for name, value in denoiser.state_dict().items()
        if not name.startswith("context_mlp.")
    }
    assert load_official(denoiser, state) is denoiser
    cast(Any, denoiser).context_mlp = nn.Identity()
    y, context = torch.randn(2, 32, 9, generator=generator), torch.randn(2, 32, 9, generator=generator)
    t = torch.tensor([12.25, 800.0])
    assert torch.allclose(denoiser(y, t, context), official(state, y, t, context), atol=1e-4)


def test_official_weights_must_fit():
    denoiser = ToothDenoiser(faithful=True)
    state = {k: v for k, v in denoiser.state_dict().items() if not k.startswith("context_mlp.")}
    assert {
        "pos_embed",
        "norm.weight",
        "decoder_pred.weight",
        "mlp.0.weight",
        "mlp.2.bias",
        "final_layer.weight",
    } <= set(state)
    for change, word in (
        (lambda: load_official(ToothDenoiser(9), state), "faithful"),
        (lambda: load_official(denoiser, {k: v for k, v in state.items() if k != "pos_embed"}), "lacks 1"),
        (lambda: load_official(denoiser, state | {"more": state["pos_embed"]}), "more"),
        (lambda: load_official(denoiser, state | {"pos_embed": torch.zeros(1, 28, 27)}), "pos_embed"),
    ):
        with pytest.raises(ValueError, match=word):
            change()


@pytest.mark.parametrize("faithful", [True, False])
def test_absent_teeth_change_no_prediction(faithful: bool):
    denoiser = ToothDenoiser(20, faithful=faithful, width=32, depth=2).eval()
    y, context = torch.randn(2, 32, 9), torch.randn(2, 32, 20)
    mask = torch.rand(2, 32, generator=seeded()) < 0.7
    t = torch.tensor([3.0, 500.0])
    found = denoiser(y, t, context, mask)
    y[~mask], context[~mask] = float("nan"), float("nan")
    assert torch.equal(denoiser(y, t, context, mask), found)
    assert not found[~mask].any()


def test_only_the_faithful_denoiser_fixes_mean_and_variance():
    y, context, t = torch.randn(3, 32, 9), torch.randn(3, 32, 20), torch.zeros(3)
    faithful, ours = (ToothDenoiser(20, faithful=f, width=32).eval()(y, t, context) for f in (True, False))
    assert faithful.mean(-1).abs().max() < 1e-5
    assert ours.mean(-1).std() > 1e-3


def test_a_time_for_each_case_is_needed():
    with pytest.raises(ValueError, match="t must be"):
        ToothDenoiser(20)(torch.zeros(2, 32, 9), torch.zeros(3), torch.zeros(2, 32, 20))


# -- losses ------------------------------------------------------------------------------------------------------------


def problem(B: int = 2, P: int = 3):
    generator = seeded(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mask = torch.rand(B, 32, generator=generator) < 0.8
    return [draw(B, 32, 9), draw(B, 32, 9), draw(B, 32, P, 3), draw(B, 32, P, 3), draw(B, 32, 3), draw(B, 32, 3), mask]


@pytest.mark.parametrize("reference", ["after", "before"])
def test_the_loss_is_the_sum_of_loops(reference):
    pred, target, before, after, c, after_c, mask = problem()
    points = parameters = distances = 0.0
    for b in range(2):
        for i in range(32):
            if not mask[b, i]:
                continue
            moved = (before[b, i] - c[b, i]) @ rotation_from_six(pred[b, i, 3:]) + pred[b, i, :3]
            points += float(((moved - after[b, i]) ** 2).sum())
            parameters += float(((pred[b, i] - target[b, i]) ** 2).sum()) / (2 * 32)
            for j in range(32):
                if mask[b, j]:
                    place = after_c if reference == "after" else c
                    true = float((place[b, i] - place[b, j]).norm())
                    distances += (true - float((pred[b, i, :3] - pred[b, j, :3]).norm())) ** 2
    found = arrangement_loss(*problem(), reference=reference, reduction="sum")
    expected = (0.001 * points, 0.03 * parameters, 0.001 * distances)
    assert [float(x) for x in found[:3]] == pytest.approx(expected, rel=1e-9)
    assert float(found.total) == pytest.approx(sum(expected), rel=1e-9)
    mean = arrangement_loss(*problem(), reference=reference)
    assert float(mean.points) == pytest.approx(12 * expected[0], rel=1e-9)
    assert float(mean.parameters) == pytest.approx(expected[1], rel=1e-9)
    assert float(mean.distances) == pytest.approx(12 * expected[2], rel=1e-9)


def test_the_truth_has_no_loss_and_absent_teeth_no_gradient():
    _, target, before, _, c, after_c, mask = problem()
    target[..., :3] = after_c
    after = apply_motion(before, c, target)
    pred = target.clone().requires_grad_()
    assert float(arrangement_loss(pred, target, before, after, c, after_c, mask).points.detach()) < 1e-25
    pred = torch.randn_like(target).requires_grad_()
    wild: Any = [
        value.masked_fill(~mask.reshape(2, 32, *[1] * (value.ndim - 2)), torch.nan) for value in (before, after)
    ]
    loss = arrangement_loss(pred, target, wild[0], wild[1], c, after_c, mask).total
    loss.backward()
    assert pred.grad is not None
    assert pred.grad.isfinite().all()
    assert not pred.grad[~mask].any()
    assert pred.grad[mask].any(-1).all()


@pytest.mark.usefixtures("annotations_unchecked")
def test_losses_refuse_by_name():
    names = ["pred", "target", "before", "after", "centroid", "after_centroid", "mask"]
    for i, name in enumerate(names):
        arguments = problem()
        arguments[i] = arguments[i][:, :7]
        with pytest.raises(ValueError, match=f"^{name} must"):
            arrangement_loss(*arguments)
    with pytest.raises(ValueError, match="reference"):
        arrangement_loss(*problem(), reference="both")  # pyright: ignore
    with pytest.raises(ValueError, match="reduction"):
        arrangement_loss(*problem(), reduction="none")  # pyright: ignore


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("mask", [(1, 32), (2, 31), (32,)])
def test_a_mask_of_another_batch_is_refused_not_stretched(mask):
    mask = torch.ones(mask, dtype=torch.bool)
    y, t, context = torch.zeros(2, 32, 9), torch.zeros(2), torch.zeros(2, 32, 5)
    calls = [
        lambda: ToothDenoiser(5, width=8, depth=1)(y, t, context, mask),
        lambda: ToothContext(depth=1)(torch.zeros(2, 32, 768), torch.zeros(2, 1024), y[..., :3], mask),
        lambda: PointEncoder()(torch.zeros(2, 32, 4, 3), mask),
        lambda: MeshEncoder(8, 1, 2)(torch.zeros(2, 32, 64, 10), torch.zeros(2, 32, 64, 3), mask),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^mask must be \(2, 32\), got shape"):
            call()


@pytest.mark.usefixtures("annotations_unchecked")
def test_networks_name_the_input_of_another_shape():
    y, t, context = torch.zeros(2, 32, 9), torch.zeros(2), torch.zeros(2, 32, 5)
    mesh, jaws, features = torch.zeros(2, 32, 768), torch.zeros(2, 1024), torch.zeros(2, 3, 64, 10)
    denoiser, joint, encoder = ToothDenoiser(5, width=8, depth=1), ToothContext(depth=1), MeshEncoder(8, 1, 2)
    calls = {
        "y": lambda: denoiser(y[:, :31], t, context),
        "context": lambda: denoiser(y, t, context[..., :4]),
        "mesh": lambda: joint(mesh[..., :7], jaws, y[..., :3]),
        "global": lambda: joint(mesh, jaws[:1], y[..., :3]),
        "centroid": lambda: joint(mesh, jaws, y[:, :3, :3]),
        "features": lambda: encoder(features[..., :9], features[..., :3]),
        "centers": lambda: encoder(features, features[:, :2, :, :3]),
        "points": lambda: PointEncoder()(torch.zeros(2, 31, 4, 3), torch.ones(2, 31)),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name} .*must be|^{name} must be"):
            call()


@pytest.mark.usefixtures("annotations_unchecked")
def test_a_mask_of_numbers_is_one_of_booleans():
    torch.manual_seed(0)
    mask = torch.ones(2, 32, dtype=torch.bool)
    mask[1, ::3] = False
    denoiser, y = ToothDenoiser(5, width=8, depth=1), torch.randn(2, 32, 9)
    of = [denoiser(y, torch.ones(2), torch.ones(2, 32, 5), m) for m in (mask, mask.float(), mask.long())]
    assert torch.equal(of[0], of[1])
    assert torch.equal(of[0], of[2])
