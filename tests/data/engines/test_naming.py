"""No two records of a run get one name by linmap's doing."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.data.engines import map_records
from linmap.data.records import AS_THEY_ARE, Layout, read_records
from linmap.data.vectors import VectorFile, VectorFileWriter, fill, open_store
from linmap.errors import DataError

GIVEN = st.sampled_from([None, "0", "1", "2", "x", "true", "1.5", 0, 1, 1.5, True, {"$oid": "a"}])


def encoded(folder: Path, values: list, layout: Layout = AS_THEY_ARE, shard_records: int = 2048) -> VectorFile:
    folder.mkdir(exist_ok=True)
    (folder / "r.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    map_records(
        folder / "r.jsonl",
        folder / "v.npy",
        lambda records: np.ones((len(records), 2), np.float32),
        shard_records=shard_records,
        layout=layout,
        writer=lambda path, dim, dtype: VectorFileWriter(path, dim, {}, dtype),
    )
    return VectorFile(folder / "v.npy")


@settings(max_examples=40)
@given(st.lists(GIVEN, min_size=1, max_size=6))
def test_records_of_one_name_have_one_id_in_their_file(tmp_path_factory: pytest.TempPathFactory, ids: list) -> None:
    values = [{"a": 1} if name is None else {"id": name, "a": 1} for name in ids]
    folder = tmp_path_factory.getbasetemp() / "naming"
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        refused = ""
        try:
            names = encoded(folder, values, shard_records=3).ids
        except DataError as error:
            refused = str(error)
    if refused:
        assert "give every record an id of its own" in refused
        assert not (folder / "v.npy.work").exists()
        return
    assert names == [record.id for record in read_records(folder / "r.jsonl")]
    same = [(i, j) for i in range(len(ids)) for j in range(i) if names[i] == names[j]]
    assert all(json.dumps(ids[i]) == json.dumps(ids[j]) for i, j in same)
    assert bool(notes) == bool(same)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"a": 5}, {"id": "0"}], "record 0 has no id and goes by its number, and record 1 has the id '0', a text"),
        ([{"id": "1"}, {"id": 1}], "record 0 has the id '1', a text, and record 1 has the id 1, no text"),
        ([{"id": 1}, {}], "record 0 has the id 1, no text, and record 1 has no id and goes by its number"),
        (
            [{"id": "true"}, {"id": "x"}, {"id": True}, {"id": "x"}],
            "the id 'true', a text, and record 2 has the id true",
        ),
    ],
)
def test_a_name_that_linmap_made_is_never_that_of_another(tmp_path: Path, values: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoded(tmp_path, values)
    assert encoded(tmp_path, values, Layout(ids="number")).ids == [str(i) for i in range(len(values))]


@pytest.mark.parametrize("gap", [1, 4096])
def test_an_id_that_stands_twice_in_a_file_goes_into_no_store(tmp_path: Path, gap: int) -> None:
    values = [{"id": f"r{i % gap}"} for i in range(gap + 1)]
    with pytest.warns(UserWarning, match=f"'r0' is that of the records 0 and {gap}"):
        encoded(tmp_path, values)
    with open_store(f"array:{tmp_path / 's'}", 2) as store:
        with pytest.raises(DataError, match=f"the id 'r0' is that of the rows 0 and {gap}"):
            fill(store, tmp_path / "v.npy")
        assert store.count() == 0


def test_half_a_character_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r\.jsonl: record 1 has the id '\\ud83d', which holds half a character"):
        encoded(tmp_path, [{"id": "a"}, {"id": "\ud83d"}])
    assert encoded(tmp_path, [{"id": "\ud83d\ude00"}]).ids == ["\U0001f600"]


def test_names_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    values = [{"id": f"r{i}"} if i % 2 else {"a": i} for i in range(10)]
    found = [encoded(tmp_path, values, shard_records=size).ids for size in (1, 4, 100)]
    assert found[0] == found[1] == found[2] == [f"r{i}" if i % 2 else str(i) for i in range(10)]


@given(own=st.integers(0, 4), numbers=st.integers(0, 4))
def test_a_run_says_what_its_records_are_called_by(
    tmp_path_factory: pytest.TempPathFactory, own: int, numbers: int
) -> None:
    folder = tmp_path_factory.mktemp("said")
    values = [*({"id": f"p{i}"} for i in range(own)), *({"a": i} for i in range(numbers))]
    (folder / "r.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    done = map_records(folder / "r.jsonl", folder / "v.npy", lambda records: np.ones((len(records), 2)))
    both = f'{own} by their own "id", {numbers} by their numbers'
    assert done.ids == (both if own and numbers else 'by their own "id"' if own else "by their numbers")
