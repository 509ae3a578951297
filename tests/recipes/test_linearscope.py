"""The recipe: what `linmap apply linearscope` accepts, writes and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from linmap.errors import DataError, UsageError
from linmap.experiment.result import Metric, Result
from linmap.interpret.linearscope import LinearScope
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope import ApplySettings, apply, reading
from linmap.recipes.linearscope.classifier import Deletion
from linmap.recipes.linearscope.comparison import _rows
from linmap.recipes.linearscope.edges import sobel
from linmap.recipes.linearscope.loading import class_names, load_model
from linmap.recipes.linearscope.wording import bias_share_in_words, output_in_words

PICTURES = {"votes.svg", "rows.svg", "columns.svg", "eigen_inputs.svg", "eigen_outputs.svg"}


def test_apply_writes_pictures_and_a_report(tmp_path: Path):
    summary = apply(ApplySettings(model="fsrcnn-small-x2", side=12), ApplyJob(out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == PICTURES | {"report.json"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exactness"] < 1e-5
    assert report["target_residual"] + report["target_votes"] == pytest.approx(report["target_value"], abs=1e-5)
    assert all((tmp_path / name).stat().st_size < 400_000 for name in PICTURES)
    assert summary["target"] == 12 * 24 + 12
    json.dumps(summary)
    shares = (report[key] / report["target_value"] for key in ("target_residual", "target_votes"))
    assert summary["answer"] == report["answer"]
    assert all(f"({share:.0%})" in summary["answer"] for share in shares)


@pytest.mark.parametrize("broken", ["draw_votes", "draw_signed", "draw_outputs"])
def test_the_answer_stands_where_a_picture_cannot_be_drawn(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(reading, broken, fail)
    summary = apply(ApplySettings(model="fsrcnn-small-x2", side=8), ApplyJob(out=tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exactness"] < 1e-5
    assert report["notes"] == summary["notes"]
    assert any("was not drawn: no fonts" in note for note in summary["notes"])
    assert set(report["pictures"]) == {path.name for path in tmp_path.glob("*.svg")} < PICTURES


# -- names and words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"config": SimpleNamespace(id2label={0: "cat", "1": "dog"})}, {0: "cat", 1: "dog"}),
        ({"config": SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})}, {}),
        ({"pretrained_cfg": {"label_names": ["cat", "dog"]}}, {0: "cat", 1: "dog"}),
        ({"classes": ("cat", "dog")}, {0: "cat", 1: "dog"}),
        ({"class_names": ["cat", "dog", "bird"]}, {}),
        ({}, {}),
    ],
)
def test_classes_are_named_where_the_model_names_them(attributes: dict, expected: dict[int, str]):
    model = nn.Linear(3, 2)
    for name, value in attributes.items():
        setattr(model, name, value)
    assert class_names(model, "mine:net", 2) == expected


def test_names_of_imagenet_are_given_to_the_network_that_has_them_only():
    assert class_names(nn.Linear(3, 1000), "efficientnet-lite0", 1000)[285] == "Egyptian cat"
    assert class_names(nn.Linear(3, 1000), "mine:net", 1000) == {}


def test_shares_are_said_in_words():
    assert "31% as long as the output" in bias_share_in_words(0.31)
    assert "1.97 times as long as the output" in bias_share_in_words(1.97)
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        net.bias.copy_(torch.tensor([3.0, 3.0]))
    interp = LinearScope(net.eval()).at(torch.tensor([[1.0, 1.0]]))
    assert output_in_words(interp, 0, "cat") == (
        "output 0 (cat) is 4: 3 of it comes from the biases whatever the input (75%), 1 from the input's elements (25%)"
    )
    assert output_in_words(interp, 1) == (
        "output 1 is 2: the biases alone give 3 whatever the input, and the input's elements move it by -1"
    )


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
    summary = apply(ApplySettings(model="mine:net", side=16, target=2), ApplyJob(out=tmp_path / "out"))
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
        apply(ApplySettings(model="fsrcnn-small-x2"), ApplyJob(data=tmp_path / "a.png", out=tmp_path))


def test_sobel_of_a_ramp_is_its_slope():
    ramp = torch.arange(6.0).expand(1, 1, 5, 6)
    torch.testing.assert_close(sobel(ramp)[..., 1:-1], torch.full((1, 1, 5, 4), 2.0))


def test_the_headline_is_set_beside_gradient_times_input():
    after = {"votes": [0.1], "gradient × input": [0.1], "gradient norm": [0.3], "random pixels": [0.05, 0.15]}
    test = Deletion("chelsea", torch.zeros(1, 3, 2, 2), torch.zeros(3, 2, 2), 285, 9.0, 8.7, 1e-7, 0.4, after)
    result = Result("linearscope", "", [Metric("chelsea")], _rows([test]), "", "")
    headline = result.headline()
    assert headline is not None
    assert (headline.system.name, headline.baseline and headline.baseline.name) == ("votes", "gradient × input")
    assert {row.name for row in result.rows if row.kind == "reference"} == {"random pixels", "before deletion"}
