"""`linmap fit | apply | compare tooth_arrangement`: what is written, what is refused, what the page asks for."""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from linmap.cli import main
from linmap.experiment import Result
from linmap.recipes.tooth_arrangement import predictors
from linmap.recipes.tooth_arrangement.flags import Apply
from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator, ToothSet, metrics, slot_of
from linmap.shapes.tooth_arrangement.cases import load_case, read_mesh
from shapes.tooth_arrangement.arches import disturbed, mean_arch

TINY = ["--points", "12", "--width", "8", "--blocks", "1", "--epochs", "1", "--batch-size", "6"]
FIT = ["fit", "tooth_arrangement", "--cases", "12", "--sampling-steps", "3", *TINY]
Refused = Callable[[Path, list[str], str], None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tooth") / "run"
    assert main([*FIT, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patient") / "case"
    disturbed(mean_arch(8, bite=9), 0)[0].export(folder)
    return folder


@pytest.fixture(scope="module")
def plan(run: Path, case: Path) -> Path:
    out = case.parent / "plan"
    words = ["--fixed", "16,26", "--proposals", "2", "--stage-meshes", "--out", str(out)]
    assert main(["apply", str(run), "--data", str(case), *words]) == 0
    return out


def test_a_plan_is_meshes_motions_stages_movements_and_a_page(plan: Path, case: Path) -> None:
    before, after = load_case(case), load_case(plan / "after")
    motions = json.loads((plan / "motions.json").read_text())
    assert len(motions["proposals"]) == 2
    for one in motions["proposals"]:
        assert (one["contacts_over_tolerance"] > 0) == (one["deepest_contact_mm"] > 0.2)
    chosen = {int(fdi): np.array(motion) for fdi, motion in motions["proposals"][0]["motions"].items()}
    assert list(chosen) == list(before.meshes)
    for fdi, motion in chosen.items():
        vertices = before.meshes[fdi][0] @ motion[:3, :3].T + motion[:3, 3]
        order, found = (points[np.lexsort(points.T.round(3))] for points in (vertices, after.meshes[fdi][0]))
        np.testing.assert_allclose(found.mean(0), order.mean(0), atol=1e-4)
    stages = json.loads((plan / "stages.json").read_text())
    last = stages["stages"][-1]
    np.testing.assert_allclose([last[str(fdi)] for fdi in chosen], list(chosen.values()), atol=1e-12)
    folders = sorted((plan / "stages").iterdir())
    assert len(folders) == len(stages["stages"])
    np.testing.assert_array_equal(load_case(folders[0]).meshes[11][0], before.meshes[11][0])
    table = pd.read_csv(plan / "movements.csv")
    assert list(table["tooth"]) == list(before.meshes)


def test_a_fixed_tooth_does_not_move_at_all(plan: Path, case: Path) -> None:
    for name in ("motions.json", "stages.json"):
        text = json.loads((plan / name).read_text())
        steps = text["stages"] if "stages" in text else [one["motions"] for one in text["proposals"]]
        for motion in steps:
            for fdi in ("16", "26"):
                assert motion[fdi] == np.eye(4).tolist()
    for fdi in (16, 26):
        before, after = (read_mesh(folder / f"{fdi}.stl").vertices for folder in (case, plan / "after"))
        np.testing.assert_array_equal(after, before)
    table = pd.read_csv(plan / "movements.csv").set_index("tooth")
    assert (table.loc[[16, 26], "in words"] == "stays").all()


class Links(HTMLParser):
    """What a page asks for, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_the_page_asks_for_nothing_outside_and_says_what_it_is(plan: Path) -> None:
    html = (plan / "plan.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(html)
    assert links.asked == ["data:,"]
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|//cdn|import\s*\(|fetch\s*\(|XMLHttpRequest|url\(", html)
    for words in ("no medical device", "A clinician decides", "simulated pairs", "research and planning support"):
        assert words.lower() in html.lower()
    data = json.loads(html.split('id="case">')[1].split("</script>")[0])
    assert len(data["proposals"]) == 2
    assert len(data["teeth"]) == 28
    assert {tooth["fdi"] for tooth in data["teeth"] if tooth["fixed"]} == {16, 26}
    for proposal in data["proposals"]:
        assert proposal["progress"][0] == [0] * 28
        assert len(proposal["rows"]) == 28


@pytest.mark.slow  # test_estimator.py has it for the proposals
def test_the_same_seed_gives_the_same_plan(run: Path, case: Path, plan: Path, tmp_path: Path) -> None:
    words = ["apply", str(run), "--data", str(case), "--fixed", "16", "26", "--proposals", "2", "--out"]
    assert main([*words, str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "motions.json").read_text() == (plan / "motions.json").read_text()


def refused(kind: str, case: Path, folder: Path) -> list[str]:
    """A case that cannot be used, and flags."""
    data = folder / "data"
    teeth = load_case(case)
    if kind == "metres":
        teeth = {fdi: (vertices * 0.001, faces) for fdi, (vertices, faces) in teeth.meshes.items()}
        data.mkdir()
        import trimesh

        for fdi, (vertices, faces) in teeth.items():
            trimesh.Trimesh(vertices, faces, process=False).export(data / f"{fdi}.stl")
    elif kind == "one jaw's tooth":
        ToothSet({fdi: mesh for fdi, mesh in teeth.meshes.items() if fdi < 30}).export(data)
    else:
        teeth.export(data)
    if kind == "named":
        (data / "11.stl").rename(data / "UR1.stl")
    return ["--data", "data"]


@pytest.mark.filterwarnings("ignore:there is one jaw")
@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("named", [], "UR1.stl"),
        ("metres", [], "mm"),
        ("one jaw's tooth", ["--fixed", "36"], "tooth 36"),
        ("", ["--fixed", "19"], "19"),
        ("", ["--fixed", "six"], "--fixed six: expected FDI numbers"),
        ("", ["--proposals", "0"], "--proposals"),
        ("", ["--proposals", "2", "--choose", "3"], "--choose"),
        ("", ["--n-stages", "1", "--proposals", "1"], "--n-stages 1 is too few"),
        ("", ["--out", "plan.html"], "give a folder"),
        ("", ["--out", "data"], "choose another"),
    ],
)
def test_a_case_that_cannot_be_planned_is_one_line(
    kind: str, words: list[str], message: str, run: Path, case: Path, tmp_path: Path, check_wrong_use: Refused
) -> None:
    check_wrong_use(tmp_path, ["apply", str(run), *refused(kind, case, tmp_path), *words], message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--cases", "1"], "--cases"),
        (["--held-out", "1"], "--held-out"),
        (["--points", "2"], "points"),
        (["--target", "place"], "--target"),
        (["--severity", "9"], "severity"),
    ],
)
def test_wrong_use_of_fit(words: list[str], message: str, tmp_path: Path, check_wrong_use: Refused) -> None:
    check_wrong_use(tmp_path, [*FIT, *words], message)


def test_no_case_is_one_line(run: Path, tmp_path: Path, check_wrong_use: Refused) -> None:
    check_wrong_use(tmp_path, ["apply", str(run)], "--data is missing")


def test_one_tooth_alone_is_one_line(run: Path, case: Path, tmp_path: Path, check_wrong_use: Refused) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "11.stl").write_bytes((case / "11.stl").read_bytes())
    check_wrong_use(tmp_path, ["apply", str(run), "--data", "one"], "one: teeth: neither jaw has three teeth")


def own_pairs(folder: Path, count: int) -> Path:
    for seed in range(count):
        before, back = disturbed(mean_arch(20, bite=9), seed)
        before.export(folder / f"p{seed}" / "before")
        before.apply(back).export(folder / f"p{seed}" / "after")
    return folder


def test_fit_and_compare_take_pairs_of_the_users_own(tmp_path: Path) -> None:
    data = own_pairs(tmp_path / "data", 4)
    assert main([*FIT, "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "training.json").read_text()) == {"simulated": False, "cases": 3}
    words = ["--samples", "2", "--sampling-steps", "2", *TINY, "--out", str(tmp_path / "compare")]
    assert main(["compare", "tooth_arrangement", "--data", str(data), *words]) == 0
    result = Result.load(tmp_path / "compare")
    assert "simulated" not in result.limits
    stay = next(row for row in result.rows if row.name == "teeth stay")
    assert stay.mean("ADD") > 0.5


def test_fit_reads_the_meshes_of_the_users_own_pairs_and_apply_those_of_a_case(tmp_path: Path) -> None:
    data = own_pairs(tmp_path / "data", 2)
    for file in data.rglob("*.stl"):
        if int(file.stem) not in (16, 11, 26, 36, 31, 46):
            file.unlink()
    words = [*FIT, "--encoder", "mesh", "--patches", "4", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert TADPM.load(tmp_path / "run").encoder == "mesh"
    out = ["--proposals", "1", "--out", str(tmp_path / "plan")]
    assert main(["apply", str(tmp_path / "run"), "--data", str(data / "p0" / "before"), *out]) == 0
    assert len(load_case(tmp_path / "plan" / "after").meshes) == 6


def test_one_pair_alone_is_refused(tmp_path: Path, check_wrong_use: Refused) -> None:
    own_pairs(tmp_path / "data", 1)
    check_wrong_use(tmp_path, [*FIT, "--data", "data"], "one case is too few")


@pytest.mark.slow  # 14 s: planners for two tasks are trained
def test_compare_says_both_tasks_and_goes_on(tmp_path: Path) -> None:
    words = ["compare", "tooth_arrangement", "--cases", "8", "--test-cases", "4", "--samples", "2",
             "--sampling-steps", "2", *TINY, "--out", str(tmp_path)]  # fmt: skip
    assert main(words) == 0
    result = Result.load(tmp_path)
    names = [row.name for row in result.rows]
    assert names == ["diffusion, one sample", "diffusion, mean of 2", "diffusion, best of 2 by the truth", "regression",
                     "mean arch", "teeth stay"]  # fmt: skip
    assert [row.kind for row in result.rows][:3] == ["system", "system", "reference"]
    for row in result.rows:
        assert np.isfinite([row.mean(metric.name) for metric in result.metrics if metric.name != "contact"]).all()
    assert len(result.tables) == 2
    assert all((tmp_path / picture.file).exists() for picture in result.pictures)
    assert "medical device" in result.limits
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert main([*words, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")} == done


@pytest.mark.slow  # 7 s; test_estimator.py stops and goes on by default
def test_a_killed_fit_goes_on_to_the_same_model(tmp_path: Path) -> None:
    words = [*FIT, "--epochs", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*words, "--out", str(whole)]) == 0

    import linmap.recipes.tooth_arrangement.fit as fitting

    saved = fitting.TADPM.save
    try:
        fitting.TADPM.save = _killed  # pyright: ignore[reportAttributeAccessIssue]
        assert main([*words, "--out", str(cut)]) != 0
    finally:
        fitting.TADPM.save = saved
    assert not (cut / "config.json").exists()
    assert main([*words, "--resume", "--out", str(cut)]) == 0
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# -- what is measured --------------------------------------------------------------------------------------------------


def test_measures_of_the_truth_and_of_nothing() -> None:
    pairs = DentitionSimulator(points=8).sample(3, 1.0, torch.Generator().manual_seed(0))
    found = predictors.measured(pairs, pairs.y.double())
    assert found["ADD"] < 1e-4
    assert found["PA-ADD"] < 1e-4
    assert found["FD_cur"] < 1e-4
    assert found["ME_rot"] < 0.05
    assert found["CSA"] > 0.9999
    stay = predictors.measured(pairs, predictors.identity(pairs))
    plain = metrics.add(pairs.before, pairs.after, pairs.mask)
    assert stay["ADD"] == pytest.approx(plain, rel=1e-6)
    errors = predictors.errors(predictors.identity(pairs), pairs)
    weights = pairs.mask.sum(1).double()
    assert float((errors * weights).sum() / weights.sum()) == pytest.approx(plain, rel=1e-6)


def test_the_mean_arch_turns_with_the_case_and_the_best_sample_is_the_nearest() -> None:
    pairs = DentitionSimulator(points=8).sample(6, 1.0, torch.Generator().manual_seed(1))
    train, test = pairs[:5], pairs[5:]
    y = predictors.to_mean_arch(train, test)
    assert float(predictors.errors(y, test)) < 6
    samples = torch.stack([predictors.identity(test), test.y.double(), y])
    best = predictors.best_of(samples, (test,))
    torch.testing.assert_close(best, test.y.double())
    assert float(predictors.nearest_errors(y, (test, test))) == pytest.approx(float(predictors.errors(y, test)))
    torch.testing.assert_close(predictors.mean_of(samples)[..., :3], samples.mean(0)[..., :3])


def test_fixed_teeth_stand_behind_commas_or_blanks() -> None:
    assert Apply(fixed=("16,26", "11")).held() == (16, 26, 11)
    assert Apply(fixed=("16", "16")).held() == (16,)
    assert slot_of(16) == 2


def test_meshes_of_the_users_own_are_not_replaced(
    run: Path, case: Path, tmp_path: Path, check_wrong_use: Refused
) -> None:
    mine = tmp_path / "plan" / "after" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("of the clinic")
    words = ["apply", str(run), "--data", str(case), "--proposals", "1", "--out", str(tmp_path / "plan")]
    check_wrong_use(tmp_path, words, "after is there already")
    assert mine.read_text() == "of the clinic"
    assert [path.name for path in (tmp_path / "plan").iterdir()] == ["after"]  # and nothing half written


def test_stages_of_the_plan_before_are_taken_away(run: Path, case: Path, tmp_path: Path) -> None:
    words = ["apply", str(run), "--data", str(case), "--proposals", "1", "--out", str(tmp_path / "plan")]
    assert main([*words, "--stage-meshes"]) == 0
    assert (tmp_path / "plan" / "stages").is_dir()
    assert main([*words, "--seed", "1"]) == 0
    assert not (tmp_path / "plan" / "stages").exists()


@pytest.mark.parametrize("name", ["max_shift", "max_turn", "arch_width", "tolerance"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_lengths_and_angles_are_finite(name: str, value: float) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        Apply(**given)
