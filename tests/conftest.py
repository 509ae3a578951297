"""Shared settings of the test run."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("linmap", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("linmap")
torch.set_num_threads(1)  # two pytest workers share two cores


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
