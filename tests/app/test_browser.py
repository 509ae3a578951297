"""The app in a real browser: every page, an upload, a stop, a phone, the dark; no request to another host."""

import pytest

import browsers

pytest.importorskip("starlette", reason="the app's extra is not installed: pip install 'linmap[app]'")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from linmap.app.jobs import Job, Jobs
from linmap.recipes import SYSTEMS, load

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason=browsers.MISSING)
READY = [slug for slug, system in SYSTEMS.items() if system.ready]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    found = Jobs(tmp_path_factory.mktemp("runs"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def address(jobs):
    with browsers.served(jobs) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browsers.chromium() as browser:
        yield browser


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


def test_a_shape_is_turned_by_keys_and_by_hand_and_its_canonical_pose_stays(page, jobs):
    folder = jobs.folder("apply", "tinvnn")
    (folder / "input" / "points.csv").write_text("x,y,z\n0,0,0\n3,0,1\n0,1,5\n2,2,2\n7,1,1\n")
    words = ["apply", "tinvnn", "--data=../input/points.csv"]
    jobs._jobs[folder.name] = Job(folder.name, "apply", "tinvnn", words, state="done", folder=folder)
    page.goto(f"/runs/{folder.name}")
    shape = page.locator("canvas").first
    shape.wait_for(timeout=60_000)
    lies = shape.screenshot()
    told = page.locator(".told")
    for turn in (lambda: shape.press("ArrowRight"), lambda: shape.hover() or drag(page)):
        with page.expect_response("**/view") as answered:
            turn()
        assert answered.value.json()["difference"] < 1e-5
    assert "Largest difference" in told.inner_text()
    assert shape.screenshot() != lies


def test_what_is_in_front_follows_the_hand(page):
    page.goto("/")
    for right, down in ((0.3, 0), (0, 0.3), (-0.3, -0.2), (0.4, 1.45)):
        script = "import('/static/points.js').then(({ turnOf }) => turnOf(%f, %f).map((row) => row[2]))"
        x, y, _ = page.evaluate(script % (right, down))  # where the nearest point goes; y is up
        assert (x > 0, x < 0, y < 0, y > 0) == (right > 0, right < 0, down > 0, down < 0)


def drag(page):
    page.mouse.down()
    page.mouse.move(200, 300, steps=3)
    page.mouse.up()


@pytest.mark.slow
@pytest.mark.parametrize("slug", [slug for slug in READY if (view := load(slug).view) and view.example])
def test_every_example_can_be_looked_at_and_used_by_keyboard(page, slug):
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.goto(f"/systems/{slug}")
        page.get_by_role("button", name="Look at the example").press("Enter")
        page.locator(".view .stage > *").first.wait_for(timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        unnamed = page.evaluate(
            "[...document.querySelectorAll('.view :is(input, select, button, canvas, img)')]"
            ".filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel || e.alt)).length"
        )
        assert unnamed == 0
        touched = page.locator(".view :is(canvas[tabindex='0'], input[type=range], select)").first
        with page.expect_response("**/view", timeout=120_000) as answered:
            touched.press("ArrowDown")
        assert answered.value.ok
        assert page.locator(".view .said.wrong").count() == 0


@pytest.mark.slow
def test_eight_people_start_examples_at_once_and_each_gets_their_own(chromium, address, jobs, monkeypatch):
    monkeypatch.setattr(jobs, "at_once", 2)
    people = [chromium.new_context(base_url=address).new_page() for _ in range(8)]
    for number, person in enumerate(people):
        person.goto("/systems/mbat")
        form = person.locator("form[action$='/apply/mbat']")
        form.locator("summary").click()
        form.locator("[name=seed]").fill(f"of person {number}")
        form.get_by_role("button", name="Apply").click()
    stopped = people[-1]  # the last in the queue
    assert stopped.locator("#queue").is_visible()
    assert int(stopped.locator("#ahead").inner_text()) >= 5
    stopped.get_by_role("button", name="Stop").click()
    stopped.locator(".state.stopped").wait_for(timeout=20_000)
    written = set()
    for number, person in enumerate(people[:-1]):
        person.locator(".state.done").wait_for(timeout=120_000)
        assert f"of person {number}" in person.locator("pre code").first.inner_text()
        id = person.url.rpartition("/")[2]
        made = next(path for path in jobs[id].files() if path.suffix in (".parquet", ".npy"))
        written.add((jobs[id].folder / made).read_bytes())
    assert len(written) == 7
    for person in people:
        person.context.close()
