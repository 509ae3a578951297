"""Tables of time series: what is read, what is refused and how it is said, splits and windows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.timeseries import Split, TimeSeries, Windows, literature_split, load_time_series, read_table
from linmap.errors import DataError

DAYS = pd.date_range("2024-01-01", periods=6, freq="D")


def wide(**changes: Any) -> pd.DataFrame:
    return pd.DataFrame({"date": DAYS, "a": np.arange(6.0), "b": np.arange(6)}).assign(**changes)


def long(table: pd.DataFrame) -> pd.DataFrame:
    return table.melt("date", var_name="unique_id", value_name="y").rename(columns={"date": "ds"})


# -- what is read ------------------------------------------------------------------------------------------------------


def test_wide_and_long_hold_the_same_series() -> None:
    one, two = TimeSeries.from_frame(wide()), TimeSeries.from_frame(long(wide()))
    np.testing.assert_array_equal(one.values, two.values)
    assert one.variates == two.variates == ("a", "b")
    assert list(one.time) == list(two.time) == list(DAYS)
    assert (one.long, two.long) == (False, True)


@pytest.mark.parametrize("frequency", ["h", "90min", "D", "B", "W", "MS", "ME", "YS"])
def test_the_future_keeps_the_calendar(frequency: str) -> None:
    time = pd.date_range("2024-01-31", periods=23, freq=frequency)
    series = TimeSeries.from_frame(pd.DataFrame({"ds": time[:20], "y": np.arange(20.0)}))
    assert list(series.future(3)) == list(time[20:])


def test_rows_are_counted_where_there_is_no_time() -> None:
    series = TimeSeries.from_frame(wide().drop(columns="date"))
    assert list(series.future(2)) == [6, 7]
    assert TimeSeries.from_frame(np.arange(6.0)).values.shape == (6, 1)
    integers = TimeSeries.from_frame(wide(date=[10, 20, 30, 40, 50, 60]))
    assert list(integers.future(2)) == [70, 80]


def test_an_index_or_a_first_column_of_dates_is_the_time() -> None:
    indexed = TimeSeries.from_frame(wide().set_index("date"))
    named = TimeSeries.from_frame(wide(date=DAYS.astype(str)).rename(columns={"date": "Day"}))
    for series in (indexed, named):
        assert list(series.time) == list(DAYS)
        assert series.variates == ("a", "b")


def test_frames_come_back_in_the_layout_that_came() -> None:
    for table in (wide(), long(wide())):
        series = TimeSeries.from_frame(table)
        back = series.frame()
        pd.testing.assert_frame_equal(back.reindex(columns=table.columns), table, check_dtype=False, check_names=False)


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.tsv", "table.parquet"])
def test_files_are_read_by_their_name(name: str, tmp_path) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        wide().to_parquet(path)
    else:
        wide().to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    series = load_time_series(path)
    np.testing.assert_array_equal(series.values, wide()[["a", "b"]])
    assert list(series.time) == list(DAYS)


def test_embedded_data() -> None:
    etth1, ili = load_time_series("etth1"), load_time_series("ILI")
    assert (etth1.values.shape, ili.values.shape) == ((17_420, 7), (966, 7))
    assert (etth1.variates[-1], ili.variates[0]) == ("OT", "% WEIGHTED ILI")


def test_policies_for_missing_values() -> None:
    table = wide(a=[1, np.nan, np.inf, 4, np.nan, 6])
    np.testing.assert_array_equal(TimeSeries.from_frame(table, "ffill").values[:, 0], [1, 1, 1, 4, 4, 6])
    np.testing.assert_array_equal(TimeSeries.from_frame(table, "zero").values[:, 0], [1, 0, 0, 4, 0, 6])


def test_variates_can_be_selected_by_name() -> None:
    series = TimeSeries.from_frame(wide(b=[9.0] * 6))
    np.testing.assert_array_equal(series.select(("b", "a")).values, wide(b=[9.0] * 6)[["b", "a"]])
    with pytest.raises(DataError, match="expected the 2 variates 'a', 'c', got 2: 'a', 'b'"):
        series.select(("a", "c"))


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = {
    "text": (wide(b=["1", "2", "x", "4", "5", "6"]), "column 'b', row 2: 'x' is not a number"),
    "missing": (wide(a=[1, np.nan, 3, np.inf, 5, 6]), r"missing or infinite values in 'a' \(2\)"),
    "repeated": (wide(date=DAYS[[0, 1, 1, 3, 4, 5]]), "row 2 .* repeats the timestamp of row 1"),
    "unsorted": (wide(date=DAYS[[0, 1, 3, 2, 4, 5]]), "row 3 .* goes back behind the timestamp of row 2"),
    "gap": (wide().drop(index=3), "row 3 .* follows row 2 .* by 2 days.*elsewhere the step is 1 day"),
    "integer gap": (wide(date=[1, 2, 3, 5, 6, 7]), "row 3 .5. follows row 2 .3. by 2, elsewhere the step is 1"),
    "not a time": (
        wide(date=["2024-01-01", "2024-01-02", "soon", *"456"]),
        "column 'date', row 2: 'soon' is not a time",
    ),
    "two times": (wide(ds=DAYS), "'date', 'ds' all look like the time"),
    "time alone": (wide()[["date"]], "a time column and nothing else"),
    "empty": (wide()[:0], "0 rows and 3 columns; there is nothing to forecast"),
    "short": (wide()[:2], "at least 3 rows to show its step, got 2"),
    "long repeated": (long(wide()).iloc[[0, 1, 2, 2, 3]], "row 3: series 'a' has a second value at 2024-01-03"),
    "long unsorted": (long(wide()).iloc[[0, 1, 3, 2, 4]], "row 3: series 'a' goes back to 2024-01-03"),
    "long uneven": (long(wide()).drop(index=8), r"missing or infinite values in 'b' \(1\)"),
    "long text": (long(wide()).assign(y="x"), "column 'y', row 0: 'x' is not a number"),
}


@pytest.mark.parametrize(("table", "message"), REFUSED.values(), ids=REFUSED)
def test_tables_that_cannot_be_used_say_where(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TimeSeries.from_frame(table)


def test_filling_forward_needs_a_first_value() -> None:
    with pytest.raises(DataError, match=r"nothing to repeat before the first value of 'a' \(1\)"):
        TimeSeries.from_frame(wide(a=[np.nan, 2, 3, 4, 5, 6]), "ffill")
    with pytest.raises(ValueError, match="nan_policy must be 'ffill', 'zero' or None, got 'drop'"):
        TimeSeries.from_frame(wide(), "drop")


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").write_text(" \n\n")
    with pytest.raises(DataError, match=r"empty\.csv is empty; there is nothing to read"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read as a"):
        read_table(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="is a folder; give a file"):
        read_table(tmp_path)
    (tmp_path / "photo.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(DataError, match="is no table: it is not text in UTF-8"):
        read_table(tmp_path / "photo.csv")
    (tmp_path / "records.jsonl").write_text('{"a": 1, "b": 2}\n')
    with pytest.raises(DataError, match="holds JSON; a table is read from"):
        read_table(tmp_path / "records.jsonl")


# -- splits and windows ------------------------------------------------------------------------------------------------


def test_two_columns_of_one_name_are_refused(tmp_path) -> None:
    (tmp_path / "two.csv").write_text("date,y, y\n2020-01-01,1,2\n")
    with pytest.raises(DataError, match=r"two\.csv: column 'y' occurs twice"):
        read_table(tmp_path / "two.csv")


def test_splits_of_the_literature() -> None:
    assert literature_split(17_420, "ETTh1") == Split(8640, 11_520, 14_400)
    assert literature_split(966, "ILI") == Split(676, 773, 966)
    assert literature_split(17_420, "mine") == Split(12_194, 13_936, 17_420)
    assert literature_split(100, "ETTh1") == Split(70, 80, 100)


def test_validation_and_test_look_back_but_targets_stay_apart() -> None:
    values = torch.arange(100.0)[:, None]
    seen = {}
    for part, rows in Split(70, 80, 100).spans(8).items():
        windows = Windows(values[rows], 8, 4)
        targets = torch.cat([target for _, target in (windows[i] for i in range(len(windows)))])
        seen[part] = (int(targets.min()), int(targets.max()))
    assert seen == {"train": (8, 69), "validation": (70, 79), "test": (80, 99)}


@given(rows=st.integers(2, 40), seq_len=st.integers(1, 10), pred_len=st.integers(1, 10))
def test_windows_are_consecutive_rows(rows: int, seq_len: int, pred_len: int) -> None:
    values = torch.arange(2.0 * rows).reshape(rows, 2)
    if rows < seq_len + pred_len:
        with pytest.raises(
            DataError, match=f"{rows} rows are too few for one window of {seq_len} input and {pred_len}"
        ):
            Windows(values, seq_len, pred_len)
        return
    windows = Windows(values, seq_len, pred_len)
    assert len(windows) == rows - seq_len - pred_len + 1
    chosen = [len(windows) - 1, 0]
    x, y = windows.__getitems__(chosen)
    for position, index in enumerate(chosen):
        torch.testing.assert_close(x[position], values[index : index + seq_len])
        torch.testing.assert_close(y[position], values[index + seq_len : index + seq_len + pred_len])
        torch.testing.assert_close(torch.cat(windows[index]), torch.cat([x[position], y[position]]))
