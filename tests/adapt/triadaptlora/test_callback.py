"""Growth in a real Trainer, and its resume."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from adapt.triadaptlora.problem import adapted, batch, config_of, train, trainable
from linmap.adapt import RankAllocator, TriAdaptCallback, TriAdaptLoraConfig
from linmap.adapt.triadaptlora.layer import Storage


def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def trained(out, resume=None, storage: Storage = "prealloc", **arguments):
    growth = TriAdaptLoraConfig(
        target_modules=["q_proj", "v_proj", "up_proj"],
        reference_rank=3,
        incre_rank_num=1,
        total_step=10,
        storage=storage,
    )
    model = get_peft_model(base(), growth)
    allocator = RankAllocator(model, growth)
    tokens = torch.randint(0, 32, (32, 8), generator=torch.Generator().manual_seed(0))
    settings = partial(
        TrainingArguments,
        output_dir=str(out),
        per_device_train_batch_size=4,
        max_steps=12,
        learning_rate=0.02,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_strategy="no",
        save_steps=5,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = Trainer(
        model,
        settings(**arguments),
        train_dataset=data,
        eval_dataset=data[:4],
        callbacks=[TriAdaptCallback(allocator)],
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, allocator


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", ["prealloc", "append"])
def test_a_trainer_grows_the_ranks_and_resumes_exactly(storage, tmp_path):
    """With the scheduler that it makes itself."""
    whole, allocator = trained(tmp_path, storage=storage)
    assert sum(allocator.ranks().values()) == allocator.target == 9
    checkpoint = tmp_path / "checkpoint-5"
    ranks = json.loads((checkpoint / "adapter_config.json").read_text())["rank_pattern"]
    assert ranks == allocator.history[4].ranks
    model, resumed = trained(tmp_path / "again", resume=str(checkpoint), storage=storage)
    assert resumed.state_dict() == allocator.state_dict()
    for (name, ours), theirs in zip(model.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", ["prealloc", "append"])
def test_the_best_model_comes_back_with_the_ranks_that_it_had(storage, tmp_path):
    """The metric is such that an early checkpoint is the best, and the ranks have grown since."""
    model, allocator = trained(
        tmp_path,
        storage=storage,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        label_names=["labels"],
    )
    best = Path(json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())["best_model_checkpoint"])
    saved = json.loads((best / "adapter_config.json").read_text())["rank_pattern"]
    assert allocator.ranks() == saved == config_of(model).rank_pattern
    assert sum(saved.values()) < allocator.target == sum(allocator.history[-1].ranks.values())
    x = torch.arange(8)[None]
    with torch.no_grad():
        y = model.eval()(input_ids=x).logits
        model.save_pretrained(tmp_path / "saved")
        for folder in (best, tmp_path / "saved"):
            again = PeftModel.from_pretrained(base(), folder).eval()
            torch.testing.assert_close(again(input_ids=x).logits, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("storage", ["prealloc", "append"])
def test_growth_goes_on_from_an_earlier_state(storage, tmp_path):
    model, allocator = adapted(storage=storage)
    optimizer = torch.optim.Adam(trainable(model), lr=0.01)
    train(model, allocator, optimizer, range(1, 5))
    model.save_pretrained(tmp_path)
    early = allocator.ranks()
    train(model, allocator, optimizer, range(5, 10))
    assert allocator.ranks() != early
    model.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert allocator.ranks() == early
    train(model, allocator, torch.optim.Adam(trainable(model), lr=0.01), range(10, 40))
    assert sum(allocator.ranks().values()) == allocator.target
    x, _ = batch(99)
    assert torch.isfinite(model(x)).all()
