"""What a step of training draws: a function of the seed and the step alone, so that a resumed run draws it again, and
several processes draw together what one would."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linmap.training.parts import drawn


class TrainingDraws(nn.Module):
    """Counts the steps in a buffer, which checkpoints keep.

    Parameters
    ----------
    seed
        With the number of the step, the seed of each generator.
    """

    steps: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def next(self) -> torch.Generator:
        """The generator of the next step, on the CPU."""
        (state,) = np.random.SeedSequence([self.seed, int(self.steps)]).generate_state(1, np.uint64)
        self.steps += 1
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def rotations(count: int, d: int, generator: torch.Generator) -> Float[Tensor, "count d d"]:
    """Matrices of SO(d), uniformly distributed (Haar)."""
    Q, R = torch.linalg.qr(drawn(torch.randn, count, d, d, generator=generator, dtype=torch.float64))
    Q = Q * R.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
    Q[:, :, 0] *= torch.linalg.det(Q).sign()[:, None]
    return Q


def subsets(
    X: Float[Tensor, "batch n d"], mask: Bool[Tensor, "batch n"] | None, size: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch m d"], Bool[Tensor, "batch m"] | None]:
    """`size` points of each cloud, drawn without replacement; all of a cloud that has fewer."""
    if X.shape[1] <= size:
        return X, mask
    keys = drawn(torch.rand, *X.shape[:2], generator=generator).to(X.device)
    keys = keys if mask is None else keys.masked_fill(~mask, torch.inf)
    chosen = keys.topk(size, dim=1, largest=False).indices
    X = X.gather(1, chosen.unsqueeze(-1).expand(-1, -1, X.shape[-1]))
    return X, None if mask is None else mask.gather(1, chosen)
