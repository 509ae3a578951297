"""Distillation: supervision points, losses against a second implementation, and the training."""

import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import nn
from torch.utils.data import TensorDataset

from compress.learngene_pool.models import images, labelled, vit
from linmap.compress.learngene_pool import (
    Features,
    Transforms,
    distill,
    distillation_loss,
    kd_loss,
    record,
    record_teacher,
    supervision_points,
)
from linmap.compress.learngene_pool.ancestry import Ancestry
from linmap.compress.learngene_pool.losses import checked_points, class_loss
from linmap.compress.vision_transformer import DropPath
from linmap.training import TrainingConfig
from typed import of_class

ADAMW = TrainingConfig(epochs=2, batch_size=8, lr=1e-2, optimizer="adamw", weight_decay=0.05, seed=3)


# -- points ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "depth", "expected"),
    [
        ("end", 6, [(5, 11)]),
        ("mid,end", 6, [(3, 7), (5, 11)]),
        ("front,end", 6, [(1, 3), (3, 7), (5, 11)]),
        ("end", 9, [(8, 11)]),
        ("mid,end", 9, [(5, 7), (8, 11)]),
        ("front,end", 9, [(2, 3), (5, 7), (8, 11)]),
        ("front,end", 3, [(0, 3), (1, 7), (2, 11)]),
    ],
)
def test_the_points_of_the_paper(points, depth, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert supervision_points(points, depth, 12) == expected


def test_other_depths_are_rounded_up_and_say_so():
    with pytest.warns(UserWarning, match=r"student_depth=4 .*ceil\(k \* depth / 3\) - 1"):
        assert supervision_points("front,end", 4, 12) == [(1, 3), (2, 7), (3, 11)]
    with pytest.warns(UserWarning, match="teacher_depth=8"):
        assert supervision_points("mid,end", 3, 8) == [(1, 5), (2, 7)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert supervision_points("end", 4, 8) == [(3, 7)]  # the last block, whatever the depth


def test_lists_are_checked_and_returned():
    assert supervision_points([(0, 5), (2, 1)], 3, 12) == [(0, 5), (2, 1)]


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ("middle", "points='middle'"),
        ([(3, 0)], "block 3 of the student, whose depth is 3"),
        ([(0, 12)], "block 12 of the teacher, whose depth is 12"),
        ([(-1, 0)], "block -1"),
        ([], "points is empty"),
    ],
)
def test_points_that_are_not_there_are_refused(points, words):
    with pytest.raises(ValueError, match=words):
        supervision_points(points, 3, 12)


# -- losses ------------------------------------------------------------------------------------------------------------


def features(dim: int, blocks: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = [[drawn(4, 5, dim) for _ in range(blocks)] for _ in range(2)]
    return Features(drawn(4, 7), *tokens)


def by_hand(student, teacher, y, transforms, points, alpha, T, kind, reduction):
    """In NumPy, from the formulas."""
    z_s, z_t = student.logits.numpy(), teacher.logits.numpy()
    hot = y.numpy() if y.ndim == 2 else np.eye(7)[y.numpy()]
    ce = -(hot * log_softmax(z_s, 1)).sum(1).mean()
    terms = -softmax(z_t / T, 1) * log_softmax(z_s / T, 1)
    kd = terms.mean() if reduction == "mean" else T * T * terms.sum(1).mean()
    sums = {}
    for name, maps, of_s, of_t in (
        ("rep", transforms.T_map, student.blocks, teacher.blocks),
        ("att", transforms.T_att, student.attention, teacher.attention),
    ):
        sums[name] = 0.0
        for k, (i, j) in enumerate(points):
            W, b = maps[k].weight.detach().numpy(), maps[k].bias.detach().numpy()
            sums[name] += ((of_s[i].numpy() - (of_t[j].numpy() @ W.T + b)) ** 2).mean()
    total = {
        "all": alpha * ce + (1 - alpha) * (kd + sums["rep"] + sums["att"]),
        "logits+rep": 0.5 * ce + 0.5 * (kd + sums["rep"]),
        "logits": 0.5 * ce + 0.5 * kd,
    }[kind]
    return total, ce, kd, sums["rep"], sums["att"]


@pytest.mark.parametrize("soft", [False, True])
def test_the_losses_are_those_of_the_formulas(soft):
    student, teacher = features(6, 3, 0), features(10, 12, 1)
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(7, (4,), generator=generator)
    if soft:
        y = torch.rand(4, 7, generator=generator, dtype=torch.float64)
        y = y / y.sum(1, keepdim=True)
    for named, kind, T, reduction in product(
        ("end", "mid,end", "front,end"), ("all", "logits", "logits+rep"), (1.0, 3.0), ("batchmean", "mean")
    ):
        points = supervision_points(named, 3, 12)
        transforms = Transforms(10, 6, len(points), generator=generator, dtype=torch.float64)
        alpha = {"all": 0.3}.get(kind, 0.1)
        found = distillation_loss(
            student, teacher, y, transforms, points=points, alpha=alpha, T=T, kind=kind, kd_reduction=reduction
        )
        expected = by_hand(student, teacher, y, transforms, points, alpha, T, kind, reduction)
        assert [term.item() for term in found] == pytest.approx(expected, rel=1e-12), (named, kind, T, reduction)


@given(st.floats(0.1, 10), st.integers(0, 50))
def test_kd_of_equal_logits_is_the_entropy_and_its_least_value(T, seed):
    z, other = features(2, 1, seed).logits, features(2, 1, seed + 1).logits
    p = softmax(z.numpy() / T, 1)
    entropy = -(p * np.log(p)).sum(1).mean()
    assert float(kd_loss(z, z, T)) == pytest.approx(T * T * entropy)
    assert float(kd_loss(z, z, T, "mean")) == pytest.approx(entropy / 7)
    assert float(kd_loss(other, z, T)) >= float(kd_loss(z, z, T))


def test_a_student_that_is_the_teacher_has_nothing_to_match():
    model, x = vit(), images(6)
    seen = record(model, x)
    transforms = Transforms(16, 16, 3)
    with torch.no_grad():
        for map in (*transforms.T_att, *transforms.T_map):
            map.get_parameter("weight").copy_(torch.eye(16))
            map.get_parameter("bias").zero_()
    y = torch.zeros(6, dtype=torch.long)
    loss = distillation_loss(seen, seen, y, transforms, points=[(0, 0), (1, 1), (2, 2)])
    p = seen.logits.softmax(-1)
    assert loss.rep.item() < 1e-10
    assert loss.att.item() < 1e-10
    torch.testing.assert_close(loss.kd, -(p * p.log()).sum(-1).mean())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "att"}, "kind='att'"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"kind": "logits", "alpha": 0.3}, "weighs both halves by 0.5"),
        ({"T": 0.0}, "T=0.0"),
        ({"kd_reduction": "sum"}, "reduction='sum'"),
        ({"points": [(0, 0), (1, 1)]}, "points has 2 pairs"),
    ],
)
def test_weights_that_mean_nothing_are_refused(options, words):
    student, teacher = features(6, 3, 0), features(10, 12, 1)
    transforms = Transforms(10, 6, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=words):
        distillation_loss(
            student, teacher, torch.zeros(4, dtype=torch.long), transforms, **({"points": [(2, 11)]} | options)
        )


def test_features_that_do_not_fit_are_refused():
    student, teacher = features(6, 3, 0), features(10, 12, 1)
    y = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="map widths 9 -> 6; teacher and student have widths 10 and 6"):
        distillation_loss(student, teacher, y, Transforms(9, 6, 1, dtype=torch.float64), points=[(0, 0)])
    fewer = teacher._replace(blocks=[block[:, :4] for block in of_class(list, teacher.blocks)])
    with pytest.raises(ValueError, match="5 and 4 tokens"):
        distillation_loss(student, fewer, y, Transforms(10, 6, 1, dtype=torch.float64), points=[(0, 0)])


def test_transforms_start_as_linear_layers_do_or_orthonormal():
    before = torch.get_rng_state()
    T = Transforms(64, 8, 3, generator=torch.Generator().manual_seed(0))
    assert [len(T.T_att), len(T.T_map)] == [3, 3]
    assert all(map.weight.shape == (8, 64) for map in (*T.T_att, *T.T_map))
    assert all(0.11 < float(p.detach().abs().max()) <= 0.125 for p in T.parameters() if p.ndim == 2)
    T = Transforms(64, 8, 2, orthogonal=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    for map in (*T.T_att, *T.T_map):
        weight = map.get_parameter("weight").data
        torch.testing.assert_close(weight @ weight.T, torch.eye(8))
        assert not map.get_parameter("bias").any()


# -- training ----------------------------------------------------------------------------------------------------------


def test_one_step_is_that_of_one_optimiser_that_does_not_decay_the_transforms():
    teacher, student, data = vit(16, 6), vit(8, 3, seed=1), labelled(8)
    transforms = Transforms(16, 8, 3, generator=torch.Generator().manual_seed(0))
    expected_student = vit(8, 3, seed=1)
    expected = Transforms(16, 8, 3, generator=torch.Generator().manual_seed(0))
    one = TrainingConfig(epochs=1, batch_size=8, lr=1e-2, optimizer="sgd", weight_decay=0.5)
    returned, same = distill(teacher, student, data, config=one, transforms=transforms)
    assert returned is student
    assert same is transforms
    assert not student.training

    groups = [{"params": expected_student.parameters()}, {"params": expected.parameters(), "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=1e-2, weight_decay=0.5)
    x, y = data.tensors
    with torch.no_grad():
        target = record(teacher, x)
    points = [(0, 1), (1, 3), (2, 5)]
    distillation_loss(record(expected_student, x), target, y, expected, points=points).total.backward()
    optimizer.step()
    for found, wanted in ((student, expected_student), (transforms, expected)):
        for (name, p), q in zip(found.named_parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=name)
    moved = Transforms(16, 8, 3, generator=torch.Generator().manual_seed(0))
    assert all(not torch.equal(p, q) for p, q in zip(transforms.parameters(), moved.parameters(), strict=True))


def test_the_teacher_is_switched_and_left_as_it_is():
    teacher = vit(16, 3, drop_path=0.5).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with pytest.warns(UserWarning, match="teacher is in training mode"):
        distill(teacher, vit(8, seed=1), labelled(), config=ADAMW)
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distill(teacher, vit(8, seed=1), labelled(), config=ADAMW)


def test_it_lowers_the_loss_and_leaves_global_generators_alone():
    teacher, student, data = vit(16), vit(8, seed=1, drop_path=0.2), labelled()
    x, y = data.tensors
    points = supervision_points("front,end", 3, 3)
    transforms = Transforms(16, 8, 3, generator=torch.Generator().manual_seed(0))

    def loss() -> float:
        with torch.no_grad():
            return float(distillation_loss(record(student, x), record(teacher, x), y, transforms, points=points).total)

    before, state = loss(), torch.get_rng_state()
    distill(teacher, student, data, config=TrainingConfig(epochs=15, batch_size=8), transforms=transforms)
    assert torch.equal(state, torch.get_rng_state())
    assert loss() < 0.9 * before


def test_a_recorded_teacher_gives_the_same_student():
    teacher, data = vit(16, 6), labelled()
    recorded = record_teacher(teacher, data, [1, 3, 5], dtype=torch.float32, batch_size=7)
    assert len(recorded) == 24
    runs = []
    for source in (data, recorded):
        student, transforms = distill(teacher, vit(8, seed=1), source, config=ADAMW)
        runs.append([*student.parameters(), *transforms.parameters()])
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="the points need block 1"):
        distill(teacher, vit(8), record_teacher(teacher, data, [5]), config=ADAMW)
    with pytest.raises(ValueError, match=r"blocks 0\.\.5"):
        record_teacher(teacher, data, [6])


def test_a_teacher_whose_head_reads_more_than_the_cls_token():
    from transformers import Dinov2Config, Dinov2ForImageClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_labels": 3}
    config = Dinov2Config(**sizes, mlp_ratio=2, image_size=8, patch_size=4, num_channels=1)
    teacher, x = Dinov2ForImageClassification(config).eval(), images(4)
    seen = Ancestry(teacher).features(x)
    output = teacher(x, output_hidden_states=True)
    torch.testing.assert_close(seen.logits, output.logits)
    torch.testing.assert_close(Ancestry(teacher).logits(x), output.logits)
    for found, expected in zip(seen.blocks, output.hidden_states[1:], strict=True):
        torch.testing.assert_close(found, expected)
    layer: Any = teacher.dinov2.encoder.layer[1]
    expected = layer.attention(layer.norm1(output.hidden_states[1]))
    torch.testing.assert_close(seen.attention[1], expected[0] if isinstance(expected, tuple) else expected)
    student, _ = distill(teacher, vit(8, seed=1), labelled(), config=ADAMW)
    assert not torch.equal(student.get_parameter("head.weight"), vit(8, seed=1).get_parameter("head.weight"))
    with pytest.raises(TypeError, match="gives no logits"):
        Ancestry(teacher.dinov2).logits(x)


def test_recorded_features_that_half_precision_cannot_hold_are_refused():
    teacher = vit(16)
    with torch.no_grad():
        teacher.get_parameter("blocks.2.mlp.fc2.bias")[0] = 1e6
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        record_teacher(teacher, labelled(), [2])


def test_kinds_train_what_they_name():
    for kind, moved in (("logits", ()), ("logits+rep", ("T_map",)), ("all", ("T_att", "T_map"))):
        start = Transforms(16, 8, 1, generator=torch.Generator().manual_seed(ADAMW.seed))
        _, transforms = distill(vit(16), vit(8, seed=1), labelled(), config=ADAMW, points="end", kind=kind)
        for name in ("T_att", "T_map"):
            pairs = zip(getattr(start, name).parameters(), getattr(transforms, name).parameters(), strict=True)
            assert all(torch.equal(p, q) == (name not in moved) for p, q in pairs), (kind, name)


def test_a_collapse_of_the_targets_is_told():
    transforms = Transforms(16, 8, 1, generator=torch.Generator().manual_seed(0))
    from linmap.compress.learngene_pool import distillation

    before = [transforms.T_map[0].get_parameter("weight").norm().item()]
    with torch.no_grad():
        transforms.T_map[0].get_parameter("weight").mul_(0.01)
    with pytest.warns(UserWarning, match=r"T_map\[0\] shrank"):
        distillation._warn_of_collapse(transforms, before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"student": vit(8, classes=3, depth=3), "points": [(3, 0)]}, "whose depth is 3"),
        ({"data": torch.utils.data.TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0))}, "data is empty"),
        ({"alpha": -1.0}, "alpha=-1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    usual = {"teacher": vit(16), "student": vit(8), "data": labelled(), "config": ADAMW}
    with pytest.raises(ValueError, match=words):
        distill(**(usual | arguments))


def test_what_is_no_transformer_is_refused():
    with pytest.raises(TypeError, match="no member of a pool"):
        distill(nn.Linear(2, 2), vit(8), labelled(), config=ADAMW)


def test_drop_path_of_the_student_is_on_in_training():
    student = vit(8, seed=1, drop_path=0.9)
    seen = []
    student.get_submodule("blocks.2.drop_path1").register_forward_hook(lambda m, i, out: seen.append(m.training))
    distill(vit(16), student, labelled(), config=ADAMW)
    assert isinstance(student.blocks[2].drop_path1, DropPath)
    assert all(seen)
    assert len(seen) == 6


@pytest.mark.parametrize("shape", [(1, 7), (4, 6), (4, 1)])
def test_logits_of_other_samples_or_classes_are_refused(shape):
    with pytest.raises(ValueError, match="logits of student and teacher have shapes"):
        kd_loss(torch.randn(4, 7), torch.randn(shape))


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.tensor([0, 7]), "classes from 0 to 7; the model has 3"),
        (torch.tensor([0.0, 1.0]), "expected 2 classes"),
        (torch.tensor([[0], [1]]), "expected 2 classes"),
        (torch.full((2, 4), 0.25), r"probabilities of shape \(2, 3\)"),
    ],
)
def test_labels_that_are_no_classes_of_the_model_are_named(y, words):
    with pytest.raises(ValueError, match=words):
        class_loss(torch.randn(2, 3), y)


@pytest.mark.parametrize("points", [[(0, 1, 2)], [1, 2], None, [(0.5, 1)]])
def test_points_that_are_no_pairs_are_refused(points):
    with pytest.raises(ValueError, match="must be pairs of ids"):
        checked_points(points, 3, 3)


@pytest.mark.parametrize("points", [[(3, 0)], [(0, -1)], [(-1, 0)]])
def test_the_loss_refuses_points_that_are_not_there(points):
    features = record(vit(8), images(2))
    with pytest.raises(ValueError, match="whose depth is 3"):
        distillation_loss(features, features, torch.tensor([0, 1]), Transforms(8, 8, 1), points=points)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precision_are_distilled_in_it(dtype):
    teacher, student = vit(12, 3).to(dtype).eval(), vit(8, 3).to(dtype)
    data = TensorDataset(images(4).to(dtype), torch.tensor([0, 1, 0, 1]))
    _, transforms = distill(teacher, student, data, config=TrainingConfig(epochs=1, batch_size=4), points="end")
    assert {p.dtype for p in transforms.parameters()} == {p.dtype for p in student.parameters()} == {dtype}
