"""From a model and a text to a folder of the quantised model, which Transformers loads."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from linmap.artifacts import SHARED, check_free, read_config, staged, write_config
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import METHOD, FlatQuantConfig
from linmap.compress.flatquant.measures import folder_tensors, sizes
from linmap.compress.flatquant.pretrained import in_format
from linmap.compress.flatquant.streaming import calibrate_folder
from linmap.data import find
from linmap.data.models import (
    config_of,
    load_pretrained,
    load_tokenizer,
    model_folder,
    on_accelerator,
    quiet_libraries,
)
from linmap.data.pretrained import BUNDLED
from linmap.data.text import read_text
from linmap.data.tokens import Tokenizer, plain_tokens
from linmap.errors import ArgumentError, DataError, UsageError
from linmap.ownership import make_folder, real
from linmap.recipes.flatquant.flags import Fit
from linmap.recipes.job import FitJob

SYSTEM = "flatquant"
NOVEL = "text/austen_calib.txt.gz"


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Quantise a language model and save it as a folder that Transformers loads after `import linmap`.

    --data is a .txt or .md file, perhaps with .gz behind: a few hundred kilobytes of what the model will read.
    """
    config = settings.config(job.seed)
    check_out(job.out)
    folder = original_folder(settings.model)
    tokenizer, data = load_tokenizer(folder), job.data or find(NOVEL, "Reinstall linmap.")
    needed = config.n_samples, config.sequence_length, "--windows or --length"
    ids = tokens_of(read_text(data), tokenizer, str(data), needed)
    start = time.perf_counter()
    quantise(folder, ids, tokenizer, config, settings, job)
    seconds, found = time.perf_counter() - start, sizes(folder_tensors(folder), folder_tensors(job.out))
    base = str(real(folder)) if Path(settings.model).is_dir() else settings.model
    summary = {
        "data": str(data), "model": base, "tokens": len(ids),
        "bits": bits_of(settings),
        "megabytes": round(found.stored / 1e6, 2), "float16_megabytes": round(found.float16 / 1e6, 2),
        "linears_share_of_float16": round(found.share, 4), "seconds": round(seconds, 1),
    }  # fmt: skip
    if PartialState().is_main_process:
        write_config(job.out, SYSTEM, {"settings": asdict(settings), "result": summary}, job.seed, SHARED)
    notes = remarks(config_of(job.out)["quantization_config"])
    return {"artifact": str(job.out), **summary} | ({"notes": notes} if notes else {})


def bits_of(settings: Fit) -> str:
    """The bits in one line; those of the head where it is quantised."""
    s = settings
    blocks = f"W{s.w_bits} A{s.a_bits} Q{s.q_bits} K{s.k_bits} V{s.v_bits}"
    return blocks if s.head_bits == 16 else f"{blocks} head {s.head_bits}"


def remarks(config: dict[str, Any]) -> list[str]:
    """What the proof before the calibration found in the model's blocks, for the summary."""
    readers = [path for paths in (config.get("readers") or {}).values() for path in paths]
    found = []
    if readers:
        found.append(f"{', '.join(readers)}: transformed with the layers beside, and not quantised.")
    if config.get("left_out"):
        found.append(
            "The values have no matrix of their own, for more than an average lies between them and the output."
        )
    return found


def quantise(
    folder: Path, ids: Tensor, tokenizer: Tokenizer, config: FlatQuantConfig, settings: Fit, job: FitJob
) -> None:
    """Calibrate the model of a folder, and put the quantised one into --out; `linmap.json` is still to come."""
    out, main = job.out, PartialState().is_main_process
    rest = rest_dtype(folder, settings)
    options: dict[str, Any] = {"work": out / "calibration", "n_jobs": settings.n_jobs, "resume": job.resume}
    make_folder(out)
    try:
        with staged(out) as partial:
            if settings.stream:
                with quiet_libraries():
                    calibrate_folder(folder, partial, ids, config, dtype=rest, **options)
            else:
                distils = settings.distil_steps > 0 and settings.base_dtype == "auto"  # small steps need float32
                dtype = "float32" if distils else settings.base_dtype
                model: Any = on_accelerator(load_pretrained(folder, "language", dtype))
                calibrate(model, ids, config, **options)
                if main:
                    with quiet_libraries():
                        in_format(model, rest).save_pretrained(partial)
            if main:
                tokenizer.save_pretrained(partial)
                clear(out)
        if main:
            for path in (out / "calibration").glob("distillation_*"):  # checkpoints, larger than the model
                shutil.rmtree(path)
    except BaseException:
        with suppress(OSError):
            out.rmdir()  # if there is nothing to go on from
        raise
    PartialState().wait_for_everyone()


def clear(out: Path) -> None:
    """Remove the model of an earlier run, whose shards may have other names."""
    for name in (SHARED, "config.json", "model.safetensors.index.json"):
        (out / name).unlink(missing_ok=True)
    for path in out.glob("*.safetensors"):
        path.unlink()


def rest_dtype(folder: Path, settings: Fit) -> torch.dtype:
    """The number format of what is not quantised."""
    if settings.rest_dtype != "auto":
        return getattr(torch, settings.rest_dtype)
    config = config_of(folder)
    places = config, config.get("text_config") or {}
    saved = next((place[key] for place in places for key in ("dtype", "torch_dtype") if place.get(key)), None)
    return torch.float16 if saved == "float16" else torch.bfloat16


# -- what is asked for -------------------------------------------------------------------------------------------------


def original_folder(name: str) -> Path:
    """The folder of a model that is not quantised yet.

    Raises
    ------
    UsageError
        If there is none, or it is quantised.
    ValueError
        If it is a bundled one that generates no text.
    """
    if name in BUNDLED and name != "smollm2-135m":
        raise ArgumentError(f"--model {name} is no language model that generates; smollm2-135m is.")
    folder = model_folder(name)
    config = config_of(folder)
    if config.get("quantization_config"):
        raise UsageError(f"--model {name} is quantised already; give the original.")
    return folder


def tokens_of(text: str, tokenizer: Tokenizer, name: str, needed: tuple[int, int, str]) -> Tensor:
    """The tokens of a text, with nothing in front.

    Raises
    ------
    DataError
        If they do not fill the windows of `needed`: how many, of what length, and the flags that say so.
    """
    ids, (count, length, flags) = torch.tensor(plain_tokens(text, tokenizer), dtype=torch.long), needed
    if len(ids) < count * length:
        raise DataError(
            f"{name} has {len(ids)} tokens, and {count} windows of {length} need {count * length}; give more text, or "
            f"lower {flags}."
        )
    return ids


def _half_put(out: Path) -> bool:
    """Whether a fit was ended here while it put its model in place, before the file that says whose it is."""
    try:
        method = (config_of(out).get("quantization_config") or {}).get("quant_method")
    except (DataError, FileNotFoundError, NotADirectoryError):
        return False
    return method == METHOD and (out / "calibration").is_dir() and not (out / SHARED).exists()


def check_out(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises
    ------
    UsageError
        With what it holds.
    """
    if not _half_put(out):
        check_free(out)
    if (out / SHARED).exists() and (system := read_config(out)["system"]) != SYSTEM:
        raise UsageError(f"--out {out} holds a run of {system!r}; name another folder.")
