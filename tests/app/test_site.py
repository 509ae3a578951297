"""The site: what it shows, runs, keeps to itself and refuses."""

import asyncio
import json
import re
import sys
import threading
import time

import pytest

pytest.importorskip("starlette", reason="the app's extra is not installed: pip install 'linmap[app]'")
pytest.importorskip("multipart", reason="the app's extra is not installed: pip install 'linmap[app]'")

import httpx
import torch

import linmap.app.jobs
from linmap.app.code import code_of, settings_of
from linmap.app.jobs import Job, Jobs
from linmap.app.matrices import DRAWN, picture
from linmap.app.site import site
from linmap.app.summary import rounded, told
from linmap.errors import UsageError
from linmap.recipes import SYSTEMS

READY = [slug for slug, system in SYSTEMS.items() if system.ready]
POINTS = "x,y\n0,0\n3,0\n0,1\n2,2\n"


class Browser:
    """Asks the site as a browser on this machine would."""

    def __init__(self, jobs, models=None, megabytes=1):
        self.jobs = jobs
        self.app = site(jobs, models, ["127.0.0.1"], megabytes)

    def __call__(self, method, path, **options):
        async def ask():
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def wait(self, id) -> Job:
        until = time.monotonic() + 60
        while not self.jobs[id].over:
            assert time.monotonic() < until
            time.sleep(0.05)
        return self.jobs[id]


@pytest.fixture
def browser(tmp_path):
    jobs = Jobs(tmp_path / "runs")
    yield Browser(jobs)
    jobs.close()


@pytest.mark.parametrize("slug", READY)
def test_every_system_has_its_page_with_its_forms_and_asks_no_other_host(browser, slug):
    answer = browser("GET", f"/systems/{slug}")
    assert answer.status_code == 200
    assert f'action="/run/compare/{slug}"' in answer.text
    assert re.findall(r'(?:src|href|action)="(?!/|#)', answer.text) == []
    ids = re.findall(r'\bid="([^"]+)"', answer.text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'<label for="([^"]+)"', answer.text)) <= set(ids)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    told = re.sub(r"<(code|pre|script)\b.*?</\1>|<[^>]*>", "", answer.text, flags=re.DOTALL)
    assert [line for line in told.splitlines() if "--" in line or "`" in line] == []  # what a form says, not a terminal


def test_the_start_page_names_all_systems_each_with_its_matrix(browser):
    text = browser("GET", "/").text
    assert [slug for slug in READY if f'href="/systems/{slug}"' not in text] == []
    assert set(DRAWN) == set(SYSTEMS)
    assert len({picture(slug) for slug in SYSTEMS}) == len(SYSTEMS)


def test_an_upload_is_run_and_its_result_can_be_taken(browser):
    sent = browser("POST", "/run/apply/tinvnn", files={"data": ("../my points.csv", POINTS)}, data={"seed": "3"})
    assert sent.status_code == 303
    job = browser.wait(sent.headers["location"].rpartition("/")[2])
    assert job.state == "done", job.log()
    assert job.words == ["apply", "tinvnn", "--data=../input/my points.csv", "--seed=3"]
    assert "out/canonical.csv" in map(str, job.files())
    assert browser("GET", f"/runs/{job.id}/files/out/canonical.csv").text.count("\n") == POINTS.count("\n")
    page = browser("GET", f"/runs/{job.id}").text
    assert "apply tinvnn" in page
    assert 'aria-label="canonical.csv"' in page
    assert browser("GET", f"/runs/{job.id}/state").json()["over"] is True
    shared = browser("GET", f"/runs/{job.id}/page")
    assert shared.headers["content-disposition"] == f'attachment; filename="{job.id}.html"'
    assert "canonical.csv" in shared.text
    assert str(job.folder) not in shared.text
    assert not re.search(r"<script|<link|<form|src=|href=\"(?!#)", shared.text)
    for outside in ("input/my points.csv", "job.json", "../../x", "out/../../../x", "%2e%2e/job.json"):
        assert browser("GET", f"/runs/{job.id}/files/{outside}").status_code == 404
    assert browser("POST", f"/runs/{job.id}/delete").status_code == 303
    assert not job.folder.exists()
    assert browser("GET", f"/runs/{job.id}").status_code == 404


@pytest.mark.slow
def test_a_broken_file_gives_its_sentence(browser):
    sent = browser("POST", "/run/apply/tinvnn", files={"data": ("points.csv", "x,y\n1,two\n")})
    job = browser.wait(sent.headers["location"].rpartition("/")[2])
    assert job.state == "refused"
    page = browser("GET", f"/runs/{job.id}").text
    assert job.answer()["error"].split(":")[0] in page
    assert "Traceback" not in page


@pytest.mark.parametrize("state", ["refused", "failed", "stopped", "lost"])
@pytest.mark.parametrize("kept", [False, True])
def test_the_page_of_a_run_that_ended_early_speaks_of_fields_and_offers_what_can_be_done(browser, state, kept):
    folder = browser.jobs.folder("fit", "olinear")
    if kept:
        (folder / "out" / "checkpoint.safetensors").touch()
    job = Job(folder.name, "fit", "olinear", ["fit", "olinear"], resumes=True, state=state, folder=folder)
    (folder / "answer.json").write_text(json.dumps({"error": "--lookback 3 <b> is too short for --data; see `linmap`"}))
    browser.jobs._jobs[job.id] = browser.jobs._kept(job)
    page = browser("GET", f"/runs/{job.id}").text
    failed = page.partition('class="failed"')[2].partition("</div>")[0]
    assert "“lookback” 3 &lt;b&gt; is too short for your file; see <code>linmap</code>" in failed
    may = kept or state != "refused"
    assert ("Go on" in page) == may
    if not may:
        assert browser("POST", f"/runs/{job.id}/resume").status_code == 400


@pytest.mark.slow
def test_a_run_stops_and_goes_on(browser):
    sent = browser("POST", "/run/compare/bt2", data={"seed": "0"})
    id = sent.headers["location"].rpartition("/")[2]
    until = time.monotonic() + 30
    while browser.jobs[id].state == "waiting" and time.monotonic() < until:
        time.sleep(0.02)
    assert browser("POST", f"/runs/{id}/delete").status_code == 400
    browser("POST", f"/runs/{id}/stop")
    assert browser.wait(id).state == "stopped"
    assert "Go on" in browser("GET", f"/runs/{id}").text
    browser("POST", f"/runs/{id}/resume")
    browser("POST", f"/runs/{id}/stop")
    assert browser.wait(id).words[-1] == "--resume"


def test_a_run_that_was_stopped_while_it_waited_and_begun_anew_runs_once(browser, monkeypatch):
    begun = []
    jobs = browser.jobs
    begin = jobs._begun
    monkeypatch.setattr(jobs, "_begun", lambda job: begun.append(job.id) or begin(job))
    jobs.at_once = 0
    folder = jobs.folder("compare", "bt2")
    id = jobs.start(folder, "compare", "bt2", ["compare", "bt2", "--data=nope"], True).id
    jobs.stop(id)
    assert jobs[id].state == "stopped"
    jobs.resume(id)
    jobs.at_once = 1
    jobs._go_on()
    assert browser.wait(id).state == "refused"
    jobs.stop(id)
    time.sleep(0.1)
    assert (begun, jobs[id].state) == ([id], "refused")


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["fit", "olinear", "--horizon=24", "--out=out"], ["linmap.sequence.olinear", "OLinearForecaster(h=24"]),
        (["apply", "mbat", "--dim=512"], ["linmap.retrieve.mbat", "JSONVectorizer(dim=512"]),
        (["fit", "acm"], ["linmap.signals.acm", "ACMClassifier(orders="]),
        (["fit", "tooth_arrangement"], ["linmap.shapes.tooth_arrangement", "TADPM("]),
        (["apply", "linearscope"], ["linmap.interpret.linearscope", "LinearScope(model"]),
        (["compare", "olinear", "--horizon=24"], []),
    ],
)
def test_the_code_makes_what_the_command_made(words, made, tmp_path):
    job = Job("x", words[0], words[1], words, folder=tmp_path)
    code = code_of(job, settings_of(job))
    assert code["python"] == f"from linmap.cli import main\n\nmain({words!r})"
    assert bool(code["made"]) == bool(made)
    if made:
        package = code["made"].split()[1]
        assert package == made[0]
        assert all(part in code["made"] for part in made)
        exec(code["made"], {"model": torch.nn.Identity()})  # as it stands


def test_what_was_answered_is_told_with_few_digits_as_lists_and_as_rows():
    found = {one.name: one for one in told(
        {"out": "x", "best_epoch": 3, "parameters": 3300004, "loss": 0.07589563848, "exact": True, "names": ["a", "b"],
         "none": None, "errors": [{"series": "<a>", "error": 3.93111}], "notes": ["long " * 9, "word " * 9],
         "by": {"a": 1.23456}}
    )}  # fmt: skip
    assert "out" not in found
    assert [found[name].text for name in ("best epoch", "parameters", "loss", "exact", "names", "none")] == [
        "3", "3,300,004", "0.0759", "yes", "a, b", "none"
    ]  # fmt: skip
    assert found["errors"].rows == (("series", "error"), ("<a>", "3.931"))
    assert found["by"].rows == (("a",), ("1.235",))
    assert found["notes"].items == ("long " * 9, "word " * 9)
    assert [rounded(cell) for cell in ("10.169267607664574", "2016-07-01", "12", "0.5", "1234567890123", "a.b")] == [
        "10.1693", "2016-07-01", "12", "0.5", "1234567890123", "a.b"
    ]  # fmt: skip


# A command in the place of linmap: it says what it was given, and ends when there is a file "end" beside its folder.
ECHO = """
import pathlib, sys, time
pathlib.Path("out" if pathlib.Path("out").exists() else ".", "said.txt").write_text(" ".join(sys.argv[1:]))
while not (pathlib.Path.cwd() / sys.argv[1]).exists(): time.sleep(.01)
"""


@pytest.fixture
def echoing(browser, monkeypatch, tmp_path):
    monkeypatch.setattr(
        Jobs, "_line", lambda self, job: [sys.executable, "-c", ECHO, str(tmp_path / "end"), *job.words]
    )
    return browser


def test_eight_users_at_once_wait_in_their_order_get_their_own_and_stop_only_their_own(echoing, tmp_path):
    jobs, users = echoing.jobs, 8
    jobs.at_once = 2
    ids = [""] * users

    def use(user):
        sent = echoing(
            "POST", "/run/apply/tinvnn", files={"data": (f"{user}.csv", POINTS)}, data={"seed": f"{user + 1}"}
        )
        ids[user] = sent.headers["location"].rpartition("/")[2]

    threads = [threading.Thread(target=use, args=(user,)) for user in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == users
    assert sorted(jobs[id].state for id in ids) == ["running"] * 2 + ["waiting"] * 6
    waiting = sorted((id for id in ids if jobs[id].state == "waiting"), key=jobs.ahead)
    assert [jobs.ahead(id) for id in waiting] == [2, 3, 4, 5, 6, 7]
    assert f'<span id="ahead">{jobs.ahead(waiting[-1])}</span>' in echoing("GET", f"/runs/{waiting[-1]}").text
    running = next(id for id in ids if jobs[id].state == "running")
    for mine in (waiting[0], running):
        echoing("POST", f"/runs/{mine}/stop")
        assert echoing.wait(mine).state == "stopped"
    assert echoing("GET", f"/runs/{waiting[1]}/state").json()["state"] == "running"  # it took the place that was left
    assert [jobs.ahead(id) for id in waiting[2:]] == [2, 3, 4, 5]
    (tmp_path / "end").touch()
    for user, id in enumerate(ids):
        if id not in (waiting[0], running):
            assert echoing.wait(id).state == "done"
            said = echoing("GET", f"/runs/{id}/files/out/said.txt").text
            assert said.endswith(f"apply tinvnn --data=../input/{user}.csv --seed={user + 1}")
            assert (jobs[id].folder / "input" / f"{user}.csv").exists()


def test_a_run_of_every_verb_has_its_page_while_it_waits_and_when_it_is_over(echoing, tmp_path):
    jobs = echoing.jobs
    for slug, verbs in (("olinear", ("fit", "compare")), ("tinvnn", ("apply", "compare")), ("bt2", ("compare",))):
        for verb in verbs:
            jobs.at_once = 0
            id = echoing("POST", f"/run/{verb}/{slug}", data={"seed": "0"}).headers["location"].rpartition("/")[2]
            assert echoing("GET", f"/runs/{id}").status_code == 200
            echoing("POST", f"/runs/{id}/stop")
            assert echoing("GET", f"/runs/{id}").status_code == 200
            assert echoing("GET", f"/runs/{id}/page").status_code == (404 if verb == "compare" else 200)


def test_a_queue_has_an_end_and_goes_with_the_app(echoing, monkeypatch):
    monkeypatch.setattr(linmap.app.jobs, "MOST_WAITING", 1)
    jobs = echoing.jobs
    first, second = (
        echoing("POST", "/run/compare/bt2", data={"seed": "0"}).headers["location"].rpartition("/")[2] for _ in range(2)
    )
    third = echoing("POST", "/run/compare/bt2", data={"seed": "0"})
    assert (third.status_code, "wait already" in third.text) == (400, True)
    jobs.close()
    assert [jobs[id].state for id in (first, second)] == ["stopped", "stopped"]
    assert not (jobs[second].folder / "log.txt").exists()


def test_a_command_that_cannot_begin_has_failed_and_the_next_one_begins(echoing, monkeypatch, tmp_path):
    (tmp_path / "end").touch()
    lines = iter([["/no/such/program"]])
    line = Jobs._line
    monkeypatch.setattr(Jobs, "_line", lambda self, job: next(lines, None) or line(self, job))
    for state in ("failed", "done"):
        sent = echoing("POST", "/run/compare/bt2", data={"seed": "0"})
        assert echoing.wait(sent.headers["location"].rpartition("/")[2]).state == state


def test_other_sites_and_other_names_are_refused(browser):
    foreign = {"origin": "http://evil.example"}
    assert browser("POST", "/run/compare/bt2", headers=foreign).status_code == 403
    assert browser("POST", "/run/compare/bt2", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert browser("POST", "/run/compare/bt2", headers={"origin": "null"}).status_code == 403
    assert browser("GET", "/", headers={"host": "evil.example"}).status_code == 400
    assert browser.jobs.all() == []


def test_what_is_too_large_unknown_or_elsewhere_is_refused_in_a_sentence(browser):
    for path in ("/systems/nope", "/runs/nope", "/nope", "/static/../site.py"):
        assert browser("GET", path).status_code == 404
    large = browser("POST", "/run/apply/tinvnn", files={"data": ("a.csv", b"1" * (2 * 2**20))})
    assert (large.status_code, "larger than 1" in large.text) == (400, True)
    wrong = browser("POST", "/run/apply/linearscope", data={"model": "/etc"})
    assert (wrong.status_code, "by upload" in wrong.text) == (400, True)
    other = browser("POST", "/run/apply/mbat", data={"points": "abc"})
    assert (other.status_code, "no field" in other.text) == (400, True)
    broken = browser(
        "POST", "/run/apply/mbat", content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert (broken.status_code, "without its fields" in broken.text) == (400, True)
    assert browser("POST", "/run/fit/mbat").status_code == 404
    assert browser("POST", "/run/apply/olinear", data={"artifact": "nope"}).status_code == 400

    async def parts():
        yield b"x"

    endless = browser("POST", "/run/apply/tinvnn", content=parts(), headers={"content-type": "text/plain"})
    assert endless.status_code == 400
    assert browser.jobs.all() == []
    assert [path.name for path in browser.jobs.root.iterdir()] == [".lock"]


def test_text_of_runs_is_text_on_their_pages(browser):
    folder = browser.jobs.folder("apply", "tinvnn")
    (folder / "out" / "<img src=x onerror=alert(1)>.txt").write_text("x")
    (folder / "log.txt").write_text("<script>alert(1)</script>")
    job = browser.jobs.start(folder, "apply", "tinvnn", ["apply", "tinvnn", "--data=<b>"], False)
    browser.wait(job.id)
    (folder / "out" / "table.csv").write_text('a,<img src=x>\n"<script>alert(2)</script>",2\n')
    (folder / "out" / "bad.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(3)</script></svg>")
    for path in (f"/runs/{job.id}", f"/runs/{job.id}/page"):
        page = browser("GET", path).text
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "<b>" not in page.replace("<b>linmap</b>", "")


def test_pages_that_commands_wrote_stand_apart_from_the_site(browser):
    folder = browser.jobs.folder("apply", "tinvnn")
    (folder / "out" / "page.html").write_text("<script>fetch('/')</script>")
    job = browser.jobs.start(folder, "apply", "tinvnn", ["apply", "tinvnn", "--data=nope.csv"], False)
    browser.wait(job.id)
    policy = browser("GET", f"/runs/{job.id}/files/out/page.html").headers["content-security-policy"]
    assert "sandbox" in policy
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert "default-src 'none'" in policy


def test_one_app_a_folder_and_what_ran_when_it_ended_is_lost(tmp_path):
    jobs = Jobs(tmp_path)
    with pytest.raises(UsageError, match="another app"):
        Jobs(tmp_path)
    folder = jobs.folder("compare", "bt2")
    job = Job(folder.name, "compare", "bt2", ["compare", "bt2"], True, "running", folder=folder)
    jobs._kept(job)
    jobs.close()
    again = Jobs(tmp_path)
    assert again[job.id].state == "lost"
    again.close()
