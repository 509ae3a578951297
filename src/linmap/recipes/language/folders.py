"""Folders that are a run of linmap and something that another library loads."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linmap.artifacts import read_config
from linmap.compress.flatquant.parallel import remove_leftovers
from linmap.errors import ArtifactError, UsageError


def check_free(folder: Path) -> None:
    """Refuse a folder that belongs to something else, such as the pretrained model.

    Raises
    ------
    UsageError
        If its `config.json` is not linmap's.
    """
    if (folder / "config.json").exists():
        try:
            read_config(folder)
        except ArtifactError:
            raise UsageError(f"--out {folder} holds a model or something else of yours; name another folder.") from None


@contextmanager
def staged(folder: Path, whole: bool = False) -> Iterator[Path]:
    """A temporary folder, whose synced files replace those of `folder` in the end, or, if `whole`, all of it.

    What a killed run left of its own is removed.
    """
    parent, prefix = folder.parent if whole else folder, f".{folder.name}.partial-"
    remove_leftovers(parent, f"{prefix}*")
    umask = os.umask(0o022)  # it can only be read by setting it
    os.umask(umask)
    partial = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(0o666 & ~umask)
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
        if whole:
            partial.chmod(0o777 & ~umask)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(partial, folder)
            return
        for path in partial.iterdir():
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
