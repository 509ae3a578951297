"""Each verb end to end with a recipe that is small enough to see through."""

import html
import json
from pathlib import Path

import pytest

from linmap import recipes
from linmap.cli import main, verbs
from linmap.experiment.result import Failure, Result
from linmap.recipes import search as searching


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


def test_what_a_recipe_prints_never_mixes_with_the_answer(ruler, capsys):
    assert main(["fit", ruler]) == 0
    out, err = capsys.readouterr()
    assert "noise" not in out
    assert "noise" in err
    assert "linmap apply runs/fit-ruler" in out


@pytest.mark.parametrize(("preset", "horizon"), [("quick", 2), ("full", 9)])
@pytest.mark.parametrize("written", ["--preset {}", "--preset={}"])
def test_the_preset_sets_the_defaults_that_flags_override(preset, horizon, written, ruler, capsys):
    flags = written.format(preset).split()
    settings = document(capsys, "compare", ruler, *flags)["result"]["settings"]
    assert (settings["horizon"], settings["loss"]) == (horizon, "l1")
    settings = document(capsys, "compare", ruler, "--horizon", "5", *flags)["result"]["settings"]
    assert settings["horizon"] == 5


def test_a_flag_of_one_verb_alone_is_none_of_another(ruler, monkeypatch, capsys):
    monkeypatch.setattr(recipes.load(ruler).Settings, "ONLY_FOR", {"fit": ("horizon",)}, raising=False)
    assert main(["compare", "ruler", "--horizon", "3"]) == 2
    assert "there is no flag --horizon" in capsys.readouterr().err
    assert main(["compare", "ruler"]) == 0
    assert main(["fit", "ruler", "--horizon", "3"]) == 0


def test_compare_completes_and_saves_the_result(ruler, capsys):
    found = document(capsys, "compare", ruler, "--preset", "full", "--seed", "4")
    result = Result.load("runs/compare-ruler")
    assert result.command == "linmap compare ruler --preset full --seed 4"
    assert (result.preset, result.seeds) == ("full", [4, 5])
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
    assert Result.load("t/ruler").command == "linmap compare ruler --preset quick --seed 0 --out t/ruler"


def test_tour_resumes_only_what_has_the_same_preset_and_seed(ruler, capsys):
    def finished(*flags: str) -> str:
        document(capsys, "tour", "--systems", ruler, "--out", "t", *flags)
        return Path("t/ruler/result.json").read_text()

    first = finished()
    assert finished("--resume") == first
    assert finished("--resume", "--seed", "1") != first
    first = finished("--resume", "--preset", "full")
    assert '"preset": "full"' in first
    Path("t/ruler/result.json").write_text("{")
    assert json.loads(finished("--resume", "--preset", "full"))["preset"] == "full"


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
    assert Path(found["report"]) == Path("runs/report.html")
    page = document(capsys, "report", "runs/b", "--out", "page.html")["report"]
    assert "--horizon 7" in Path(page).read_text()


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
