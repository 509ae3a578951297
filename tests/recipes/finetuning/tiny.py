"""Tiny random models with a tokenizer of bytes, as folders that Transformers loads."""

import contextlib
import io
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer(*special: str, pattern: str | None = None) -> Tokenizer:
    vocabulary = {name: number for number, name in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if pattern is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=pattern, special_tokens=[(name, number) for number, name in enumerate(special)]
        )
    return tokenizer


def language_tokenizer(bos: bool = False, chat: bool = True) -> PreTrainedTokenizerBase:
    tokenizer = byte_tokenizer("<s>", "</s>", pattern="<s> $A" if bos else None)
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT if chat else None, **names)


def encoder_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = byte_tokenizer("[PAD]", "[CLS]", "[SEP]", pattern="[CLS] $A [SEP]")
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def llama(seed: int = 0, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save_llama(folder: Path, tied: bool = False) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        llama(tied=tied).save_pretrained(folder)
        language_tokenizer().save_pretrained(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    with contextlib.redirect_stderr(io.StringIO()):
        BertModel(config).save_pretrained(folder)
        encoder_tokenizer().save_pretrained(folder)
    return folder


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def sums(count: int) -> list[dict]:
    return [{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(count)]


def moods(count: int) -> list[dict]:
    good, bad = ("splendid", "happy day", "so fine"), ("dreadful", "awful row", "very sad")
    return [{"text": f"{(good, bad)[i % 2][i % 3]} {i}", "label": ("good", "bad")[i % 2]} for i in range(count)]
