"""Charts that comparisons share."""

import re
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex

from linmap.experiment import Metric, Row
from linmap.experiment.charts import draw_bars, draw_confusions, draw_curves, plot_curves
from linmap.pictures import OF_KIND, figure


def test_every_share_of_a_class_is_written_and_rows_sum_to_a_hundred(tmp_path) -> None:
    true = np.array(["left", "left", "left", "left", "right", "right"])
    found = np.array(["left", "left", "left", "right", "right", "right"])
    path = draw_confusions(tmp_path / "confusion.svg", {"ours": (true, found)}, np.array(["left", "right"]))
    written = re.findall(r">\s*(left|right|\d+|ours|83\.3 % right)\s*<", path.read_text())
    assert written.count("75") == written.count("25") == written.count("100") == 1
    assert "83.3 % right" in written
    assert written.count("left") == written.count("right") == 2


def test_a_line_goes_through_the_mean_of_the_runs_in_a_band_from_the_lowest_to_the_highest() -> None:
    runs = [[1.0, 2.0, 6.0], [3.0, 2.0, 0.0]]
    with figure() as (_, ax):
        plot_curves(ax, {"ours": runs, "other": runs[:1]}, start=5)
        first, second = ax.lines
        assert first.get_label() == "ours"
        np.testing.assert_allclose(first.get_xydata(), [[5, 2], [6, 2], [7, 3]])
        np.testing.assert_allclose(second.get_ydata(), runs[0])
        (band,) = ax.collections  # a single run has none
        corners = band.get_paths()[0].vertices
        assert corners[:, 1].min() == 0
        assert corners[:, 1].max() == 6


def test_bars_have_the_means_and_the_colours_of_their_names(tmp_path: Path) -> None:
    rows = [Row("ours", "system", {"hits": [0.5, 0.7]}), Row("theirs", "baseline", {"hits": [0.4, 0.4]})]
    picture = draw_bars(tmp_path / "bars.svg", rows, [Metric("hits", "higher")], "Hits", "By method.", least=0.2)
    drawn = (tmp_path / "bars.svg").read_text()
    assert picture.file == "bars.svg"
    assert picture.caption.startswith("By method. Blue: the system")
    assert all(word in drawn for word in ("ours", "theirs", "hits", "--series-0"))
    assert any(colour in drawn for colour in OF_KIND["baseline"])


def test_a_line_and_its_band_have_the_style_of_the_name_wherever_it_stands() -> None:
    runs = [[1.0, 2.0], [3.0, 2.0]]
    with figure() as (_, ax):
        plot_curves(ax, {"theirs": runs, "ours": runs}, styles={"ours": {"color": "#0072b2", "linestyle": "--"}})
        assert (ax.lines[1].get_color(), ax.lines[1].get_linestyle()) == ("#0072b2", "--")
        assert to_hex(ax.collections[1].get_facecolor()[0]) == "#0072b2"


def test_curves_are_drawn_with_their_names(tmp_path: Path) -> None:
    path = draw_curves(tmp_path / "curves.svg", {"ours": [[1, 2]], "theirs": [[2, 1]]}, "epoch", "loss", log=True)
    assert all(word in path.read_text() for word in ("ours", "theirs", "epoch", "loss"))
