"""The page: it holds what the reading says, escapes everything, and asks nothing of the network."""

import json
import re
from pathlib import Path

import pytest

from interpret.linearscope.language.models import read
from linmap.interpret.linearscope.language.shown import of_text
from linmap.interpret.linearscope.language.summary import summary_of
from linmap.interpret.linearscope.page import Page, write_page

HOSTILE = '<b>"&\n'


def test_a_page_escapes_the_text_and_holds_all_of_it(tmp_path: Path):
    found = summary_of(read(text=HOSTILE), against="<", directions=2, lens=3)
    page = Page(
        "</title><script>", "<i>", found.answer(), "m", ["<u>"], {"<a>": "<p>"}, ["<img src=x>"], of_text(found)
    )
    html = write_page(page, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert not re.search(r"<(u|a|img src=x)>", html)
    assert "<h1>&lt;i&gt;</h1>" in html
    assert "&lt;" in html
    assert re.search(r"""(src|href)=["'](?!data:)""", html) is None
    assert "url(" not in html
    assert html.count('class="map"') == 3
    assert html.count('class="directions"') == 2
    assert html.count("data:image/png") == 4  # the product, and three layers
    assert found.notes == []


def test_the_numbers_add_up_in_json_and_tables():
    found = summary_of(read(text=HOSTILE), directions=0, lens=3)
    plain = json.loads(json.dumps(found.plain()))
    assert sum(plain["contributions"]) + plain["residual"] == pytest.approx(plain["value"])
    assert [sum(row) + r for row, r in zip(plain["layers"], plain["layer_residuals"], strict=True)] == pytest.approx(
        [plain["value"]] * 4
    )
    rows = found.layer_rows()
    assert len(rows) == 4 * len(HOSTILE)
    assert len({tuple(row) for row in rows}) == 1
    assert rows[-1]["carried"] == found.contributions.target.text
    assert rows[0]["carried"] is None
    assert sum(row["contribution"] for row in found.rows()) == pytest.approx(sum(plain["contributions"]))


def test_what_cannot_be_read_becomes_a_note():
    found = summary_of(read(softmax="full"), directions=1)
    assert found.lens is None
    assert [note.partition(":")[0] for note in found.notes] == ["the lenses"]
    assert of_text(found).carried is None
