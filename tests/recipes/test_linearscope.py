"""The recipe: what `linmap apply linearscope` and `linmap compare linearscope` accept, write and refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from linmap.errors import ArgumentError, DataError, Stopped, UsageError
from linmap.experiment import Result, weights_digest
from linmap.interpret.linearscope import pictures
from linmap.recipes.job import ApplyJob, CompareJob
from linmap.recipes.linearscope import compare as comparing
from linmap.recipes.linearscope.apply import apply
from linmap.recipes.linearscope.compare import compare
from linmap.recipes.linearscope.flags import Apply, Compare
from linmap.recipes.linearscope.loading import load_model, output_names

PICTURES = {"votes.svg", "rows.svg", "columns.svg", "eigen_inputs.svg", "eigen_outputs.svg"}


def test_apply_writes_pictures_and_a_report(tmp_path: Path):
    summary = apply(Apply(model="fsrcnn-small-x2", side=12), ApplyJob(out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == PICTURES | {"report.json", "page.html"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exactness"] < 1e-5
    assert report["target_residual"] + report["target_votes"] == pytest.approx(report["target_value"], abs=1e-5)
    assert all((tmp_path / name).stat().st_size < 400_000 for name in PICTURES)
    assert summary["target"] == 12 * 24 + 12
    json.dumps(summary)
    shares = (report[key] / report["target_value"] for key in ("target_residual", "target_votes"))
    assert summary["answer"] == report["answer"]
    assert all(f"({share:.0%})" in summary["answer"] for share in shares)


def test_the_summary_says_at_which_size_an_image_is_read(tmp_path: Path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    job = ApplyJob(data=tmp_path / "red.png", out=tmp_path / "out")
    assert apply(Apply(model="fsrcnn-small-x2", side=8), job)["image"] == "30 x 20 pixels, read as 8 x 8"


@pytest.mark.parametrize("name", ["red.png", "words.txt", "rows.JSONL", "words.txt.gz", None])
def test_a_folder_is_refused_with_a_file_of_it_that_can_be_read(name: str | None, tmp_path: Path):
    (tmp_path / "notes.xyz").touch()
    (tmp_path / ".hidden.png").touch()
    if name is not None:
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=f"such as --data {tmp_path}/{name}" if name else "holds none") as raised:
        apply(Apply(), ApplyJob(data=tmp_path))
    assert f"--data {tmp_path} is a folder" in str(raised.value)


def test_the_class_is_named_or_not_mentioned(tmp_path: Path):
    summary = apply(Apply(model="fsrcnn-small-x2", side=8), ApplyJob(out=tmp_path))
    assert "target_name" not in summary
    assert output_names(nn.Linear(3, 1000), "efficientnet-lite0", 1000)[285] == "Egyptian cat"
    assert output_names(nn.Linear(3, 1000), "mine:net", 1000) == {}


@pytest.mark.parametrize("broken", ["draw_votes", "draw_signed", "draw_outputs"])
def test_the_answer_stands_where_a_picture_cannot_be_drawn(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(pictures, broken, fail)
    summary = apply(Apply(model="fsrcnn-small-x2", side=8), ApplyJob(out=tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exactness"] < 1e-5
    assert report["notes"] == summary["notes"]
    assert any("was not drawn: no fonts" in note for note in summary["notes"])
    assert set(report["pictures"]) == {path.name for path in tmp_path.glob("*.svg")} < PICTURES


# -- the network that --model names --------------------------------------------------------------------------------


OTHERS = """
import os.path
from typing import Any
import torch
from torch import nn

called = []

def needs(width): called.append("needs")
def number() -> int: called.append("number")
def nothing() -> None: called.append("nothing")
def breaks(): raise RuntimeError("no weights")
def loose() -> Any: return nn.ReLU().eval()
class Thing: pass
class Net(nn.Module):
    def forward(self, x): return x
class Wide(nn.Module):
    def __init__(self, width): super().__init__()
join = os.path.join
ready = nn.ReLU().eval()
text = "net"
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("needs", "cannot be called without arguments"),
        ("number", "says that it returns int"),
        ("nothing", "says that it returns NoneType"),
        ("Thing", "this class is no nn.Module"),
        ("Wide", "cannot be called without arguments"),
        ("join", "belongs to Python's module posixpath"),
        ("text", "this is a str, which cannot be called"),
        ("breaks", "the function failed with RuntimeError: no weights"),
    ],
)
def test_what_builds_no_network_is_refused_before_it_is_called(function, message, tmp_path, monkeypatch):
    (tmp_path / "others.py").write_text(OTHERS)
    sys.modules.pop("others", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"--model others:{function}: .*{message}"):
        load_model(f"others:{function}")
    assert not sys.modules["others"].called
    for right in ("ready", "loose", "Net"):
        assert isinstance(load_model(f"others:{right}")[0], nn.Module)


@pytest.mark.parametrize("name", ["os.path:join", "subprocess:run", "this:s", "antigravity:fly", "builtins:exec"])
def test_pythons_own_library_is_not_imported(name: str):
    before = set(sys.modules)
    with pytest.raises(UsageError, match="belongs to Python itself"):
        load_model(name)
    assert not {"this", "antigravity"} & (set(sys.modules) - before)


def test_a_function_of_a_package_without_torch_is_not_called(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UsageError, match=r"nothing in numpy.* says that it builds a network"):
        load_model("numpy:show_config")
    assert not capsys.readouterr().out


def test_a_module_that_fails_when_it_is_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "halves.py").write_text("def net(:\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--model halves:net: SyntaxError"):
        load_model("halves:net")


def test_apply_reads_the_users_own_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n    return nn.Sequential("
        "nn.Conv2d(3, 4, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(196, 7)).eval()\n"
        "\ndef other():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    summary = apply(Apply(model="mine:net", side=16, target="2"), ApplyJob(out=tmp_path / "out"))
    assert summary["target"] == 2
    assert json.loads((tmp_path / "out/report.json").read_text())["units"] == {"silu": 1}
    with pytest.raises(UsageError, match=r"returned a int, not an nn\.Module"):
        load_model("mine:other")
    with pytest.raises(UsageError, match="no attribute 'nothing'"):
        load_model("mine:nothing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "there are efficientnet-lite0"),
        ("fsrcnn-small-x3", "x2 only"),
        ("net.pt2", "read through pickle"),
        ("weights.pth", "read through pickle"),
        ("no_such_module:net", "No module named"),
    ],
)
def test_bad_models(name: str, message: str):
    with pytest.raises(UsageError, match=message):
        load_model(name)


def test_bad_image(tmp_path: Path):
    (tmp_path / "a.png").write_text("")
    with pytest.raises(DataError, match=r"a\.png is empty; there is nothing to read"):
        apply(Apply(model="fsrcnn-small-x2"), ApplyJob(data=tmp_path / "a.png", out=tmp_path))


# -- the comparison ------------------------------------------------------------------------------------------------


GATED = """
import torch
from torch import nn

class Net(nn.Module):
    class_names = ["cat", "dog", "bird"]
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(392, 3)
        self.last.weight.data.mul_(8)
    def forward(self, x):
        return self.last(torch.nn.functional.silu(self.first(x)).flatten(1))

def net(): return Net().eval()
def probabilities(): return nn.Sequential(net(), nn.Softmax(1)).eval()
def other(): return nn.Sequential(net(), nn.Linear(3, 3)).eval()
def picture(): return nn.Conv2d(3, 3, 3).eval()
"""
SMALL = {"side": 16, "random_masks": 2}


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images in two folders, beside a note; the user's networks are in the folder above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "gated", raising=False)
    (tmp_path / "gated.py").write_text(GATED)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "below/c.png"):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photographs" / "note.txt").write_text("no image")
    return tmp_path / "photographs"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time of a small comparison."""
    monkeypatch.setattr("linmap.experiment.conclusion.with_pictures", lambda result, drawings: result)


def compared(data: Path | None, model: str = "gated:net", resume: bool = False, **settings: object) -> Result:
    job = CompareJob(data=data, out=Path("out"), resume=resume)
    return compare(Compare(model=model, **(SMALL | settings)), job)


def test_every_image_of_a_folder_counts_for_the_verdict(photographs: Path):
    result = compared(photographs)
    assert {len(values) for row in result.rows for values in row.values.values()} == {3}
    assert [line[0] for line in result.tables[0].rows] == ["a.png", "b.png", "below/c.png"]
    assert {str(line[1]).partition(" ")[2] for line in result.tables[0].rows} <= {"cat", "dog", "bird"}
    assert "of 3 images" in result.verdict
    assert result.checks[0].passed, result.checks[0].figures
    assert {picture.file for picture in result.pictures} == {path.name for path in Path("out").glob("*.svg")}
    result.save(Path("out"))
    assert Result.load(Path("out")).verdict == result.verdict


@pytest.mark.usefixtures("undrawn")
def test_the_headline_is_set_beside_gradient_times_input(photographs: Path):
    result = compared(photographs / "a.png")
    headline = result.headline()
    assert headline is not None
    assert headline.system.name == "votes"
    assert {row.name for row in result.rows if row.kind == "baseline"} == {"gradient × input", "gradient norm"}
    assert {row.name for row in result.rows if row.kind == "reference"} == {"random pixels", "before deletion"}
    assert "one value each" in result.verdict


@pytest.mark.usefixtures("undrawn")
def test_votes_of_a_network_with_gates_are_not_gradient_times_input_unless_asked(photographs: Path):
    frozen, tangent = (compared(photographs, smooth=smooth) for smooth in ("secant", "taylor"))
    votes, product = (tangent.rows[i].values["probability left"] for i in (0, 1))
    assert votes == pytest.approx(product, abs=1e-6)
    assert frozen.rows[0].values != tangent.rows[0].values
    assert "piecewise linear" in tangent.shows


@pytest.mark.usefixtures("undrawn")
def test_probabilities_are_not_taken_for_logits(photographs: Path):
    with pytest.warns(UserWarning, match="softmax"):
        inside = compared(photographs, "gated:probabilities")
    votes = (compared(photographs).rows[0], inside.rows[0])
    assert votes[0].values["probability left"] == pytest.approx(votes[1].values["probability left"], abs=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_what_is_finished_is_not_run_again_unless_the_image_or_the_weights_change(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    votes = comparing.Deletion._votes

    def counted(self, trial):
        read.append(Path(trial.data).name)
        if trial.data.name == "c.png" and len(read) == 3:
            raise KeyboardInterrupt
        return votes(self, trial)

    monkeypatch.setattr(comparing.Deletion, "_votes", counted)
    with pytest.raises(Stopped, match="8 runs are done and kept, of 12"):
        compared(photographs)
    result = compared(photographs, resume=True)
    assert read == ["a.png", "b.png", "c.png", "c.png"]
    monkeypatch.setattr(comparing.Deletion, "_votes", votes)
    assert [row.values for row in result.rows] == [row.values for row in compared(photographs).rows]
    monkeypatch.setattr(comparing.Deletion, "_votes", counted)
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(photographs / "b.png")
    compared(photographs, resume=True)
    assert read[4:] == ["b.png"]
    compared(photographs, random_masks=3, resume=True)
    assert read[5:] == []
    compared(photographs, "gated:other", resume=True)
    assert read[5:] == ["a.png", "b.png", "c.png"]


def test_weights_decide_the_digest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    before = weights_digest(model)
    assert weights_digest(model) == before
    model.get_parameter("0.weight").data[0, 0] += 1e-3
    assert weights_digest(model) != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "fsrcnn-small-x2"}, r"needs a classifier.*gives \(1, 1, 32, 32\)"),
        ({"model": "gated:picture"}, r"needs a classifier.*gives \(1, 3, 14, 14\)"),
        ({"deleted": 1.0}, "--deleted 1.0 must be a share between 0 and 1"),
        ({"random_masks": 0}, "--random-masks 0 must be 1 or more"),
    ],
)
def test_what_cannot_be_compared_is_refused(photographs: Path, settings: dict, message: str):
    with pytest.raises(UsageError, match=message):
        compared(photographs, **settings)


def test_a_bad_image_is_named_before_any_work(photographs: Path):
    (photographs / "z.png").write_text("no image")
    with pytest.raises(DataError, match=r"z\.png: this is not an image"):
        compared(photographs)
    assert not Path("out").exists()
    (photographs.parent / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        compared(photographs.parent / "empty")


@pytest.mark.usefixtures("undrawn")
def test_the_embedded_photographs_go_through_the_same_code(photographs: Path):
    result = compared(None)
    assert [line[0] for line in result.tables[0].rows] == ["chelsea", "coffee", "china", "flower"]


# -- what a network of the user's cannot do ----------------------------------------------------------------------------


NETS = """
import torch
from torch import nn

def net(dtype=torch.float32):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 2, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 5)
    return nn.Sequential(*layers).eval()

def double():
    return net().double()

def broken():
    found = net()
    found[4].weight.data[1, 2] = float("nan")
    return found
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "somebodys_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "somebodys_nets", raising=False)
    return "somebodys_nets"


def test_an_input_that_the_network_cannot_take_is_wrong_use(nets: str, tmp_path: Path):
    for run, settings, job in (
        (apply, Apply(model=f"{nets}:double", side=16, grey=True), ApplyJob(out=tmp_path / "a")),
        (compare, Compare(model=f"{nets}:double", side=16, grey=True), CompareJob(out=tmp_path / "c")),
    ):
        with pytest.raises(UsageError, match=r"cannot take an input of the shape \(1, 1, 16, 16\).*--grey"):
            run(settings, job)  # pyright: ignore[reportArgumentType]


def test_a_network_is_fed_in_its_own_number_format(nets: str, tmp_path: Path):
    assert apply(Apply(model=f"{nets}:double", side=16), ApplyJob(out=tmp_path))["exactness"] < 1e-12


def test_a_network_that_answers_nan_is_refused(nets: str, tmp_path: Path):
    for run, settings, job in (
        (apply, Apply(model=f"{nets}:broken", side=16), ApplyJob(out=tmp_path / "a")),
        (compare, Compare(model=f"{nets}:broken", side=16), CompareJob(out=tmp_path / "c")),
    ):
        with pytest.raises(ArgumentError, match="Sequential answers NaN at this input"):
            run(settings, job)  # pyright: ignore[reportArgumentType]
