"""Options in the words of the command line."""

import pytest

from linmap.recipes.finetuning import FineTuning
from linmap.recipes.language.flags import in_flags


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch_size = 3 is odd, accumulation = 2", "--batch-size 3 is odd, --accumulation 2"),
        ("lr must be positive, got 0.0.", "--lr must be positive, got 0.0."),
        ("q_proj: epochs=4 does not divide out_features=32.", "q_proj: --epochs 4 does not divide out_features=32."),
        ("set it to 0, or use schedule='linear'.", "set it to 0, or use --schedule linear."),
        ("incre_interval must be at least 1", "--growth-interval must be at least 1"),
        ("head_lr and its precision are fine", "head_lr and its precision are fine"),
    ],
)  # fmt: skip
def test_options_become_flags_and_other_words_stay(message: str, expected: str) -> None:
    assert in_flags(message, FineTuning(), {"incre_interval": "growth_interval"}) == expected
