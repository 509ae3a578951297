"""The page: whole, self-contained, complete, and safe whatever the results say."""

import json
import os
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.errors import ArtifactError
from linmap.experiment.result import Failure, Picture, Result
from linmap.report import gather, write_report
from report.saved import save_result

VOID = {"meta", "img", "br", "link", "input", "hr", "source"}


class Page(HTMLParser):
    """The elements of a page, with proof that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def values(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.elements if name in attributes]


def page_of(folder) -> Page:
    return Page(write_report(folder, folder / "report.html").read_text(encoding="utf-8"))


@given(st.sampled_from(["<script>alert(1)</script>", "a & b", '" onload="x', "</style>", "{{ 7 * 7 }}", "é ± 名"]))
def test_every_word_of_a_result_is_on_the_page_as_text(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("runs")
    save_result(folder / "olinear", text=text)
    page = page_of(folder)
    for said in (
        "sys",
        "base",
        "less",
        "holds",
        "by",
        "More",
        "n",
        "note",
        "pic",
        "caption",
        "task",
        "shows",
        "limits",
        "take",
    ):
        assert f"{said} {text}" in page.text
    assert f"--x '{text}'" in page.text
    assert not [tag for tag, attributes in page.elements if tag == "script" or "onload" in attributes]


def test_figures_of_every_method_and_check_are_shown(tmp_path):
    save_result(tmp_path / "olinear")
    text = " ".join(page_of(tmp_path).text.split())
    for said in (
        "0.3750 ± 0.1768 best",
        "0.7500",
        "4.52 M",
        "12.0 k",
        "10.0 ms",
        "1 of 2",
        "50.0 % lower",
        "2 min 15 s",
    ):
        assert said in text
    assert "mean ± standard deviation over 2 seeds" in text
    assert "not met fails 1 against 2" in text


def test_the_page_asks_nothing_of_the_network(tmp_path):
    save_result(tmp_path / "olinear")
    save_result(tmp_path / "mbat", "mbat")
    page = page_of(tmp_path)
    assert not {"link", "script", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert all(value.startswith("data:") for value in page.values("src"))
    assert all(value.startswith(("#", "data:")) for value in page.values("href"))
    source = (tmp_path / "report.html").read_text()
    assert "@import" not in source
    assert "url(http" not in source


def test_ids_are_unique_and_every_link_and_label_finds_one(tmp_path):
    save_result(tmp_path / "a" / "olinear")
    save_result(tmp_path / "b" / "olinear")
    save_result(tmp_path / "mbat", "mbat")
    page = page_of(tmp_path)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [href[1:] for href in page.values("href") if href.startswith("#")] + page.values("aria-labelledby")
    assert set(targets) <= set(ids)


def test_tables_have_headers_and_scroll_in_their_own_box(tmp_path):
    save_result(tmp_path / "olinear")
    elements = page_of(tmp_path).elements
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in elements if tag == "th")
    for position, (tag, _) in enumerate(elements):
        if tag == "table":
            box = elements[position - 1][1]
            assert (box["class"], box["tabindex"]) == ("scroll", "0")


def test_systems_stand_in_the_order_of_the_catalogue(tmp_path):
    for system in ("linearscope", "mbat", "unheard_of", "olinear"):
        save_result(tmp_path / system, system)
    assert [outcome.system for _, outcome in gather(tmp_path)] == ["mbat", "olinear", "linearscope", "unheard_of"]
    text = page_of(tmp_path).text
    assert "Report of 4 systems" in text
    assert text.index("MBAT for JSON") < text.index("OLinear") < text.index("LinearScope") < text.index("unheard_of")


def test_several_comparisons_of_a_system_are_told_apart(tmp_path):
    for folder in ("bank", "shop/old & new", "shop/july", os.fsdecode(b"\xff")):
        save_result(tmp_path / folder, "mbat")
    save_result(tmp_path / "hours", "olinear")
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "result.json").write_text("{")
    page = page_of(tmp_path)
    assert "Report of 3 systems in 6 comparisons" in page.text
    for title in ("MBAT for JSON: bank", "MBAT for JSON: shop/old & new", "MBAT for JSON: shop/july"):
        assert page.text.count(title) == 3  # in the list, on its card, above its chapter
    assert "OLinear:" not in page.text


def test_a_failure_is_shown_with_its_error_and_outranks_an_older_result(tmp_path):
    save_result(tmp_path / "olinear")
    Failure("olinear", "RuntimeError: <out> of luck", "linmap compare olinear").save(tmp_path / "olinear")
    text = page_of(tmp_path).text
    assert "This comparison failed." in text
    assert text.count("RuntimeError: <out> of luck") == 1
    assert "shows x" not in text


def test_what_cannot_be_read_or_shown_says_why_and_stops_nothing(tmp_path):
    save_result(tmp_path / "olinear", pictures=[Picture("lost.svg", "Lost", "c")])
    (tmp_path / "mbat").mkdir()
    (tmp_path / "mbat" / "result.json").write_text("{")
    text = page_of(tmp_path).text
    assert "“Lost” cannot be shown" in text
    assert "lost.svg" in text
    assert "result.json cannot be read" in text
    assert "shows x" in text


def test_one_folder_is_a_report_too(tmp_path):
    save_result(tmp_path)
    assert "Report of 1 system\n" in page_of(tmp_path).text


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="holds no result"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_name_of_a_system_cannot_write_style_rules_or_break_links(tmp_path):
    name = 'X" Y{} body { display: none } *{} #a'
    save_result(tmp_path / "one", name)
    save_result(tmp_path / "two", name)
    page = Page(write_report(tmp_path, tmp_path / "report.html").read_text())
    anchors = ["x-y-body-display-none-a", "x-y-body-display-none-a-2"]
    assert [value for value in page.values("id") if value in anchors] == anchors
    assert {f"#{anchor}" for anchor in anchors} <= set(page.values("href"))
    styles = re.findall(r"<style>#(.*?)-root ", (tmp_path / "report.html").read_text())
    assert set(styles) == {f"{anchor}-{i}" for anchor in anchors for i in range(2)}


def places(value, path=()):
    """Where a JSON value has parts."""
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


ODD = [None, -1, True, 1.5, float("inf"), "x", [], {}, [None], ["a"], {"a": 1}, [[]], [{}]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_result(folder / "olinear")
    (folder / "odd").mkdir()
    return folder


@settings(max_examples=25)
@given(data=st.data())
def test_a_result_with_odd_parts_costs_no_other_its_place(data, runs):
    changed = parent = json.loads((runs / "olinear" / "result.json").read_text())
    place = data.draw(st.sampled_from([*places(changed)]))
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = data.draw(st.sampled_from(ODD))
    (runs / "odd" / "result.json").write_text(json.dumps(changed))
    write_report(runs, runs / "report.html")
    assert dict(gather(runs))[runs / "olinear"] == Result.load(runs / "olinear")
