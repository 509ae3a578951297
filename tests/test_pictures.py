"""Figures: themed, reproducible, and closed behind us."""

import contextlib
import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest

from linmap import pictures
from linmap.pictures import DARK, SERIES, THEME, THEME_CSS, figure, illustrated, save_svg


def draw(path):
    with figure() as (fig, ax):
        for i, colour in enumerate(SERIES):
            ax.plot([0, 1], [i, i + 1], color=colour.upper() if i % 2 else colour, label=f"{i} < {i + 1}")
        ax.legend()
        ax.set(title="A title", xlabel="hours", ylabel="°C")
        return save_svg(fig, path)


def test_every_colour_of_the_style_follows_the_theme(tmp_path):
    body = draw(tmp_path / "a.svg").read_text().rpartition("</style>")[2]
    for colour, name in THEME.items():
        assert f"var({name}, {colour})" in body.lower()
    bare = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", body, flags=re.IGNORECASE)
    assert not re.search("|".join(THEME), bare, flags=re.IGNORECASE)


def test_the_theme_has_a_dark_value_for_every_colour():
    assert set(DARK) == set(THEME.values())
    light, dark = THEME_CSS.split("@media")
    for colour, name in THEME.items():
        assert f"{name}: {colour};" in light
        assert f"{name}: {DARK[name]};" in dark


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("values", [{name: colour for colour, name in THEME.items()}, DARK], ids=["light", "dark"])
def test_text_can_be_read_on_the_paper_of_its_theme(values):
    assert contrast(values["--ink"], values["--paper"]) > 12
    assert contrast(values["--muted"], values["--paper"]) > 4.5
    assert contrast(values["--series-0"], values["--paper"]) > 4.5


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    assert draw(tmp_path / "a.svg").read_bytes() == draw(tmp_path / "b.svg").read_bytes()


def test_the_file_is_a_whole_svg_with_its_text_as_text(tmp_path):
    root = ElementTree.parse(draw(tmp_path / "a.svg")).getroot()
    assert root.tag.endswith("svg")
    texts = ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("}text")]
    assert {"A title", "hours", "°C", "0 < 1"} <= set(texts)


def test_figures_are_closed_and_settings_restored_even_after_an_error():
    before = plt.rcParams["axes.grid"], plt.get_fignums()
    with contextlib.suppress(RuntimeError), figure(2, 1) as (fig, _):
        assert fig.get_size_inches().tolist() == [2, 1]
        raise RuntimeError
    assert (plt.rcParams["axes.grid"], plt.get_fignums()) == before


def test_the_first_series_is_the_system():
    assert SERIES[0] == pictures.SYSTEM
    assert SERIES[-1] == pictures.BASELINE


def test_a_picture_that_cannot_be_drawn_becomes_a_note_and_leaves_no_older_one(tmp_path):
    summary = {"accuracy": 0.5}
    draw(tmp_path / "a.svg")
    with illustrated(summary, tmp_path / "a.svg") as path:
        assert path == tmp_path / "a.svg"
        raise ValueError("no label\n  is known.")
    assert summary == {"accuracy": 0.5, "notes": ["a.svg was not drawn: no label is known."]}
    assert not (tmp_path / "a.svg").exists()
    with illustrated(summary, tmp_path / "b.svg") as path:
        draw(path)
    assert (tmp_path / "b.svg").exists()
    with pytest.raises(KeyboardInterrupt), illustrated(summary, tmp_path / "b.svg"):
        raise KeyboardInterrupt
    assert len(summary["notes"]) == 1
