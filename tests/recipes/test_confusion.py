"""The picture of confusions."""

import re

import numpy as np

from linmap.recipes.confusion import draw_confusions


def test_every_share_of_a_class_is_written_and_rows_sum_to_a_hundred(tmp_path) -> None:
    true = np.array(["left", "left", "left", "left", "right", "right"])
    found = np.array(["left", "left", "left", "right", "right", "right"])
    path = draw_confusions(tmp_path / "confusion.svg", {"ours": (true, found)}, np.array(["left", "right"]))
    written = re.findall(r">\s*(left|right|\d+|ours|83\.3 % right)\s*<", path.read_text())
    assert written.count("75") == written.count("25") == written.count("100") == 1
    assert "83.3 % right" in written
    assert written.count("left") == written.count("right") == 2
