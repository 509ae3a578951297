"""Figures: themed, reproducible, and closed behind us."""

import contextlib
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap import pictures
from linmap.pictures import DARK, OF_KIND, SERIES, THEME, THEME_CSS, figure, illustrated, save_svg, styles


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


KINDS = st.dictionaries(st.text(max_size=4), st.sampled_from([*OF_KIND]), max_size=12)


@given(KINDS)
def test_a_method_is_drawn_in_a_colour_of_its_kind_and_no_two_are_drawn_alike(kinds):
    found = styles(kinds)
    assert list(found) == list(kinds)
    for name, kind in kinds.items():
        assert found[name]["color"] in OF_KIND[kind]
    for kind, colours in OF_KIND.items():
        looks = [(found[name]["color"], found[name]["linestyle"]) for name in kinds if kinds[name] == kind]
        assert len(set(looks)) >= min(len(looks), 4 * len(colours))
        if len(looks) <= len(colours):
            assert len({colour for colour, _ in looks}) == len(looks)
            assert all(line == "-" for _, line in looks)


@given(KINDS, KINDS)
def test_the_colour_of_a_name_hangs_on_no_method_of_another_kind(kinds, more):
    added = kinds | {name: kind for name, kind in more.items() if kind != "baseline" and name not in kinds}
    for name, style in styles(kinds).items():
        if kinds[name] == "baseline":
            assert styles(added)[name] == style


def test_what_several_systems_are_compared_with_has_one_colour_in_all_of_them():
    compared = (
        ("SALT", "decoder only", "LoRA", "full tuning", "scale and shift"),
        ("Bone bat", "head only", "LoRA", "full tuning"),
        ("Bone bat", "frozen", "LoRA"),
        ("TriAdaptLoRA", "head only", "LoRA", "AdaLoRA", "full tuning"),
        ("TriAdaptLoRA", "frozen", "LoRA", "AdaLoRA"),
    )
    colours = {}
    for system, *others in compared:
        found = styles({system: "system"} | dict.fromkeys(others, "baseline"))
        for name, style in found.items():
            assert colours.setdefault(name, style["color"]) == style["color"], name


def test_no_picture_of_a_comparison_takes_colours_by_place():
    """Series that are no methods are coloured in their order by `plot_curves`, or where this list says so."""
    allowed = {
        "recipes/tinvnn/pictures.py": "the copies of one shape, drawn over one another",
        "recipes/lie_decomposition/pictures.py": "what a fit draws, where nothing is compared",
        "compress/token_transforming/evaluation/pictures.py": "without styles, as users call it",
        "experiment/charts.py": "without styles",
        "pictures.py": "the colours themselves",
    }
    folder = Path(pictures.__file__).parent
    by_place = re.compile(r"\bSERIES\[[a-z]|(zip|iter|enumerate|cycle)\([^\n]*\bSERIES\b")
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if by_place.search(path.read_text("utf-8"))
    }
    assert found == set(allowed)


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
