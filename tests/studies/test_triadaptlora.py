"""The studies of TriAdaptLoRA: tiny, and their controls."""

from pathlib import Path
from typing import Any

import pytest
import torch
from studies.study import Job
from studies.triadaptlora import PROTOCOLS, RandomGrowth, UniformGrowth
from transformers import BertConfig, BertModel

from linmap.adapt import RankAllocator
from linmap.adapt.texts import TextClassifier
from linmap.recipes.triadaptlora.compare import triadapt
from recipes.finetuning.line import bare_task


@pytest.mark.slow  # 4 s: every growth is trained at several rates
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_every_growth_runs(protocol: Any, tmp_path: Path) -> None:
    if protocol.name != "few-sentences":
        pytest.skip("the same code with other settings, which tiny replaces")
    found = protocol.run(Job(tmp_path, seeds=[0], tiny=True))
    assert [row[0] for row in found.tables[0].rows] == [
        "TriAdaptLoRA",
        "TriAdaptLoRA, nonlinear",
        "random growth",
        "uniform growth",
        "head only",
        "LoRA",
        "AdaLoRA",
        "full tuning",
    ]
    assert "8 x 12 = 96 ranks" in found.checks[-1].statement


def test_controls_grow_as_many_layers_as_importance_does_at_every_step() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    traces: dict[str, list[int]] = {}
    chosen: dict[str, list[list[str]]] = {}
    for kind in (RankAllocator, RandomGrowth, UniformGrowth):
        torch.manual_seed(0)
        way = triadapt(bare_task("classification"), kind.__name__, allocator=kind)
        assert way.steer is not None
        model = way.adapt(TextClassifier(BertModel(config, add_pooling_layer=False), 2), 40)
        steering, sums_of_ranks = way.steer(model), []
        assert steering.ranks is not None
        for step in range(1, 41):
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.requires_grad:
                        weight.add_(0.01 * torch.randn_like(weight))
            steering.callback(model, step)
            ranks = steering.ranks()
            sums_of_ranks.append(sum(ranks.values()))
            if kind is UniformGrowth:
                assert max(ranks.values()) - min(ranks.values()) <= 1
        traces[kind.__name__] = sums_of_ranks
        assert isinstance(steering.callback, RankAllocator)
        chosen[kind.__name__] = [event.grown for event in steering.callback.history]
    assert traces["RankAllocator"] == traces["RandomGrowth"] == traces["UniformGrowth"]
    assert traces["RankAllocator"][-1] == 8 * 6
    assert chosen["RankAllocator"] != chosen["RandomGrowth"]
