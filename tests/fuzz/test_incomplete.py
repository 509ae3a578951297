"""What is saved lacks one thing, or has one too many: an answer, or a line that names it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fuzz.runs import OTHERS, RUNS, SavedRun, packed, unpacked, without
from linmap.errors import LinmapError

PYTHONS = re.compile(r"\b[A-Z]\w*(Error|Exception)\b|has no attribute|positional argument|keyword argument|state_dict")
"""Words that a line for a user does not have."""
EXTRA = "unheard_of"
QUICK = ("acm_svm", "descendant", "olinear", "s4", "tinvnn", *(make.__name__ for make in OTHERS))
"""Those that the default suite tries."""
MOST = 40
"""Things of a file that are taken out, one at a time, evenly from all."""


@pytest.mark.parametrize(
    "make", [one if one.__name__ in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in (*RUNS, *OTHERS)]
)
def test_what_lacks_a_thing_is_read_or_refused_in_a_line_that_names_it(
    make: Callable[[Path], SavedRun], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run, folder = make(tmp_path / "run"), tmp_path / "run"
        assert told(run, folder) is None
        wrong, refused = {}, 0
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            whole = path.read_bytes()
            for thing, data in ((path.name, None), *changed(path, whole)):
                path.unlink() if data is None else path.write_bytes(data)
                line = told(run, folder)
                path.write_bytes(whole)
                refused += line is not None
                if problem := problem_of(line, path, thing, run):
                    wrong[f"{path.name}, {thing}"] = f"{problem}: {line}"
    assert not wrong, "\n".join(f"{what}: {line}" for what, line in wrong.items())
    assert refused


def told(run: SavedRun, folder: Path) -> str | None:
    """What is said of something saved; None where it is used."""
    try:
        run.use(run.load(folder))
    except LinmapError as error:
        return str(error)
    except FileNotFoundError as error:
        return str(error.filename or "a file without a name is not there")
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return None


def problem_of(line: str | None, path: Path, thing: str, run: SavedRun) -> str:
    """What is wrong with a line about a thing that lacks or is too many; "" if nothing."""
    if line is None:
        tensor = path.suffix == ".safetensors" and thing not in (EXTRA, *run.optional)
        return "used without it" if tensor else ""
    if PYTHONS.search(line) or "\n" in line or len(line) > 600:
        return "no line for a user"
    ours = path.suffix == ".safetensors" or path.name in run.settings
    names = {name for name in thing.split(".") if name not in ("config", "parameters") and not name.isdecimal()}
    free = thing.split(".")[-1].isdecimal() or ".parameters." in thing or EXTRA in thing
    return "does not name it" if ours and names and not free and not any(name in line for name in names) else ""


def changed(path: Path, whole: bytes) -> Iterator[tuple[str, bytes]]:
    """What a file lacks, or has beside, and what it then holds."""
    if path.suffix == ".json":
        value = json.loads(whole)
        for name, other in (*without(value, MOST), *_with_more(value)):
            yield name, json.dumps(other).encode()
    if path.suffix == ".safetensors":
        header, body = unpacked(whole)
        tensors = {
            name: (one, body[slice(*one["data_offsets"])]) for name, one in header.items() if name != "__metadata__"
        }
        for name in list(tensors)[:: max(1, len(tensors) // MOST)]:
            yield name, _file({key: one for key, one in tensors.items() if key != name}, header)
        yield EXTRA, _file(tensors | {EXTRA: ({"dtype": "U8", "shape": [4]}, b"\0" * 4)}, header)


def _file(tensors: dict[str, tuple[dict[str, Any], bytes]], header: dict[str, Any]) -> bytes:
    """A whole file of safetensors, with the words that another one had beside its tensors."""
    made, body = {key: value for key, value in header.items() if key == "__metadata__"}, b""
    for name, (one, data) in tensors.items():
        made[name] = one | {"data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return packed(made, body)


def _with_more(whole: Any) -> Iterator[tuple[str, Any]]:
    """With one key more, in each object."""
    if isinstance(whole, dict):
        yield EXTRA, whole | {EXTRA: 1}
        for key, item in list(whole.items())[: MOST if len(whole) <= MOST else 1]:
            for name, other in _with_more(item):
                yield f"{key}.{name}", whole | {key: other}
