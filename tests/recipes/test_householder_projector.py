"""The recipe: fit, apply, edits that are replayed, the comparison, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from linmap.cli import main
from linmap.data.generators import DCGAN
from linmap.experiment import Result
from linmap.interpret.householder_projector import StyleGAN2Like, save_generator
from linmap.interpret.householder_projector.features import Features, mean_colours
from linmap.recipes.householder_projector import apply, compare, fit
from linmap.recipes.householder_projector.compare import PLAIN, PROJECTOR, RANDOM, TUNED
from linmap.recipes.householder_projector.flags import Apply, Compare, Fit
from linmap.recipes.householder_projector.measuring import ENTANGLEMENT, FRECHET, ORTHOGONALITY
from linmap.recipes.job import CompareJob, FitJob, FittedJob

STEPS = {"steps": 2, "batch_size": 4, "warmup": 0}
SMALL = Compare(rank=3, ranks=(2,), samples=8, codes=4, **STEPS)


@pytest.fixture(autouse=True)
def _few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean colours in the place of a network of 22 million weights, and fewer codes and images."""
    for module in (fit, apply, compare):
        monkeypatch.setattr(module, "image_features", lambda side=98: Features("mean colours", mean_colours, "told"))
    for place, size in (
        ("interpret.householder_projector.attributes.POPULATION", 48),
        ("interpret.householder_projector.directions.SAMPLES", 256),
        ("interpret.householder_projector.directions.MEASURED", 4),
        ("recipes.householder_projector.tuning.CALIBRATION", 64),
        ("recipes.householder_projector.showing.CONTACT_SAMPLES", 1),
        ("recipes.householder_projector.showing.CONTACT_STEPS", 3),
    ):
        monkeypatch.setattr(f"linmap.{place}", size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of 8 x 8 images that nobody has trained."""
    path = tmp_path_factory.mktemp("generators") / "dcgan"
    save_generator(path, DCGAN(6, (8,), 3))
    return path


def network() -> nn.Module:
    """A generator of the user's."""
    random = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 64), nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    with torch.no_grad():
        model[0].weight.normal_(0, 0.5, generator=random)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return model


def test_a_fitted_run_is_shown_and_its_edits_are_replayed(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = fit.fit(Fit(model=str(folder), rank=4, measured=8, **STEPS), FitJob(out=run, seed=3))
    assert summary["orthogonality_error"] < 1e-5
    assert summary["layers"] == ["main.0"]
    assert len(summary["labels"]) == 4
    assert summary["notes"] == ["told"]
    assert min(summary["frechet_distance"], summary["frechet_distance_plain"]) >= 0
    shown = apply.apply(Apply(samples=2, steps=3), FittedJob(artifact=run, out=tmp_path / "sheets", seed=7))
    assert shown["directions"] == 4
    edits = json.loads((tmp_path / "sheets/edits.json").read_text())
    assert [one["number"] for one in edits["directions"]] == [1, 2, 3, 4]
    for one in edits["directions"]:
        assert (tmp_path / "sheets" / one["sheet"]).read_text().startswith("<?xml")
        assert 0 < one["purity"] <= 1
    with np.load(tmp_path / "sheets/directions.npz") as arrays:
        np.testing.assert_allclose(arrays["vectors"] @ arrays["vectors"].T, np.eye(4), atol=1e-5)
        assert arrays["layers"].tolist() == ["main.0"] * 4

    def edited(*edit: str, out: str) -> np.ndarray:
        job = FittedJob(artifact=run, out=tmp_path / out, seed=7)
        apply.apply(Apply(edit=edit), job)
        return np.asarray(Image.open(tmp_path / out)).astype(int)

    none, there, again = edited("3=0", out="a.png"), edited("3=+2.0", out="b.png"), edited("3=2", out="c.png")
    assert none.shape == (8, 8, 3)
    assert (there == again).all()
    assert (there != none).any()
    back = edited("3=+2", "2=-1", out="d.png")
    assert (back != there).any()
    apply.apply(Apply(edit=("1=1",), samples=3), FittedJob(artifact=run, out=tmp_path / "both"))
    assert Image.open(tmp_path / "both/before.png").size == Image.open(tmp_path / "both/after.png").size == (24, 8)


def test_a_run_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from linmap.recipes.householder_projector import tuning

    settings = Fit(model=str(folder), rank=2, measured=0, steps=3, batch_size=4, warmup=0, checkpoint_every=1)
    whole = fit.fit(settings, FitJob(out=tmp_path / "whole"))
    finetune = tuning.finetune

    def killed(*args: object, **options: object) -> object:
        return finetune(*args, **options | {"settings": replace(options["settings"], steps=2)})  # pyright: ignore

    monkeypatch.setattr(tuning, "finetune", killed)
    fit.fit(settings, FitJob(out=tmp_path / "run"))
    monkeypatch.setattr(tuning, "finetune", finetune)
    again = fit.fit(settings, FitJob(out=tmp_path / "run", resume=True))
    assert again["labels"] == whole["labels"]
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "run"))
    assert one.read_bytes() == two.read_bytes()


def test_a_generator_of_the_users_and_styles_of_several_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{__name__.rpartition('.')[2]}:network"
    monkeypatch.setattr("linmap.recipes.householder_projector.loading.imported_network", lambda _: network())
    monkeypatch.setattr("linmap.recipes.householder_projector.apply.imported_network", lambda _: network())
    own = fit.fit(Fit(model=name, rank=2, measured=0), FitJob(out=tmp_path / "own"))
    assert (own["layers"], own["seconds"], own["steps"]) == (["model.0"], 0, 0)
    assert own["notes"] == ["told", fit.NOT_TRAINED]
    assert (tmp_path / "own/contact_sheet.svg").is_file()
    assert Fit(steps=5).training(0, False) == Fit(steps=5).training(0, True)
    on_images = Fit().training(0, True)
    assert on_images is not None
    assert on_images.steps == 300
    assert apply.apply(Apply(samples=1, steps=2), FittedJob(artifact=tmp_path / "own"))["directions"] == 2
    save_generator(tmp_path / "styles", StyleGAN2Like(5, 6, 2, (6, 4, 4), 1))
    words = ["apply", "householder_projector", "--model", str(tmp_path / "styles"), "--rank", "2", "--samples", "1"]
    assert main([*words, "--steps", "3", "--out", str(tmp_path / "sefa"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["directions"] == 4
    edits = json.loads((tmp_path / "sefa/edits.json").read_text())
    assert {one["layer"] for one in edits["directions"]} == {"blocks.0.up.affine", "blocks.1.up.affine"}
    assert edits["method"] == "SeFa"
    words = ["--model", str(tmp_path / "styles"), "--rank", "2", "--measured", "0", "--out", str(tmp_path / "run")]
    assert main(["fit", "householder_projector", *words]) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"apply {tmp_path / 'run'} --out FOLDER")


def test_the_comparison_measures_all_alike_and_goes_on(folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", images=random.integers(0, 255, (20, 10, 12, 3), dtype=np.uint8))
    job = CompareJob(data=tmp_path / "images.npz", out=tmp_path / "out")
    settings = replace(SMALL, model=str(folder))
    result = compare.compare(settings, job)
    result.save(job.out)
    assert Result.load(job.out).verdict
    rows = {row.name: row for row in result.rows}
    kinds = {PROJECTOR: "system", PLAIN: "baseline", TUNED: "baseline", RANDOM: "ablation"}
    assert {name: rows[name].kind for name in kinds} == kinds
    assert set(rows) == {*kinds, "projector, rank 2"}
    for row in result.rows:
        assert 0 <= row.mean(ENTANGLEMENT) <= 1
        assert row.mean(FRECHET) > 0
        assert row.mean(ORTHOGONALITY) < 1e-5
    assert result.checks[0].passed
    assert "Take" in result.verdict or "No difference" in result.verdict
    assert [picture.file for picture in result.pictures] == ["projector.svg", "sefa.svg"]
    again = compare.compare(settings, replace(job, resume=True))
    assert [row.values for row in again.rows] == [row.values for row in result.rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--rank", "9"], "layer 'main.0': rank must be a whole number from 1 to 6"),
        (["fit", "--layers", "main.3"], "layers names 'main.3', which reads no style of this generator"),
        (["fit", "--model", "lost"], "--model 'lost' is no folder; give dcgan-faces, a folder with config.json"),
        (["fit", "--model", "weights.pth"], "such files are read through pickle"),
        (["fit", "--gain", "-1"], "gain"),
        (["fit", "--measured", "1"], "--measured 1 must be 0"),
        (["fit", "--feature-side", "99"], "--feature-side 99 must be a multiple of 14"),
        (["fit", "--steps", "-1"], "--steps -1 must not be negative"),
        (["fit", "--data", "few.npz"], "few.npz: 3 images; 16 at least"),
        (["apply", "--edit", "3"], "--edit 3 must be NUMBER=AMOUNT"),
        (["apply", "--edit", "3=1", "3=2"], "direction 3 is given twice"),
        (["apply", "--edit", "8=1"], "there is no direction 8; there are 1 to 3"),
        (["apply", "--edit", "1=1", "--out", "a.jpg"], "edits are written as a .png"),
        (["apply", "--out", "a.png"], "sheets are written into a folder"),
        (["apply", "--data", "few.npz"], "--data few.npz: directions are drawn from codes alone; leave it out"),
        (["apply", "--rank", "9"], "layer 'main.0': rank must be a whole number from 1 to 6"),
        (["apply", "--rank", "0"], "--rank 0 must be at least 1"),
        (["apply", "--steps", "1"], "--steps 1 must be at least 2"),
        (["compare", "--rank", "1"], "a comparison needs 2 directions at least"),
        (["compare", "--ranks", "2", "40"], "rank must be a whole number from 1 to 6"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    words: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    check_wrong_use: Callable[[Path, list[str], str], None],
) -> None:
    np.savez(tmp_path / "few.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    model = [] if "--model" in words else ["--model", str(folder)]
    rank = [] if "--rank" in words or words[0] == "compare" else ["--rank", "3"]
    check_wrong_use(tmp_path, [words[0], "householder_projector", *model, *rank, *words[1:]], message)
