"""The deletion test and the rivals, against direct forward passes and second implementations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from interpret.linearscope.language.models import decoder
from linmap.interpret.linearscope.language.faithfulness import (
    Curve,
    ablation,
    deletion_curve,
    embedded,
    next_logits,
    rank_correlation,
)
from linmap.interpret.linearscope.language.rivals import (
    attention_rollout,
    attn_lrp,
    gradient_times_input,
    integrated_gradients,
)

IDS = [34, 80, 5, 120, 44, 9]


def test_what_a_token_is_worth_is_the_fall_without_it():
    model = decoder()
    worth = ablation(model, IDS, 65)
    whole = model(torch.tensor([IDS])).logits[0, -1, 65]
    without = model(torch.tensor([IDS[:2] + IDS[3:]])).logits[0, -1, 65]
    assert float(worth[2]) == pytest.approx(float(whole - without), rel=1e-6)
    zeroed = ablation(model, IDS, 65, "zeroed")
    x = embedded(model, IDS)
    x[0, 2] = 0
    assert float(zeroed[2]) == pytest.approx(float(whole - next_logits(model, x)[0, 65]), rel=1e-6)


def test_a_curve_takes_the_highest_scores_first_and_keeps_one_token():
    model = decoder()
    scores = torch.tensor([0.0, 5, 1, 4, 2, 3])
    curve = deletion_curve(model, IDS, 65, scores, steps=5)
    kept = [IDS, *([[IDS[i] for i in rows] for rows in ([0, 2, 3, 4, 5], [0, 2, 4, 5], [0, 2, 4], [0, 2], [0])])]
    logits = [model(torch.tensor([ids])).logits[0, -1] for ids in kept]
    assert curve.logits == pytest.approx([float(y[65]) for y in logits])
    assert curve.probabilities == pytest.approx([float(y.softmax(0)[65]) for y in logits])
    assert curve.shares == pytest.approx([i / 6 for i in range(6)])
    with pytest.raises(ValueError, match="a score for each, got 6 and 2"):
        deletion_curve(model, IDS, 65, torch.zeros(2))


def test_the_area_of_a_line_is_its_middle():
    assert Curve([0.0, 0.25, 0.5], [], []).area([4, 3, 2]) == pytest.approx(3)


def test_the_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 9, (2, 12), generator=generator).double()
    truth: Any = spearmanr(a, b)
    assert rank_correlation(a, b) == pytest.approx(truth.statistic)
    assert rank_correlation(a, torch.ones(12)) == 0


def test_integrated_gradients_are_complete_where_the_way_is_smooth():
    model = decoder(rms_norm_eps=1.0)
    x = embedded(model, IDS)
    ends = [float(next_logits(model, z)[0, 65]) for z in (x, x * 0)]
    assert float(integrated_gradients(model, IDS, 65, 24).sum()) == pytest.approx(ends[0] - ends[1], rel=1e-4)
    with pytest.raises(ValueError, match="steps=0"):
        integrated_gradients(model, IDS, 65, 0)


def test_gradient_times_input_is_the_slope_towards_the_embedding():
    model = decoder()
    ends = []
    for h in (1e-3, -1e-3):
        moved = embedded(model, IDS)
        moved[0, 3] *= 1 + h
        ends.append(float(next_logits(model, moved)[0, 65]))
    slope = (ends[0] - ends[1]) / 2e-3
    assert float(gradient_times_input(model, IDS, 65)[3]) == pytest.approx(slope, rel=1e-2)


def test_attnlrp_of_one_token_by_its_rules_written_out():
    model = decoder()
    x = embedded(model, IDS[:1]).requires_grad_()

    def norm(layer, z):
        return z * (layer(z) / z).detach()

    h = x
    for layer in model.model.layers:
        values = layer.self_attn.v_proj(norm(layer.input_layernorm, h))
        repeated = values.reshape(1, 1, 2, 1, 8).expand(1, 1, 2, 2, 8).reshape(1, 1, 32)
        mixed = layer.self_attn.o_proj(repeated)
        h = h + mixed / 2 + mixed.detach() / 2
        z = norm(layer.post_attention_layernorm, h)
        gate, up = layer.mlp.gate_proj(z), layer.mlp.up_proj(z)
        weight = torch.sigmoid(gate).detach()
        product = (gate * weight * up.detach() + (gate * weight).detach() * up) / 2
        h = h + layer.mlp.down_proj(product + (F.silu(gate) * up - product).detach())
    logit = model.lm_head(norm(model.model.norm, h))[0, -1, 65]
    (gradient,) = torch.autograd.grad(logit, x)
    torch.testing.assert_close(attn_lrp(model, IDS[:1], 65), (gradient * x).sum(-1)[0])


@pytest.mark.usefixtures("annotations_unchecked")
def test_rivals_leave_the_model_as_it_was():
    model = decoder()
    before = model(torch.tensor([IDS])).logits
    assert float(attention_rollout(model, IDS).sum()) == pytest.approx(1)
    attn_lrp(model, IDS, 65)
    assert model.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(model(torch.tensor([IDS])).logits, before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="Llama kind, not GPT2LMHeadModel"):
        attn_lrp(decoder("gpt2"), IDS, 65)
    with pytest.raises(ValueError, match="without must be"):
        ablation(model, IDS, 65, "masked")  # pyright: ignore[reportArgumentType]
