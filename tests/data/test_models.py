"""Where pretrained models come from, and what is said of those that are none."""

import contextlib
import json
import random
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from linmap.data.models import base_folder, load_pretrained, load_tokenizer, model_folder, reads_of
from linmap.errors import ArgumentError, ArtifactError
from recipes.finetuning.tiny import save_encoder, save_llama


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models") / "llama")


def test_folders_are_loaded_without_news(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model_folder(str(llama_folder)) == llama_folder
    loaded = load_pretrained(llama_folder, "language", "bfloat16")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    assert load_tokenizer(llama_folder)("a")["input_ids"] == [66]
    assert capsys.readouterr().err == ""
    with pytest.raises(ArgumentError, match="cannot be loaded as a causal language model"):
        load_pretrained(llama_folder.parent, "language", "float32")


def test_what_is_no_model_is_named(tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "file").touch()
    empty, bare = tmp_path / "empty", tmp_path / "bare"
    for folder in (empty, bare):
        folder.mkdir()
    for name, message in (
        (str(tmp_path / "file"), "is a file"),
        (str(tmp_path / "none"), "there is no such folder"),
        ("./none", "there is no such folder"),
        (str(empty), "has no config.json"),
    ):
        with pytest.raises(ArgumentError, match=message):
            model_folder(name)
    (bare / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    with pytest.raises(ArgumentError, match="no weights as safetensors"):
        model_folder(str(bare))
    (bare / "model.safetensors").write_bytes((llama_folder / "model.safetensors").read_bytes())
    with pytest.raises(ArgumentError, match="has no tokenizer"):
        model_folder(str(bare))


def test_a_vision_transformer_is_no_model_of_texts() -> None:
    with pytest.raises(ArgumentError, match="model='dinov2-small' reads images, not text"):
        model_folder("dinov2-small")
    with pytest.raises(ArgumentError, match="model='minilm-l6' reads text, not images"):
        model_folder("minilm-l6", reads="images")


def test_a_model_reads_with_what_lies_beside_it(tmp_path: Path, llama_folder: Path) -> None:
    assert model_folder(str(llama_folder), reads=None) == llama_folder
    assert reads_of(llama_folder) == "text"
    with pytest.raises(ArgumentError, match=r"has no preprocessor_config\.json, which says"):
        model_folder(str(llama_folder), reads="images")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((llama_folder / file).read_bytes())
    with pytest.raises(ArgumentError, match="has no tokenizer"):
        model_folder(str(tmp_path), reads=None)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert model_folder(str(tmp_path), reads="images") == model_folder(str(tmp_path), reads=None) == tmp_path
    assert reads_of(tmp_path) == "images"


def test_the_cache_of_the_hub_comes_before_the_network(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(name: str, local_files_only: bool = False, **_: object) -> str:
        asked.append((name, local_files_only))
        if name == "some/cached":
            return str(llama_folder)
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_folder("some/cached") == llama_folder
    assert asked == [("some/cached", True)]
    with pytest.raises(ArgumentError, match="not in the cache of the Hugging Face Hub, and the Hub cannot"):
        model_folder("some/unknown")
    assert asked[1:] == [("some/unknown", True), ("some/unknown", False)]


def unreachable(*_: object, **__: object) -> str:
    raise AssertionError("the Hub was asked")


def test_what_a_run_names_is_downloaded_only_with_leave(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(name: str, local_files_only: bool = False, **_: object) -> str:
        if local_files_only and name != "some/cached":
            raise LocalEntryNotFoundError("offline")
        asked.append((name, local_files_only))
        return str(llama_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    run = tmp_path / "run"
    assert base_folder(run, "some/cached", allow_download=False) == llama_folder
    assert base_folder(run, str(llama_folder), allow_download=False) == llama_folder
    assert asked == [("some/cached", True)]
    with pytest.raises(ArtifactError, match=r"fitted on 'stranger/model', which is not .* allow_download=True"):
        base_folder(run, "stranger/model", allow_download=False)
    for gone in ("/home/stranger/model", "./model", r"\\server\share", "a/b/c"):
        with pytest.raises(ArtifactError, match="there is no such folder"):
            base_folder(run, gone, allow_download=True)
    assert asked == [("some/cached", True)]
    assert base_folder(run, "stranger/model", allow_download=True) == llama_folder
    assert asked[-1] == ("stranger/model", False)
    assert any("downloading 'stranger/model'" in message for message in logged)


@pytest.mark.parametrize(
    "entry",
    [
        {"attn_implementation": "stranger/kernel"},
        {"_attn_implementation": "stranger/kernel"},
        {"text_config": {"_attn_implementation": {"": "stranger/kernel"}}},
    ],
)
def test_a_model_that_asks_for_code_on_the_hub_is_refused(entry: dict, tmp_path: Path, llama_folder: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entry))
    with pytest.raises(ArgumentError, match="asks for the kernel 'stranger/kernel' of the Hugging Face Hub"):
        load_pretrained(folder, "language", "float32")


def test_local_folders_never_reach_the_network(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    load_tokenizer(llama_folder)
    load_pretrained(llama_folder, "language", "float32")


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"]
)
def test_what_does_not_fit_the_weights_names_the_settings_that_are_left_out(
    name: str, tmp_path: Path, llama_folder: Path
) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != name}))
    with pytest.raises(ArgumentError, match=rf"; config\.json does not state {name}\.$"):
        load_pretrained(folder, "language", "float32")
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 8}))
    with pytest.raises(
        ArgumentError, match=r"weight has the shape \(258, 32\), config.json asks for \(8, 32\) \(of 2 .*\)\.$"
    ):
        load_pretrained(folder, "language", "float32")


@pytest.mark.parametrize("name", ["[CLS]", "[SEP]"])
def test_a_template_that_puts_in_what_it_does_not_list_is_refused(name: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "model")
    assert load_tokenizer(folder)("a")["input_ids"][0] == 1
    whole = json.loads((folder / "tokenizer.json").read_text())
    del whole["post_processor"]["special_tokens"][name]
    for processor in (whole["post_processor"], {"type": "Sequence", "processors": [whole["post_processor"]]}):
        (folder / "tokenizer.json").write_text(json.dumps(whole | {"post_processor": processor}))
        with pytest.raises(ArgumentError, match=f"tokenizer.json puts in {re.escape(repr(name))}, which"):
            load_tokenizer(folder)


def test_an_adapter_given_as_a_model_is_told_from_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArgumentError, match=r"holds an adapter, not a model; .* --merge --out MODEL"):
        model_folder(str(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_refused_wherever_they_stand(
    value: float, dtype: str, tmp_path: Path, llama_folder: Path
) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    for name, weight in random.Random(0).sample(sorted(weights.items()), 4):
        broken = weight.clone()
        broken.flatten()[random.Random(name).randrange(weight.numel())] = value
        save_file(weights | {name: broken}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ArgumentError, match=rf"llama: the weight {re.escape(name)} holds NaN or an infinity"):
            load_pretrained(folder, "language", dtype)


@pytest.mark.parametrize("value", [[], "x", {}, None, True])
def test_settings_of_a_tokenizer_that_only_a_text_meets_are_told_when_it_is_loaded(
    value: object, tmp_path: Path, llama_folder: Path
) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "llama")
    path = folder / "tokenizer_config.json"
    whole = json.loads(path.read_text())
    for name in ("model_max_length", "model_input_names", "padding_side", "truncation_side", "added_tokens_decoder"):
        path.write_text(json.dumps(whole | {name: value}))
        with contextlib.suppress(ArgumentError):
            assert load_tokenizer(folder)("a")["input_ids"] == [66]


def test_what_python_says_of_types_is_no_line_for_a_user():
    from linmap.data.door import plainly

    for use in (
        lambda v: v.items(),
        lambda v: v[0],
        lambda v: v(),
        lambda v: v < "a",
        lambda v: v + "a",
        lambda v: iter(v),
    ):
        for value in (1, 1.5, None):
            with pytest.raises((TypeError, AttributeError)) as caught:
                use(value)
            assert "a value in it is of another type" in plainly(str(caught.value))
            assert "object" not in plainly(str(caught.value))
