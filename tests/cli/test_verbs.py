"""Each verb end to end with a recipe that is small enough to see through."""

import html
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from linmap import recipes
from linmap.cli import main, verbs
from linmap.experiment.result import Failure, Result
from linmap.recipes import search as searching
from linmap.recipes.job import ApplyJob, FittedJob
from linmap.recipes.recipe import Verb


def document(capsys: pytest.CaptureFixture, *words: str, code: int = 0) -> dict:
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_fit_then_apply_uses_what_was_fitted(ruler, capsys):
    fitted = document(capsys, "fit", ruler, "--horizon", "3", "--out", "run", "--resume")
    assert (fitted["verb"], fitted["system"], fitted["out"]) == ("fit", "ruler", "run")
    assert fitted["summary"] == {"horizon": 3, "loss": "l1", "resumed": True, "nan": None}
    applied = document(capsys, "apply", "run", "--out", "there")
    assert (applied["system"], applied["out"]) == ("ruler", "there")
    assert applied["summary"] == {"artifact": "run", "dim": None, "data": None}


@pytest.mark.usefixtures("ruler")
def test_a_folder_with_the_name_of_a_system_is_the_folder_once_it_holds_a_run(capsys):
    document(capsys, "fit", "ruler", "--out", "ruler")
    assert document(capsys, "apply", "ruler")["summary"]["artifact"] == "ruler"


def test_apply_takes_the_flags_of_a_system_without_training(compass, capsys):
    Path("compass").mkdir()  # an empty folder of that name changes nothing
    assert document(capsys, "apply", compass, "--dim", "9")["summary"] == {"artifact": None, "dim": 9, "data": None}


def test_a_system_that_is_fitted_may_do_something_before(ruler, compass, monkeypatch, capsys):
    assert main(["apply", ruler]) == 2
    assert "must be fitted first" in capsys.readouterr().err
    bare = Verb(recipes.load(compass).apply.flags, "linmap.recipes.ruler:apply")
    monkeypatch.setattr("linmap.recipes.ruler.RECIPE", replace(recipes.load(ruler), unfitted=bare))
    found = document(capsys, "apply", ruler, "--dim", "4")
    assert found["summary"] == {"artifact": None, "dim": 4, "data": None}
    document(capsys, "fit", ruler, "--out", "run")
    assert document(capsys, "apply", "run")["summary"] == {"artifact": "run", "dim": None, "data": None}


def test_what_a_recipe_prints_never_mixes_with_the_answer(ruler, capsys):
    assert main(["fit", ruler]) == 0
    out, err = capsys.readouterr()
    assert "noise" not in out
    assert "noise" in err
    assert "linmap apply runs/fit-ruler" in out


def test_flags_override_the_defaults_of_a_comparison(ruler, capsys):
    settings = document(capsys, "compare", ruler)["result"]["settings"]
    assert settings == {"horizon": 2, "loss": "l1", "ignore": [], "shift": False}
    assert document(capsys, "compare", ruler, "--horizon", "5")["result"]["settings"]["horizon"] == 5


@dataclass(frozen=True)
class Short:
    """For short files."""

    length: int = 3
    """Of the file."""


@pytest.mark.parametrize("verb", ["fit", "compare"])
@pytest.mark.parametrize("given", [["--data", "a.txt"], ["--data=a.txt"]])
def test_the_file_decides_which_flags_there_are(verb, given, ruler, monkeypatch, capsys):
    recipe = recipes.load(ruler)
    usual = getattr(recipe, verb)
    by_file = replace(usual, flags=lambda path: Short if path == Path("a.txt") else usual.flags)
    changed = replace(recipe, **{verb: by_file})
    monkeypatch.setattr(f"linmap.recipes.{ruler}.RECIPE", changed)
    assert main([verb, ruler, "--help", *given]) == 0
    assert "--length" in (shown := capsys.readouterr().out)
    assert "--horizon" not in shown
    assert main([verb, ruler, "--help"]) == 0
    assert "--horizon" in capsys.readouterr().out


def test_a_verb_that_cannot_go_on_has_no_such_flag(ruler, compass, capsys):
    assert main(["compare", compass, "--resume"]) == 2
    assert "there is no flag --resume" in capsys.readouterr().err
    assert main(["compare", ruler, "--resume"]) == 0


@dataclass(frozen=True)
class Going:
    """Of an `apply` that goes on by itself."""

    resume: bool = False
    """Keep what is done."""


def test_a_flag_of_the_systems_own_with_that_name_stays(compass, monkeypatch, capsys):
    recipe = recipes.load(compass)
    changed = replace(recipe, apply=replace(recipe.apply, flags=Going))
    monkeypatch.setattr(f"linmap.recipes.{compass}.RECIPE", changed)
    assert main(["apply", compass, "--resume"]) == 0


def test_what_was_fitted_comes_with_its_folder(ruler, compass, capsys, monkeypatch):
    jobs = []
    for slug in (ruler, compass):
        monkeypatch.setattr(f"linmap.recipes.{slug}.apply", lambda settings, job: jobs.append(job) or {})
    for words in (["fit", ruler, "--out", "run"], ["apply", "run"], ["apply", compass]):
        assert main(words) == 0
    assert jobs == [FittedJob(artifact=Path("run")), ApplyJob()]


def test_compare_completes_and_saves_the_result(ruler, capsys):
    found = document(capsys, "compare", ruler, "--horizon", "9", "--seed", "4")
    result = Result.load("runs/compare-ruler")
    assert result.command == "linmap compare ruler --horizon 9 --seed 4"
    assert result.seeds == [4, 5]
    assert result.seconds is not None
    assert found["result"]["rows"][0]["values"] == {"error": [2.25, 0.5]}


def test_compare_shows_every_method_and_check(ruler, capsys):
    assert main(["compare", ruler]) == 0
    out = capsys.readouterr().out
    for part in (
        "0.5000 ± 0.0000",
        "2.5000 ± 0.7071",
        "12.3 k",
        "✓ the ruler is below the guess",
        "It shows.",
        "It hides.",
    ):
        assert part in out
    assert out.endswith("next linmap report runs/compare-ruler\n")


def test_tour_goes_on_past_a_failure_and_reports_it(ruler, compass, capsys):
    found = document(capsys, "tour", "--systems", f"{compass},{ruler}", "--out", "t", code=1)
    assert [(s["system"], s["status"]) for s in found["systems"]] == [("compass", "failed"), ("ruler", "done")]
    assert (
        html.escape(Failure.load("t/compass").error, quote=True).replace("&#x27;", "&#39;")
        in Path(found["report"]).read_text()
    )
    assert Result.load("t/ruler").command == "linmap compare ruler --seed 0 --out t/ruler"


def test_what_failed_in_a_tour_is_told_word_for_word(ruler, compass, capsys):
    main(["tour", "--systems", f"{compass},{ruler}", "--out", "t"])
    out, err = capsys.readouterr()
    assert "linmap[north]" in out
    assert "linmap[north]" in err


def test_tour_resumes_only_what_has_the_same_settings_and_seed(ruler, capsys):
    def finished(*flags: str) -> str:
        document(capsys, "tour", "--systems", ruler, "--out", "t", *flags)
        return Path("t/ruler/result.json").read_text()

    first = finished()
    assert finished("--resume") == first
    assert finished("--resume", "--seed", "1") != first
    document(capsys, "compare", ruler, "--out", "t/ruler", "--seed", "1", "--horizon", "9")
    assert json.loads(finished("--resume", "--seed", "1"))["settings"]["horizon"] == 2
    Path("t/ruler/result.json").write_text("{")
    assert json.loads(finished("--resume", "--seed", "1"))["seeds"] == [1, 2]


def test_a_failure_is_forgotten_once_the_comparison_succeeds(ruler, capsys):
    Path("t/ruler").mkdir(parents=True)
    breaker = Path("t/ruler/break")
    breaker.touch()
    document(capsys, "tour", "--systems", ruler, "--out", "t", code=1)
    assert Failure.load("t/ruler").error == "RuntimeError: the ruler broke"
    breaker.unlink()
    assert document(capsys, "tour", "--systems", ruler, "--out", "t", "--resume")["systems"][0]["status"] == "done"
    assert not Path("t/ruler/failure.json").exists()


def test_tour_without_names_takes_every_system_that_is_ready(ruler, monkeypatch, capsys):
    only = {slug: system for slug, system in verbs.recipes.SYSTEMS.items() if slug in (ruler, "sundial")}
    monkeypatch.setattr(verbs.recipes, "SYSTEMS", only)
    assert [system["system"] for system in document(capsys, "tour")["systems"]] == [ruler]


def test_report_covers_every_result_in_the_folder(ruler, capsys):
    main(["compare", ruler, "--out", "runs/a"])
    main(["compare", ruler, "--out", "runs/b", "--horizon", "7"])
    capsys.readouterr()
    found = document(capsys, "report", "runs")
    assert found["systems"] == [ruler, ruler]
    assert found["failed"] == []
    assert Path(found["report"]) == Path("runs/report.html")
    page = document(capsys, "report", "runs/b", "--out", "page.html")["report"]
    assert "--horizon 7" in Path(page).read_text()
    Path("runs/a/result.json").write_text("{")
    assert document(capsys, "report", "runs")["failed"] == ["runs/a"]
    assert main(["report", "runs"]) == 0
    assert "failed runs/a (the page says why)" in capsys.readouterr().out


def test_bench_runs_the_benchmarks_of_the_checkout_with_their_own_flags(tmp_path, monkeypatch, capsys):
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__main__.py").write_text("import sys; print(sys.argv[1:]); sys.exit('--fail' in sys.argv)")
    monkeypatch.chdir(tmp_path)
    assert document(capsys, "bench", "--only", "maps")["results"] == str(package / "RESULTS.md")
    assert document(capsys, "bench", "--fail", code=1)["code"] == 1


def test_bench_outside_a_checkout_says_where_it_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verbs, "__file__", str(tmp_path / "a" / "b" / "c" / "verbs.py"))
    assert main(["bench"]) == 2
    assert "run this in a checkout of linmap" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["search", "people.parquet"], ["search", "--index", "people.parquet"]])
def test_search_answers_from_the_recipe(words, monkeypatch, capsys):
    monkeypatch.setattr(searching, "search", lambda settings: {"index": settings.index, "top": settings.top})
    assert document(capsys, *words, "--top", "6")["summary"] == {"index": "people.parquet", "top": 6}


def test_index_answers_from_the_recipe(monkeypatch, capsys):
    monkeypatch.setattr(searching, "index", lambda settings: {"data": str(settings.data), "into": settings.into})
    summary = document(capsys, "index", "v.npy", "--into", "faiss:index")["summary"]
    assert summary == {"data": "v.npy", "into": "faiss:index"}
