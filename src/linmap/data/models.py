"""Pretrained models of Transformers: found by folder, Hub id or bundled name, loaded, and used."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from linmap.data.built import no_larger_than, weight_files, weights_in
from linmap.data.door import inside, load_json, plainly
from linmap.data.image_preparation import FILE as PREPARATION_FILE
from linmap.data.pretrained import BUNDLED, BUNDLED_VISION, bundled_model
from linmap.data.schema import unstated
from linmap.data.tokens import Tokenizer
from linmap.errors import ArgumentError, ArtifactError, DataError, LinmapError, word

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # of a repository on the Hub
COUNTED, MOST_COUNTED = re.compile(r"(^|_)(num|n)_|layers?$|depths?$"), 10**6
"""Keys of what is counted one by one in a configuration, and the largest number of it."""
Reads = Literal["text", "images"]
DTYPES: dict[str, Any] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": "auto"}  # auto: as it is saved


def model_folder(name: Path | str, reads: Reads | None = "text") -> Path:
    """The folder of a model that the user names: bundled, in a folder of his, or on the Hugging Face Hub.

    What the Hub's cache on this machine has is taken from there; the network is asked only for what is missing.

    Parameters
    ----------
    name
        A folder, an id or one of `BUNDLED`.
    reads
        What the model must read: a tokenizer belongs to a model of text, a `preprocessor_config.json` to one of images.
        When None, either will do; `reads_of` tells which.

    Raises
    ------
    ArgumentError
        If there is no such model, the Hub cannot be reached, or the folder lacks a model or what it reads with.
    """
    name = str(name)
    if name in BUNDLED:
        if reads is not None and reads != reads_of_bundled(name):
            raise ArgumentError(f"model={name!r} reads {reads_of_bundled(name)}, not {reads}.")
        return bundled_model(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise ArgumentError(f"model={name!r} is a file; give the folder that config.json lies in.")
        if is_path(name):
            raise ArgumentError(f"model={name!r}: there is no such folder.")
        folder = _from_hub(name, reads)
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise ArgumentError(
                f"model={name!r} holds an adapter, not a model; put it into its model first: linmap apply "
                f"{word(folder)} --merge --out MODEL, then model=MODEL."
            )
        raise ArgumentError(f"model={name!r} holds no model: it has no config.json.")
    if not weight_files(folder):
        raise ArgumentError(f"model={name!r} has no weights as safetensors; save the model again with save_pretrained.")
    has = {
        "text": any((folder / file).exists() for file in TOKENIZER_FILES),
        "images": (folder / PREPARATION_FILE).exists(),
    }
    if not has["text"] and (reads == "text" or (not has["images"] and reads is None)):
        raise ArgumentError(
            f"model={name!r} has no tokenizer ({', '.join(TOKENIZER_FILES[:3])}); save it there with "
            "tokenizer.save_pretrained."
        )
    if reads == "images" and not has["images"]:
        raise ArgumentError(
            f"model={name!r} has no {PREPARATION_FILE}, which says how the model takes images; copy it there."
        )
    return folder


def reads_of_bundled(name: str) -> Reads:
    """What one of `BUNDLED` reads."""
    return "images" if name in BUNDLED_VISION else "text"


def reads_of(folder: Path) -> Reads:
    """What the model of a folder reads; images where the folder says how it takes them."""
    return "images" if (folder / PREPARATION_FILE).exists() else "text"


def base_folder(run: Path, name: str, allow_download: bool) -> Path:
    """The folder of the model that a run was fitted on, by what the run says of it.

    A run may come from a stranger, and so may the name in it: nothing is downloaded for it unless the user allows it.

    Raises
    ------
    ArtifactError
        If the model is not on this machine and may not be downloaded.
    ArgumentError
        As of `model_folder`.
    """
    if name in BUNDLED or Path(name).expanduser().is_dir():
        return model_folder(name)
    if (cached := cached_snapshot(name)) is not None:
        return cached
    if is_path(name):
        raise ArtifactError(f"{run} was fitted on the model in {name!r}, and there is no such folder; put it back.")
    if not allow_download:
        raise ArtifactError(
            f"{run} was fitted on {name!r}, which is not on this machine; if you trust that name, download the model "
            "from the Hugging Face Hub with allow_download=True."
        )
    log.warning("downloading %r, which %s was fitted on, from the Hugging Face Hub", name, run)
    return model_folder(name)


def is_path(name: str) -> bool:
    """Whether a name can only be a folder's, not a repository's on the Hub."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def cached_snapshot(name: str) -> Path | None:
    """The whole snapshot of a repository in the Hub's cache on this machine; the network is not asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return cached if (cached / "config.json").exists() and weight_files(cached) else None


def _from_hub(name: str, reads: Reads | None) -> Path:
    """The cached snapshot of a repository, downloaded where it is not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if (cached := cached_snapshot(name)) is not None:
        return cached
    known = ", ".join(sorted(one for one in BUNDLED if reads in (None, reads_of_bundled(one))))
    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED))
    except HFValidationError:
        raise ArgumentError(f"model={name!r} is neither a folder, nor an id on the Hub, nor one of {known}.") from None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ArgumentError(f"model={name!r}: no such folder, and the Hugging Face Hub refuses it: {reason}") from None
    except (LocalEntryNotFoundError, OSError):
        raise ArgumentError(
            f"model={name!r}: no such folder, not in the cache of the Hugging Face Hub, and the Hub cannot be reached; "
            f"give a folder, or one of {known}."
        ) from None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder; nothing is fetched, and no code of the folder runs."""
    from transformers import AutoTokenizer

    check_names(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        check_template(tokenizer, folder)
        tokenizer("a")  # which looks at settings that nothing has looked at before
    except (LinmapError, ImportError):
        raise
    except Exception as error:  # whatever Transformers does with what is in there
        raise ArgumentError(f"the tokenizer of {folder} cannot be loaded: {_first(error)}.") from error
    return tokenizer


def config_of(folder: Path) -> dict[str, Any]:
    """What `config.json` in the folder of a model says.

    Raises
    ------
    DataError
        If it is no object of JSON.
    """
    config = load_json(folder / "config.json")
    if not isinstance(config, dict):
        raise DataError(f"{folder / 'config.json'} must hold an object that describes a model.")
    return config


def check_kernels(folder: Path) -> None:
    """Refuse a configuration that names code on the Hub, which Transformers would download and run.

    Raises
    ------
    ArgumentError
        With the name.
    """
    try:
        config = config_of(folder)
    except (OSError, ValueError):
        return  # Transformers says what is wrong with it
    if kernel := _kernel_in(config):
        raise ArgumentError(
            f"{folder}/config.json asks for the kernel {kernel!r} of the Hugging Face Hub, whose code would be run; "
            "remove that entry if you trust the model."
        )


def check_counts(folder: Path) -> None:
    """Refuse a configuration that counts so many layers, labels or heads that Transformers lists them for ever.

    Raises
    ------
    ArgumentError
        With the first such number.
    """
    try:
        config = config_of(folder)
    except (OSError, ValueError):
        return  # Transformers says what is wrong with it
    for key, value in _numbers_in(config):
        if COUNTED.search(key) and value > MOST_COUNTED:
            raise ArgumentError(f"{folder}/config.json: {key} is {value:g}, more than any model has.")


def _numbers_in(config: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of a configuration, with the keys that they stand under."""
    if isinstance(config, int | float):
        yield key, config
    for name, value in config.items() if isinstance(config, dict) else ():
        yield from _numbers_in(value, name)
    for value in config if isinstance(config, list) else ():
        yield from _numbers_in(value, key)


def check_names(folder: Path) -> None:
    """Refuse a folder of a model that names files outside of it: shards of weights, and files of its tokenizer.

    Raises
    ------
    DataError
        With the name.
    """
    for path in folder.glob("*.index.json"):
        index = load_json(path)
        files = index.get("weight_map") if isinstance(index, dict) else None
        for name in set(files.values()) if isinstance(files, dict) else ():
            inside(folder, name)
    path = folder / "tokenizer_config.json"
    stated = load_json(path) if path.exists() else {}
    for key, name in stated.items() if isinstance(stated, dict) else ():
        if key.endswith("_file") and isinstance(name, str) and Path(name).parent != folder:
            inside(folder, name)


def check_template(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer whose template puts in tokens that it does not list: the library tokenizers ends in a panic at
    the first text, which is no error of Python.

    Raises
    ------
    ArgumentError
        With the first such token.
    """
    processor = getattr(getattr(tokenizer, "backend_tokenizer", None), "post_processor", None)
    for part in _objects_in(json.loads(processor.__getstate__()) if processor else None):
        if part.get("type") == "TemplateProcessing":
            used = [one["SpecialToken"]["id"] for one in (*part["single"], *part["pair"]) if "SpecialToken" in one]
            if lacking := [name for name in used if name not in part["special_tokens"]]:
                raise ArgumentError(
                    f"the tokenizer of {folder} cannot be used: the post_processor of its tokenizer.json puts in "
                    f"{lacking[0]!r}, which its special_tokens lack."
                )


def _objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of JSON in a value, itself included."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects_in(item)


def _kernel_in(config: Any) -> str:
    """The repository of a kernel that a configuration, or one in it, names; "" if none."""
    if not isinstance(config, dict):
        return ""
    for key, value in config.items():
        if key.endswith(("attn_implementation", "attn_implementation_internal")):
            names = value.values() if isinstance(value, dict) else [value]
            if found := next((name for name in names if isinstance(name, str) and "/" in name), None):
                return found
        elif found := _kernel_in(value):
            return found
    return ""


def load_pretrained(folder: Path, kind: Literal["language", "encoder"], dtype: str) -> nn.Module:
    """The model of a folder, a causal language model or one without any head, its weights in one of `DTYPES`.

    Raises
    ------
    ArgumentError
        If the folder's model is not made for this, its weights cannot be read, or it asks for code on the Hub.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    if kind == "language":
        model, missing = _loaded(AutoModelForCausalLM, folder, "a causal language model", dtype)
        if missing:  # Transformers draws them at random
            raise _lacking(folder, model, missing)
        return model
    return _loaded(AutoModel, folder, "a model", dtype)[0]


def classifies(folder: Path) -> bool:
    """Whether the model of a folder is a classifier of images or of texts, by its config.json."""
    return _head(folder) is not None


def load_trained(folder: Path) -> nn.Module:
    """The encoder or classifier of a folder in float32, nothing in it new: a pooler that has no weights is left out.

    Transformers draws what a folder lacks at random, as the pooler of a ViT that was saved with its classifier.

    Raises
    ------
    ArgumentError
        As of `load_pretrained`; or if weights are missing.
    """
    import transformers

    auto = getattr(transformers, HEADS[head]) if (head := _head(folder)) else transformers.AutoModel
    model, missing = _loaded(auto, folder, "a model" if head is None else "a classifier", "float32")
    missing = {key for key in missing if not key.endswith("mask_token")}  # of pretraining; nobody reads it
    if missing and all("pooler" in key.split(".") for key in missing):
        for name, module in list(model.named_modules()):
            if getattr(module, "pooler", None) is not None and f"{name}.pooler.".lstrip(".") in "".join(missing):
                module.pooler = None
    elif missing:
        raise _lacking(folder, model, missing)
    return model


def _lacking(folder: Path, model: nn.Module, names: set[str]) -> ArgumentError:
    """The error for weights that are not in a folder: three names at most, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    some = ", ".join(sorted(names)[:3]) + more
    return ArgumentError(f"{folder} lacks weights of its {type(model).__name__}: {some}{_left_out(folder)}.")


HEADS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForImageClassificationWithTeacher": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}


def _head(folder: Path) -> str | None:
    """Which of `HEADS` the config.json of a folder names."""
    try:
        config = config_of(folder)
    except (OSError, ValueError):
        return None  # Transformers says what is wrong with it
    names = config.get("architectures")
    named = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return next((head for head in HEADS for name in named if name.endswith(head)), None)


def _loaded(auto: Any, folder: Path, what: str, dtype: str) -> tuple[Any, set[str]]:
    """A model, and which of its weights the folder lacks.

    Raises
    ------
    ArgumentError
        As of `load_pretrained`.
    """
    check_kernels(folder)
    check_names(folder)
    check_counts(folder)
    try:
        with quiet_libraries(), no_larger_than(weights_in(folder)):
            model, info = auto.from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # which are told below
            )
    except ArtifactError as error:
        raise ArgumentError(f"{folder} cannot be loaded as {what}: {error}{_left_out(folder)}.") from None
    except ArgumentError as error:
        raise ArgumentError(f"{str(error).rstrip('.')}{_left_out(folder)}.") from None
    except (LinmapError, ImportError):
        raise
    except Exception as error:  # whatever Transformers does with what a configuration says
        raise ArgumentError(f"{folder} cannot be loaded as {what}: {_first(error)}{_left_out(folder)}.") from error
    for name, found, asked in sorted(info["mismatched_keys"]):
        raise ArgumentError(
            f"{folder} cannot be loaded as {what}: {name} has the shape {tuple(found)}, config.json asks for "
            f"{tuple(asked)} (of {len(info['mismatched_keys'])} such weights){_left_out(folder)}."
        )
    wrong = next((name for name, weight in model.named_parameters() if not weight.is_floating_point()), None)
    if wrong and getattr(model, "hf_quantizer", None) is None:
        raise ArgumentError(f"{folder} cannot be loaded as {what}: its weight {wrong} is of integers.")
    check_weights(model, folder)
    return model, set(info["missing_keys"])


def check_weights(model: nn.Module, where: Path | str) -> None:
    """Refuse a model of which a weight holds NaN or an infinity: most of its answers would be NaN too.

    Raises
    ------
    ArgumentError
        With the first such weight.
    """
    for name, weight in model.named_parameters():
        codes = not weight.is_floating_point() or weight.element_size() == 1  # their scale is elsewhere
        if codes or weight.is_meta or not weight.numel():
            continue
        if not torch.stack(weight.detach().aminmax()).isfinite().all():
            raise ArgumentError(
                f"{where}: the weight {name} holds NaN or an infinity; the training that wrote it may have "
                "diverged: take an earlier checkpoint."
            )


def _first(error: BaseException) -> str:
    """The first line of what Transformers says; of a configuration that it checks, what is wrong with it."""
    from huggingface_hub.errors import StrictDataclassError

    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__
    return plainly((str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip("."))


def _left_out(folder: Path) -> str:
    """What to add of settings that `config.json` does not state, as of `unstated`; "" where the kind is not known."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    try:
        config = config_of(folder)
    except (OSError, ValueError):
        return ""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return ""
    return unstated(CONFIG_MAPPING[kind], config, "config.json", PretrainedConfig)


def on_accelerator(model: nn.Module) -> nn.Module:
    """The model where it computes fastest: on the accelerator, if there is one."""
    return model.to(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else model


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without bars for half a second of reading, and without news for the programmers of PEFT and Transformers."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a head that is left out on purpose is no news either
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
