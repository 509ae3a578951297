"""Contrast, names, headings and focus on every page of the app, the report and the documentation, by day and night."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import browsers
from accessible import complaints
from linmap.recipes import SYSTEMS, load
from linmap.report import write_report
from report.saved import save_result

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(browsers.CHROMIUM is None, reason=browsers.MISSING)]
ROOT = Path(__file__).parents[1]
READY = [slug for slug, system in SYSTEMS.items() if system.ready]
SEEN = ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"))


@pytest.fixture(scope="module")
def chromium():
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium):
    """A page of which no console complains."""
    opened, said = chromium.new_page(), []
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    opened.close()
    assert said == []


def found(page, addresses, ready=lambda page: None):
    """What is wrong with these pages at each width and in both colours, each complaint once, with where."""
    told = {}
    for width, scheme in SEEN:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        for address in addresses:
            page.goto(address)
            ready(page)
            for complaint in complaints(page):
                told.setdefault(complaint, f"{address} at {width} px, {scheme}")
    return told


# -- the audit itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<h1>a</h1><p style='color: #777'>grey</p>", "contrast 4.48"),
        ("<h1>a</h1><p style='opacity: .5'>half</p>", "contrast"),
        ("<h1>a</h1><div style='background: #036'><p>black on blue</p></div>", "contrast"),
        ("<h1>a</h1><svg width='99' height='20'><text y='15' fill='#999'>grey</text></svg>", "contrast"),
        ("<h1>a</h1><svg><rect width='99' height='30' fill='#036'/><text y='15'>black</text></svg>", "contrast"),
        ("<h1>a</h1><h3>b</h3>", "a level is skipped"),
        ("<p>a</p>", "one first heading"),
        ("<h1>a</h1><button></button>", "no name: button"),
        ("<h1>a</h1><input>", "no name: textbox"),
        ("<h1>a</h1><img src='data:,'>", "no alt"),
        ("<h1>a</h1><canvas></canvas>", "no name: <canvas"),
        ("<h1 id='a'>a</h1><p id='a'>b</p>", "2 elements have the id a"),
        ("<h1>a</h1><a href='#a' style='outline: none; color: blue'>b</a>", "focus cannot be seen"),
        ("<h1>a</h1><div style='width: 2000px'>b</div>", "px wide"),
    ],
)
def test_the_audit_finds(chromium, body, said):
    page = chromium.new_page()
    page.set_content(f"<!doctype html><html lang='en'><title>t</title><body style='background: white'>{body}</body>")
    assert [complaint for complaint in complaints(page) if said in complaint] == complaints(page) != []
    page.close()


def test_the_audit_finds_nothing_on_a_good_page(chromium):
    page = chromium.new_page()
    page.set_content(
        "<!doctype html><html lang='en'><title>t</title><h1>a</h1><h2>b</h2><p style='color: #767676'>grey</p>"
        "<label>name <input></label><img alt='' src='data:,'><a href='#x'>link</a><h2>c</h2>"
        "<svg><rect width='99' height='30' fill='#036'/><text y='15' fill='white'>white</text></svg>"
        "<p style='color: #949494; font-size: 24px'>large</p><button disabled style='color: #ccc'>d</button>"
    )
    assert complaints(page) == []
    page.close()


# -- what it is for ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The address of an app with a run that is done and one that was refused, and their pages."""
    pytest.importorskip("starlette", reason="the app's extra is not installed: pip install 'linmap[app]'")
    from linmap.app.jobs import Job, Jobs, State

    jobs = Jobs(tmp_path_factory.mktemp("runs"))
    points: dict[State, str] = {"done": "x,y,z\n0,0,0\n3,0,1\n0,1,5\n2,2,2\n", "refused": "x,y\n1,two\n"}
    for state, text in points.items():
        folder = jobs.folder("apply", "tinvnn")
        (folder / "input" / "points.csv").write_text(text)
        words = ["apply", "tinvnn", "--data=../input/points.csv"]
        made = f"2026-01-0{len(jobs._jobs) + 1}T12:00:00+00:00"
        job = Job(folder.name, "apply", "tinvnn", words, state=state, folder=folder, made=made)
        jobs._jobs[folder.name] = job
    with browsers.served(jobs) as address:
        yield address, [f"{address}/runs/{id}" for id in jobs._jobs]
    jobs.close()


def test_pages_of_the_app(page, app):
    address, runs = app
    assert found(page, [address, f"{address}/runs", *runs]) == {}
    assert found(page, [f"{address}/systems/{slug}" for slug in READY]) == {}


@pytest.mark.parametrize("slug", [slug for slug in READY if (view := load(slug).view) and view.example])
def test_views_of_the_app(page, app, slug):
    def look(page):
        page.get_by_role("button", name="Look at the example").click()
        page.locator(".view .stage > *").first.wait_for(timeout=120_000)
        page.wait_for_load_state("networkidle")

    assert found(page, [f"{app[0]}/systems/{slug}"], look) == {}


def test_the_report(page, tmp_path):
    for slug in ("olinear", "mbat"):
        save_result(tmp_path / slug, slug)
    assert found(page, [write_report(tmp_path, tmp_path / "report.html").as_uri()]) == {}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The addresses of all pages of the documentation, built without executing anything."""
    pytest.importorskip("mkdocs", reason="the docs' extra is not installed: pip install 'linmap[docs]'")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"LINMAP_DOCS": "kept", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield [f"{address}/{path.parent.relative_to(folder).as_posix()}/" for path in sorted(folder.rglob("index.html"))]
    server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of what it served."""

    def log_message(self, format, *args):
        pass


def test_pages_of_the_documentation(page, site):
    assert len(site) > 60
    assert found(page, site) == {}
