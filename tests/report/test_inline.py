"""Pictures in the page: they keep their drawing and lose every way to reach beyond it."""

import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from linmap.experiment.result import Picture
from linmap.pictures import figure, save_svg
from linmap.report.inline import inline

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '


def inlined(folder, body: str, size: str = 'viewBox="0 0 30 20"'):
    (folder / "a.svg").write_text(f"{HEAD}{size}>{body}</svg>")
    return inline(folder, Picture("a.svg", "Title <1>", "Caption."), "p1-")


def test_ids_get_the_prefix_and_every_reference_still_finds_its_element(tmp_path):
    with figure() as (fig, ax):
        ax.plot([0, 1], [0, 1], marker="o")
        ax.imshow([[0, 1], [1, 0]])
        save_svg(fig, tmp_path / "a.svg")
    drawn = [inline(tmp_path, Picture("a.svg", "t", "c"), prefix).markup for prefix in ("p1-", "p2-")]
    ids = [set(re.findall(r'\bid="([^"]+)"', markup)) for markup in drawn]
    assert not ids[0] & ids[1]
    assert all(name.startswith("p1-") for name in ids[0])
    targets = set(re.findall(r'(?:url\(|href=")#([^")]+)', drawn[0]))
    assert targets
    assert targets <= ids[0]


def test_an_id_stands_once_and_a_reference_finds_the_first(tmp_path):
    body = '<rect id="a" x="1"/><g id="b"><rect id="a" x="2"/></g><use href="#a"/><g id="root"/>'
    named = [(one.get("id"), one.get("x")) for one in ElementTree.fromstring(inlined(tmp_path, body).markup).iter()]
    assert [one for one in named if one[0]] == [("p1-root", None), ("p1-a", "1"), ("p1-b", None)]


def test_style_rules_stay_inside_the_picture(tmp_path):
    markup = inlined(tmp_path, "<style>@import url(http://x/y.css); * { fill: red } .a{fill:url('#g')}</style>").markup
    assert "#p1-root { " in markup
    assert "@import" not in markup
    assert "url('#p1-g')" in markup
    assert 'id="p1-root"' in markup


def test_nothing_that_runs_or_reaches_out_is_let_through(tmp_path):
    markup = inlined(
        tmp_path,
        '<script>alert(1)</script><rect onclick="alert(2)" style="fill: url(http://x/y)"/>'
        '<image xlink:href="http://x/a.png"/><image href="data:image/png;base64,AA=="/><use href="#r"/>'
        '<a href="http://x"><text>t</text></a><foreignObject><p>p</p></foreignObject><!-- c --><g><script/></g>'
        '<image href="javascript:alert(3)"/>',
    ).markup
    for word in ("script", "alert", "onclick", "http://x", "foreignObject", "<!--"):
        assert word not in markup
    assert 'href="data:image/png;base64,AA=="' in markup
    assert 'href="#p1-r"' in markup


def test_a_picture_is_named_for_those_who_cannot_see_it(tmp_path):
    root = ElementTree.fromstring(inlined(tmp_path, "<g/>").markup)
    assert (root.get("role"), root.get("aria-label")) == ("img", "Title <1>. Caption.")


@pytest.mark.parametrize(
    ("size", "width", "box"),
    [
        ('width="72pt" height="36pt" viewBox="0 0 72 36"', 96, "0 0 72 36"),
        ('width="2in" height="1in"', 192, "0 0 2 1"),
        ('width="50" height="20"', 50, "0 0 50 20"),
        ('viewBox="0,0,30,20"', 30, "0,0,30,20"),
        ('width="100%" viewBox="0 0 30 20"', 30, "0 0 30 20"),
    ],
)
def test_pictures_scale_from_their_natural_width(size, width, box, tmp_path):
    picture = inlined(tmp_path, "<g/>", size)
    root = ElementTree.fromstring(picture.markup)
    assert (picture.width, root.get("viewBox"), root.get("width")) == (width, box, None)


def test_other_images_travel_as_data_with_their_text(tmp_path):
    Image.new("RGB", (7, 3)).save(tmp_path / "a.png")
    picture = inline(tmp_path, Picture("a.png", 'The "A"', "See <it>."), "p-")
    element = ElementTree.fromstring(picture.markup)
    assert picture.width == 7
    assert (element.get("role"), element.get("aria-label")) == ("img", 'The "A". See <it>.')
    assert (element.get("id"), element.get("viewBox")) == (picture.id, "0 0 7 3")
    assert str(element[0].get("href")).startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(("name", "content"), [("a.svg", "<svg"), ("a.txt", "text"), ("a.html", "<p>")])
def test_what_is_no_image_is_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
        inline(tmp_path, Picture(name, "t", "c"), "p-")
