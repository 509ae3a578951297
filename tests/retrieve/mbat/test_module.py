import pytest
import torch

from linmap.errors import DataError
from linmap.retrieve.mbat import JSONEncoder, JSONVectorizer

DOCUMENTS = [{"a": 1}, {"a": [1, "x"]}, {"b": None}]


def test_the_module_gives_the_vectorizers_bytes() -> None:
    vectorizer = JSONVectorizer(128)
    vectors = JSONEncoder(vectorizer)(DOCUMENTS)
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, torch.from_numpy(JSONVectorizer(128).transform(DOCUMENTS)))


def test_it_is_a_layer_of_a_model_that_can_be_saved() -> None:
    def model(seed: str = "") -> torch.nn.Sequential:
        return torch.nn.Sequential(JSONEncoder(JSONVectorizer(128, seed=seed)), torch.nn.Linear(128, 2))

    first, second = model(), model()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(DOCUMENTS), second(DOCUMENTS))
    first(DOCUMENTS).sum().backward()
    assert first[1].weight.grad is not None
    with pytest.raises(DataError, match="cannot be loaded onto this encoder"):
        model(seed="other").load_state_dict(first.state_dict())
