"""Calibrate a tiny model, and hang in its second block; run as a script and killed."""

import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.flatquant.models import tiny, tokens
from linmap.compress.flatquant import blockwise
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig


def main(work: Path) -> None:
    steps, step = 0, blockwise.backward

    def hanging_step(*args: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 6:  # two epochs of two steps a block
            (work / "in_block_1").touch()
            time.sleep(600)
        return step(*args)

    blockwise.backward = hanging_step
    calibrate(tiny(), tokens(8, 12), FlatQuantConfig(epochs=2, k_bits=4, v_bits=4), work=work)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
