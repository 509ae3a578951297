"""Calibrate a tiny model and save what each process ends with; run as a script by the processes of a launcher."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.flatquant.models import tiny, tokens
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.parallel import processes
from two_processes import end


def main(out: Path) -> None:
    config = FlatQuantConfig(epochs=2, k_bits=4, v_bits=4, weights="gptq")
    model = calibrate(tiny(), tokens(8, 12), config, work=out / "work")
    assert sorted(model.flatquant.blocks) == [0, 1]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, out / f"rank{processes().process_index}.safetensors")
    end()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
