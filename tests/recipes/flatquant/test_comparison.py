"""The comparison: the same text for all, nothing chosen on the test, finished rows kept, honest sentences."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from linmap.compress.flatquant.baselines import BASELINES, RandomHadamard
from linmap.compress.flatquant.perplexity import perplexity
from linmap.errors import UsageError
from linmap.experiment.result import Result, Row
from linmap.recipes.flatquant import PRESETS, comparison
from linmap.recipes.flatquant.comparison import checks, compare, described, order, published, shows
from linmap.recipes.flatquant.experiments import (
    Comparison,
    Run,
    Task,
    block_errors,
    first_seconds,
    halves,
    measured,
    relative_error,
    spread,
)
from linmap.recipes.flatquant.flattening import CURVES, SITES, curves, site_inputs
from linmap.recipes.job import CompareJob
from recipes.finetuning.tiny import save_llama

FEW: dict[str, Any] = {"windows": 8, "length": 16, "epochs": 2, "test_windows": 3, "test_length": 32}
TEXT = "".join(f"Line {i} of a text that is long enough, {i * i} times.\n" for i in range(80))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


# -- texts -------------------------------------------------------------------------------------------------------------


def test_halves_share_no_line_and_lose_none() -> None:
    first, second = halves(TEXT)
    assert first + second == TEXT
    assert first.endswith("\n")
    assert abs(len(first) - len(second)) < 120


def test_calibration_never_sees_the_test(llama: str, text: Path) -> None:
    task = Task(Comparison(model=llama, **FEW), text)
    seen, tested = bytes((task.calibration - 2).tolist()), bytes((task.test - 2).tolist())  # one token a byte
    assert len(seen) + len(tested) == len(TEXT)
    other = TEXT[: len(seen)] + TEXT[len(seen) :].upper()
    changed = text.with_name("changed.txt")
    changed.write_text(other)
    again = Task(Comparison(model=llama, **FEW), changed)
    torch.testing.assert_close(again.calibration, task.calibration)
    assert not torch.equal(again.test, task.test)


@pytest.mark.parametrize("slug", ["rtn", "quarot", "flatquant-gptq"])
def test_the_test_text_changes_the_measures_and_not_the_model(
    llama: str, text: Path, slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    monkeypatch.setattr(Task, "perplexity", lambda task, model: models.append(model) or 1.0)
    for number in range(2):
        task = Task(Comparison(model=llama, **FEW), text)
        task.test = task.test.roll(7 * number)
        measured(task, slug, "W4A4KV4", 0, tmp_path / str(number))
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_presets_are_those_of_the_method() -> None:
    full = PRESETS["full"]
    assert (full.windows, full.length, full.epochs, full.batch_size) == (32, 128, 4, 4)
    assert (full.test_windows, full.test_length, full.seeds, full.blocks) == (12, 512, 3, None)
    assert full.text == "wikitext2"
    assert set(full.bits) == {"W4A4", "W4A4KV4", "W4A16"}
    assert set(full.methods) == set(BASELINES)
    assert PRESETS["quick"].text == "austen"  # in the package


# -- one run -----------------------------------------------------------------------------------------------------------


def test_errors_are_relative_and_squared() -> None:
    y = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    x = y + torch.tensor([[[0.0, 5.0], [1.0, 0.0]]])
    torch.testing.assert_close(relative_error(x, y), torch.tensor([[1.0, 0.25]]))


def test_the_original_has_no_errors_and_its_own_perplexity(llama: str, text: Path) -> None:
    task = Task(Comparison(model=llama, **FEW), text)
    alone, accumulated, positions = block_errors(task, task.model(), None)
    assert len(alone) == len(accumulated) == 2
    assert len(positions) == 32
    assert max(*alone, *accumulated, *positions) < 1e-9
    assert task.perplexity(task.original) == pytest.approx(perplexity(task.original, task.test, 32, 3))


def test_a_rotated_model_is_measured_in_its_own_basis(llama: str, text: Path) -> None:
    from linmap.compress.flatquant.baselines import rotated

    task = Task(Comparison(model=llama, **FEW), text)
    model = rotated(task.model(), seed=4)
    assert max(block_errors(task, model, 4)[1]) < 1e-8
    assert min(block_errors(task, model, None)[0]) > 0.1
    Q = RandomHadamard.draw(32, torch.Generator().manual_seed(4))
    torch.testing.assert_close(Q(task.teacher[0]).norm(dim=-1).float(), task.teacher[0].norm(dim=-1))


def test_the_first_block_accumulates_what_it_errs_alone(llama: str, text: Path, tmp_path: Path) -> None:
    task = Task(Comparison(model=llama, **FEW), text)
    run = measured(task, "rtn", "W4A4", 0, tmp_path)
    assert run.alone[0] == pytest.approx(run.accumulated[0])
    assert run.alone[0] > 1e-5
    assert 0.2 < run.share < 0.4
    assert sum(run.positions) / len(run.positions) == pytest.approx(run.accumulated[-1], rel=1e-4)


def test_both_roundings_of_flatquant_share_one_calibration(llama: str, text: Path, tmp_path: Path) -> None:
    task = Task(Comparison(model=llama, **FEW), text)
    measured(task, "flatquant-rtn", "W4A4", 0, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(path.name for path in files) == [
        "block_00000.safetensors", "block_00001.safetensors", "seconds.json",
    ]  # fmt: skip
    gptq = measured(task, "flatquant-gptq", "W4A4", 0, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert gptq.seconds > json.loads((tmp_path / "seconds.json").read_text())["blocks"]


def test_the_time_of_training_is_that_of_the_first(tmp_path: Path) -> None:
    assert first_seconds(tmp_path, 12.5, None) == 12.5
    assert first_seconds(tmp_path, 0.25, None) == 12.5
    assert first_seconds(tmp_path, 4.0, "distilled") == 16.5
    assert first_seconds(tmp_path, 0.5, "distilled") == 16.5


# -- flatness ----------------------------------------------------------------------------------------------------------


def test_curves_are_of_every_method_place_and_block(llama: str, text: Path, tmp_path: Path) -> None:
    task = Task(Comparison(model=llama, **FEW), text)
    found = curves(task, "W4A4KV4", 0, tmp_path)
    assert len(found) == len(CURVES) * len(SITES) * 2 * 2
    for one in found:
        assert one.norms == sorted(one.norms, reverse=True)
        assert one.peak == pytest.approx(one.norms[0], abs=1e-3)
    (raw,) = [c for c in found if (c.method, c.site, c.block, c.kind) == ("rtn", "mlp", 1, "activation")]
    x = site_inputs(task)[1]["mlp"]
    norms = x.flatten(0, 1).norm(dim=0)
    assert raw.peak == pytest.approx(float(norms.max() / norms.mean()), rel=1e-4)
    block = task.block(task.original, 1)
    (weight,) = [c for c in found if (c.method, c.site, c.block, c.kind) == ("rtn", "down", 1, "weight")]
    columns = block.mlp.down_proj.weight.norm(dim=0)
    assert weight.peak == pytest.approx(float(columns.max() / columns.mean()), rel=1e-4)


def test_hadamard_flattens_an_outlier_channel(llama: str, text: Path, tmp_path: Path) -> None:
    task = Task(Comparison(model=llama, **FEW), text)
    original = Task.model

    def with_outlier(self: Task) -> Any:
        model = original(self)
        with torch.no_grad():
            for block in model.model.layers:
                block.post_attention_layernorm.weight[3] *= 40
        return model

    task.original = with_outlier(task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "model", with_outlier)
        found = curves(task, "W4A4", 0, tmp_path)
    peak = {c.method: c.peak for c in found if (c.site, c.block, c.kind) == ("mlp", 0, "activation")}
    assert peak["rtn"] > 10
    assert peak["smoothquant"] < 0.7 * peak["rtn"]
    assert peak["hadamard"] < 2
    assert peak["flatquant-rtn"] < 4


# -- whole comparisons -------------------------------------------------------------------------------------------------


def test_compare_measures_every_row_and_goes_on_from_its_runs(
    llama: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Comparison(model=llama, bits=("W4A4", "W4A16"), methods=("rtn", "hadamard", "quarot", "flatquant-rtn",
                          "flatquant-gptq"), seeds=2, **FEW)  # fmt: skip
    job = CompareJob(data=text, out=tmp_path / "out")
    result = compare(settings, job)
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["FlatQuant GPTQ", "FlatQuant RTN", "not quantised", "Hadamard RTN", "QuaRot RTN", "RTN"]
    assert [metric.name for metric in result.metrics] == ["perplexity W4A4", "perplexity W4A16"]
    for row in result.rows:
        counts = {len(values) for values in row.values.values()}
        assert counts == {2 if row.kind == "system" else 1}
    assert rows["not quantised"].kind == "reference"
    assert [picture.file for picture in result.pictures] == [
        "perplexity.svg", "flatness.svg", "block-errors.svg", "positions.svg",
    ]  # fmt: skip
    assert all((job.out / picture.file).stat().st_size > 1000 for picture in result.pictures)
    assert [table.title for table in result.tables] == ["Ratios, times and sizes", "Flatness by place"]
    assert len(result.tables[0].rows) == 10
    original = rows["not quantised"].mean("perplexity W4A4")
    for setting, name, value, ratio, *_ in result.tables[0].rows:
        assert float(str(ratio)) == pytest.approx(rows[str(name)].mean(f"perplexity {setting}") / original, abs=0.006)
        assert float(str(value).split(" ")[0]) == pytest.approx(rows[str(name)].mean(f"perplexity {setting}"), abs=0.01)
    result.save(job.out)
    assert Result.load(job.out).rows == result.rows

    calls: list[tuple[str, str, int]] = []

    def counted(task: Task, slug: str, setting: str, seed: int, work: Path) -> Run:
        calls.append((slug, setting, seed))
        return measured(task, slug, setting, seed, work)

    monkeypatch.setattr(comparison, "measured", counted)
    (job.out / "runs" / "W4A4-hadamard-0.json").unlink()
    again = compare(settings, replace(job, resume=True))
    assert calls == [("hadamard", "W4A4", 0)]
    assert [row.values for row in again.rows] == [row.values for row in result.rows]
    changed = replace(settings, test_windows=2, methods=("rtn",), bits=("W4A4",))
    compare(changed, replace(job, resume=True))
    assert calls[1:] == [("rtn", "W4A4", 0)]  # other test windows: measured anew


def test_without_resume_all_is_measured_anew(
    llama: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Comparison(model=llama, methods=("flatquant-rtn",), blocks=1, **FEW)
    job = CompareJob(data=text, out=tmp_path)
    first = compare(settings, job)
    longer = compare(replace(settings, epochs=3), job)  # another calibration in the same folder
    assert first.rows[0].values != longer.rows[0].values
    (work,) = (tmp_path / "calibration").iterdir()
    shutil.rmtree(work)


def test_a_quantised_model_is_refused(llama: str, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    shutil.copytree(llama, folder)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "x"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="is quantised already"):
        Task(Comparison(model=str(folder), **FEW), text)


def test_rows_without_seeds_run_once() -> None:
    methods = ("rtn", "flatquant-rtn", "hadamard")
    assert order(methods, first=True) == ["flatquant-rtn", "hadamard", "rtn"]
    assert order(methods, first=False) == ["flatquant-rtn"]


def test_a_few_blocks_are_spread_over_the_depth() -> None:
    assert spread(4, 30) == [3, 11, 18, 26]
    assert spread(30, 30) == list(range(30))
    for total in range(1, 40):
        for count in range(1, total + 1):
            chosen = spread(count, total)
            assert sorted(set(chosen)) == chosen
            assert chosen[0] >= 0
            assert chosen[-1] < total
            assert {first + last for first, last in zip(chosen, chosen[::-1], strict=True)} <= {total - 1, total}


def test_blocks_between_the_quantised_ones_pass_their_error_on(llama: str, text: Path, tmp_path: Path) -> None:
    task = Task(Comparison(model=llama, blocks=1, **FEW), text)
    assert task.blocks == [1]
    assert described(task).startswith(f"{llama}, blocks 1 of 2 quantised")
    run = measured(task, "rtn", "W4A4", 0, tmp_path)
    assert len(run.alone) == len(run.accumulated) == 1
    assert run.alone == pytest.approx(run.accumulated)  # nothing before it is quantised
    assert {c.block for c in curves(task, "W4A4", 0, tmp_path)} == {1}


# -- what the numbers say ----------------------------------------------------------------------------------------------


def runs(setting: str, **values: float) -> list[Run]:
    return [
        Run(slug.replace("_", "-"), setting, 0, value, 1.0, 0.3, 1.0, [0.1], [0.1], [0.1])
        for slug, value in values.items()
    ]


def test_checks_take_the_best_baseline_of_each_rounding() -> None:
    found = runs("W4A4", flatquant_gptq=70, flatquant_rtn=85, hadamard=80, gptq=75, rtn=20_000, c_hadamard_gptq=69)
    statements = {check.statement: (check.passed, check.figures) for check in checks(found, 32.0, False)}
    assert statements == {
        "W4A4: FlatQuant GPTQ is below every baseline": (True, "70.00 against 75.00 (GPTQ); unquantised 32.00"),
        "W4A4: FlatQuant RTN is below every baseline that rounds to nearest": (
            False, "85.00 against 80.00 (Hadamard RTN); unquantised 32.00",
        ),
        "W4A4: training gains on its start, rounded in the same way": (False, "70.00 against 69.00"),
    }  # fmt: skip
    assert shows(found, 32.0).startswith(
        "Perplexity, 32.0 unquantised. W4A4: c + Hadamard GPTQ, clipped 69.0, FlatQuant GPTQ 70.0, GPTQ 75.0, Hadamard"
    )


@pytest.mark.parametrize(("gptq", "met"), [(73.9, True), (74.0, False)])
def test_the_published_figures_are_checked_in_the_published_setting(gptq: float, met: bool) -> None:
    full = PRESETS["full"]
    assert published(full, "wikitext2")
    found = {c.statement: c.passed for c in checks(runs("W4A4KV4", flatquant_gptq=gptq), 32.1, True)}
    assert found == {"W4A4KV4: FlatQuant GPTQ is at most 3 % above the authors' code (71.8)": met}
    assert published(replace(full, seeds=1, bits=("W4A4",)), "wikitext2")
    assert not published(replace(full, epochs=5), "wikitext2")
    assert not published(full, "mine.txt")


def test_a_reference_wins_nothing() -> None:
    from linmap.experiment.result import Metric

    metric = Metric("perplexity")
    rows = [Row("a", "system", {"perplexity": [5.0]}), Row("original", "reference", {"perplexity": [1.0]}),
            Row("b", "baseline", {"perplexity": [6.0]})]  # fmt: skip
    result = Result("s", "t", [metric], rows, "", "")
    assert [row.name for row in result.best(metric)] == ["a"]
    assert [row.name for row in result.best(metric, "reference")] == ["original"]
    headline = result.headline()
    assert headline is not None
    assert headline.baseline is not None
    assert headline.baseline.name == "b"


def test_torchao_has_a_table_where_it_is_there(llama: str, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    task = Task(Comparison(model=llama, blocks=1, **FEW), text)
    assert comparison.torchao_table(task, 100.0) == []
    seen = []
    module = types.SimpleNamespace(quantize_=lambda blocks, scheme: seen.append((len(blocks), scheme)))
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", module)
    monkeypatch.setattr(comparison, "torchao_schemes", lambda: {"four bits": "scheme"})
    (table,) = comparison.torchao_table(task, 100.0)
    assert seen == [(1, "scheme")]
    assert table.rows[0][0] == "four bits"
    assert float(str(table.rows[0][1])) == pytest.approx(task.perplexity(task.original), rel=0.05)
