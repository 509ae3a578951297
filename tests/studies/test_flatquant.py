"""The studies of FlatQuant at a tiny size, and the laws of what they measure."""

import statistics
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from studies.flatquant import PROTOCOLS, setting, table
from studies.flatquant.errors import block_errors, relative_error, teacher
from studies.flatquant.flatness import CURVES, SITES, Curve, curves, site_inputs
from studies.study import Job

from linmap.compress.flatquant.baselines import BASELINES, RandomHadamard, rotated
from linmap.errors import DataError
from linmap.experiment import Arm, Run, Runs
from linmap.recipes.flatquant.compare import Task, quantised, texts
from linmap.recipes.flatquant.flags import Compare
from protocols import check_goes_on
from recipes.flatquant.tiny import FEW, tiny_llama, tiny_text  # noqa: F401  (fixtures)


@pytest.fixture
def task(llama: str, text: Path) -> Task:
    return Task(Compare(model=llama, **FEW), texts(text))


# -- protocols ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=[protocol.name for protocol in PROTOCOLS])
def test_every_protocol_runs_at_a_tiny_size(
    protocol: Any, llama: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(setting.TINY, "model", llama)
    monkeypatch.setattr(setting, "texts", lambda _: texts(text))
    job = Job(tmp_path, [0], tiny=True)
    if protocol.name == "torchao" and not table.torchao_schemes():
        with pytest.raises(DataError, match="need a GPU"):
            protocol.run(job)
        return
    found = protocol.run(job)
    assert found.tables[0].rows
    assert all((tmp_path / picture.file).is_file() for picture in found.pictures)
    check_goes_on(protocol, job, found)


def test_the_setting_is_that_of_the_authors_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(setting, "Task", lambda *arguments, **more: given.append(arguments))
    monkeypatch.setattr(setting, "wikitext", lambda: texts(None))
    setting.task_of(Job(Path()))
    settings = given[0][0]
    assert (settings.windows, settings.length, settings.epochs, settings.batch_size) == (32, 128, 4, 4)
    assert (settings.test_windows, settings.test_length, settings.blocks) == (12, 512, None)
    assert {*setting.METHODS, "flatquant-distilled"} == set(BASELINES)


@pytest.mark.parametrize(("gptq", "met"), [(73.9, True), (74.0, False)])
def test_the_published_figures_are_checked(gptq: float, met: bool) -> None:
    name = BASELINES["flatquant-gptq"].name
    arm = Arm(name, "system", lambda trial: NotImplemented)
    runs = Runs([arm], ["W4A4KV4"], {(name, "W4A4KV4"): [Run(name, "W4A4KV4", 0, None, {"perplexity": gptq}, 1.0)]}, {})
    found = {check.statement: check.passed for check in table.published(runs)}
    assert found == {"W4A4KV4: FlatQuant GPTQ is at most 3 % above the authors' code (71.8)": met}


def test_torchao_has_a_table_where_it_is_there(task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    module = types.SimpleNamespace(quantize_=lambda blocks, scheme: seen.append((len(blocks), scheme)))
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", module)
    monkeypatch.setattr(table, "torchao_schemes", lambda: {"four bits": "scheme"})
    monkeypatch.setattr(table, "task_of", lambda job: task)
    (found,) = table.torchao(Job(tmp_path)).tables
    assert seen == [(2, "scheme")]
    assert found.rows[0][0] == "four bits"
    assert float(str(found.rows[0][2])) == pytest.approx(1, rel=0.05)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_errors_are_relative_and_squared() -> None:
    y = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    x = y + torch.tensor([[[0.0, 5.0], [1.0, 0.0]]])
    torch.testing.assert_close(relative_error(x, y), torch.tensor([[1.0, 0.25]]))


def test_the_original_has_no_errors(task: Task) -> None:
    alone, accumulated, positions = block_errors(task, task.model(), teacher(task), None)
    assert len(alone) == len(accumulated) == 2
    assert len(positions) == 32
    assert max(*alone, *accumulated, *positions) < 1e-9


def test_a_rotated_model_is_measured_in_its_own_basis(task: Task) -> None:
    model, states = rotated(task.model(), seed=4), teacher(task)
    assert max(block_errors(task, model, states, 4)[1]) < 1e-8
    assert min(block_errors(task, model, states, None)[0]) > 0.1
    Q = RandomHadamard.draw(32, torch.Generator().manual_seed(4))
    torch.testing.assert_close(Q(states[0]).norm(dim=-1).float(), states[0].norm(dim=-1))


def test_the_first_block_accumulates_what_it_errs_alone(task: Task, tmp_path: Path) -> None:
    model, _ = quantised(task, "rtn", "W4A4", 0, tmp_path)
    alone, accumulated, positions = block_errors(task, model, teacher(task), None)
    assert alone[0] == pytest.approx(accumulated[0])
    assert alone[0] > 1e-5
    assert statistics.fmean(positions) == pytest.approx(accumulated[-1], rel=1e-4)


def test_blocks_that_are_not_quantised_pass_the_error_on(llama: str, text: Path, tmp_path: Path) -> None:
    task = Task(Compare(model=llama, **FEW | {"blocks": 1}), texts(text))
    model, _ = quantised(task, "rtn", "W4A4", 0, tmp_path)
    alone, accumulated, _ = block_errors(task, model, teacher(task), None)
    assert len(alone) == len(accumulated) == 1
    assert alone == pytest.approx(accumulated)  # nothing before it is quantised
    assert {c.block for c in curves(task, "rtn", "W4A4", 0, tmp_path, site_inputs(task))} == {1}


# -- flatness ----------------------------------------------------------------------------------------------------------


def all_curves(task: Task, bits: str, work: Path, inputs: dict[int, dict[str, torch.Tensor]]) -> list[Curve]:
    return [curve for slug in CURVES for curve in curves(task, slug, bits, 0, work, inputs)]


def test_curves_are_of_every_method_place_and_block(task: Task, tmp_path: Path) -> None:
    inputs = site_inputs(task)
    found = all_curves(task, "W4A4KV4", tmp_path, inputs)
    assert len(found) == len(CURVES) * len(SITES) * 2 * 2
    for one in found:
        assert one.norms == sorted(one.norms, reverse=True)
        assert one.peak == pytest.approx(one.norms[0], abs=1e-3)
    (raw,) = [c for c in found if (c.method, c.site, c.block, c.kind) == ("rtn", "mlp", 1, "activation")]
    norms = inputs[1]["mlp"].flatten(0, 1).norm(dim=0)
    assert raw.peak == pytest.approx(float(norms.max() / norms.mean()), rel=1e-4)
    block: Any = task.block(task.model(), 1)
    (weight,) = [c for c in found if (c.method, c.site, c.block, c.kind) == ("rtn", "down", 1, "weight")]
    columns = block.mlp.down_proj.weight.norm(dim=0)
    assert weight.peak == pytest.approx(float(columns.max() / columns.mean()), rel=1e-4)


def test_hadamard_flattens_an_outlier_channel(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Task.model

    def with_outlier(self: Task) -> Any:
        model = original(self)
        with torch.no_grad():
            for block in model.model.layers:
                block.post_attention_layernorm.weight[3] *= 40
        return model

    monkeypatch.setattr(Task, "model", with_outlier)
    found = all_curves(task, "W4A4", tmp_path, site_inputs(task))
    peak = {c.method: c.peak for c in found if (c.site, c.block, c.kind) == ("mlp", 0, "activation")}
    assert peak["rtn"] > 10
    assert peak["smoothquant"] < 0.7 * peak["rtn"]
    assert peak["hadamard"] < 2
    assert peak["flatquant-rtn"] < 4
