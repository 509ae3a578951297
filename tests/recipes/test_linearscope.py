"""The recipe: what `linmap apply linearscope` accepts, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from linmap.errors import DataError, UsageError
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope import ApplySettings, apply
from linmap.recipes.linearscope.edges import sobel
from linmap.recipes.linearscope.reading import load_model

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
    with pytest.raises(DataError, match="not an image"):
        apply(ApplySettings(model="fsrcnn-small-x2"), ApplyJob(data=tmp_path / "a.png", out=tmp_path))


def test_sobel_of_a_ramp_is_its_slope():
    ramp = torch.arange(6.0).expand(1, 1, 5, 6)
    torch.testing.assert_close(sobel(ramp)[..., 1:-1], torch.full((1, 1, 5, 4), 2.0))
