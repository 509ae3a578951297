"""Targets: folders of models as Transformers writes them, adapters of PEFT, tokenizers, GGUF."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.targets import Target

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 258, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 259, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
    "type_vocab_size": 2, "id2label": {"0": "a"}, "hidden_act": "gelu",
}  # fmt: skip
NAN = float("nan")
VALUES = (None, True, -1, 0, 1, 10**9, 10**30, 1.5, 1e308, "x", "../x", [], {}, [[1]], {"a": 1}, ["x"] * 3, NAN)


def targets() -> list[Target]:
    """Of this file."""
    from linmap.data.models import load_tokenizer, model_folder

    gguf = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 4) + b"arch" + struct.pack("<IQ", 8, 1) + b"a"
    return [
        Target("model-config", _load, _texts(LLAMA, BERT), "model/config.json", _drawn(LLAMA, BERT), few=6),
        Target("model-weights", _load_weights, (_header(),), "model/model.safetensors", few=6),
        Target("model-index", _load_index, (_index(),), "model/model.safetensors.index.json", few=2),
        Target("tokenizer", lambda path: load_tokenizer(_beside(path, "llama")), (_tokenizer("tokenizer.json"),),
               "model/tokenizer.json", few=4),
        Target("tokenizer-config", lambda path: load_tokenizer(_beside(path, "llama")),
               (_tokenizer("tokenizer_config.json"),), "model/tokenizer_config.json", few=4),
        Target("gguf", lambda path: model_folder(path.parent), (gguf,), "model/model.gguf"),
    ]  # fmt: skip


def _texts(*values: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


def _drawn(*wholes: dict[str, Any]) -> Callable[[Any], bytes]:
    """Configurations of which one to three values are others, or are not there."""

    def draw(rng: Any) -> bytes:
        config = dict(rng.choice(wholes))
        for _ in range(rng.choice((1, 1, 2, 3))):
            name = rng.choice([*config, *EXTRA])
            config[name] = rng.choice(VALUES)
            if rng.random() < 0.1:
                del config[name]
        return json.dumps(config).encode()

    return draw


EXTRA = (
    "dtype", "torch_dtype", "quantization_config", "auto_map", "attn_implementation", "num_labels", "layer_types",
    "pad_token_id", "head_dim", "rope_scaling", "problem_type", "id2label", "pruned_heads", "attention_bias",
    "use_cache", "is_decoder", "transformers_version", "_name_or_path", "sliding_window", "return_dict",
)  # fmt: skip


@cache
def whole(kind: str) -> Path:
    """A folder with a small model and its tokenizer."""
    from recipes.finetuning.tiny import save_encoder, save_llama

    folder = Path(tempfile.mkdtemp(prefix="linmap-fuzz-"))
    return (save_llama if kind == "llama" else save_encoder)(folder / kind)


def _beside(path: Path, kind: str) -> Path:
    """The folder of a file that was changed, with the other files of a model."""
    for file in whole(kind).iterdir():
        if file.name != path.name and not (path.parent / file.name).exists():
            _linked(file, path.parent / file.name)
    return path.parent


def _linked(file: Path | str, target: Path | str) -> None:
    """A second name of a file, or a copy on another file system."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy(file, target)


def _load(path: Path) -> None:
    from linmap.adapt.texts import row_length
    from linmap.data.models import classifies, load_pretrained

    kind = "bert" if b'"bert"' in path.read_bytes() else "llama"
    folder = path.parent.parent / kind
    shutil.copytree(whole(kind), folder, copy_function=_linked, dirs_exist_ok=True)
    (folder / path.name).unlink()
    shutil.copy(path, folder / path.name)
    shutil.rmtree(path.parent)
    try:
        classifies(folder)
        load_pretrained(folder, "language" if kind == "llama" else "encoder", "auto")
        row_length(folder, 8)
    finally:
        shutil.rmtree(folder)


def _load_weights(path: Path) -> None:
    from linmap.data.models import load_pretrained

    load_pretrained(_beside(path, "llama"), "language", "float32")


def _load_index(path: Path) -> None:
    _beside(path, "llama")
    (path.parent / "model.safetensors").rename(path.parent / "model-00001-of-00001.safetensors")
    try:
        _load_weights(path)
    finally:
        shutil.rmtree(path.parent)


def _header() -> bytes:
    return (whole("llama") / "model.safetensors").read_bytes()


def _index() -> bytes:
    data = _header()
    names = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    names.pop("__metadata__", None)
    mapped = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    return json.dumps({"metadata": {"total_size": len(data)}, "weight_map": mapped}).encode()


def _tokenizer(name: str) -> bytes:
    return (whole("llama") / name).read_bytes()
