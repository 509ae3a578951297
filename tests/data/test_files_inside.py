"""Files of a folder, whoever wrote beside them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import linmap
from fuzz.targets import targets
from linmap.artifacts import atomic_path
from linmap.compress.flatquant.measures import folder_tensors
from linmap.data.built import weight_files, weights_in
from linmap.data.door import files_inside
from linmap.data.masks import load_masked_images
from linmap.data.sequences import read_folder
from linmap.errors import DataError, LinmapError
from linmap.ownership import make_folder, real
from linmap.recipes.tinvnn.flags import tsp_files


def test_hidden_ones_and_folders_are_no_files_of_the_user(tmp_path: Path) -> None:
    for name in (
        "b.csv",
        "A.CSV",
        "._b.csv",
        ".c.csv",
        "d.txt",
        "__MACOSX/e.csv",
        "f/g.csv",
        "f/._g.csv",
        "h.csv/i.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [file.name for file in files_inside(tmp_path, (".csv",))] == ["A.CSV", "b.csv"]
    assert [file.name for file in files_inside(tmp_path, (".csv",), below=True)] == ["A.CSV", "b.csv", "g.csv"]


@pytest.mark.parametrize("beside", ["._1.png", ".1.png"])
def test_what_macos_writes_beside_images_and_masks_is_no_image(tmp_path: Path, beside: str) -> None:
    for part, array in (("images", np.arange(64).reshape(8, 8)), ("masks", np.eye(8) * 255)):
        (tmp_path / part).mkdir()
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / part / "1.png")
        (tmp_path / part / beside).write_bytes(b"\0\5\26\7Mac OS X")
    found = load_masked_images(tmp_path, 8)
    assert found.names == ("1",)
    assert torch.equal(found.masks[0, 0], torch.eye(8))


def test_nor_a_series_or_cities(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("x\n1\n2\n3\n")
    (tmp_path / "._s.csv").write_bytes(b"\0\5\26\7Mac OS X")
    assert len(read_folder(tmp_path)) == 1
    (tmp_path / "c.tsp").write_text("")
    (tmp_path / "._c.tsp").write_bytes(b"\0\5\26\7Mac OS X")
    assert [file.name for file in tsp_files(tmp_path)] == ["c.tsp"]


def test_nor_weights_of_a_model(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    before = folder_tensors(tmp_path), weights_in(tmp_path)
    (tmp_path / "._model.safetensors").write_bytes(b"\0\5\26\7Mac OS X")
    assert (folder_tensors(tmp_path), weights_in(tmp_path)) == before
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]


# -- places that are none ----------------------------------------------------------------------------------------------


def test_a_link_to_itself_is_told_by_every_reader_of_files(tmp_path: Path) -> None:
    for target in targets().values():
        if target.file is None or target.name in OF_FOLDERS:
            continue
        for number, leads_to in enumerate((Path(target.file).name, "nothing-of-this-name")):
            path = tmp_path / target.name / str(number) / target.file
            path.parent.mkdir(parents=True)
            os.symlink(leads_to, path)
            with pytest.raises((LinmapError, FileNotFoundError)) as raised:
                target.read(path)
            line = str(raised.value)
            assert "\n" not in line
            assert path.name in line or path.parent.name in line, (target.name, line)


OF_FOLDERS = (
    "model-config",
    "model-weights",
    "model-index",
    "tokenizer",
    "tokenizer-config",
    "kept-run",
    "store",
    "gguf",
)
"""Of these the target lays files beside what is read."""


@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "loop", "loop/x", "file", "file/x", "n" * 300])
def test_a_place_that_can_have_no_folder_is_told(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    Path("file").touch()
    with pytest.raises(DataError, match=r"cannot be made a folder: .*; name another place"):
        make_folder(Path(place))


def test_a_link_to_itself_leads_nowhere_else(tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    assert real(tmp_path / "loop") == tmp_path / "loop"
    os.symlink(tmp_path, tmp_path / "here")
    assert real(tmp_path / "here" / "a") == (tmp_path / "a").resolve()
    with pytest.raises(DataError, match="leads to itself"), atomic_path(tmp_path / "loop"):
        pass


def test_no_path_of_the_user_is_resolved() -> None:
    """`Path.resolve` raises where a link leads to itself, and `real` does not."""
    source = Path(linmap.__file__).parent
    allowed = ("app/site.py", "app/jobs.py", "cli/program.py")  # of the app's own folder, and of the program
    for path in source.rglob("*.py"):
        if path.relative_to(source).as_posix() not in allowed:
            lines = [line for line in path.read_text().splitlines() if ".resolve()" in line and "__file__" not in line]
            assert not lines, (path, lines)
