"""The comparison: the same text for all, nothing chosen on the test, finished runs kept, honest sentences."""

import json
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.flatquant.baselines import BASELINES
from linmap.compress.flatquant.measures import perplexity
from linmap.errors import UsageError
from linmap.experiment import Arm, Metric, Result, Row, Run, Runs
from linmap.recipes.flatquant import compare as comparison
from linmap.recipes.flatquant.compare import (
    ORIGINAL,
    Task,
    arms,
    checks,
    compare,
    described,
    quantised,
    shows,
    spread,
    texts,
)
from linmap.recipes.flatquant.flags import Compare, Fit
from linmap.recipes.job import CompareJob
from recipes.flatquant.tiny import FEW, TEXT, tiny_llama, tiny_text  # noqa: F401  (fixtures)

# -- flags -------------------------------------------------------------------------------------------------------------


def test_flags_reach_the_config_by_its_own_names() -> None:
    config = Fit(windows=7, length=9, batch_size=3, blocks=2, k_bits=4).config(seed=5)
    assert (config.n_samples, config.sequence_length, config.batch_size) == (7, 9, 3)
    assert (config.blocks, config.k_bits, config.weights, config.seed) == ([0, 1], 4, "gptq", 5)


# -- texts -------------------------------------------------------------------------------------------------------------


def test_halves_share_no_line_and_lose_none(text: Path) -> None:
    found = texts(text)
    assert found.calibration + found.test == TEXT
    assert found.calibration.endswith("\n")
    assert abs(len(found.calibration) - len(found.test)) < 120


@given(start=st.text("ab \n", max_size=300), before=st.integers(1, 300), after=st.integers(0, 300))
def test_both_halves_are_near_to_half_however_long_the_lines_are(
    start: str, before: int, after: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("halves") / "a.txt"
    whole = "a" * before + start + "b" * after
    path.write_text(whole)
    found = texts(path)
    assert found.calibration + found.test == whole
    assert abs(len(found.calibration) - len(found.test)) <= len(whole) / 2 + 2
    words = " ".join(["word"] * 200)
    path.write_text(words)
    assert texts(path).calibration.endswith("word ")


def test_calibration_never_sees_the_test(llama: str, text: Path) -> None:
    task = Task(Compare(model=llama, **FEW), texts(text))
    seen, tested = bytes((task.calibration - 2).tolist()), bytes((task.test - 2).tolist())  # one token a byte
    assert len(seen) + len(tested) == len(TEXT)
    other = TEXT[: len(seen)] + TEXT[len(seen) :].upper()
    changed = text.with_name("changed.txt")
    changed.write_text(other)
    again = Task(Compare(model=llama, **FEW), texts(changed))
    torch.testing.assert_close(again.calibration, task.calibration)
    assert not torch.equal(again.test, task.test)


@pytest.mark.parametrize("slug", ["rtn", "quarot", "flatquant-gptq"])
def test_the_test_text_does_not_change_the_model(llama: str, text: Path, slug: str, tmp_path: Path) -> None:
    models = []
    for number in range(2):
        task = Task(Compare(model=llama, **FEW), texts(text))
        task.test = task.test.roll(7 * number)
        models.append(quantised(task, slug, "W4A4KV4", 0, tmp_path / str(number))[0])
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_defaults_are_quick_and_of_the_package() -> None:
    settings = Compare()
    assert (settings.windows, settings.length, settings.epochs, settings.batch_size) == (32, 128, 4, 4)
    assert settings.blocks == 4
    assert {BASELINES[slug].kind for slug in settings.methods} == {"system", "baseline", "ablation"}
    assert texts(None).names == ("Northanger Abbey", "Persuasion")


# -- one run -----------------------------------------------------------------------------------------------------------


def test_both_roundings_of_flatquant_share_one_calibration(llama: str, text: Path, tmp_path: Path) -> None:
    task = Task(Compare(model=llama, **FEW), texts(text))
    first, _ = quantised(task, "flatquant-rtn", "W4A4", 0, tmp_path)
    folder = tmp_path / "W4A4-0"
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(path.name for path in files) == ["block_00000.safetensors", "block_00001.safetensors"]
    second, seconds = quantised(task, "flatquant-gptq", "W4A4", 0, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files
    reports = [model.flatquant.blocks for model in (first, second)]
    assert [[block.resumed for block in report.values()] for report in reports] == [[False, False], [True, True]]
    assert seconds > sum(block.seconds for block in reports[0].values())  # the time of training counts for both


# -- whole comparisons -------------------------------------------------------------------------------------------------


def test_compare_measures_every_row_and_goes_on_from_its_runs(
    llama: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Compare(
        model=llama,
        bits=("W4A4", "W4A16"),
        methods=("rtn", "hadamard", "quarot", "flatquant-rtn", "flatquant-gptq"),
        **FEW,
    )
    job = CompareJob(data=text, out=tmp_path / "out")
    result = compare(settings, job)
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["FlatQuant GPTQ", "FlatQuant RTN", ORIGINAL, "Hadamard RTN", "QuaRot RTN", "RTN"]
    assert [metric.name for metric in result.metrics] == [
        "perplexity W4A4",
        "perplexity W4A16",
        "loss W4A4",
        "loss W4A16",
    ]
    for row in result.rows:
        assert {name: len(values) for name, values in row.values.items()} == {
            "perplexity W4A4": 1,
            "perplexity W4A16": 1,
            "loss W4A4": 3,
            "loss W4A16": 3,
        }
        assert math.exp(statistics.fmean(row.values["loss W4A4"])) == pytest.approx(row.mean("perplexity W4A4"))
    assert rows[ORIGINAL].kind == "reference"
    assert rows[ORIGINAL].values["perplexity W4A4"] == rows[ORIGINAL].values["perplexity W4A16"]
    task = Task(settings, texts(text))
    assert rows[ORIGINAL].mean("perplexity W4A4") == pytest.approx(perplexity(task.model(), task.test, 32, 3))
    assert result.verdict.startswith("W4A4: ")
    assert "of 3 test windows" in result.verdict
    assert [picture.file for picture in result.pictures] == ["perplexity.svg"]
    (costs,) = result.tables
    assert len(costs.rows) == 10
    for bits, name, value, ratio, *_ in costs.rows:
        mean = rows[str(name)].mean(f"perplexity {bits}")
        assert float(str(ratio)) == pytest.approx(mean / rows[ORIGINAL].mean("perplexity W4A4"), abs=0.006)
        assert float(str(value)) == pytest.approx(mean, abs=0.01)
    result.save(job.out)
    assert Result.load(job.out).rows == result.rows

    calls: list[tuple[str, str, int]] = []

    def counted(task: Task, slug: str, bits: str, seed: int, work: Path) -> Any:
        calls.append((slug, bits, seed))
        return quantised(task, slug, bits, seed, work)

    monkeypatch.setattr(comparison, "quantised", counted)
    (kept,) = (job.out / "runs").glob("W4A4-Hadamard-RTN-seed0-*.json")
    kept.unlink()
    again = compare(settings, replace(job, resume=True))
    assert calls == [("hadamard", "W4A4", 0)]
    assert [row.values for row in again.rows] == [row.values for row in result.rows]
    changed = replace(settings, test_windows=2, methods=("rtn",), bits=("W4A4",))
    compare(changed, replace(job, resume=True))
    assert calls[1:] == [("rtn", "W4A4", 0)]  # other test windows: measured anew


@pytest.mark.slow  # tests/experiment holds it for every comparison
def test_other_settings_or_another_text_are_measured_anew(llama: str, text: Path, tmp_path: Path) -> None:
    settings = Compare(model=llama, methods=("flatquant-rtn",), **FEW | {"blocks": 1})
    job = CompareJob(data=text, out=tmp_path, resume=True)
    first = compare(settings, job)
    longer = compare(replace(settings, epochs=3), job)  # another calibration in the same folder
    other = text.with_name("other.txt")
    other.write_text(TEXT.replace("Line", "Verse"))
    values = [result.rows[0].values for result in (first, longer, compare(settings, replace(job, data=other)))]
    assert values[0] != values[1]
    assert values[0] != values[2]
    assert compare(settings, job).rows[0] == first.rows[0]


def test_a_quantised_model_is_refused(llama: str, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    shutil.copytree(llama, folder)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "x"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="is quantised already"):
        Task(Compare(model=str(folder), **FEW), texts(text))


def test_rows_without_seeds_run_once(llama: str, text: Path, tmp_path: Path) -> None:
    found = arms(Task(Compare(model=llama, **FEW), texts(text)), ("rtn", "flatquant-rtn", "hadamard"), tmp_path)
    assert [(arm.name, arm.seeded) for arm in found] == [
        ("FlatQuant RTN", True),
        (ORIGINAL, False),
        ("Hadamard RTN", False),
        ("RTN", False),
    ]


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


def test_the_task_names_the_blocks_where_not_all_are_quantised(llama: str, text: Path) -> None:
    task = Task(Compare(model=llama, **FEW | {"blocks": 1}), texts(text))
    assert task.blocks == [1]
    assert described(task).startswith(f"{llama}, blocks 1 of 2 quantised")


# -- what the numbers say ----------------------------------------------------------------------------------------------


def runs_of(bits: str, **values: float) -> Runs:
    """Runs with these perplexities, and 32 unquantised."""
    named = {BASELINES[slug.replace("_", "-")].name: value for slug, value in values.items()} | {ORIGINAL: 32.0}
    rows = {row.name: row for row in BASELINES.values()}
    made = [Arm(name, rows[name].kind if name in rows else "reference", lambda trial: NotImplemented) for name in named]
    runs = {(name, bits): [Run(name, bits, 0, None, {"perplexity": value}, 1.0)] for name, value in named.items()}
    return Runs(made, [bits], runs, {})


def test_checks_take_the_best_baseline_of_each_rounding() -> None:
    found = runs_of("W4A4", flatquant_gptq=70, flatquant_rtn=85, hadamard=80, gptq=75, rtn=20_000, c_hadamard_gptq=69)
    statements = {check.statement: (check.passed, check.figures) for check in checks(found)}
    assert statements == {
        "W4A4: FlatQuant GPTQ is below every baseline": (True, "70.00 against 75.00 (GPTQ); unquantised 32.00"),
        "W4A4: FlatQuant RTN is below every baseline that rounds to nearest": (
            False,
            "85.00 against 80.00 (Hadamard RTN); unquantised 32.00",
        ),
        "W4A4: training gains on its start, rounded in the same way": (False, "70.00 against 69.00"),
    }
    assert shows(found).startswith(
        "Perplexity, 32.0 unquantised. W4A4: c + Hadamard GPTQ, clipped 69.0, FlatQuant GPTQ 70.0, GPTQ 75.0, Hadamard"
    )


def test_a_reference_wins_nothing() -> None:
    metric = Metric("perplexity")
    rows = [
        Row("a", "system", {"perplexity": [5.0]}),
        Row("original", "reference", {"perplexity": [1.0]}),
        Row("b", "baseline", {"perplexity": [6.0]}),
    ]
    result = Result("s", "t", [metric], rows, "", "")
    assert [row.name for row in result.best(metric)] == ["a"]
    assert [row.name for row in result.best(metric, "reference")] == ["original"]
    headline = result.headline()
    assert headline is not None
    assert headline.baseline is not None
    assert headline.baseline.name == "b"
