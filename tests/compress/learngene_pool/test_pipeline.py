"""The whole way in one call: heads, auxiliaries, pools."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from compress.learngene_pool.models import images, labelled, vit
from linmap.compress.learngene_pool import LearngenePool, auxiliaries, distill, fit_head, make_pool, record_teacher
from linmap.compress.learngene_pool.pipeline import regress
from linmap.training import TrainingConfig

CONFIG = TrainingConfig(epochs=1, batch_size=8, optimizer="adamw")


def make(out=None, resume=False, stitches="lstsq"):
    teacher = vit(16, 3)
    members = auxiliaries(teacher, (8, 16), 3, heads=(2, 2))
    return make_pool(teacher, members, labelled(), distillation=CONFIG, tuning=CONFIG, stitches=stitches,
                     nearest=True, out=out, resume=resume)  # fmt: skip


@pytest.mark.parametrize("stitches", ["lstsq", "pinv", "random"])
def test_one_call_does_what_the_steps_do(stitches):
    made = make(stitches=stitches)
    teacher, data = vit(16, 3), labelled()
    members = auxiliaries(teacher, (8, 16), 3, heads=(2, 2))
    answers = record_teacher(teacher, data, (0, 1, 2))
    transforms = {
        m: distill(teacher, member, answers, config=CONFIG, points=points)[1]
        for m, (member, points) in enumerate(zip(members, ("front,end", "end"), strict=True))
    }
    pool = LearngenePool(members, nearest=True)
    how = {"lstsq": {"data": [data.tensors[0]]}, "pinv": {"transforms": transforms}, "random": {}}
    pool.init_stitches(stitches, generator=torch.Generator().manual_seed(0), **how[stitches])
    pool.fit(answers, config=CONFIG, teacher=teacher)
    for a, b in zip(made.parameters(), pool.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_ancestry_whose_head_reads_more_than_the_class_token_is_taken():
    from transformers import Dinov2Config, Dinov2ForImageClassification

    labels: dict[str, Any] = {"num_labels": 3}
    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        num_channels=1,
        **labels,
    )
    teacher, data = Dinov2ForImageClassification(config).eval(), labelled(8)
    members = [vit(8), vit(16)]
    pool = make_pool(teacher, members, data, distillation=CONFIG, tuning=CONFIG)
    assert list(pool.members) == members
    assert not pool.training


def test_what_is_finished_is_read_again(tmp_path):
    first = make(tmp_path)
    again = make(tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert (tmp_path / "stitches" / "learngene_pool_sums.safetensors").exists()


def test_auxiliaries_take_the_sizes_of_the_teachers_images():
    teacher = vit(12, 4, heads=3, classes=5)
    narrow, wide = auxiliaries(teacher, (10, 12), 2, seed=3)
    assert [(m.embed_dim, m.num_heads, len(m.blocks), m.n_classes) for m in (narrow, wide)] == [
        (10, 5, 2, 5),
        (12, 3, 2, 5),
    ]
    first = "mlp.fc1.weight"
    assert torch.equal(wide.get_parameter(f"blocks.1.{first}"), teacher.get_parameter(f"blocks.3.{first}"))
    fresh = auxiliaries(teacher, (10, 12), 2, seed=3, from_teacher=False)
    assert torch.equal(fresh[0].cls_token, narrow.cls_token)
    assert not torch.equal(fresh[1].cls_token, wide.cls_token)
    with pytest.raises(ValueError, match=r"heads=\(2,\) must name a number for each of widths=\(8, 12\)"):
        auxiliaries(teacher, (8, 12), 2, heads=(2,))


def test_a_fitted_head_tells_classes_apart_and_changes_nothing_else():
    x = torch.cat([images(20) - 2, images(20, 1) + 2])
    y = torch.arange(2).repeat_interleave(20)
    model = vit(classes=2).train()
    before = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("head")}
    assert fit_head(model, TensorDataset(x, y), batch_size=7) is model
    assert model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert (model.eval()(x).argmax(-1) == y).float().mean() == 1
    with pytest.raises(ValueError, match=r"the data have classes \[0\]; the head has 2"):
        fit_head(model, TensorDataset(x[:20], y[:20]))
    model.head = nn.Sequential(nn.Linear(16, 2))
    with pytest.raises(TypeError, match="the head is a Sequential"):
        fit_head(model, TensorDataset(x, y))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_gives_the_probabilities_of_the_regression(classes):
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)), np.arange(40) % classes
    head = nn.Linear(3, classes)
    regress(head, torch.as_tensor(x), torch.as_tensor(y), 0.05)
    scaled = (x - x.mean(0)) / x.std(0, ddof=1)
    expected = LogisticRegression(C=0.05).fit(scaled, y).predict_proba(scaled)
    np.testing.assert_allclose(head(torch.as_tensor(x).float()).softmax(-1).detach(), expected, atol=1e-4)
