"""The bars on the networks that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from linmap.data.images import embedded_image, luminance, square, window
from linmap.data.pretrained import bundled_model, efficientnet_lite0, fsrcnn
from linmap.experiment import Trial
from linmap.interpret.linearscope import AffineInterpreter, LinearScope
from linmap.recipes.linearscope.compare import CHANCE, NORM, PRODUCT, VOTES, Deletion
from linmap.recipes.linearscope.flags import Compare
from linmap.recipes.linearscope.loading import model_input, normalised


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return normalised(square(embedded_image("chelsea"), 224))


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_efficientnet_is_reproduced(photo: Tensor, dtype: torch.dtype, bar: float):
    net, x = efficientnet_lite0().to(dtype), photo.to(dtype)
    interp = LinearScope(net).at(x)
    with torch.no_grad():
        assert torch.equal(interp.output, net(x))
        y = interp.matvec(x) + interp.residual
    assert float((y - interp.output).abs().max() / interp.output.abs().max()) < bar
    assert float(interp.output[0, 285]) == pytest.approx(9.01, abs=0.01)
    assert float(interp.residual[0, 285]) == pytest.approx(8.74, abs=0.01)


@pytest.mark.parametrize(("scale", "small"), [(2, False), (2, True), (3, False), (4, False)])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fsrcnn_is_reproduced_and_is_its_jacobian(scale: int, small: bool, dtype: torch.dtype, bar: float):
    net = fsrcnn(scale, small).to(dtype)
    x = torch.from_numpy(luminance(window(embedded_image("camera"), 152, 152, 12, 10)))[None, None].to(dtype)
    interp = LinearScope(net).at(x)
    with torch.no_grad():
        assert torch.equal(interp.output, net(x))
        y = interp.matvec(x) + interp.residual
    assert float((y - interp.output).abs().max() / interp.output.abs().max()) < bar
    if dtype == torch.float64 and scale == 2:
        J = torch.autograd.functional.jacobian(net, x).reshape(interp.out_features, -1)
        torch.testing.assert_close(interp.dense(), J, rtol=0, atol=1e-12)


def test_singular_pairs_of_an_enlargement():
    net = fsrcnn(2).double()
    x = torch.from_numpy(luminance(window(embedded_image("camera"), 152, 152, 12, 10)))[None, None]
    interp = LinearScope(net).at(x)
    U, S, Vh = interp.svd(4)
    torch.testing.assert_close(S, torch.linalg.svdvals(interp.dense())[:4], rtol=1e-6, atol=0)
    torch.testing.assert_close(interp.rmatvec(U.mT), S[:, None] * Vh, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "by_votes", "by_gradient"),
    [("chelsea", 0.385, 0.105, 0.297), ("coffee", 0.940, 0.008, 0.153), ("china", 0.301, 0.135, 0.305)],
)
def test_deletion_table(name: str, before: float, by_votes: float, by_gradient: float, tmp_path: Path):
    settings = Compare(random_masks=3)
    test = Deletion(efficientnet_lite0(), settings, lambda image: model_input(settings, image, False))
    found = {arm.name: arm.run(Trial(name, 0, None, False, tmp_path)).values for arm in test.arms()}
    after = {method: values["after"] for method, values in found.items()}
    assert found[VOTES]["before"] == pytest.approx(before, abs=0.005)
    assert after[VOTES] == pytest.approx(by_votes, abs=0.01)
    assert after[NORM] == pytest.approx(by_gradient, abs=0.01)
    assert after[PRODUCT] == pytest.approx(after[VOTES], abs=1e-4)
    assert after[VOTES] < min(after[CHANCE], after[NORM])


def test_votes_are_gradient_times_input(photo: Tensor):
    net, x = efficientnet_lite0(), photo.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[0, 285], x)
    votes = LinearScope(net).at(photo).votes(285)
    expected = (gradient * x)[0].detach()
    assert float((votes - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("tokens", [64, 512])
def test_smollm2_is_reproduced(tokens: int, dtype: torch.dtype, bar: float):
    transformers = pytest.importorskip("transformers")
    folder = bundled_model("smollm2-135m")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()
    text = "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want. "
    ids = transformers.AutoTokenizer.from_pretrained(folder)(30 * text, return_tensors="pt").input_ids[:, :tokens]
    interp = LinearScope(model).at(ids, logits_to_keep=1)
    assert interp.output.shape == (1, 1, 49152)
    assert interp.bias_share() < 1e-6
    reproduced(interp, bar)
    with torch.no_grad():
        torch.testing.assert_close(interp.output, model(ids, logits_to_keep=1).logits, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [98, 224])
def test_dinov2_is_reproduced(size: int, dtype: torch.dtype, bar: float):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(bundled_model("dinov2-small"), dtype=dtype).eval()
    x = normalised(square(embedded_image("chelsea"), size)).to(dtype)
    reproduced(LinearScope(model, output=lambda o: o.last_hidden_state).at(x), bar)


def reproduced(interp: AffineInterpreter, bar: float) -> None:
    """The whole output by columns' way, one output by rows' way."""
    y = interp.output.flatten()
    top = int(y.argmax())
    with torch.no_grad():
        whole = interp.matvec(interp.input.flatten()) + interp.residual.flatten()
        one = interp.row(top) @ interp.input.flatten() + interp.residual.flatten()[top]
    assert float((whole - y).abs().max() / y.abs().max()) < bar
    assert float((one - y[top]).abs() / y.abs().max()) < bar
