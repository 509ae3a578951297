"""Pictures of strangers: as a browser reads the page, nothing in them runs, loads, links or styles what is outside."""

import re

import html5lib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.experiment.result import Metric, Picture, Result, Row
from linmap.report import write_report
from linmap.report.inline import inline
from linmap.report.sanitizing import ELEMENTS, declarations, rules

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" '
DRAWN = {name.lower() for name in ELEMENTS.values()}
ATTACKS = (
    '<script xmlns="">alert(1)</script>',
    "<SCRIPT>alert(1)</SCRIPT>",
    '<h:script xmlns:h="http://www.w3.org/1999/xhtml">alert(1)</h:script>',
    '<rect ONLOAD="alert(1)"/>',
    '<rect onload="alert(1)"/>',
    '<A HREF="javascript:alert(1)"><text>t</text></A>',
    '<a xlink:href="javascript:alert(1)"><text>t</text></a>',
    '<iframe xmlns="" srcdoc="&lt;script&gt;alert(1)&lt;/script&gt;"/>',
    '<IFRAME srcdoc="x"/>',
    '<META http-equiv="refresh" content="0;url=http://evil/"/>',
    '<BASE href="http://evil/"/>',
    '<link xmlns="" rel="stylesheet" href="http://evil/x.css"/>',
    '<title><img src="http://evil/x" onerror="alert(1)"/></title>',
    "<title>&lt;img src=http://evil/x onerror=alert(1)&gt;</title>",
    "<desc>&lt;/desc&gt;&lt;script&gt;alert(1)&lt;/script&gt;</desc>",
    "<style>&lt;/style&gt;&lt;script&gt;alert(1)&lt;/script&gt;</style>",
    "<style>~ figcaption { display: none }</style>",
    "<style>.a, + p { fill: red }</style>",
    "<style>@IMPORT 'http://evil/x.css'; .a { fill: red }</style>",
    "<style>} body { background: red } .a { fill: red }</style>",
    "<style>@font-face { font-family: f; src: url(http://evil/f) }</style>",
    "<style>.a { fill: URL(http://evil/x) }</style>",
    "<style>.a { fill: u\\72l(http://evil/x) }</style>",
    "<style>.a { background: image-set('http://evil/x' 1x) }</style>",
    "<style>.a { fill: ur/**/l(http://evil/x) }</style>",
    "<style>* { position: fixed; inset: 0; fill: red }</style>",
    '<rect style="fill: URL(http://evil/x)"/>',
    '<rect fill="url(http://evil/x#a)"/>',
    '<rect style="background: image-set(&quot;http://evil/x&quot; 1x)"/>',
    '<rect style="position: fixed; inset: 0"/>',
    '<image href="http://evil/x.png"/>',
    '<image href="data:image/svg+xml;base64,AAAA"/>',
    '<use href="http://evil/x.svg#a"/>',
    '<use href="data:image/svg+xml;base64,AAAA#a"/>',
    '<set attributeName="href" to="javascript:alert(1)"/>',
    '<ANIMATE attributeName="href" to="javascript:alert(1)"/>',
    "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml' onload='alert(1)'/></foreignObject>",
    "<FOREIGNOBJECT><p>p</p></FOREIGNOBJECT>",
    '<object xmlns="" data="http://evil/x"/>',
    '<form xmlns="" action="http://evil/"><input name="a"/></form>',
    "<text><tspan><SCRIPT>alert(1)</SCRIPT></tspan></text>",
)


def page_with(folder, body: str):
    (folder / "a.svg").write_text(f"{HEAD}>{body}</svg>")
    pictures = [Picture("a.svg", "<script>alert(2)</script>", "<img src=http://evil/y>")]
    rows = [Row("<b onclick=x>", "system", {"m": [1.0]})]
    Result("bone", "<script>", [Metric("m")], rows, "</style><script>", "l", pictures=pictures).save(folder)
    return write_report(folder, folder / "report.html").read_text()


def elements_of(page: str):
    """Every element of the page as a browser's parser builds it: tag without namespace, attributes, text."""
    for element in html5lib.parse(page, treebuilder="etree", namespaceHTMLElements=False).iter():
        if isinstance(element.tag, str):
            names = {str(name).rpartition("}")[2].lower(): value for name, value in element.attrib.items()}
            yield element.tag.rpartition("}")[2].lower(), names, element


def assert_harmless(page: str):
    heads = 0
    inside = {id(child) for _, _, e in elements_of(page) for child in e.iter()}
    assert inside
    for tag, attributes, element in elements_of(page):
        assert tag not in {
            "script",
            "iframe",
            "base",
            "link",
            "object",
            "embed",
            "foreignobject",
            "form",
            "input",
            "set",
        }
        assert not tag.startswith("animate")
        assert not [
            name for name in attributes if name.startswith("on") or name in ("srcdoc", "src", "action", "formaction")
        ]
        if tag == "meta":
            heads += "http-equiv" in attributes
            assert attributes.get("http-equiv", "Content-Security-Policy") == "Content-Security-Policy"
        assert re.match(r"#|$", attributes.get("href", ""))
        styles = [attributes.get("style", ""), attributes.get("fill", "")]
        if tag == "style":
            styles.append("".join(element.itertext()))
        for style in styles:
            assert "evil" not in style
            assert not re.search(
                r"@import|@font-face|image-set|\\|position:\s*fixed|body \{ background: red", style, re.I
            )
    assert heads == 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_picture_runs_loads_links_or_reaches_out(attack, tmp_path):
    page = page_with(tmp_path, f'<g>{attack}<rect id="r" fill="red"/></g>')
    assert_harmless(page)
    assert 'id="bone-0-r"' in page  # what draws beside it is kept


@given(data=st.data(), attack=st.sampled_from(ATTACKS))
def test_case_changes_nothing(data, attack, tmp_path_factory):
    changed = "".join(c.upper() if c.isalpha() and data.draw(st.booleans()) else c for c in attack)
    folder = tmp_path_factory.mktemp("case")
    try:
        page = page_with(folder, f"<g>{changed}</g>")
    except SyntaxError:  # the change broke the XML
        return
    assert_harmless(page)


@given(text=st.text(alphabet="{};:@\\/*()'\"# \nabu.-url", max_size=60))
def test_rules_never_leave_their_picture(text):
    """Braces are balanced at every place, whatever came in."""
    depth = 0
    for brace in re.findall(r"[{}]", rules(text, "p-")):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"[{}@<]", declarations(text, "p-"))


@pytest.mark.parametrize("file", ["../../secret.svg", "/tmp/secret.png", "sub/../../secret.svg", "link.svg"])
def test_only_pictures_in_the_folder_of_the_result_are_read(file, tmp_path):
    run = tmp_path / "a" / "run"
    run.mkdir(parents=True)
    for place in (tmp_path / "secret.svg", tmp_path / "a" / "secret.svg"):
        place.write_text(f"{HEAD}><text>secret</text></svg>")
    (run / "link.svg").symlink_to(tmp_path / "secret.svg")
    with pytest.raises(ValueError, match="outside the folder of its result"):
        inline(run, Picture(file, "t", "c"), "p-")


@pytest.mark.parametrize(
    "body",
    [
        "<svg/>",
        '<html xmlns="http://www.w3.org/1999/xhtml"/>',
        HEAD.replace("0 0 9 9", "0 0") + "/>",
        HEAD.replace("0 0 9 9", "0 0 nan 9") + "/>",
    ],
)
def test_a_picture_that_cannot_be_shown_says_so(body, tmp_path):
    (tmp_path / "a.svg").write_text(body)
    with pytest.raises(ValueError, match="no SVG that can be shown"):
        inline(tmp_path, Picture("a.svg", "t", "c"), "p-")


def test_what_draws_is_kept_whole(tmp_path):
    body = (
        "<style>.a, .b:not(.c) { fill: rgb(1, 2, 3); stroke: var(--ink, #1c2024) } @media (prefers-color-scheme: dark)"
        " { .a { fill: #fff } }</style>"
        '<defs><linearGradient id="g"><stop offset="0" stop-color="red"/></linearGradient></defs>'
        '<g transform="translate(1 2) rotate(3)" clip-path="url(#g)"'
        " style=\"font: 10px 'DejaVu Sans', sans-serif; fill: url('#g')\">"
        '<text x="1">a <tspan>b</tspan> c</text><path d="M 0 0 L 1 1 z"/></g>'
    )
    (tmp_path / "a.svg").write_text(f"{HEAD}>{body}</svg>")
    markup = inline(tmp_path, Picture("a.svg", "t", "c"), "p-").markup
    for kept in (
        ".a, .b:not(.c) { fill: rgb(1, 2, 3); stroke: var(--ink, #1c2024) }",
        "@media (prefers-color-scheme: dark) { .a { fill: #fff } }",
        'transform="translate(1 2) rotate(3)"',
        'clip-path="url(#p-g)"',
        "font: 10px 'DejaVu Sans', sans-serif; fill: url('#p-g')",
        "a <tspan>b</tspan> c",
        'd="M 0 0 L 1 1 z"',
    ):
        assert kept in markup


@pytest.mark.parametrize("selector", ["~ p", "+ p", "> p", ".a, ~ p", "~ .a .b", ".a,+ .b", ".a ,\n ~p"])
def test_rules_reach_nothing_beside_the_picture(selector):
    assert rules(f".b {{ fill: red }} {selector} {{ fill: red }} .a ~ .b {{ fill: blue }}", "p-") == (
        ".b { fill: red } .a ~ .b { fill: blue }"
    )


def test_elements_that_lie_in_each_other_without_end_are_refused(tmp_path):
    (tmp_path / "a.svg").write_text(HEAD + "><g>" + "<g>" * 5000 + "</g>" * 5001 + "</svg>")
    with pytest.raises(ValueError, match="more than 200 deep"):
        inline(tmp_path, Picture("a.svg", "t", "c"), "p-")
