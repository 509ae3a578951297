"""Growth in a real Trainer, and its resume."""

import json

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from linmap.adapt import RankAllocator, TriAdaptCallback, TriAdaptLoraConfig


def trained(out, resume=None, **arguments):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    growth = TriAdaptLoraConfig(
        target_modules=["q_proj", "v_proj", "up_proj"], reference_rank=3, incre_rank_num=1, total_step=10
    )
    model = get_peft_model(LlamaForCausalLM(config), growth)
    allocator = RankAllocator(model, growth)
    tokens = torch.randint(0, 32, (32, 8), generator=torch.Generator().manual_seed(0))
    settings = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=4, max_steps=12, learning_rate=0.02, save_steps=5,
        report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no", **arguments,
    )  # fmt: skip
    trainer = Trainer(
        model, settings, train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[TriAdaptCallback(allocator)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return model, allocator


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_grows_the_ranks_and_resumes_exactly(tmp_path):
    whole, allocator = trained(tmp_path)
    assert sum(allocator.ranks().values()) == allocator.target == 9
    checkpoint = tmp_path / "checkpoint-5"
    ranks = json.loads((checkpoint / "adapter_config.json").read_text())["rank_pattern"]
    assert ranks == allocator.history[4].ranks
    model, resumed = trained(tmp_path / "again", resume=str(checkpoint))
    assert resumed.state_dict() == allocator.state_dict()
    for (name, ours), theirs in zip(model.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
