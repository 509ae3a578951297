"""Saved runs: whole or absent, and readable for ever without pickle."""

import contextlib
import json
import math
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap import artifacts
from linmap.data.schema import unstated
from linmap.errors import ArgumentError, ArtifactError

SHAPES = st.lists(st.integers(0, 3), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(SHAPES, DTYPES), min_size=1, max_size=3))
def test_tensors_and_settings_come_back_bit_for_bit(tmp_path_factory, specs):
    folder = tmp_path_factory.mktemp("run")
    tensors = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in specs.items() if name != "__metadata__"}
    artifacts.save(folder, "olinear", {"horizon": 3}, tensors, seed=7)
    config, again = artifacts.load(folder, "olinear")
    assert config == {"horizon": 3}
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)
    assert artifacts.read_config(folder)["seed"] == 7
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read the one may read the other


def test_tensors_need_not_be_contiguous_or_free_of_gradients(tmp_path):
    tensor = torch.randn(3, 4, requires_grad=True)
    artifacts.save(tmp_path, "mbat", {}, {"t": tensor.T})
    assert torch.equal(artifacts.load(tmp_path, "mbat")[1]["t"], tensor.detach().T)


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "deep" / "x.json"
    artifacts.write_json(path, {"a": 1})
    with contextlib.suppress(RuntimeError), artifacts.atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_the_temporary_name_keeps_the_suffix_by_which_writers_choose_a_format(tmp_path):
    with artifacts.atomic_path(tmp_path / "x.npz") as partial:
        np.savez(partial, a=np.arange(3))
        assert not (tmp_path / "x.npz").exists()
    assert np.load(tmp_path / "x.npz")["a"].tolist() == [0, 1, 2]


def test_a_failed_save_leaves_no_folder_that_looks_whole(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.save(tmp_path, "mbat", {"rate": math.nan}, {"t": torch.zeros(1)})
    with pytest.raises(ArtifactError, match="not a saved run"):
        artifacts.load(tmp_path, "mbat")


@given(values)
def test_plain_values_are_json_and_stay_as_they_are(value):
    plain = artifacts.plain(value)
    assert repr(json.loads(json.dumps(plain, allow_nan=False))) == repr(plain)
    assert artifacts.plain(plain) == plain


def test_plain_knows_what_recipes_hold():
    @dataclass
    class Settings:
        path: Path
        inner: object

    found = artifacts.plain(
        Settings(
            Path("a/b"), (np.float32(0.5), np.arange(2), torch.tensor([1.0, math.nan]), torch.tensor(3), -math.inf)
        )
    )
    assert found == {"path": "a/b", "inner": [0.5, [0, 1], [1.0, None], 3, None]}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "not a saved run"),
        ("{", "not JSON"),
        ("\udc80", "not UTF-8"),
        ("[]", "not written by `linmap fit`"),
        ('{"system": "mbat", "format": true, "config": {}}', "not written by `linmap fit`"),
        ('{"system": "mbat", "format": 2, "config": {}}', "has format 2, this linmap reads up to 1"),
        ('{"system": "mbat", "format": 1, "config": {}}', "holds a run of 'mbat', not of 'olinear'"),
        ('{"system": "olinear", "format": 1, "config": {}}', "has no model.safetensors"),
    ],
)
def test_what_is_no_run_is_refused_by_name(content, complaint, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=complaint) as caught:
        artifacts.load(tmp_path, "olinear")
    assert str(tmp_path) in str(caught.value)


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="not a saved run"):
        artifacts.read_config(tmp_path / "file")


def test_damaged_tensors_are_refused_by_name(tmp_path):
    artifacts.save(tmp_path, "olinear", {}, {"t": torch.zeros(8)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
        artifacts.load(tmp_path, "olinear")


def test_a_result_names_its_versions_and_machine():
    assert artifacts.versions()["torch"] == torch.__version__
    assert " cores, " in artifacts.machine()


FORMULAS = st.sampled_from("=+-@\t\r").flatmap(lambda start: st.text(max_size=8).map(lambda rest: start + rest))


@given(cells=st.lists(st.one_of(FORMULAS, st.text(max_size=8), st.integers(), st.floats()), min_size=1, max_size=6))
def test_no_text_in_a_csv_is_a_formula_and_all_else_stays(cells):
    for cell in cells:
        written = artifacts.inert(cell)
        if written is not cell:
            assert written == f"'{cell}"
            assert cell[0] in "=+-@\t\r"
        elif isinstance(cell, str) and cell[:1] in set("=+-@\t\r") and cell not in "+-":
            float(cell)  # a plain number is no formula


def test_formulas_in_labels_and_headers_are_inert_in_csv_and_untouched_in_parquet(tmp_path):
    table = pd.DataFrame({"=cmd|' /C calc'!A0": ["@sum(1)", "b", None], "y": [-1.5, 2, 3], "-": ["-5", "-", "+1e3"]})
    with pytest.warns(UserWarning, match="the text of 2 cells"):
        artifacts.write_table(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_text() == "'=cmd|' /C calc'!A0,y,-\n'@sum(1),-1.5,-5\nb,2.0,-\n,3.0,+1e3\n"
    artifacts.write_table(tmp_path / "a.parquet", table)
    assert pd.read_parquet(tmp_path / "a.parquet").equals(table)


@pytest.mark.parametrize("error", [KeyError("mean"), TypeError("argument"), RuntimeError("size\nmismatch")])
def test_what_cannot_be_built_from_a_run_is_one_line_about_the_run(error, tmp_path):
    with (
        pytest.raises(ArtifactError, match="is damaged, or was written by another version") as caught,
        artifacts.reading(tmp_path),
    ):
        raise error
    assert "\n" not in str(caught.value)


NAMES = st.sets(st.sampled_from("abcdef"))


@given(NAMES, NAMES)
def test_arrays_that_lack_or_are_not_known_are_named(found, expected):
    if found == expected:
        artifacts.check_names(found, expected, "a.safetensors")
        return
    with pytest.raises(ArgumentError) as caught:
        artifacts.check_names(found, expected, "a.safetensors")
    other = found ^ expected
    told = f"{'has' if min(other) in found else 'lacks'} {min(other)} (of {len(other)} such tensors)"
    assert str(caught.value) == f"a.safetensors {told}"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3)), ""),
        (np.zeros((3, 2)), r"a is float64 of the shape \(3, 2\); the shape must be \(2, 3\)"),
        (np.zeros((2, 3), complex), "a is complex128 of the shape"),
        (np.zeros((2, 3), np.int64), "a is int64 of the shape"),
        (np.full((2, 3), np.inf), "a holds values that are not finite"),
    ],
)
def test_an_array_of_a_run_is_of_its_shape_and_finite(array, said):
    with pytest.raises(ArgumentError, match=said) if said else contextlib.nullcontext():
        artifacts.check_array("a", array, (2, 3))


def test_settings_that_a_file_leaves_out_are_named():
    def build(width, depth=2, *, eps=0.1, seed=0):
        pass

    assert unstated(build, {"width": 1, "depth": 2, "eps": 1, "seed": 0, "more": 1}, "a.json") == ""
    assert unstated(build, {"depth": 2}, "a.json") == "; a.json does not state width, eps, seed"
    assert unstated(build, {"depth": 2}, "a.json", but=lambda seed: 0) == "; a.json does not state width, eps"
    many = unstated(make_dataclass("Many", [f"a{i}" for i in range(9)]), {}, "a.json")
    assert many == "; a.json does not state a0, a1, a2, a3, a4, a5 and 3 more"
