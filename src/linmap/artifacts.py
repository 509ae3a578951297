"""Saved runs: a folder with `config.json` and `*.safetensors`, written atomically and never through pickle.

PyTorch is imported where tensors are read or written, so that help on a saved run answers at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from linmap.data.door import load_json, plainly, reason, refuse_endless, refuse_special
from linmap.data.schema import typed
from linmap.errors import (
    ArgumentError,
    ArgumentTypeError,
    ArtifactError,
    DataError,
    LinmapError,
    OutOfRangeError,
)
from linmap.ownership import claim, make_folder, real, record, sync
from linmap.processes import partial_name, sweep
from linmap.version import __version__

if TYPE_CHECKING:
    import numpy as np
    import torch

FORMAT = 1
FORMULA_STARTS = (
    "=",
    "+",
    "-",
    "@",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
    "\t",
    "\r",
    "\n",
)  # wide ones are taken, too
PLAIN = (
    (re.compile(r"Error\(s\) in loading state_dict for \w+: "), ""),
    (re.compile(r"Missing key\(s\) in state_dict: "), "its weights lack "),
    (re.compile(r"Unexpected key\(s\) in state_dict: "), "unknown among its weights: "),
    (re.compile(r"\w+\.__init__\(\) missing \d+ required \S+ arguments?: "), "it lacks "),
    (re.compile(r"\w+\.__init__\(\) got an unexpected keyword argument "), "it knows no "),
)
"""What Python and PyTorch say of what lacks or is not known, and plain words."""
SHARED = "linmap.json"  # in folders that are another library's too
_swept: set[Path] = set()  # folders in which this process has written


@contextmanager
def atomic_path(path: Path | str, make: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is synced to disk and renamed, on failure nothing stays behind.

    The name keeps the suffix of `path`, from which many writers (NumPy, pandas, Pillow) choose the format. A symbolic
    link is written through. A command replaces only what is its own; see `linmap.ownership`. What killed
    processes left half written in the folder goes.

    Parameters
    ----------
    path
        The file to write.
    make
        Make its folder, where that is not there.
    """
    path = Path(path)
    refuse_endless(path)
    if path.is_symlink():
        path = real(path)  # what the link names is written, and the link stays
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file.")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a pipe or a device; name a file.")  # it would be replaced
    claim(path)
    if make:
        make_folder(path.parent)
    if (folder := Path(os.path.abspath(path.parent))) not in _swept:
        _swept.add(folder)
        sweep(folder)
    partial = path.with_name(partial_name(path))
    try:
        yield partial
        sync(partial)
        record(path, partial)
        os.replace(partial, path)
        sync(path.parent)
        record(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def staged(folder: Path, whole: bool = False) -> Iterator[Path]:
    """A temporary folder, whose synced files replace those of `folder` in the end, or, if `whole`, all of it.

    What a killed process left of its own is removed.
    """
    parent = folder.parent if whole else folder
    sweep(parent)
    partial = parent / partial_name(folder.with_suffix(""))
    partial.mkdir()
    try:
        yield partial
        mode = partial.stat().st_mode & 0o666  # what the user's umask allows; safetensors lets only the owner read
        for path in (*partial.rglob("*"), partial):
            if path.is_file():
                path.chmod(mode)
            sync(path)
        if whole:
            before = parent / partial_name(folder.with_suffix(""))
            if folder.exists():
                os.rename(folder, before)
            os.rename(partial, folder)
            shutil.rmtree(before, ignore_errors=True)
        else:
            for path in partial.iterdir():
                target = folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
        sync(parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_table(path: Path | str, table: Any) -> None:
    """Write a pandas data frame without its index, atomically: as CSV where the name ends in .csv, else as Parquet.

    In a CSV, an apostrophe stands before text that a spreadsheet would run as a formula (`inert`), and a warning
    counts such cells; Parquet keeps every text as it is.
    """
    path = Path(path)
    with atomic_path(path) as partial:
        if path.suffix == ".csv":
            _inert_table(table, path).to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)


def inert(cell: Any) -> Any:
    """A cell of a CSV that no spreadsheet runs: text that begins as a formula gets an apostrophe before it.

    Such text begins with `=`, `+`, `-`, `@`, one of them as wide as a Chinese character, a tab or the end of a line,
    and is no plain number.
    """
    if not isinstance(cell, str) or not cell.startswith(FORMULA_STARTS) or cell in ("-", "+"):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def _inert_table(table: Any, path: Path) -> Any:
    before = [list(table.columns), *(list(table.iloc[:, i]) for i in range(table.shape[1]))]
    after = [[inert(cell) for cell in cells] for cells in before]
    changed = sum(new is not old for cells in zip(before, after, strict=True) for old, new in zip(*cells, strict=True))
    if not changed:
        return table
    warnings.warn(
        f"an apostrophe stands before the text of {changed} {'cell' if changed == 1 else 'cells'} of {path} that a "
        "spreadsheet would run as a formula; a .parquet file keeps them as they are.",
        stacklevel=3,
    )
    table = table.set_axis(after[0], axis=1)
    for place, (old, new) in enumerate(zip(before[1:], after[1:], strict=True)):
        if any(a is not b for a, b in zip(old, new, strict=True)):
            table.isetitem(place, new)
    return table


def write_records(path: Path | str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records by name, atomically: as JSON Lines where the name ends in .jsonl, else as CSV or Parquet.

    In a table, lists and objects are JSON text. Halves of surrogate pairs, which no UTF-8 has, are escaped.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        write_text(path, "".join(_line(record) + "\n" for record in records))
        return
    import pandas as pd

    rows = [{_cell(name): _cell(value) for name, value in record.items()} for record in records]
    write_table(path, pd.DataFrame(rows, dtype=object))  # object: a whole number stays one where others are missing


def _line(record: Mapping[str, Any]) -> str:
    line = json.dumps(record, ensure_ascii=False)
    return json.dumps(record) if line != _cell(line) else line


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN and infinities are refused, for they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` in what JSON has: dataclasses as objects, paths as text, NumPy and torch scalars and arrays as numbers
    and lists, and NaN and infinities, which JSON lacks, as null."""
    if is_dataclass(value):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if (tolist := getattr(value, "tolist", None)) is not None:
        return plain(tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def versions() -> dict[str, str]:
    """What a result depends on."""
    import torch

    return {"linmap": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def machine() -> str:
    """The computer in a line: processor, cores, memory, accelerators, operating system."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    parts = [_processor(), f"{os.cpu_count()} cores", f"{memory / 2**30:.0f} GiB" if memory else "", *devices]
    return ", ".join(part for part in [*parts, f"{platform.system()} {platform.machine()}"] if part)


def _processor() -> str:
    """The model name of the processor, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def save(
    folder: Path | str, system: str, config: dict[str, Any], tensors: dict[str, torch.Tensor], seed: int = 0
) -> None:
    """Write a run of `system`: its settings to `config.json`, its arrays to `model.safetensors`.

    The configuration is written last, so a folder that has one is whole.
    """
    folder = Path(folder)
    (folder / SHARED).unlink(missing_ok=True)
    write_tensors(folder / "model.safetensors", tensors)
    write_config(folder, system, config, seed)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Tensors by name as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # what the user's umask allows; safetensors lets only the owner read
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, metadata)
        partial.chmod(mode)


def write_config(
    folder: Path | str, system: str, config: dict[str, Any], seed: int = 0, name: str = "config.json"
) -> None:
    """Write the file that says whose run the folder holds, and that it is whole; all else stands before."""
    header = {"format": FORMAT, "system": system, "versions": versions(), "seed": seed}
    write_json(Path(folder) / name, header | {"config": config})


def config_path(folder: Path | str) -> Path:
    """Where a run is described: `linmap.json` where `config.json` would be another library's, else `config.json`."""
    own = Path(folder) / SHARED
    return own if own.exists() else Path(folder) / "config.json"


class Header(TypedDict):
    """What describes a run."""

    format: int
    system: str
    config: dict[str, Any]
    versions: NotRequired[dict[str, str]]
    seed: NotRequired[int]


def read_config(folder: Path | str) -> dict[str, Any]:
    """The whole of what describes a run: format, system, versions, seed and config.

    Raises
    ------
    ArtifactError
        If the folder holds no readable run, or one of a newer format.
    """
    path = config_path(folder)
    try:
        header = load_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{folder} is not a saved run: it has no config.json; `linmap fit` writes one.") from None
    except DataError as error:
        raise ArtifactError(f"{str(error).rstrip('.')}; fit the run again.") from None
    said = header.get("format") if isinstance(header, dict) else None
    if type(said) is int and said > FORMAT:  # before its types, which may be others then
        raise ArtifactError(f"{path} has format {said}, this linmap reads up to {FORMAT}; upgrade linmap.")
    try:
        typed(Header, header, str(path))
    except ArgumentTypeError as error:
        raise ArtifactError(f"{error}; it was not written by `linmap fit`, or changed since: fit it again.") from None
    return header


def run_fingerprint(folder: Path | str) -> str:
    """A digest of what the answers of a run depend on: its weights and its configuration, not who fitted it when."""
    config = json.dumps(read_config(folder)["config"], sort_keys=True)
    return hashlib.sha256(config.encode() + (Path(folder) / "model.safetensors").read_bytes()).hexdigest()


def check_free(folder: Path) -> None:
    """Refuse a folder that belongs to something else, such as the pretrained model.

    Raises
    ------
    ValueError
        If its `config.json` is not linmap's.
    """
    if (folder / "config.json").exists():
        try:
            read_config(folder)
        except ArtifactError:
            raise ArgumentError(f"{folder} holds a model or something else of yours; name another folder.") from None


@contextmanager
def reading(folder: Path | str, beside: int = 0, note: str = "") -> Iterator[None]:
    """What is built inside from a run of `folder`: a value or an array that is not as expected is told as such.

    Parameters
    ----------
    folder
        Of the run.
    beside
        Bytes of what it is put into, such as the pretrained model of an adapter.
    note
        What follows on the reason, as of `linmap.data.schema.unstated`.

    Raises
    ------
    ArtifactError
        In place of errors of keys, types and shapes, and where what is built would be far larger than the weights.
    """
    from linmap.data.built import no_larger_than, weights_in

    try:
        with no_larger_than(weights_in(folder) + beside):
            yield
    except (ArgumentError, ArgumentTypeError, DataError, OutOfRangeError) as error:
        raise _damaged(folder, said(error) + note) from None
    except (LinmapError, OSError, ImportError):
        raise
    except Exception as error:  # whatever a value that is not as expected does further on
        raise _damaged(folder, said(error)[:240] + note) from None


def said(error: Exception) -> str:
    """What is wrong: plain words for what lacks and what is not known, else what a library says."""
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, KeyError):
        return f"it lacks {text}"
    for words, plain in PLAIN:
        text = words.sub(plain, text)
    return plainly(text) or type(error).__name__


def check_names(found: Collection[str], expected: Collection[str], file: str) -> None:
    """Refuse the arrays of a file that lack one, or have one more.

    Raises
    ------
    ValueError
        With the first name, and the number of such.
    """
    if other := set(found) ^ set(expected):
        name = min(other)
        raise ArgumentError(f"{file} {'has' if name in found else 'lacks'} {name} (of {len(other)} such tensors)")


def check_array(name: str, array: np.ndarray, shape: tuple[int, ...], kinds: str = "f") -> None:
    """Refuse an array of a run of another shape, of numbers that are not of these `kinds` of NumPy's, or not finite.

    Raises
    ------
    ValueError
        With its name.
    """
    import numpy as np

    if array.shape != shape or array.dtype.kind not in kinds:
        raise ArgumentError(f"{name} is {array.dtype} of the shape {array.shape}; the shape must be {shape}")
    if not np.isfinite(array).all():
        raise ArgumentError(f"{name} holds values that are not finite")


def _damaged(folder: Path | str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{folder} is damaged, or was written by another version of linmap ({why}); fit the run again."
    )


def load(folder: Path | str, system: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the arrays of a run of `system`.

    Raises
    ------
    ArtifactError
        If the folder holds no readable run, or a run of another system.
    """
    header = read_config(folder)
    if header["system"] != system:
        raise ArtifactError(f"{folder} holds a run of {header['system']!r}, not of {system!r}.")
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise ArtifactError(f"{folder} is incomplete: it has no model.safetensors; fit the run again.")
    return header["config"], read_tensors(path)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of a file of safetensors, by name.

    Raises
    ------
    ArtifactError
        If it is no regular file, or damaged.
    """
    from safetensors.torch import load_file

    try:
        refuse_special(path)
    except DataError as error:
        raise ArtifactError(str(error)) from None
    if not path.is_file():
        raise ArtifactError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; fit the run again.")
    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # of safetensors, and of torch for types and shapes that it does not have
        raise ArtifactError(f"{path} is damaged{reason(error)}; fit the run again.") from None
