"""Compressed models where users have them: in trainers, pipelines and SentenceTransformers."""

from typing import Any

import pytest
import torch

from compress.tiny_encoders import IMAGES, MLP, SIZES, spread
from linmap.compress.token_transforming import compress
from linmap.data.pretrained import bundled_model
from typed import other

pytestmark = pytest.mark.slow


@pytest.fixture
def classifier() -> Any:
    import transformers as t

    torch.manual_seed(0)
    return spread(t.ViTForImageClassification(t.ViTConfig(**SIZES, **IMAGES, **MLP))).eval()


def test_trainer_trains_saves_and_predicts(classifier: Any, tmp_path: Any) -> None:
    import transformers as t

    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    data = [{"pixel_values": image, "labels": i % 2} for i, image in enumerate(images)]
    before = classifier.vit.layers[0].attention.v_proj.weight.clone()
    handle = compress(classifier, stages=(0.6, (0, 1)))
    settings = t.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        save_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = t.Trainer(model=classifier, args=settings, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert not torch.equal(classifier.vit.layers[0].attention.v_proj.weight, before)
    predicted = torch.from_numpy(trainer.predict(other(data)).predictions)
    assert handle.mass.shape[1] == 7
    saved = type(classifier).from_pretrained(tmp_path / "checkpoint-2").eval()
    with torch.no_grad(), compress(saved, stages=(0.6, (0, 1))):
        torch.testing.assert_close(saved(images).logits, predicted, atol=1e-4, rtol=1e-4)
    handle.remove()
    with torch.no_grad():
        torch.testing.assert_close(classifier(images).logits, saved(images).logits)


def test_pipelines_call_it_like_any_model(classifier: Any) -> None:
    import transformers as t
    from PIL import Image

    processor = t.ViTImageProcessorPil(size={"height": 16, "width": 16})
    with compress(classifier, stages=(0.6, (0, 1))) as handle:
        pipe = t.pipeline("image-classification", model=classifier, image_processor=processor)
        assert len(pipe(Image.new("RGB", (20, 20), "red"))) == 2
        assert handle.mass.shape == (1, 7)


def test_sentence_transformers_encode_close_to_the_whole_model() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(bundled_model("minilm-l6")), device="cpu")
    sentence = "the flow of air over a thin wing at high speed and low angle of attack was measured in a tunnel"
    texts = [" ".join([sentence] * 5), "a short one", " ".join([sentence[::-1]] * 3)]
    before = model.encode(texts, convert_to_tensor=True)
    with compress(model, keep=0.85):
        fewer = model.encode(texts, convert_to_tensor=True)
        tokens = model.encode(texts[:1], output_value="token_embeddings")[0]
        longest = model.encode(texts[2], convert_to_tensor=True)  # M follows the padded length
    assert float(torch.cosine_similarity(before, fewer).min()) > 0.9
    assert float((before - fewer).abs().max()) > 0
    assert len(tokens) == len(model.tokenizer(texts[0])["input_ids"])
    torch.testing.assert_close(longest, fewer[2], atol=1e-4, rtol=1e-4)
    assert torch.equal(model.encode(texts, convert_to_tensor=True), before)
