"""The app in a real browser: every page, an upload, a stop, a phone, the dark; no request to another host."""

import shutil
import socket
import threading
import time

import pytest

pytest.importorskip("starlette", reason="the app's extra is not installed: pip install 'linmap[app]'")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

import uvicorn
from playwright import sync_api as playwright

from linmap.app.jobs import Jobs
from linmap.app.site import site
from linmap.recipes import SYSTEMS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
READY = [slug for slug, system in SYSTEMS.items() if system.ready]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs = Jobs(tmp_path_factory.mktemp("runs"))
    server = uvicorn.Server(uvicorn.Config(site(jobs, None, ["127.0.0.1"], 5), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)
    jobs.close()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, address):
    """A page whose complaints and requests to other hosts fail the test."""
    opened = chromium.new_page(base_url=address)
    complaints, elsewhere = [], []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda asked: elsewhere.append(asked.url) if not asked.url.startswith(address) else None)
    yield opened
    opened.close()
    assert [url for url in elsewhere if not url.startswith("data:")] == []
    assert complaints == []


def test_every_page_opens_at_the_width_of_a_desk_and_of_a_phone_by_day_and_by_night(page):
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        for path in ("/", "/runs", *(f"/systems/{slug}" for slug in READY)):
            page.goto(path)
            assert page.locator("h1").count() == 1
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            unnamed = page.evaluate(
                "[...document.querySelectorAll('input:not([type=hidden]), select, button')]"
                ".filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length"
            )
            assert unnamed == 0, path
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(",")))
        assert (brightness > 380) == (scheme == "light")


def test_the_start_page_leads_by_keyboard_to_a_system(page):
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_role("link", name="TinvNN").click()
    assert page.locator("h1").inner_text() == "TinvNN"


@pytest.mark.slow
def test_an_uploaded_file_ends_in_its_result_and_a_broken_one_in_its_sentence(page, tmp_path):
    for text, state in (("x,y\n0,0\n3,0\n0,1\n2,2\n", "done"), ("x,y\n1,two\n", "refused")):
        (tmp_path / "points.csv").write_text(text)
        page.goto("/systems/tinvnn")
        page.locator("#apply-data").set_input_files(tmp_path / "points.csv")
        page.get_by_role("button", name="Apply").click()
        page.locator(f".state.{state}").wait_for(timeout=60_000)
        if state == "done":
            assert page.get_by_role("link", name="canonical.csv").count() == 1
            assert "linmap apply tinvnn" in page.locator("pre code").first.inner_text()
        else:
            assert "points.csv" in page.locator(".failed").inner_text()


def test_the_stop_button_stops(page):
    page.goto("/systems/mbat")
    page.get_by_role("button", name="Compare").click()
    page.locator(".state.running").wait_for(timeout=30_000)
    page.get_by_role("button", name="Stop").click()
    page.locator(".state.stopped").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Go on").count() == 1
