"""Other libraries' transformers as members: the same logits, shared parameters, nothing changed in them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from compress.learngene_pool.models import images, vit
from linmap.compress.learngene_pool import LearngenePool, VisionTransformer, as_member, record
from linmap.compress.vision_transformer import Block
from typed import of_class


class TimmLike(nn.Module):
    """The attributes that timm's VisionTransformer has, around our blocks."""

    def __init__(self, source: VisionTransformer, positions_of_cls: bool = True) -> None:
        super().__init__()
        patch_embed: Any = source.patch_embed
        patch_embed.num_patches = 4
        self.patch_embed, self.cls_token = patch_embed, source.cls_token
        self.pos_embed = source.pos_embed if positions_of_cls else nn.Parameter(source.pos_embed.detach()[:, 1:])
        self.pos_drop, self.norm_pre, self.fc_norm = nn.Dropout(0.0), nn.Identity(), nn.Identity()
        self.blocks = nn.Sequential(*source.blocks)
        self.norm, self.head = source.norm, source.head
        self.global_pool, self.num_prefix_tokens = "token", 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches, cls = self.patch_embed(x), self.cls_token.expand(len(x), -1, -1)
        if self.pos_embed.shape[1] == 4:
            x = torch.cat([cls, patches + self.pos_embed], 1)
        else:
            x = torch.cat([cls, patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
}
PIXELS: dict[str, Any] = {"image_size": 8, "patch_size": 4, "num_channels": 1}


def transformers_vit() -> tuple[nn.Module, Any, Callable]:
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(ViTConfig(**SIZES, **PIXELS)).eval()
    return model, as_member(model), lambda x: model(x).logits


def deit() -> tuple[nn.Module, Any, Callable]:
    from transformers import DeiTConfig, DeiTForImageClassification

    model = DeiTForImageClassification(DeiTConfig(**SIZES, **PIXELS)).eval()
    return model, as_member(model), lambda x: model(x).logits


def dinov2() -> tuple[nn.Module, Any, Callable]:
    from transformers import Dinov2Config, Dinov2Model

    sizes: dict[str, Any] = {**SIZES, **PIXELS, "image_size": 16}
    model = Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2)).eval()
    head = nn.Linear(16, 3)
    member = as_member(model, head=head, n_tokens=5)
    return model, member, lambda x: head(model(x).last_hidden_state[:, 0])


def bert() -> tuple[nn.Module, Any, Callable]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**SIZES, vocab_size=20, max_position_embeddings=7)
    model = BertForSequenceClassification(config).eval()
    return model, as_member(model), lambda x: model(x).logits


def timm() -> tuple[nn.Module, Any, Callable]:
    model = TimmLike(vit()).eval()
    return model, as_member(model), model


def timm_without_cls_position() -> tuple[nn.Module, Any, Callable]:
    model = TimmLike(vit(), positions_of_cls=False).eval()
    return model, as_member(model), model


KINDS = [transformers_vit, deit, dinov2, bert, timm, timm_without_cls_position]
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def inputs(kind: Callable) -> torch.Tensor:
    if kind is bert:
        return torch.arange(14).reshape(2, 7) % 20
    return images(2)


@every
def test_a_member_gives_the_models_logits_and_changes_nothing(kind):
    torch.manual_seed(0)
    model, member, logits = kind()
    names, modes = list(model.state_dict()), [module.training for module in model.modules()]
    x = inputs(kind)
    torch.testing.assert_close(member(x), logits(x))
    assert list(model.state_dict()) == names
    assert [module.training for module in model.modules()] == modes
    ours = {id(p) for p in member.parameters()}
    assert {id(p) for p in model.parameters()} & ours
    used = dict(model.named_parameters())
    unused = {name for name, p in used.items() if id(p) not in ours}
    assert all("mask_token" in name or "pooler" in name for name in unused), unused
    assert not any(module.training for module in member.modules())


@every
def test_its_sizes_and_what_it_records(kind):
    torch.manual_seed(0)
    _, member, _ = kind()
    x = inputs(kind)
    N = {bert: 7, deit: 6}.get(kind, 5)
    sizes = (member.embed_dim, member.num_heads, member.n_tokens, member.n_classes, len(member.blocks))
    assert sizes == (16, 2, N, 3, 3)
    assert member.patch_features == (0 if kind is bert else 16)
    features = record(member, x)
    parts = (*of_class(list, features.attention), *of_class(list, features.blocks))
    assert [tuple(part.shape) for part in parts] == [(2, N, 16)] * 6
    torch.testing.assert_close(features.logits, member(x))


@every
def test_descendants_of_it_cost_what_they_have(kind):
    torch.manual_seed(0)
    _, one, _ = kind()
    _, two, _ = kind()
    pool = LearngenePool([one, two]).eval()
    x = inputs(kind)
    for id in (0, 1, 3):
        built = pool.build(id)
        assert sum(p.numel() for p in built.parameters()) == built.cost.params == pool.cost(id).params
        torch.testing.assert_close(built(x), pool(x, config=id))


def test_bert_records_the_attention_before_the_residual():
    torch.manual_seed(0)
    model, member, _ = bert()
    x = inputs(bert)
    seen = {}
    dense = model.get_submodule("bert.encoder.layer.1.attention.output.dense")
    hook = dense.register_forward_hook(lambda m, i, out: seen.setdefault("out", out))
    features = record(member, x)
    hook.remove()
    assert torch.equal(features.attention[1], seen["out"])


def test_attention_is_recorded_before_the_residual_and_blocks_after():
    model, x = vit(), images(2)
    features = record(model, x)
    h = model.embed(x)
    blocks = [of_class(Block, block) for block in model.blocks]
    for j, block in enumerate(blocks):
        attention = block.attn(block.norm1(h))
        h = h + attention
        h = h + block.mlp(block.norm2(h))
        assert torch.equal(features.attention[j], attention)
        assert torch.equal(features.blocks[j], h)
    assert not any(block.attn._forward_hooks for block in blocks)


def test_a_member_comes_back_as_it_is():
    model = vit()
    assert as_member(model) is model


def test_what_has_no_fitting_head_is_refused():
    from transformers import Dinov2Config, Dinov2ForImageClassification

    model = Dinov2ForImageClassification(Dinov2Config(**SIZES, **PIXELS))
    with pytest.raises(TypeError, match=r"head=nn.Linear\(16, n_classes\)"):
        as_member(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"global_pool": "avg"}, "global_pool='avg'"), ({"num_prefix_tokens": 2}, "2 tokens"), ({"head": None}, "head")],
)
def test_timm_models_that_compute_otherwise_are_refused(change, words):
    model = TimmLike(vit())
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(TypeError, match=words):
        as_member(model)


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), "a name", None])
def test_other_things_are_refused_with_what_was_looked_for(thing):
    with pytest.raises(TypeError, match="embed, blocks, norm, head, embed_dim, num_heads"):
        as_member(thing)


@pytest.mark.parametrize("options", [{"head": nn.Linear(16, 3)}, {"n_tokens": 5}])
@pytest.mark.parametrize("model", [vit(), TimmLike(vit())])
def test_what_a_model_has_of_its_own_is_not_given_to_it(model, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is for backbones of Transformers"):
        as_member(model, **options)


def test_members_of_two_precisions_are_refused():
    with pytest.raises(ValueError, match=r"weights of types .*float32.*float64"):
        LearngenePool([vit(8), vit(12).double()])
