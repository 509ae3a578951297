"""Shared settings of the test run."""

import hypothesis
import jaxtyping
import pytest
import torch

hypothesis.settings.register_profile("linmap", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("linmap")
torch.set_num_threads(1)  # two pytest workers share two cores


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def annotations_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's program: wrong types reach our own checks, and Dynamo meets no run-time check of shapes."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
