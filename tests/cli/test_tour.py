"""The tour: fastest first, the report after each, what is left, and a true sentence when it is stopped."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from linmap import recipes
from linmap.cli import main, tour
from linmap.cli.program import GO_ON
from linmap.experiment.result import Result

READY = {slug: system for slug, system in recipes.SYSTEMS.items() if system.ready}


def test_every_ready_system_has_its_seconds_and_says_whether_it_is_fitted():
    for slug, system in READY.items():
        assert system.seconds > 0
        assert system.fitted == (recipes.load(slug).fit is not None)


def test_the_fastest_come_first_unless_an_order_is_given():
    seconds = [READY[slug].seconds for slug in tour._ready(())]
    assert seconds == sorted(seconds)
    assert len(seconds) == len(READY)
    assert tour._ready(("salt,bt2", "acm")) == ["salt", "bt2", "acm"]


def test_the_time_left_follows_the_speed_of_this_machine():
    slugs = tour._ready(())
    pace = tour.Pace(slugs)
    usual = sum(READY[slug].seconds for slug in slugs)
    assert pace.left() == f", about {round(usual / 60)} minutes left"
    done = sum(READY[slug].seconds for slug in slugs[:4])
    for slug in slugs[:4]:
        pace.passed(slug, 3 * READY[slug].seconds)
    rest = (3 * done + tour.TRUST) / (done + tour.TRUST) * sum(READY[slug].seconds for slug in slugs[4:])
    assert pace.left() == f", about {round(rest / 60)} minutes left"
    for slug in slugs[4:]:
        pace.passed(slug, None)
    assert pace.left() == ""


def test_a_long_system_shows_a_line_from_time_to_time(monkeypatch):
    monkeypatch.setattr(tour, "UNWATCHED", 0.02)
    file = io.StringIO()
    with tour._pulse(Console(file=file, width=80), "bt2", tour.Pace(["bt2", "salt"]), 3):
        time.sleep(0.3)
    lines = file.getvalue().splitlines()
    assert len(lines) > 2
    assert lines[0].startswith("bt2: 0 ms; 3 of 5 done, about ")


@pytest.fixture
def stopping(ruler, compass, monkeypatch):
    """The compass is stopped while it compares; the ruler is done before."""

    def compare(settings, job):
        raise KeyboardInterrupt

    monkeypatch.setattr("linmap.recipes.compass.compare", compare)
    return ["tour", "--systems", ruler, compass, "--out", "t"]


@pytest.mark.parametrize("go_on", [None, "make demo"])
def test_a_stopped_tour_says_what_is_kept_and_how_to_go_on(go_on, stopping, monkeypatch, capsys):
    if go_on:
        monkeypatch.setenv(GO_ON, go_on)
    assert main(stopping) == 130
    how = go_on or "linmap tour --systems ruler compass --out t --resume"
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"linmap: stopped; 1 of 2 systems is done and kept; go on with: {how}"
    )
    assert Path("t/unfinished").exists()
    assert "Report of 1 system" in Path("t/report.html").read_text()


def test_an_unfinished_tour_goes_on_and_a_finished_one_starts_anew(stopping, monkeypatch, capsys):
    main(stopping)
    first = Path("t/ruler/result.json").read_text()
    ruler = recipes.load("ruler").compare
    monkeypatch.setattr("linmap.recipes.compass.compare", lambda _, job: ruler(ruler.settings()(), job))
    capsys.readouterr()
    assert main([*stopping, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["systems"][0]["status"] == "done"
    assert Path("t/ruler/result.json").read_text() == first
    assert not Path("t/unfinished").exists()


def test_results_of_another_version_are_measured_again(ruler, capsys):
    main(["tour", "--systems", ruler, "--out", "t"])
    raw = json.loads(Path("t/ruler/result.json").read_text())
    raw["versions"]["linmap"] = "0.0.1"
    Path("t/ruler/result.json").write_text(json.dumps(raw))
    main(["tour", "--systems", ruler, "--out", "t", "--resume"])
    assert Result.load("t/ruler").versions["linmap"] != "0.0.1"


def test_the_end_is_a_link_that_opens(ruler, capsys):
    main(["tour", "--systems", ruler, "--out", "a tour"])
    assert Path("a tour/report.html").absolute().as_uri() in capsys.readouterr().out


def test_a_machine_slower_than_usual_is_believed(monkeypatch):
    pace = tour.Pace(["bt2", "salt"])
    monkeypatch.setattr(tour.time, "monotonic", lambda: pace._start + 10 * READY["bt2"].seconds)
    usual = READY["bt2"].seconds
    speed = (10 * usual + tour.TRUST) / (usual + tour.TRUST)
    rest = speed * (usual + READY["salt"].seconds) - speed * usual
    assert 1 < speed < 10
    assert pace.left() == f", about {round(rest / 60)} minutes left"
