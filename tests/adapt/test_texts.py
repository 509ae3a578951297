from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel

from linmap.adapt.texts import TextClassifier, check_packing, language_loss, row_length
from linmap.data.models import load_pretrained, model_folder
from linmap.data.tokens import UNLEARNT, Document, LanguageData
from linmap.errors import ArgumentError
from recipes.finetuning.tiny import llama, save_encoder


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


def documents(seed: int, count: int) -> list[Document]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        n, prompt = torch.randint(3, 12, (2,), generator=generator).tolist()
        ids = torch.randint(2, 250, (n,), generator=generator).tolist()
        found.append(Document(ids, [UNLEARNT if i < max(1, min(prompt, n - 1)) else ids[i] for i in range(n)]))
    return found


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_of_all_rows_is_transformers_own(packing: bool) -> None:
    model = llama().eval()
    data = LanguageData(documents(0, 6), 16, packing=packing)
    batch = data.__getitems__(list(range(len(data))))
    positions = {"position_ids": batch["position_ids"]} if packing else {}
    expected = model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False, **positions).loss
    torch.testing.assert_close(language_loss(model, batch), expected)


def test_parts_of_a_batch_add_up_to_its_loss() -> None:
    model, data = llama().eval(), LanguageData(documents(1, 7), 16)
    whole = language_loss(model, data.__getitems__(range(7)))
    parts = [language_loss(model, data.__getitems__(part)) * len(part) / 7 for part in ([0, 3], [1], [2, 4, 5, 6])]
    torch.testing.assert_close(sum(parts), whole)


def test_packing_is_refused_where_documents_would_see_each_other() -> None:
    class Means(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(16, 8)

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            counts = torch.arange(1, input_ids.shape[1] + 1)[:, None]
            return type("Output", (), {"logits": self.embedding(input_ids).cumsum(1) / counts})

    check_packing(llama())
    with pytest.raises(ArgumentError, match="Means does not keep packed records apart"):
        check_packing(Means())


def test_a_classifier_reads_the_mean_of_the_present_tokens(encoder_folder: Path) -> None:
    encoder = load_pretrained(encoder_folder, "encoder", "float32")
    torch.manual_seed(0)
    model = TextClassifier(encoder, 3).eval()
    ids = torch.randint(3, 250, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    logits = model(ids, mask)
    hidden = encoder(input_ids=ids[1:, :5]).last_hidden_state[0].mean(0)
    expected = 4 * (model.head.weight @ (hidden / hidden.norm()) + model.head.bias)
    torch.testing.assert_close(logits[1], expected, rtol=1e-4, atol=1e-5)
    ids[1, 5:] = 7
    torch.testing.assert_close(model(ids, mask), logits, rtol=1e-4, atol=1e-5)


def test_a_classifier_trains_its_head_and_the_adapters(encoder_folder: Path) -> None:
    encoder = get_peft_model(
        load_pretrained(encoder_folder, "encoder", "bfloat16"), LoraConfig(target_modules=["query"])
    )
    model = TextClassifier(encoder, 2)
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"encoder", "head"}
    ids = torch.ones(1, 4, dtype=torch.long)
    assert model(ids, ids).dtype == torch.float32


def test_rows_are_as_long_as_the_model_allows(encoder_folder: Path) -> None:
    assert row_length(encoder_folder, None) == 64
    assert row_length(encoder_folder, 10) == 10
    with pytest.raises(ArgumentError, match="max_length=65 exceeds the 64 positions"):
        row_length(encoder_folder, 65)


@pytest.mark.slow
def test_the_bundled_encoder_loads() -> None:
    encoder = load_pretrained(model_folder("minilm-l6"), "encoder", "float32")
    assert isinstance(encoder, type(AutoModel.from_config(encoder.config)))
    assert row_length(model_folder("minilm-l6"), None) == 512
