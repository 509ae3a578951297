"""What state spaces are compared with."""

import numpy as np
import pytest
import torch

from linmap.sequence.s4 import GRUClassifier, SequenceModel
from linmap.sequence.s4.baselines import RecurrentModel


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_reach_the_gru(bidirectional: bool) -> None:
    torch.manual_seed(0)
    model = RecurrentModel(2, 3, 1, 8, bidirectional)
    x, lengths = torch.randn(3, 9, 2), torch.tensor([4, 9, 1])
    found = model(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[i : i + 1], model(x[i : i + 1, :length]))


def test_the_gru_is_of_the_same_size_and_trained_alike() -> None:
    gru = sum(p.numel() for p in RecurrentModel(1, 10, 1, 32, False).parameters())
    ours = sum(p.numel() for p in SequenceModel(1, 10, 2, 32, 16).parameters())
    assert (gru, ours) == (6730, 7946)
    estimator = GRUClassifier(2, 8, epochs=1).fit(np.random.default_rng(0).normal(size=(6, 5, 1)), [0, 1] * 3)
    assert estimator.predict_proba(np.zeros((2, 5, 1))).shape == (2, 2)
