import bz2
import gzip
import importlib.util
import lzma
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from linmap.data.sequences import load_series, named_series, read_archive, read_folder, read_ts, real_signal
from linmap.errors import DataError


def write_csv(path: Path, values: np.ndarray, header: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(values, columns=[f"c{i}" for i in range(values.shape[1])]).to_csv(path, index=False, header=header)


def test_archives_of_equal_padded_and_joined_series_hold_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(n, 2)).astype(np.float32) for n in (3, 5, 4)]
    padded = np.full((3, 6, 2), 99.0)
    for row, values in zip(padded, series, strict=True):
        row[: len(values)] = values
    lengths, y = np.array([3, 5, 4]), np.array(["a", "b", "a"])
    np.savez(tmp_path / "padded.npz", X=padded, lengths=lengths, y=y)
    np.savez(tmp_path / "joined.npz", X=np.concatenate(series), lengths=lengths, y=y)
    for name in ("padded", "joined"):
        found = load_series(tmp_path / f"{name}.npz")
        assert found.require_labels().tolist() == ["a", "b", "a"]
        assert found.lengths.tolist() == [3, 5, 4]
        for one, other in zip(found.series, series, strict=True):
            np.testing.assert_array_equal(one, other)
    np.savez(tmp_path / "equal.npz", X=padded[:, :, 0])
    equal = load_series(tmp_path / "equal.npz")
    assert (len(equal), equal.channels, equal.labels) == (3, 1, None)
    assert equal.take([2, 0]).names == ["2", "0"]
    with pytest.raises(DataError, match="these series have no labels"):
        equal.require_labels()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"Z": np.ones(3)}, "has no array 'X'"),
        ({"X": np.ones(3)}, r"X must be \(n, length, channels\)"),
        ({"X": np.ones((0, 3))}, "X must hold real numbers"),
        ({"X": np.ones((2, 3, 1)) * 1j}, "X must hold real numbers"),
        ({"X": np.full((2, 3), np.nan)}, "other than finite numbers"),
        ({"X": np.ones((2, 3, 1)), "lengths": np.array([3, 4])}, "2 lengths up to 4 do not fit X"),
        ({"X": np.ones((2, 3, 1)), "lengths": np.array([3, 0])}, "lengths must be positive integers"),
        ({"X": np.ones((2, 3, 1)), "lengths": np.array([3.0, 1.0])}, "lengths must be positive integers"),
        ({"X": np.ones((5, 1)), "lengths": np.array([3, 1])}, "lengths add up to 4"),
        ({"X": np.ones((2, 3)), "y": np.array([1, 2, 3])}, "y must hold one number or text for each of 2"),
        ({"X": np.ones((2, 3)), "y": np.array([1, np.nan])}, r"y\[1\] is not a finite number"),
        ({"X": np.ones((2, 3)), "y": np.array([1, {}], object)}, "y holds Python objects"),
    ],
)
def test_bad_archives(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_archive(tmp_path / "bad.npz")


def test_folders_take_labels_from_subfolders_or_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(n, 2)) for name, n in (("x/1.csv", 4), ("x/2.csv", 6), ("y/1.csv", 5))}
    for name, array in values.items():
        write_csv(tmp_path / "sub" / name, array, header=name == "x/2.csv")
    found = load_series(tmp_path / "sub")
    assert found.names == list(values)
    assert found.require_labels().tolist() == ["x", "x", "y"]
    for series, array in zip(found.series, values.values(), strict=True):
        np.testing.assert_allclose(series, array, rtol=1e-6)
    for name, array in values.items():
        write_csv(tmp_path / "flat" / name.replace("/", ""), array)
    assert load_series(tmp_path / "flat").labels is None
    table = pd.DataFrame({"file": ["y1.csv", "x1.csv", "x2.csv"], "label": [2.5, 0.5, 1.0]})
    table.to_csv(tmp_path / "flat" / "labels.csv", index=False)
    assert load_series(tmp_path / "flat").require_labels().tolist() == [0.5, 1.0, 2.5]
    single = load_series(tmp_path / "flat" / "x1.csv")
    np.testing.assert_allclose(single.series[0], values["x/1.csv"], rtol=1e-6)


@pytest.mark.parametrize("pack", [gzip.open, bz2.open, lzma.open])
def test_compressed_tables_are_series_like_plain_ones(pack: Any, tmp_path: Path) -> None:
    suffix = {gzip.open: ".gz", bz2.open: ".BZ2", lzma.open: ".xz"}[pack]
    values = np.random.default_rng(0).normal(size=(3, 5, 2))
    for number, array in enumerate(values):
        write_csv(plain := tmp_path / "plain" / f"{number}.csv", array, header=number == 1)
        packed = tmp_path / "mixed" / (plain.name + suffix if number else plain.name)
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(plain.read_bytes())
        if number:
            with pack(packed, "wb") as file:
                file.write(plain.read_bytes())
    mixed = load_series(tmp_path / "mixed")
    assert mixed.names == ["0.csv", f"1.csv{suffix}", f"2.csv{suffix}"]
    np.testing.assert_array_equal(mixed.series, load_series(tmp_path / "plain").series)
    (one,) = load_series(packed, drop=()).series
    np.testing.assert_array_equal(one, mixed.series[2])
    (one,) = load_series(tmp_path / "mixed" / f"1.csv{suffix}", drop=("c0",)).series
    np.testing.assert_array_equal(one, mixed.series[1][:, 1:])
    with pack(packed, "wb") as file:
        file.write(b"1,5;2,5\n3,5;4,5\n")
    with pytest.raises(DataError, match="its cells are separated by semicolons: write it with commas"):
        load_series(tmp_path / "mixed")
    packed.write_bytes(b"1;2\n3;4\n")
    with pytest.raises(DataError, match="is damaged, or not compressed as its name says"):
        load_series(tmp_path / "mixed")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.csv file"):
        read_folder(tmp_path)
    write_csv(tmp_path / "a" / "1.csv", np.ones((3, 2)))
    write_csv(tmp_path / "a" / "2.csv", np.ones((3, 1)))
    with pytest.raises(DataError, match=r"2\.csv has 1 channels, .*1\.csv has 2"):
        read_folder(tmp_path)
    (tmp_path / "a" / "2.csv").write_text("1,2\n3,oops\n")
    with pytest.raises(DataError, match="step 1, column 2: 'oops' is no finite number"):
        read_folder(tmp_path)
    for blank in ("", " \n\n", "\ufeff"):
        (tmp_path / "a" / "2.csv").write_text(blank)
        with pytest.raises(DataError, match=r"2\.csv is empty; there is nothing to read\."):
            read_folder(tmp_path)
    (tmp_path / "a" / "2.csv").write_text("1,5;2,5\n3,5;4,5\n")
    with pytest.raises(DataError, match="its cells are separated by semicolons: write it with commas"):
        read_folder(tmp_path)
    (tmp_path / "a" / "2.csv").write_text("one,two\n")
    with pytest.raises(DataError, match="has no rows"):
        read_folder(tmp_path)
    write_csv(tmp_path / "a" / "2.csv", np.ones((3, 2)))
    write_csv(tmp_path / "3.csv", np.ones((3, 2)))
    with pytest.raises(DataError, match="both in subfolders and beside them"):
        read_folder(tmp_path)
    labels = tmp_path / "labels.csv"
    for text, message in (
        ("file,class\n", "needs the columns file and label"),
        ("file,label\n3.csv,1\n", r"no label for a/1\.csv|no label for"),
        ("file,label\n3.csv,1\n3.csv,2\n", r"names 3\.csv twice"),
    ):
        labels.write_text(text)
        with pytest.raises(DataError, match=message):
            read_folder(tmp_path)
    with pytest.raises(DataError, match="there is no such file or folder, and it is not one of"):
        load_series(tmp_path / "none.npz")
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(DataError, match=r"read from \.npz, \.csv, \.ts"):
        load_series(tmp_path / "x.txt")


@pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.ts", "labels.csv"])
def test_empty_files_are_refused_in_the_same_words(name: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "1.csv", np.ones((3, 2)))
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=rf"{name} is empty; there is nothing to read\."):
        load_series(tmp_path if name == "labels.csv" else tmp_path / name)


def test_large_offsets_keep_their_digits_in_every_format(tmp_path: Path) -> None:
    x = 10_000_000.0 + np.arange(5)[:, None] * 2.0**-10
    np.savez(tmp_path / "padded.npz", X=x[None])
    np.savez(tmp_path / "joined.npz", X=x, lengths=np.array([5]))
    write_csv(tmp_path / "x.csv", x)
    (tmp_path / "x.ts").write_text("@data\n" + ",".join(map(repr, x[:, 0].tolist())) + "\n")
    for name in ("padded.npz", "joined.npz", "x.csv", "x.ts"):
        np.testing.assert_array_equal(load_series(tmp_path / name).series[0], x)


def test_channels_go_by_their_names_and_pandas_index_is_none(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 2))
    table = pd.DataFrame(values, columns=["x", "y"])
    table.to_csv(tmp_path / "1.csv", index=False)
    table[["y", "x"]].to_csv(tmp_path / "2.csv", index=False)
    table.to_csv(tmp_path / "3.csv")
    for series in read_folder(tmp_path).series:
        np.testing.assert_allclose(series, values)
    table.set_index(pd.Index([0, 1, 2, 4])).to_csv(tmp_path / "4.csv")
    assert load_series(tmp_path / "4.csv").channels == 3  # these numbers are data


def test_a_byte_order_mark_is_no_data(tmp_path: Path) -> None:
    for name, text in (("a.csv", "1,2\n3,4\n"), ("a.ts", "1,3:2,4\n"), ("b.ts", "@data\n1,3:2,4\n")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        np.testing.assert_array_equal(load_series(tmp_path / name).series[0], [[1, 2], [3, 4]])


def test_labels_of_text_may_look_like_missing_ones(tmp_path: Path) -> None:
    for i in range(3):
        write_csv(tmp_path / f"{i}.csv", np.ones((3, 1)))
    (tmp_path / "labels.csv").write_text("file,label\n0.csv,NA\n1.csv,None\n2.csv,EU\n")
    assert read_folder(tmp_path).require_labels().tolist() == ["NA", "None", "EU"]
    (tmp_path / "labels.csv").write_text("file,label\n0.csv,1.5\n1.csv,NA\n2.csv,2\n")
    with pytest.raises(DataError, match=r"has no label for 1\.csv"):
        read_folder(tmp_path)
    (tmp_path / "labels.csv").write_text("file;label\n0.csv;1\n")
    with pytest.raises(DataError, match="separated by semicolons"):
        read_folder(tmp_path)


def test_ts_files(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("# about\n@univariate false\n@classLabel true 1 2\n@data\n1,2,3:4,5,6:2\n7,8:9,0:1\n")
    found = load_series(path)
    assert found.require_labels().tolist() == [2, 1]
    assert found.series[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found.series[1].tolist() == [[7, 9], [8, 0]]
    path.write_text("@targetlabel true\n@data\n1,2:0.5\n")
    assert read_ts(path).require_labels().tolist() == [0.5]
    path.write_text("@classLabel false\n@data\n1,2\n")
    assert read_ts(path).labels is None
    for text, message in (
        ("@classLabel true a\n1,2:3:a\n", "line 2: every channel needs equally many"),
        ("@classLabel true a\n1,?:a\n", "line 2: every channel"),
        ("@classLabel true a\n1,NaN:a\n", "line 2: the series has missing values"),
        ("@classLabel true a\n1,2:a\n1,2:1,2:a\n", "line 3: the series has missing values or another number"),
        ("@data\n", "holds no series"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_ts(path)


def test_images_become_pixel_sequences() -> None:
    training, test = (named_series("mnist-small", part) for part in ("train", "test"))
    assert (len(training), len(test), training.channels) == (2500, 500, 1)
    assert set(training.lengths) == {196}
    assert training.require_labels()[:5].tolist() == [5, 0, 4, 1, 9]
    from linmap.data.arrays import read_npz
    from linmap.data.sequences import find

    image = read_npz(find("mnist/mnist_3k.npz", ""))["x_train"][0] / 255
    np.testing.assert_allclose(training.series[0][14 * 6 + 5, 0], image[12:14, 10:12].mean(), rtol=1e-6)
    digits = named_series("digits"), named_series("digits", "test")
    assert [len(part) for part in digits] == [1400, 397]
    assert set(digits[0].lengths) == {64}
    assert max(series.max() for series in digits[0].series) == 1


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'linmap\[sequence\]'"):
        named_series("GunPoint")
    monkeypatch.setitem(__import__("sys").modules, "pywt.data", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'linmap\[sequence\]'"):
        real_signal("ecg")


@pytest.mark.usefixtures("annotations_unchecked")
def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="there is no data set 'mnist-3'"):
        named_series("mnist-3")
    with pytest.raises(ValueError, match="part must be 'train' or 'test'"):
        named_series("digits", cast("Any", "validation"))
    with pytest.raises(ValueError, match="there is no signal 'eeg'"):
        real_signal(cast("Any", "eeg"))


def test_series_of_aeon_and_signals_of_pywavelets() -> None:
    sizes = {name: (len(s := named_series(name)), s.channels, set(s.lengths)) for name in ("ACSF1", "BasicMotions")}
    assert sizes == {"ACSF1": (100, 1, {1460}), "BasicMotions": (40, 6, {100})}
    vowels = named_series("JapaneseVowels")
    assert (len(vowels), vowels.channels, vowels.lengths.min(), vowels.lengths.max()) == (270, 12, 7, 26)
    assert real_signal("ecg").shape == (1024,)
    assert real_signal("nino").shape == (264,)
