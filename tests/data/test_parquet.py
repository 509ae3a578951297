import datetime
import json
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linmap.data.parquet import read_parquet
from linmap.data.records import read_records
from linmap.errors import DataError
from linmap.retrieve.mbat import JSONVectorizer


def rows(path: Path, table: pa.Table) -> list:
    pq.write_table(table, path)
    return list(read_parquet(path))


def test_every_kind_of_column_becomes_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "price": pa.array([Decimal("19.90"), None], pa.decimal128(10, 2)),
            "count": pa.array([Decimal(2**70), Decimal(-3)], pa.decimal128(38, 0)),
            "raw": pa.array([b"\x00\xff", b"text"], pa.binary()),
            "tags": pa.array([[("a", 1), ("b", 2)], []], pa.map_(pa.string(), pa.int64())),
            "by_day": pa.array([[(datetime.date(2024, 2, 29), 0.5)], None], pa.map_(pa.date32(), pa.float64())),
            "by_number": pa.array(
                [[(7, {"x": Decimal("0.5")})], []], pa.map_(pa.int64(), pa.struct([("x", pa.decimal128(3, 1))]))
            ),
            "took": pa.array([datetime.timedelta(minutes=1, milliseconds=500), None], pa.duration("ms")),
            "at": pa.array([datetime.time(23, 59), None], pa.time32("s")),
            "on": pa.array([0, 1], pa.timestamp("ns", "UTC")),
        }
    )
    first, second = rows(tmp_path / "r.parquet", table)
    assert first == {
        "price": 19.9,
        "count": 2**70,
        "raw": "AP8=",
        "tags": {"a": 1, "b": 2},
        "by_day": {"2024-02-29": 0.5},
        "by_number": {"7": {"x": 0.5}},
        "took": 60.5,
        "at": "23:59:00",
        "on": "1970-01-01T00:00:00+00:00",
    }
    assert second["price"] is None
    assert (second["count"], second["raw"], second["tags"]) == (-3, "dGV4dA==", {})
    assert json.loads(json.dumps([first, second])) == [first, second]
    assert JSONVectorizer(64).transform([first, second]).shape == (2, 64)


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (pa.schema([("a", pa.int64()), ("b", pa.int64()), ("a", pa.string())]), "a"),
        (pa.schema([("s", pa.list_(pa.struct([("x", pa.int64()), ("x", pa.int64())])))]), "x"),
    ],
)
def test_a_column_that_would_hide_another_is_named(tmp_path: Path, schema: pa.Schema, name: str) -> None:
    pq.write_table(schema.empty_table(), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=f"has 2 columns called '{name}'; rename all but one"):
        list(read_records(tmp_path / "r.parquet"))


def test_a_map_with_one_key_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table({"m": pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))})
    with pytest.raises(DataError, match=r"r\.parquet: a map holds one key twice"):
        rows(tmp_path / "r.parquet", table)


def test_the_numbers_of_rows_that_pandas_kept_are_no_part_of_a_record(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3]})
    frame[frame.x > 1].to_parquet(tmp_path / "r.parquet")
    assert list(read_parquet(tmp_path / "r.parquet")) == [{"x": 2}, {"x": 3}]
    frame.set_index(pd.Index(["p", "q", "r"], name="id")).to_parquet(tmp_path / "r.parquet")
    assert [record.id for record in read_records(tmp_path / "r.parquet")] == ["p", "q", "r"]
