"""A student that starts from its teacher's blocks."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from compress.learngene_pool.models import images, vit
from compress.learngene_pool.test_members import KINDS, bert, deit
from linmap.compress.learngene_pool import VisionTransformer, as_member, teacher_blocks


@pytest.mark.parametrize(
    ("depth", "source", "expected"), [(3, 6, [1, 3, 5]), (3, 12, [3, 7, 11]), (4, 6, [1, 2, 4, 5])]
)
def test_a_student_starts_from_evenly_spaced_blocks(depth, source, expected):
    teacher, student = vit(8, source), vit(8, depth, seed=1)
    assert teacher_blocks(student, teacher) is student
    for i, j in enumerate(expected):
        assert j == math.ceil((i + 1) * source / depth) - 1
        for p, q in zip(student.blocks[i].parameters(), teacher.blocks[j].parameters(), strict=True):
            assert torch.equal(p, q)
            assert p.data_ptr() != q.data_ptr()
    assert torch.equal(student.pos_embed, teacher.pos_embed)
    assert torch.equal(student.get_parameter("head.weight"), teacher.get_parameter("head.weight"))


def test_a_student_as_deep_as_the_teacher_is_the_teacher():
    teacher, x = vit(8, 4), images(3)
    assert torch.equal(teacher_blocks(vit(8, 4, seed=1), teacher)(x), teacher(x))


@pytest.mark.parametrize(
    ("student", "words"), [(vit(12), "embed_dim is 12"), (vit(8, heads=4), "num_heads is 4"), (vit(8, 5), "5 blocks")]
)
def test_other_sizes_cannot_take_the_teachers_blocks(student, words):
    with pytest.raises(ValueError, match=words):
        teacher_blocks(student, vit(8, 3))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (bert, deit)], ids=lambda kind: kind.__name__)
def test_weights_of_other_libraries_compute_the_same_in_ours(kind):
    torch.manual_seed(0)
    _, member, logits = kind()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in member.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    hidden = next(m.out_features for m in member.blocks.modules() if getattr(m, "out_features", 0) not in (0, 16, 48))
    student = VisionTransformer(8, 4, 1, 3, 16, 3, 2, mlp_ratio=hidden / 16).eval()
    x = images(3)
    assert teacher_blocks(student, member) is student
    torch.testing.assert_close(student(x), logits(x), rtol=1e-3, atol=1e-3)
    modes = [module.training for module in member.modules()]
    assert not any(modes)


def test_classes_whose_weights_do_not_fit_are_refused():
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_labels": 3}
    theirs = ViTForImageClassification(
        ViTConfig(**sizes, intermediate_size=32, image_size=8, patch_size=4, num_channels=1)
    )
    with pytest.raises(TypeError, match="do not fit"):
        teacher_blocks(VisionTransformer(8, 4, 1, 3, 16, 3, 2, mlp_ratio=3), theirs)
    with pytest.raises(TypeError, match="AdaptedMember and a VisionTransformer"):
        teacher_blocks(theirs, vit(16))
    assert isinstance(as_member(theirs).head, nn.Linear)
