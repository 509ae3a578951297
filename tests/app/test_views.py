"""Views made for looking: what they tell is true of the method, and questions that are not theirs are refused."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the app's extra is not installed: pip install 'linmap[app]'")
pytest.importorskip("multipart", reason="the app's extra is not installed: pip install 'linmap[app]'")

from app.test_site import READY, Browser
from linmap.app import views
from linmap.app.jobs import Job, Jobs, State
from linmap.errors import UsageError
from linmap.recipes import load
from linmap.recipes.view import Seen, number, numbers, text, whole

SEEN = [slug for slug in READY if load(slug).view]


@pytest.fixture
def browser(tmp_path):
    jobs = Jobs(tmp_path / "runs")
    yield Browser(jobs)
    jobs.close()


def job_of(browser, verb, slug, words, state: State = "done") -> Job:
    """A run that is over, with its folder."""
    folder = browser.jobs.folder(verb, slug)
    job = Job(folder.name, verb, slug, [verb, slug, *words], state=state, folder=folder)
    browser.jobs._jobs[job.id] = job
    return job


def asked(browser, job, question):
    answer = browser("POST", f"/runs/{job.id}/view", json=question)
    assert answer.status_code == 200, answer.text
    return answer.json()


# -- the app -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SEEN)
def test_a_view_is_told_and_drawn_by_a_script_that_writes_no_html_and_asks_no_other_host(browser, slug):
    script = browser("GET", f"/views/{slug}.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://", script.text)
    view = load(slug).view
    assert view is not None
    assert view.hint.endswith(".")
    assert (f'data-from="/systems/{slug}/view"' in browser("GET", f"/systems/{slug}").text) == view.example


def test_what_is_no_question_of_a_view_is_refused_in_a_sentence(browser):
    path = "/systems/tinvnn/view"
    for body, said in {
        "": "empty", "[1]": "JSON object", "nope": "not JSON", "[" * 5000: "deep", '{"x": NaN}': "NaN",
        json.dumps({"a": "x" * 70_000}): "64 KB",
    }.items():  # fmt: skip
        answer = browser("POST", path, content=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("a question is")
        assert said in answer.json()["error"]
    assert browser("POST", path, json={}, headers={"origin": "http://evil.example"}).status_code == 403
    for there in ("/systems/bt2/view", "/systems/olinear/view", "/systems/nope/view", "/runs/nope/view"):
        assert browser("POST", there, json={}).status_code == 404
    unfinished = job_of(browser, "apply", "tinvnn", [], "failed")
    assert browser("POST", f"/runs/{unfinished.id}/view", json={}).status_code == 404
    for name in ("bt2", "nope", "..%2ftinvnn", "recipe"):
        assert browser("GET", f"/views/{name}.js").status_code == 404


def test_a_run_that_its_view_does_not_show_says_so_and_is_no_error(browser):
    for slug, words in {"olinear": ["--backtest=3", "--refit=3"], "tooth_arrangement": []}.items():
        job = job_of(browser, "apply", slug, words)
        assert set(asked(browser, job, {})) == {"nothing"}
        refused = browser("POST", f"/runs/{job.id}/view", json={"proposal": 0})
        assert (refused.status_code, set(refused.json())) == (400, {"error"})


@pytest.mark.parametrize(
    "read",
    [
        lambda value: whole({"a": value}, "a", 5),
        lambda value: number({"a": value}, "a", 0, 4, 1),
        lambda value: numbers({"a": value}, "a", (0.0, 0.0)),
        lambda value: text({"a": value}, "a", 4),
    ],
)
@pytest.mark.parametrize(
    "value", [-1, 5, 1e400, float("nan"), True, None, {"a": 1}, ["x", 1], [1, 2, 3], [[1], 2], "long text"]
)
def test_a_question_is_read_as_it_is_meant_or_refused(read, value):
    with pytest.raises(UsageError, match=r"^a is "):
        read(value)


class Slow:
    """Answers what was asked, and would tell of another question in between."""

    def __init__(self, seen):
        self.now = None

    def start(self):
        return {"x": -1}

    def answer(self, question):
        self.now = question["x"]
        threading.Event().wait(0.002)
        return {"x": self.now}


def test_questions_at_once_get_their_own_answers_and_a_deleted_run_is_forgotten(browser, monkeypatch):
    view = load("tinvnn").view
    assert view is not None
    monkeypatch.setattr(views, "view_of", lambda slug, verb=None: replace(view, work=f"{__name__}:Slow"))
    jobs = [job_of(browser, "apply", "tinvnn", []) for _ in range(2)]
    told = {}

    def ask(x):
        told[x] = asked(browser, jobs[x % 2], {"x": x})["x"]

    threads = [threading.Thread(target=ask, args=(x,)) for x in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {x: x for x in range(1, 7)}
    browser("POST", f"/runs/{jobs[0].id}/delete")
    assert browser("POST", f"/runs/{jobs[0].id}/view", json={}).status_code == 404


# -- what they tell ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_the_canonical_pose_stays_however_the_cloud_is_turned_moved_mirrored_and_resized(browser, dim):
    random = np.random.default_rng(dim)
    job = job_of(browser, "apply", "tinvnn", ["--data=../input/points.csv"])
    np.savetxt(job.folder / "input" / "points.csv", random.gamma(1.5, size=(40, dim)) * [3, 2, 1][:dim],
               header="xyz"[0] + ",y" + ",z" * (dim - 2), comments="", delimiter=",")  # fmt: skip
    first = asked(browser, job, {})
    for _ in range(4):
        turn = np.eye(3)
        turn[:dim, :dim] = np.linalg.qr(random.standard_normal((dim, dim)))[0]
        shift = random.uniform(-3, 3, 3).tolist()
        question = {"turn": turn.ravel().tolist(), "mirrored": 1, "size": random.uniform(0.1, 9), "shift": shift}
        found = asked(browser, job, {"cloud": 0} | question)
        assert found["difference"] < 1e-6
        np.testing.assert_allclose(found["canonical"], first["canonical"], atol=1e-6)
    sheared = browser("POST", f"/runs/{job.id}/view", json={"turn": [1, 1, 0, 0, 1, 0, 0, 0, 1]})
    assert (sheared.status_code, "no rotation" in sheared.text) == (400, True)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "vit"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = transformers.ViTConfig(num_hidden_layers=4, image_size=32, patch_size=4, **sizes)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    steps = {"do_resize": True, "size": {"height": 32, "width": 32}, "do_rescale": True, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(steps | {"image_processor_type": "ViTImageProcessor"}))
    return folder


@pytest.mark.slow
def test_tokens_keep_the_mass_of_all_patches_and_each_patch_flows_into_the_token_that_holds_it(browser, vit):
    job = job_of(browser, "apply", "token_transforming", [f"--model={vit}"])
    first = asked(browser, job, {})
    counts = [stage["tokens"] for stage in first["stages"]]
    assert counts[0] == 65
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == len(counts) > 1
    for number_of_stage, stage in enumerate(first["stages"]):
        assert sum(stage["mass"]) == pytest.approx(65, rel=1e-5)
        assert len(stage["owner"]) == 64
        found = asked(browser, job, {"image": 0, "stage": number_of_stage, "patch": 7})
        assert found["token"] == stage["owner"][7]
        assert found["mass"] == pytest.approx(stage["mass"][found["token"]])
        assert sum(found["made_of"]) <= 1 + 1e-5
    everything = asked(browser, job, {"image": 0, "keep": 1})
    assert [stage["tokens"] for stage in everything["stages"]] == [65]
    for wrong in ({"image": 99}, {"image": 0, "keep": 2}, {"stage": 1, "patch": 64}, {"stage": "x", "patch": 1}):
        assert browser("POST", f"/runs/{job.id}/view", json=wrong).status_code == 400


def test_votes_of_cells_and_biases_add_up_to_the_output(browser):
    job = job_of(browser, "apply", "linearscope", ["--model=fsrcnn-small-x2", "--side=12"])
    first = asked(browser, job, {})
    for found in (first, *(asked(browser, job, {"at": place}) for place in ([0, 0], [23, 5]))):
        assert np.sum(found["cells"]) + found["residual"] == pytest.approx(found["value"], abs=1e-5)
    one = asked(browser, job, {"of": [first["target"], 3], "cell": 5})["adds"]
    assert one[0] == pytest.approx(np.ravel(first["cells"])[5], abs=1e-6)
    outside = browser("POST", f"/runs/{job.id}/view", json={"at": [24, 0]})
    assert outside.status_code == 400


@pytest.mark.slow
def test_votes_of_words_add_up_to_the_logit_of_the_word_that_stands_there(browser, tmp_path):
    pytest.importorskip("transformers")
    from recipes.finetuning.tiny import save_llama

    model = save_llama(tmp_path / "llama")
    job = job_of(browser, "apply", "linearscope", [f"--model={model}", "--data=../input/prompt.txt"])
    (job.folder / "input" / "prompt.txt").write_text("One <two>")
    first = asked(browser, job, {})
    assert "".join(first["words"]) == "One <two>"
    for found in (first, asked(browser, job, {"position": 4}), asked(browser, job, {"position": 4, "target": 9})):
        assert len(found["votes"]) == found["position"]
        assert sum(found["votes"]) + found["residual"] == pytest.approx(found["value"], rel=1e-3, abs=1e-4)
    assert asked(browser, job, {"position": 4})["name"] == "<"


def test_sliders_at_zero_are_the_plain_images_and_moved_ones_the_edit_of_the_command(browser, tmp_path, monkeypatch):
    from linmap.data.generators import DCGAN
    from linmap.interpret.householder_projector import save_generator
    from linmap.interpret.householder_projector.pictures import as_pixels
    from linmap.recipes.householder_projector.view import DirectionView
    from linmap.recipes.pixels import embedded_png

    for place in ("attributes.POPULATION", "directions.SAMPLES"):
        monkeypatch.setattr(f"linmap.interpret.householder_projector.{place}", 64)
    save_generator(tmp_path / "dcgan", DCGAN(6, (8,), 3))
    words = [f"--model={tmp_path / 'dcgan'}", "--rank=3"]
    job = job_of(browser, "apply", "householder_projector", words)
    first = asked(browser, job, {})
    assert len(first["directions"]) == 3
    assert first["plain"] == first["moved"]
    assert asked(browser, job, {"seed": 5, "amounts": [0, 0, 0]})["moved"] != first["moved"]
    moved = asked(browser, job, {"seed": 0, "amounts": [0, 2, -1]})
    assert moved["plain"] == first["plain"] != moved["moved"]
    view = DirectionView(Seen("apply", ("apply", "householder_projector", *words), Path()))
    w = view.generator.mapping(views_codes(view))
    edited = as_pixels(view.generator.synthesis(view.directions.edited(w, {2: 2.0, 3: -1.0})))
    assert moved["moved"][0] == embedded_png(edited[0])
    for wrong in ([1, 2], [9, 0, 0], "x"):
        assert browser("POST", f"/runs/{job.id}/view", json={"amounts": wrong}).status_code == 400


def views_codes(view):
    from linmap.interpret.householder_projector.generators import draw_codes
    from linmap.recipes.householder_projector.view import FACES

    return draw_codes(view.generator, FACES, 0)


def test_one_number_remembers_the_mean_of_the_past_and_more_numbers_miss_less(browser):
    def look(question):
        return browser("POST", "/systems/hippo/view", json=question).json()

    signal = np.array(look({})["signal"])
    missed = {}
    for size in (1, 8, 64):
        for now in (100, 700, 1000):
            past, found = signal[:now], look({"size": size, "now": now})
            fitted = np.polynomial.Legendre.fit(np.arange(now), past, size - 1)(np.arange(now))  # the best of so many
            best = np.sqrt(np.mean((past - fitted) ** 2)) / past.std()
            assert best <= found["missed"] * (1 + 1e-9)
            assert found["missed"] < 1.1 * best + 0.05 or size == 64  # which 100 samples do not tell apart
            missed[size, now] = found["missed"]
            if size == 1:
                np.testing.assert_allclose(found["remembered"], np.full(now, past.mean()), rtol=0.01)
    assert all(missed[64, now] < missed[8, now] < missed[1, now] for now in (700, 1000))
    for wrong in ({"size": 0}, {"size": 129}, {"now": 1}, {"now": 1001}, {"size": "8"}):
        assert "error" in look({"size": 8, "now": 50} | wrong)


def test_reasons_of_a_hit_add_up_to_its_cosine(browser):
    from linmap.recipes.job import ApplyJob
    from linmap.recipes.mbat.apply import apply
    from linmap.recipes.mbat.flags import Apply

    job = job_of(browser, "apply", "mbat", ["--data=../input/records.jsonl"])
    path = job.folder / "input" / "records.jsonl"
    docs = [{"name": f"n{i % 3}", "at": {"city": ["Ulm", "Bonn"][i % 2]}, "<b>": i} for i in range(8)]
    path.write_text("".join(json.dumps({"id": f"r{i}", "doc": doc}) + "\n" for i, doc in enumerate(docs)))
    apply(Apply(dim=256, n_jobs=1), ApplyJob(path, job.out / "vectors.parquet"))
    first = asked(browser, job, {})
    assert first["ids"] == [f"r{i}" for i in range(8)]
    for found in (first, asked(browser, job, {"like": '{"name": "n1"}'}), asked(browser, job, {"id": "r3"})):
        for hit in found["hits"]:
            shares = sum(one["share"] for one in hit["because"])
            assert shares + hit["other_paths"] + hit["crosstalk"] == pytest.approx(hit["cosine"], abs=2e-3)
    by_value = asked(browser, job, {"at": "at.city=Bonn"})["hits"]
    assert [hit["because"][0]["match"] for hit in by_value[:3]] == ['"Bonn"'] * 3
    for wrong in ({"id": "nope"}, {"like": "{"}, {"at": "nothing"}, {"like": 3}):
        assert browser("POST", f"/runs/{job.id}/view", json=wrong).status_code == 400


@pytest.mark.slow
def test_a_fitted_model_moves_every_tooth_of_a_simulated_patient_as_a_rigid_body(browser):
    import torch

    from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator

    job = job_of(browser, "fit", "tooth_arrangement", ["--out=out"])
    pairs = DentitionSimulator(points=16).sample(4, generator=torch.Generator().manual_seed(0))
    TADPM(points=16, width=16, blocks=1, epochs=1, sampling_steps=3).fit(pairs).save(job.out)
    first = asked(browser, job, {})
    assert first["proposals"] == 4
    for tooth in first["teeth"]:
        before, after = np.array(tooth["before"]), np.array(tooth["after"])
        assert before.shape == (110, 3)
        distances = [np.linalg.norm(points[1:] - points[:-1], axis=1) for points in (before, after)]
        np.testing.assert_allclose(*distances, atol=5e-3)  # points are rounded to a thousandth of a millimetre
    assert asked(browser, job, {"patient": 3, "proposal": 0})["teeth"][0]["before"] != first["teeth"][0]["before"]
    assert browser("POST", f"/runs/{job.id}/view", json={"proposal": 4}).status_code == 400


@pytest.mark.slow
def test_a_plan_is_shown_as_it_was_written(browser):
    import torch

    from linmap.shapes.tooth_arrangement import DentitionSimulator

    job = job_of(browser, "apply", "tooth_arrangement", ["--data=../input/patient"])
    ((teeth, _),) = DentitionSimulator().sample_sets(1, generator=torch.Generator().manual_seed(1))
    teeth.export(job.folder / "input" / "patient")
    moved = np.eye(4)
    moved[:3, 3] = 2, 1, 2
    (job.folder / "model" / "plan").mkdir(parents=True)
    proposals = [{"motions": {"11": np.eye(4).tolist()}}, {"motions": {"11": moved.tolist()}}]
    (job.folder / "model" / "plan" / "motions.json").write_text(json.dumps({"proposals": proposals}))
    assert all(tooth["after"] == tooth["before"] for tooth in asked(browser, job, {})["teeth"])
    for tooth in asked(browser, job, {"proposal": 1})["teeth"]:
        shifts = np.linalg.norm(np.subtract(tooth["after"], tooth["before"]), axis=1)
        np.testing.assert_allclose(shifts, 3 if tooth["fdi"] == 11 else 0, atol=5e-3)
        assert (tooth["words"] == "stays") == (tooth["fdi"] != 11)


@pytest.mark.slow
def test_a_forecast_is_that_of_the_command_and_stands_inside_its_intervals(browser):
    import pandas as pd

    from linmap.data.timeseries import load_time_series
    from linmap.sequence.olinear import OLinearForecaster

    job = job_of(browser, "fit", "olinear", ["--data=input/table.csv", "--out=out"])
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "day": pd.date_range("2026-01-01", periods=160),
            "<a>": random.normal(size=160).cumsum(),
            "b": random.normal(size=160),
        }
    )
    table.to_csv(job.folder / "input" / "table.csv", index=False)
    series = load_time_series(job.folder / "input" / "table.csv")
    forecaster = OLinearForecaster(h=4, lookback=16, d_model=8, embed=2, epochs=1, calibration=0.3).fit(series)
    forecaster.save(job.out)
    first = asked(browser, job, {})
    assert first["names"] == ["<a>", "b"]
    assert len(first["times"]) == 164
    expected = forecaster.forecast(series)[0]
    for j in range(2):
        found = asked(browser, job, {"series": j})
        assert found["observed"] == pytest.approx(series.values[:, j].tolist())
        (one,) = found["forecasts"]
        assert one["from"] == 160
        assert one["values"] == pytest.approx(expected[:, j].tolist())
        (low80, high80), (low95, high95) = one["ends"]["80"], one["ends"]["95"]
        assert (np.array(low95) <= low80).all()
        assert (np.array(low80) < one["values"]).all()
        assert (np.array(one["values"]) < high80).all()
        assert (np.array(high80) <= high95).all()
    assert browser("POST", f"/runs/{job.id}/view", json={"series": 2}).status_code == 400


@pytest.mark.slow
def test_a_backtest_is_shown_beside_what_came(browser):
    import pandas as pd

    from linmap.data.timeseries import load_time_series
    from linmap.sequence.olinear import OLinearForecaster, backtest

    job = job_of(browser, "apply", "olinear", ["--data=../input/table.csv", "--backtest=3", "--seed=0"])
    values = np.random.default_rng(1).normal(size=130).cumsum()
    path = job.folder / "input" / "table.csv"
    pd.DataFrame({"day": pd.date_range("2026-01-01", periods=130), "a": values}).to_csv(path, index=False)
    series = load_time_series(path)
    forecaster = OLinearForecaster(h=4, lookback=16, d_model=8, embed=2, epochs=1).fit(series.rows(0, 110))
    forecaster.save(job.folder / "model")
    first, expected = asked(browser, job, {}), backtest(forecaster, series, n_windows=3)
    assert [one["from"] for one in first["forecasts"]] == [118, 122, 126]
    for one, forecast in zip(first["forecasts"], expected.forecasts, strict=True):
        assert one["values"] == pytest.approx(forecast[:, 0].tolist())
        assert one["ends"] == {}
    assert first["observed"] == pytest.approx(values.tolist())
    assert len(first["times"]) == 130
