"""How queries, keys and values come to their transforms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from compress.flatquant.models import MODULE_MAP, RenamedAttention, RenamedModel, randomised, tiny, tokens
from compress.flatquant.students import merged, with_students
from linmap.compress.flatquant.attention import ConfigView, OnlineCacheTransform, attach_cache_transform
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from typed import tensor

BITS, SYMMETRIC = (8, 4, 3), (True, False, False)


def transform(seed: int = 0) -> OnlineCacheTransform:
    generator = torch.Generator().manual_seed(seed)
    online = OnlineCacheTransform(BITS, SYMMETRIC, 6, matrix=True, clip=True)
    P = torch.eye(6) + 0.3 * torch.randn(6, 6, generator=generator)
    online.get_buffer("key_matrix").copy_(P)
    online.get_buffer("query_matrix").copy_(torch.linalg.inv(P).mT)
    return online


def states(seed: int) -> Tensor:
    return torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_scores_are_kept() -> None:
    online = transform()
    online.bits = dict.fromkeys("qkv", 16)
    q, k, v = (states(i) for i in range(3))
    stored, values = online.stored(None, k, v, 0)
    torch.testing.assert_close(online.queries(q) @ stored.mT, q @ k.mT, rtol=1e-4, atol=1e-4)
    assert torch.equal(values, v)


def test_rounding_comes_after_the_matrix() -> None:
    online = transform()
    q, k, v = (states(i) for i in range(3))
    stored, values = online.stored(None, k, v, 0)
    assert torch.equal(stored, online.quantizer("k")(k @ tensor(online.key_matrix)))
    assert torch.equal(values, online.quantizer("v")(v))
    assert torch.equal(online.queries(q), online.quantizer("q")(q @ tensor(online.query_matrix)))


def test_queries_without_keys() -> None:
    with pytest.raises(RuntimeError, match="queries came without keys"):
        transform().queries(states(0))


def test_a_module_without_a_config() -> None:
    with pytest.raises(TypeError, match="Linear has no `config`"):
        attach_cache_transform(nn.Linear(2, 2), transform())


def test_the_view_is_the_config_but_for_the_function() -> None:
    config = tiny().config
    view: Any = ConfigView(config)
    assert view.hidden_size == config.hidden_size
    assert view._attn_implementation == "linmap_flatquant"
    other = copy.deepcopy(view)
    assert other.original is not config
    assert other.original.to_dict() == config.to_dict()
    with pytest.raises(AttributeError):
        _ = view.nothing


class OwnAttention(RenamedAttention):
    """Attends without the attention function of its config."""

    def forward(self, x: Tensor, position_embeddings: Any, attention_mask: Any, past_key_values: Any) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (w(x).view(heads).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        k, v = past_key_values.update(k, v, self.layer_idx)
        y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.wo(y.transpose(1, 2).flatten(-2))


def test_a_module_with_its_own_attention() -> None:
    model = RenamedModel(tiny().config)
    for i, block in enumerate(model.model.layers):
        block.attn = OwnAttention(model.config, i)
    students = with_students(randomised(model), FlatQuantConfig(k_bits=4, module_map=MODULE_MAP))
    with pytest.raises(RuntimeError, match="OwnAttention attended with transformed keys and plain queries"):
        students(tokens())


def test_other_models_of_the_process_are_untouched() -> None:
    model, ids = tiny(), tokens()
    with torch.no_grad():
        before = model(ids).logits
        quantised = merged(with_students(model, FlatQuantConfig(k_bits=2, v_bits=2)))
        quantised(ids)
        assert torch.equal(model(ids).logits, before)
    assert model.config._attn_implementation == quantised.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_a_copy_takes_its_own_attention_function() -> None:
    calls: list[str] = []

    def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(module.config._attn_implementation)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *args, **kwargs)

    AttentionInterface.register("counted", counted)
    model = calibrate(tiny(), None, FlatQuantConfig(epochs=0, scale=False, clip=False, k_bits=4, v_bits=4))
    other = copy.deepcopy(model)
    other.set_attn_implementation("counted")
    expected = model(tokens()).logits
    assert calls == []
    torch.testing.assert_close(other(tokens()).logits, expected)
    assert calls == ["counted"] * 2
    model.set_attn_implementation("eager")
    other(tokens())
    assert calls == ["counted"] * 4
