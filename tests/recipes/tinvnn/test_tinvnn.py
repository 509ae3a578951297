"""TinvNN from the command line: canonical poses, classes of shapes, tours, the comparison; wrong use in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from linmap.cli import main
from linmap.data.clouds import load_clouds
from linmap.data.tsplib import read_tour, read_tsp
from linmap.errors import DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes.job import ApplyJob, CompareJob, FitJob, FittedJob
from linmap.recipes.tinvnn import RECIPE
from linmap.recipes.tinvnn.apply import apply
from linmap.recipes.tinvnn.canonical import unfitted
from linmap.recipes.tinvnn.compare import FOREST, FRAMES, MOMENT, RAW, compare
from linmap.recipes.tinvnn.fit import fit
from linmap.recipes.tinvnn.flags import Apply, ApplyTours, Canonical, Compare, CompareTours, Fit, FitTours, Tours
from linmap.recipes.tinvnn.forest import distance_histograms
from linmap.recipes.tinvnn.poses import PROTOCOLS, rotations

TSP = "NAME : ring\nTYPE : TSP\nDIMENSION : {n}\nEDGE_WEIGHT_TYPE : EUC_2D\nNODE_COORD_SECTION\n{cities}EOF\n"


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Rods and discs, aligned, of 24 points."""
    rng, y = np.random.default_rng(0), np.arange(24) % 2
    stretch = np.where(y[:, None, None], [[[3, 0.2, 0.3]]], [[[1, 1, 0.1]]])
    np.savez(
        tmp_path / "shapes.npz", points=rng.standard_normal((24, 24, 3)) * stretch, label=y, classes=["disc", "rod"]
    )
    return tmp_path / "shapes.npz"


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Twelve cities on a circle, whose optimum is the circle."""
    angles = 2 * np.pi * np.random.default_rng(0).permutation(12) / 12
    cities = [f"{i + 1} {100 * np.cos(a):.3f} {100 * np.sin(a):.3f}\n" for i, a in enumerate(angles)]
    (tmp_path / "ring.tsp").write_text(TSP.format(n=12, cities="".join(cities)))
    return tmp_path / "ring.tsp"


# -- the representation alone ------------------------------------------------------------------------------------------


def test_copies_of_a_cloud_have_one_canonical_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3)) * (3, 2, 1)
    moved = 7 * X @ rotations(1, 3, rng)[0].T + 100
    tables = []
    for name, cloud in (("a", X), ("b", moved)):
        pd.DataFrame(cloud, columns=list("xyz")).to_csv(tmp_path / f"{name}.csv", index=False)
        summary = unfitted(Canonical(), ApplyJob(tmp_path / f"{name}.csv", tmp_path / f"{name}-out.csv"))
        assert (summary["points"], summary["ambiguous"], summary["degenerate"]) == (40, 0, 0)
        tables.append(pd.read_csv(tmp_path / f"{name}-out.csv"))
        assert (tmp_path / f"{name}-out.svg").read_text().startswith("<?xml")
    assert list(tables[0]) == ["x", "y", "z"]
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-9)
    distances = [np.linalg.norm(np.diff(values, axis=0), axis=1) for values in (X, tables[0].to_numpy())]
    np.testing.assert_allclose(distances[0] / distances[1], (distances[0] / distances[1])[0])


def test_an_archive_keeps_what_is_known_of_its_clouds(shapes: Path, tmp_path: Path) -> None:
    unfitted(Canonical(scale="none"), ApplyJob(shapes, tmp_path / "out.npz"))
    X, found = load_clouds(shapes), load_clouds(tmp_path / "out.npz")
    assert found.named_labels().tolist() == X.named_labels().tolist()
    with np.load(tmp_path / "out.npz") as arrays:
        back = arrays["center"][:, None] + arrays["points"] @ arrays["Q"].swapaxes(1, 2)
    np.testing.assert_allclose(back, X.batch(), atol=1e-9)


def test_clouds_of_several_sizes_are_masked(tmp_path: Path) -> None:
    for name, n in (("a", 5), ("b", 9)):
        np.savetxt(tmp_path / f"{name}.xyz", np.random.default_rng(n).standard_normal((n, 3)))
    unfitted(Canonical(), ApplyJob(tmp_path, tmp_path / "out" / "all.npz"))
    assert load_clouds(tmp_path / "out" / "all.npz").sizes().tolist() == [5, 9]


def test_symmetric_shapes_are_flagged_in_words(tmp_path: Path) -> None:
    cube = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    np.savetxt(tmp_path / "cube.xyz", cube)
    summary = unfitted(Canonical(), ApplyJob(tmp_path / "cube.xyz", tmp_path / "out.csv"))
    assert summary["degenerate"] == 1
    assert any("symmetric under turns, on axes 1, 2, 3" in note for note in summary["notes"])


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_what_is_fitted_to_shapes_tells_turned_ones_apart(shapes: Path, tmp_path: Path) -> None:
    summary = fit(Fit(epochs=8, held_out=0.25), FitJob(shapes, tmp_path / "run"))
    assert (summary["shapes"], summary["held_out"], summary["points"]) == (18, 6, 24)
    assert summary["held_out_accuracy"] == summary["held_out_accuracy_turned"]
    with np.load(shapes) as arrays:
        turned = arrays["points"] @ rotations(24, 3, np.random.default_rng(1)) + 9
        np.savez(tmp_path / "turned.npz", points=turned, label=arrays["label"], classes=arrays["classes"])
    tables = []
    for name in ("shapes", "turned"):
        found = apply(Apply(), FittedJob(tmp_path / f"{name}.npz", tmp_path / f"{name}.csv", artifact=tmp_path / "run"))
        assert found["accuracy"] > 0.8
        tables.append(pd.read_csv(tmp_path / f"{name}.csv"))
    assert list(tables[0]) == ["shape", "class", "p(disc)", "p(rod)"]
    np.testing.assert_allclose(tables[0][["p(disc)", "p(rod)"]], tables[1][["p(disc)", "p(rod)"]], atol=1e-4)


def test_compare_runs_every_method_and_goes_on(shapes: Path, tmp_path: Path) -> None:
    job = CompareJob(shapes, tmp_path / "compare")
    settings = Compare(
        points=24,
        n_points=12,
        epochs=3,
        rates=(3e-3, 1e-2),
        augmented_rates=(3e-3,),
        augmented_epochs=(1, 2),
        seeds=1,
        batch_size=8,
    )
    result = compare(settings, job)
    result.save(job.out)
    assert Result.load(job.out).rows == result.rows
    rows = {row.name: row for row in result.rows}
    assert (result.rows[0].name, result.rows[0].kind, len(rows)) == (FRAMES, "system", 7)
    for name in (FRAMES, MOMENT, FOREST):
        assert {rows[name].mean(column) for column in PROTOCOLS} == {rows[name].mean("I/I")}
        assert rows[name].mean("unchanged") == 1
    assert rows[RAW].mean("scaled") == rows[RAW].mean("shifted") == rows[RAW].mean("I/I")
    assert result.verdict.startswith("For shapes in any pose: ")
    assert "For shapes that all stand alike: " in result.verdict
    for picture in result.pictures:
        assert (job.out / picture.file).read_text().startswith("<?xml")
    kept = {path: path.stat().st_mtime_ns for path in (job.out / "runs").glob("*.json")}
    assert len(kept) == 7 + 2 * 2  # two methods choose between two rates
    compare(settings, CompareJob(shapes, job.out, resume=True))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_histograms_of_distances_do_not_change_with_the_pose() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5, 30, 3))
    for move in PROTOCOLS.values():
        np.testing.assert_allclose(distance_histograms(move(X, rng)), distance_histograms(X), atol=1e-2)
    assert distance_histograms(X).sum(1) == pytest.approx(1)


# -- tours -------------------------------------------------------------------------------------------------------------


def test_a_solver_is_trained_where_there_is_no_run(ring: Path, tmp_path: Path) -> None:
    job = ApplyJob(ring, tmp_path / "ring.tour")
    summary = unfitted(Tours(n_cities=6, steps=2, batch_size=4, d_model=16), job)
    instance = read_tsp(ring)
    assert instance.length(read_tour(tmp_path / "ring.tour")) == summary["length"]
    assert "gap" not in summary
    np.savetxt(tmp_path / "ring.opt.tour", np.arange(12))  # no tour at all
    with pytest.raises(ValueError, match="no TSPLIB file"):
        unfitted(Tours(n_cities=6, steps=2, batch_size=4, d_model=16), job)


def test_a_folder_of_instances_gets_tours_and_gaps(ring: Path, tmp_path: Path) -> None:
    order = np.argsort(np.arctan2(*read_tsp(ring).points.T))
    best = read_tsp(ring).length(order)
    (tmp_path / "optimal.csv").write_text(f"name,optimal_length\nring,{best}\nagain,{best}\n")
    (tmp_path / "again.tsp").write_text(ring.read_text().replace("ring", "again"))
    run = tmp_path / "run"
    summary = fit(FitTours(n_cities=6, steps=2, batch_size=4, d_model=16), FitJob(tmp_path, run))
    assert (summary["instances"], summary["mean_gap"]) == (2, 0)  # 2-opt unties a circle
    table = pd.read_csv(run / "tours.csv")
    assert table["length"].tolist() == [best, best]
    found = apply(ApplyTours(polish=0, n_starts=3), FittedJob(ring, tmp_path / "one.tour", artifact=run))
    assert found["optimum"] == best
    np.savetxt(tmp_path / "cities.csv", read_tsp(ring).points, delimiter=",")
    plain = apply(ApplyTours(), FittedJob(tmp_path / "cities.csv", tmp_path / "two.tour", artifact=run))
    assert plain["length"] == pytest.approx(12 * 200 * np.sin(np.pi / 12), rel=1e-4)


def test_cities_at_one_place_are_no_task(tmp_path: Path) -> None:
    (tmp_path / "one.tsp").write_text(TSP.format(n=4, cities="".join(f"{i} 3 5\n" for i in range(1, 5))))
    with pytest.raises(DataError, match="all distances are 0"):
        compare(CompareTours(), CompareJob(tmp_path / "one.tsp", tmp_path / "out"))


def test_solvers_and_heuristics_are_compared_on_tsplib_files(ring: Path, tmp_path: Path) -> None:
    (tmp_path / "again.tsp").write_text(ring.read_text().replace("ring", "again"))
    best = read_tsp(ring).length(np.argsort(np.arctan2(*read_tsp(ring).points.T)))
    (tmp_path / "optimal.csv").write_text(f"name,optimal_length\nring,{best}\n")
    settings = CompareTours(n_cities=5, steps=2, batch_size=4, d_model=8, seeds=1, n_starts=3)
    result = compare(settings, CompareJob(tmp_path, tmp_path / "out"))
    assert RECIPE.compare.settings(tmp_path) is RECIPE.compare.settings(ring) is CompareTours
    rows = {row.name: row for row in result.rows}
    assert {name: row.mean("gap") for name, row in rows.items()} == dict.fromkeys(rows, 0)  # 2-opt unties a circle
    assert rows["TinvNN + solver"].mean("copies alike") == 100
    assert result.over == "instances"
    assert result.pairs["TinvNN + solver"] == [0, 0]
    assert [picture.file for picture in result.pictures] == ["tours.svg", "gaps.svg"]
    compare(settings, CompareJob(tmp_path, tmp_path / "out", resume=True))


def test_tours_are_named_by_their_files(ring: Path, tmp_path: Path) -> None:
    """The names within files may be the same, empty, or a path."""
    cities = tmp_path / "cities"
    cities.mkdir()
    for name, within in (("a.tsp", "ring"), ("b.TSP", "ring"), ("c.tsp", "../../c"), ("d.tsp", "")):
        (cities / name).write_text(ring.read_text().replace("NAME : ring", f"NAME : {within}"))
    options = {"n_cities": 6, "steps": 2, "batch_size": 4, "d_model": 16}
    summary = unfitted(Tours(**options), ApplyJob(cities, tmp_path / "tours"))
    assert summary["instances"] == 4
    assert sorted(path.name for path in (tmp_path / "tours").glob("*.tour")) == ["a.tour", "b.tour", "c.tour", "d.tour"]
    run = tmp_path / "run"
    fit(FitTours(**options), FitJob(ring, run))
    for folder in ("x", "y"):
        (tmp_path / "tables" / folder).mkdir(parents=True)
        np.savetxt(tmp_path / "tables" / folder / "1.xyz", read_tsp(ring).points)
    apply(ApplyTours(), FittedJob(tmp_path / "tables", tmp_path / "both", artifact=run))
    assert sorted(path.name for path in (tmp_path / "both").glob("*.tour")) == ["x_1.tour", "y_1.tour"]


def test_the_picture_of_tiny_and_of_equal_points_says_nothing_false(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    np.save(tmp_path / "tiny.npy", 1e-60 * np.random.default_rng(0).random((2, 9, 3)))
    unfitted(Canonical(), ApplyJob(tmp_path / "tiny.npy", tmp_path / "tiny.npz"))
    assert not recwarn.list
    np.save(tmp_path / "equal.npy", np.ones((4, 3)))
    unfitted(Canonical(), ApplyJob(tmp_path / "equal.npy", tmp_path / "equal.csv"))
    assert len(recwarn.list) == 1


# -- wrong use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["apply", "tinvnn", "--data", "none.csv"], "there is no such file"),
        (["apply", "tinvnn", "--data", "nan.csv", "--out", "out.csv"], "not a finite number"),
        (["apply", "tinvnn", "--data", "one.csv", "--out", "out.csv"], "has one point"),
        (["apply", "tinvnn", "--data", "good.csv", "--out", "out.txt"], ".csv, .parquet or .npz"),
        (["apply", "tinvnn", "--data", "good.csv", "--out", "out.csv", "--scale", "big"], "'big' is not one of"),
        (["apply", "tinvnn", "--data", "good.csv", "--out", "out.csv", "--n-components", "0"], "n-components 0"),
        (["apply", "tinvnn", "--data", "bad.tsp", "--out", "a.tour"], "EXPLICIT gives distances"),
        (["apply", "tinvnn", "--data", "bad.tsp", "--steps", "0", "--out", "a.tour"], "EXPLICIT gives distances"),
        (["fit", "tinvnn", "--data", "good.csv"], "its clouds have no classes"),
        (["fit", "tinvnn", "--data", "alone.npz"], "all clouds are of one class"),
        (["fit", "tinvnn", "--held-out", "2"], "--held-out 2"),
        (["fit", "tinvnn", "--data", "shapes.npz", "--representation", "odd"], "'odd' is not one of"),
        (["compare", "tinvnn", "--data", "good.csv"], "its clouds have no classes"),
        (["fit", "tinvnn", "--data", "shapes.npz", "--batch-size", "0"], "--batch-size 0 must be at least 1"),
        (["fit", "tinvnn", "--data", "tested.npz"], "its split leaves no cloud to train on"),
        (["fit", "tinvnn", "--data", "lost.npz"], "class '1' has clouds to test on and none to train on"),
        (["apply", "tinvnn", "--data", "good.csv", "--out", "one.csv/out.csv"], "one.csv"),
        (["compare", "tinvnn", "--rates", "0"], "rates"),
        (["compare", "tinvnn", "--seeds", "0"], "--seeds 0"),
        (["compare", "tinvnn", "--data", "bad.tsp"], "EXPLICIT gives distances"),
    ],
)
def test_wrong_use_is_one_line(
    command: list[str], message: str, shapes: Path, check_wrong_use: Callable[[Path, list[str], str], None]
) -> None:
    folder = shapes.parent
    (folder / "nan.csv").write_text("1,2\n3,nan\n")
    (folder / "one.csv").write_text("1,2\n")
    (folder / "good.csv").write_text("1,2\n3,4\n9,1\n")
    (folder / "bad.tsp").write_text("NAME: a\nTYPE: TSP\nEDGE_WEIGHT_TYPE: EXPLICIT\n")
    np.savez(folder / "alone.npz", points=np.random.default_rng(0).random((3, 4, 3)), label=[1, 1, 1])
    X = np.random.default_rng(0).random((4, 4, 3))
    np.savez(folder / "tested.npz", points=X, label=[0, 1, 0, 1], split=[1, 1, 1, 1])
    np.savez(folder / "lost.npz", points=X, label=[0, 1, 0, 1], split=[0, 1, 0, 1])
    check_wrong_use(folder, command, message)


def test_a_run_refuses_what_it_was_not_fitted_to(shapes: Path, ring: Path, tmp_path: Path) -> None:
    fit(Fit(epochs=1, held_out=0), FitJob(shapes, tmp_path / "run"))
    assert main(["apply", str(tmp_path / "run"), "--data", str(ring), "--out", str(tmp_path / "p.csv")]) == 2
    (tmp_path / "flat.csv").write_text("1,2\n3,4\n9,1\n")
    assert main(["apply", str(tmp_path / "run"), "--data", str(tmp_path / "flat.csv")]) == 2
    with pytest.raises(UsageError, match=r"a tour is written as \.tour"):
        unfitted(Tours(steps=1), ApplyJob(ring, tmp_path / "x.csv"))
