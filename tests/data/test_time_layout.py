"""Which columns are the time, the names of the series and the values, and what a table without them is told."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from linmap.data.timeseries import TimeSeries, load_time_series
from linmap.errors import DataError

DAYS = pd.date_range("2022-01-01", periods=6)
Y = np.arange(12.0)
TWELVE = pd.date_range("2020-01-01", periods=12)


def panel(ids: list, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"unique_id": np.repeat(ids, 6), "ds": [*DAYS, *DAYS], "y": Y} | columns)


def stocks() -> pd.DataFrame:
    return panel(["AAPL", "MSFT"]).set_axis(["symbol", "date", "price"], axis=1)


def future(series: TimeSeries) -> pd.DataFrame:
    return series.frame(np.zeros((2, len(series.variates))), series.future(2))


# -- panels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [["unique_id", "ds"], ["ds", "unique_id"], ["unique_id"], ["ds"]])
def test_a_panel_may_have_its_parts_in_the_index(levels: list[str]) -> None:
    series = TimeSeries.from_frame(panel(["b", "a"]).set_index(levels))
    assert series.variates == ("b", "a")
    np.testing.assert_array_equal(series.values, Y.reshape(2, 6).T)
    assert list(series.time) == list(DAYS)
    assert list(future(series).index.names) == levels


@pytest.mark.parametrize("ids", [[3, 1], ["b", "a"], [2.5, 1.5], [True, False], pd.Categorical(["b", "a"])])
def test_ids_come_back_in_their_type(ids: list) -> None:
    table = panel(list(ids)).astype({"unique_id": pd.Series(ids).dtype})
    back = future(TimeSeries.from_frame(table))
    assert back["unique_id"].dtype == table["unique_id"].dtype
    assert back["unique_id"].to_list() == list(np.repeat(np.asarray(ids), 2))
    for columns in ([7, 8], pd.MultiIndex.from_tuples([("a", "x"), ("a", "z")], names=["shop", "item"])):
        wide = TimeSeries.from_frame(pd.DataFrame(np.ones((5, 2)), columns=columns))
        assert list(future(wide).columns) == list(columns)


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (("007", "010"), ["007", "010"]),
        (("007", "7"), ["007", "7"]),
        (("NA", "DE"), ["NA", "DE"]),
        (("None", "nan"), ["None", "nan"]),
        (("1e5", "2e5"), ["1e5", "2e5"]),
        (("True", "False"), ["True", "False"]),
        ((" a", "b "), ["a", "b"]),
        (("12", "-3"), [12, -3]),
        (("1.5", "2.0"), [1.5, 2.0]),
    ],
)
@pytest.mark.parametrize("name", ["unique_id", "shop"])
def test_names_in_a_csv_file_are_kept_as_they_are_written(written: tuple, ids: list, name: str, tmp_path) -> None:
    path = tmp_path / "panel.csv"
    panel(list(written)).rename(columns={"unique_id": name}).to_csv(path, index=False)
    series = load_time_series(path, id_column=None if name == "unique_id" else name)
    assert future(series)[name].drop_duplicates().to_list() == ids


def test_a_name_that_is_missing_in_a_csv_file_is_refused(tmp_path) -> None:
    panel(["", "a"]).to_csv(tmp_path / "panel.csv", index=False)
    with pytest.raises(DataError, match="row 0: the name of the series is missing"):
        load_time_series(tmp_path / "panel.csv")


def test_columns_may_be_named() -> None:
    series = TimeSeries.from_frame(stocks(), id_column="symbol")
    assert series.variates == ("AAPL", "MSFT")
    assert future(series).columns.to_list() == ["symbol", "date", "y"]
    table = stocks().rename(columns={"date": "when"}).assign(volume=1)
    series = TimeSeries.from_frame(table, id_column="symbol", time_column="when", drop="volume")
    assert list(series.time) == list(DAYS)


TOLD = {
    "stocks": (stocks(), r"times repeat in column 'date' and column 'symbol' is text.*id_column='symbol'"),
    "firms": (
        pd.DataFrame({"invest": Y, "firm": np.repeat(["a", "b"], 6), "year": [*range(1935, 1941)] * 2}),
        "id_column='firm'",
    ),
    "no y": (panel(["a", "b"]).rename(columns={"y": "v"}), "'y' is missing"),
    "no ds": (panel(["a", "b"]).rename(columns={"ds": "when"}), "'ds' is missing.*time_column="),
    "no name": (panel(["a", None]), "row 6: the name of the series is missing"),
    "two of a name": (panel([1, 1]).assign(unique_id=[1] * 6 + ["1"] * 6), "two series are called '1'"),
    "three levels": (panel(["a", "b"]).assign(k=1).set_index(["unique_id", "ds", "k"]), "index has 3 levels"),
}


@pytest.mark.parametrize(("table", "message"), TOLD.values(), ids=TOLD)
def test_panels_are_told_what_they_lack(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TimeSeries.from_frame(table)


# -- the time of a wide table ------------------------------------------------------------------------------------------

TIMES = {
    "year": (pd.DataFrame({"year": range(1871, 1883), "x": Y}), "year", [1883, 1884]),
    "year last": (pd.DataFrame({"x": Y, "YEAR": range(1947, 1959)}), "YEAR", [1959, 1960]),
    "unnamed years": (pd.DataFrame({"Unnamed: 0": range(1821, 1833), "x": Y}), "Unnamed: 0", [1833, 1834]),
    "unnamed rows": (pd.DataFrame({"Unnamed: 0": range(12), "x": Y}), "Unnamed: 0", [12, 13]),
    "months in digits": (
        pd.DataFrame({"Monat": [202001 + i for i in range(12)], "x": Y}),
        "Monat",
        [202101, 202102],
    ),
    "text elsewhere": (
        pd.DataFrame({"x": Y, "Datum": TWELVE.strftime("%d.%m.%Y")}),
        "Datum",
        ["13.01.2020", "14.01.2020"],
    ),
    "beside rows": (
        pd.DataFrame({"Unnamed: 0": range(12), "date": TWELVE.astype(str), "x": Y}),
        "date",
        ["2020-01-13", "2020-01-14"],
    ),
}


@pytest.mark.parametrize(("table", "name", "expected"), TIMES.values(), ids=TIMES)
def test_the_time_is_found_and_never_forecast(table: pd.DataFrame, name: str, expected: list) -> None:
    series = TimeSeries.from_frame(table)
    assert series.variates == ("x",)
    assert future(series)[name].to_list() == expected


def test_an_index_is_the_time_where_it_is_one() -> None:
    years = TimeSeries.from_frame(pd.DataFrame({"x": Y}, index=pd.Index(range(1871, 1883), name="year")))
    assert future(years).index.to_list() == [1883, 1884]
    assert future(years).index.name == "year"
    text = TimeSeries.from_frame(pd.DataFrame({"x": Y}, index=TWELVE.astype(str)))
    assert future(text).index.to_list() == ["2020-01-13", "2020-01-14"]
    part = TimeSeries.from_frame(pd.DataFrame({"x": np.arange(20.0)})[5:15])
    assert future(part).index.to_list() == [15, 16]
    labels = TimeSeries.from_frame(pd.DataFrame({"x": Y}, index=list("abcdefghijkl")))
    assert list(labels.future(2)) == [12, 13]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2022-01-01,1\n2022-01-02,2\n2022-01-03,3\n2022-01-04,4\n", "has no header.*'2022-01-01'"),
        ("ds,y\n2022-01-01,1,7\n2022-01-02,2,8\n2022-01-03,3,9\n", "more cells than its header"),
        ('ds,y\n2022-01-01,"1,000"\n2022-01-02,"2,000"\n', "if it parts thousands, write 1000"),
    ],
    ids=["no header", "too many cells", "thousands"],
)
def test_files_that_would_be_read_shifted_are_refused(text: str, message: str, tmp_path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_time_series(tmp_path / "t.csv")


def test_row_names_of_r_and_commas_at_the_ends_of_lines_are_passed_over(tmp_path) -> None:
    days = [f"2022-01-0{day}" for day in range(1, 7)]
    (tmp_path / "r.csv").write_text("ds,y\n" + "".join(f"{i},{day},{i}.5\n" for i, day in enumerate(days, 1)))
    (tmp_path / "e.csv").write_text("ds,y,\n" + "".join(f"{day},{i}.5,\n" for i, day in enumerate(days, 1)))
    for name in ("r.csv", "e.csv"):
        series = load_time_series(tmp_path / name)
        assert series.variates == ("y",)
        np.testing.assert_array_equal(series.values[:, 0], np.arange(1.5, 7))
        assert list(series.time) == list(DAYS)


def test_what_is_left_out_is_said() -> None:
    numbered = TimeSeries.from_frame(pd.DataFrame({"No": range(1, 13), "date": TWELVE, "x": Y}))
    assert numbered.variates == ("x",)
    assert "left out 'No', which numbers the rows" in numbered.describe()
    series = TimeSeries.from_frame(pd.DataFrame({"Unnamed: 0": range(12), "date": TWELVE, "x": Y}))
    assert series.describe() == "2020-01-01 to 2020-01-12, daily, left out 'Unnamed: 0', which numbers the rows"


UNCLEAR = {
    "year and quarter": (
        pd.DataFrame({"year": np.repeat([1959, 1960, 1961], 4), "quarter": [1, 2, 3, 4] * 3, "x": Y}),
        "column 'year' looks like the time, but does not go forward.*drop='year'",
    ),
    "month that returns": (pd.DataFrame({"month": [1, 2, 3] * 4, "x": Y}), "column 'month' looks like the time"),
    "year beside time": (
        pd.DataFrame({"YEAR": range(1951, 1963), "x": Y, "TIME": range(12)}),
        "'TIME', 'YEAR' all look like the time",
    ),
    "date and hour apart": (
        pd.DataFrame({"Date": ["10/03/2004"] * 6, "Time": [f"{hour:02d}.00.00" for hour in range(6)], "x": Y[:6]}),
        "'Date' and 'Time' hold the date and the time of day apart; put them into one column",
    ),
    "one name twice": (pd.DataFrame(np.ones((5, 2)), columns=["a", "a"]), "column 'a' occurs twice"),
    "decimal comma": (pd.DataFrame({"date": DAYS, "x": ["1,5"] * 6}), "'1,5' has a decimal comma.*decimal=','"),
}


@pytest.mark.parametrize(("table", "message"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_is_refused_with_a_way_out(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TimeSeries.from_frame(table)


@pytest.mark.parametrize("option", ["time_column", "id_column", "drop"])
def test_columns_that_are_not_there_are_named(option: str) -> None:
    with pytest.raises(DataError, match=f"{option}='when': there is no such column; there are 'x'"):
        TimeSeries.from_frame(pd.DataFrame({"x": Y}), **cast("dict[str, Any]", {option: "when"}))


def test_decimals_and_other_numbers_held_as_objects_are_numbers() -> None:
    from decimal import Decimal

    table = pd.DataFrame({"date": DAYS, "x": [Decimal(i) / 4 for i in range(6)]})
    np.testing.assert_array_equal(TimeSeries.from_frame(table).values[:, 0], np.arange(6) / 4)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1,5", "k.A.", "2,5"], "row 1: 'k.A.' is not a number"),
        (["999,5", "1.000,5", "2,5"], "row 1: '1.000,5' has points between its thousands; write it without them"),
        (["1,5", "1.000.000", "2,5"], "row 1: '1.000.000' has points between its thousands"),
    ],
)
def test_with_decimal_commas_the_cell_that_is_no_number_is_named(
    tmp_path: Path, cells: list[str], message: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("Datum;x\n" + "".join(f"0{day}.02.2024;{cell}\n" for day, cell in enumerate(cells, start=1)))
    with pytest.raises(DataError, match=message):
        load_time_series(path, separator=";", decimal=",")


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_other_separators_are_named_and_can_be_said(mark: str, name: str, tmp_path) -> None:
    path = tmp_path / "my.csv"
    table = pd.DataFrame({"date": DAYS, "x": np.arange(6) + 0.5, "z": 1.0})
    table.to_csv(path, index=False, sep=mark, decimal=",")
    with pytest.raises(DataError, match=f"separated by {name}.*separator=.*decimal=','"):
        load_time_series(path)
    series = load_time_series(path, separator=mark, decimal=",")
    np.testing.assert_array_equal(series.values[:, 0], table["x"])


def test_comments_above_the_header_are_passed_over(tmp_path) -> None:
    (tmp_path / "my.csv").write_text("# a source\n# of prices\ndate,x\n" + "".join(f"{d.date()},1\n" for d in DAYS))
    assert load_time_series(tmp_path / "my.csv").variates == ("x",)
    (tmp_path / "my.csv").write_text("#,date,x\n" + "".join(f"{i},{d.date()},1\n" for i, d in enumerate(DAYS)))
    assert load_time_series(tmp_path / "my.csv").variates == ("#", "x")
    (tmp_path / "my.csv").write_text("date,x\n" + "".join(f"{d.date()},1,2,3\n" for d in DAYS))
    with pytest.raises(DataError, match="more cells than its header has names"):
        load_time_series(tmp_path / "my.csv")
