"""The methods of the room, and small models to put them on; a new method joins the contract by a line in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from linmap.adapt import BoneConfig, SaltConfig, TriAdaptLoraConfig
from linmap.adapt.layer import AdapterLayer
from typed import of_class

METHODS: dict[str, Callable[..., PeftConfig]] = {
    "bone bat": partial(BoneConfig, r=4, mode="bat"),
    "bone bat-row": partial(BoneConfig, r=4, mode="bat-row"),
    "bone add": partial(BoneConfig, r=5, mode="add"),
    "bone mini": partial(BoneConfig, r=5, mode="mini", mini_r=4),
    "triadaptlora": partial(TriAdaptLoraConfig, reference_rank=3, init_rank=2, growth="none"),
    "salt all": partial(SaltConfig, ratio=0.2, r=3, also_train=()),
    "salt diag": partial(SaltConfig, ratio=0.2, r=3, relu="diag", also_train=()),
}


def llama(tied: bool = False, dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    """Two blocks; sizes that 4 divides and 5 does not, and no square projections but one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config)
    nn.Module.to(model, dtype)
    return model.eval()


def gpt2() -> GPT2LMHeadModel:
    """Its layers are Conv1D, with the weight as (in, out)."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    return GPT2LMHeadModel(config).double().eval()


def tokens(rows: int = 2, length: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(0, 48, (rows, length), generator=torch.Generator().manual_seed(seed))


def with_adapter(base: nn.Module, config: PeftConfig, **options: Any) -> PeftModel:
    """The model that PEFT makes of one adapter, which is never one of mixed kinds."""
    return of_class(PeftModel, get_peft_model(base, config, **options))


def tuner_of(model: nn.Module) -> BaseTuner:
    """The tuner that a PEFT model puts around its base model."""
    return of_class(BaseTuner, model.base_model)


def inside(model: nn.Module) -> Any:
    """The base model of a PEFT model, with the modules of its class and what PEFT put in their place."""
    return tuner_of(model).model


def adapted(base: nn.Module, method: str, *, trained: bool = True, **fields: Any) -> PeftModel:
    """The base model with one adapter "default" on all linear layers; `trained` moves it away from its start."""
    model = with_adapter(base, METHODS[method](**({"target_modules": "all-linear"} | fields)))
    if trained:
        move(model)
    return model.eval()


@torch.no_grad()
def move(model: nn.Module, adapter: str = "default", seed: int = 1) -> None:
    """Random values for the parameters of an adapter, as training would leave them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, AdapterLayer):
            for parameter in layer.adapters[adapter].parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=x).logits
