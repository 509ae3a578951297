"""`TourSolver`: a neural solver of the travelling salesman's problem, and 2-opt behind it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.errors import ArgumentError
from linmap.shapes.tinvnn.attention_model import AttentionModel, lengths
from linmap.shapes.tinvnn.embedding import TinvEmbedding
from linmap.shapes.tinvnn.points import check_choice, check_whole
from linmap.shapes.tinvnn.tours import STEPS, check_cities, distances, improved
from linmap.shapes.tinvnn.training_draws import TrainingDraws
from linmap.training import TrainingConfig, TrainingHistory, private, train
from linmap.training.saving import SavedEstimator

Representation = Literal["raw", "moment", "random"]
SIZES = ("steps", "batch_size", "d_model", "n_heads", "n_layers", "d_hidden")
AT_ONCE = 2**21
"""Scores of a decoding step that are held at once."""


class TourSolver(SavedEstimator, BaseEstimator):
    """Short closed tours through points of the plane, the same for every copy of an instance.

    Parameters
    ----------
    representation
        What the network sees. "random": the canonical pose, with random signs in training. "moment": with those of
        `moment_signs`. "raw": the coordinates as they come.
    n_cities
        Of a training instance: uniform in the unit square.
    steps, batch_size, lr
        Of Adam, on new instances in every step; the rate falls linearly.
    d_model, n_heads, n_layers, d_hidden
        Of the encoder.
    random_state
        Seed; no global generator is read or set.

    Attributes
    ----------
    model_
        The network.
    history_
        Of the training.

    Notes
    -----
    Trained as POMO is: one tour from each city, the mean length as the baseline. `solve` decodes greedily from every
    city in every sign frame of the canonical pose.
    """

    SYSTEM = "tinvnn"

    def __init__(
        self,
        representation: Representation = "random",
        n_cities: int = 20,
        steps: int = 300,
        batch_size: int = 48,
        lr: float = 1e-3,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 3,
        d_hidden: int = 256,
        random_state: int = 0,
    ) -> None:
        self.representation = representation
        self.n_cities = n_cities
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.d_hidden = d_hidden
        self.random_state = random_state

    def fit(
        self, X: None = None, y: None = None, *, checkpoints: Path | str | None = None, resume: bool = False
    ) -> Self:
        """Train on random instances; X and y are not used.

        Parameters
        ----------
        checkpoints, resume
            Folder for checkpoints, and whether to go on from the last one.

        Raises
        ------
        ValueError
            If a parameter is not as above.
        """
        check_choice("representation", self.representation, Representation)
        for name, least in ({"n_cities": 3, "random_state": 0} | dict.fromkeys(SIZES, 1)).items():
            check_whole(name, getattr(self, name), least)
        if self.d_model % self.n_heads:
            raise ArgumentError(f"d_model={self.d_model} must be a multiple of n_heads={self.n_heads}.")
        self.model_ = self.build()
        data = UniformInstances(self.steps * self.batch_size, self.n_cities, self.random_state)
        self.history_: TrainingHistory | None = train(
            self.model_,
            _loss,
            data,
            config=self.training_config(),
            out=checkpoints,
            resume=resume,
            description="tours",
            seed_globally=False,
            settings=self.get_params(),
        )
        self.model_.cpu()
        return self

    def build(self) -> Builder:
        """The untrained network, drawn with `random_state` and nothing else."""
        with private(self.random_state):
            net = AttentionModel(2, self.d_model, self.n_heads, self.n_layers, self.d_hidden)
        signs: Any = self.representation
        return Builder(net, None if signs == "raw" else TinvEmbedding(signs=signs), self.random_state)

    def training_config(self) -> TrainingConfig:
        """Adam at a falling rate, one pass over the instances."""
        return TrainingConfig(
            epochs=1,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=1e-6,
            schedule="linear",
            clip_norm=1.0,
            checkpoint_every=100,
            seed=self.random_state,
        )

    def solve(
        self, X: Any, *, n_starts: int | None = None, frames: bool = True, polish: int = 8
    ) -> Int64[np.ndarray, " n"]:
        """A short tour.

        Parameters
        ----------
        X
            (n, 2): one instance in any unit.
        n_starts
            Cities that tours begin from: the ones farthest from the mean; all by default.
        frames
            Decode in every sign frame of the canonical pose, not in the one of the moments alone.
        polish
            Shortest different tours that go through 2-opt, of which the best is returned; 0 leaves 2-opt out.

        Returns
        -------
        tour
            Numbers of the cities in their order; `tour_length(tour, X)` is its length.

        Raises
        ------
        ValueError
            If X is not as above.
        """
        check_is_fitted(self, "model_")
        cities = check_cities(X)
        if cities.shape[1] != 2:
            raise ArgumentError(f"X must hold cities of the plane (n, 2), got shape {cities.shape}.")
        if n_starts is not None:
            check_whole("n_starts", n_starts, 1)
        check_whole("polish", polish, 0)
        poses = self._poses(torch.from_numpy(cities), frames)
        tours = self._decoded(poses, n_starts)
        D = distances(poses[0].numpy())
        size = np.sqrt(np.square(poses[0].numpy() - poses[0].numpy().mean(0)).sum(1).mean())
        whole = np.rint(D * (STEPS / size if size else 1.0)).astype(np.int64)
        return _best(tours, whole, polish)

    def _poses(self, X: Float[Tensor, "n d"], frames: bool) -> Float[Tensor, "frames n d"]:
        if self.representation == "raw":
            return X[None]
        embedding = TinvEmbedding().eval()
        return embedding.frames(X) if frames else embedding(X)[None]

    @torch.no_grad()
    def _decoded(self, poses: Float[Tensor, "frames n d"], n_starts: int | None) -> Int64[np.ndarray, "tours n"]:
        """In float64, in which copies of an instance are decoded alike."""
        net = copy.deepcopy(self.model_.net).double().eval()
        n = poses.shape[1]
        order = (poses[0] - poses[0].mean(0)).norm(dim=1).argsort(descending=True, stable=True)
        starts = order[: n if n_starts is None else n_starts]
        found = [
            net(poses, part).tours.flatten(0, 1)
            for part in starts.split(max(1, AT_ONCE // (len(poses) * n * self.n_heads)))
        ]
        return torch.cat(found).numpy()

    def _learnt(self) -> dict[str, Any]:
        return {}

    def _restore(self, config: Mapping[str, Any]) -> None:
        """There is nothing but the weights."""


class Builder(nn.Module):
    """The network behind its pose, as training calls it: lengths and log-probabilities of drawn tours."""

    def __init__(self, net: AttentionModel, embedding: TinvEmbedding | None, seed: int) -> None:
        super().__init__()
        self.net, self.embedding, self.draws = net, embedding, TrainingDraws(seed)

    def forward(self, X: Float[Tensor, "batch n d"]) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        generator = self.draws.next()
        H = X if self.embedding is None else self.embedding(X, generator=generator)
        rollout = self.net(H, generator=generator)
        return lengths(rollout.tours, X), rollout.log_probability


class UniformInstances(Dataset):
    """Random cities of the unit square; each instance is a function of the seed and its number."""

    def __init__(self, count: int, n_cities: int, seed: int) -> None:
        self.count, self.n_cities, self.seed = count, n_cities, seed

    def __len__(self) -> int:
        return self.count

    def fingerprinted(self) -> tuple[int, int, int]:
        return self.count, self.n_cities, self.seed

    def __getitem__(self, index: int) -> Float[Tensor, "n d"]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Float[Tensor, "batch n d"]:
        draws = [np.random.default_rng([self.seed, i]).random((self.n_cities, 2), np.float32) for i in indices]
        return torch.from_numpy(np.stack(draws))


def _loss(model: nn.Module, X: Float[Tensor, "batch n d"]) -> Float[Tensor, ""]:
    """REINFORCE: the mean over the starts is the baseline."""
    length, log_probability = model(X)
    return ((length - length.mean(1, keepdim=True)) * log_probability).mean()


def _best(tours: np.ndarray, D: np.ndarray, polish: int) -> Int64[np.ndarray, " n"]:
    """The shortest tour, or what 2-opt makes of the shortest ones."""
    length = D[tours, np.roll(tours, -1, 1)].sum(1)
    order = np.argsort(length, kind="stable")
    if polish == 0:
        return tours[order[0]]
    _, first = np.unique(length[order], return_index=True)  # the same length: the same tour from another city
    candidates = [improved(tours[i], D) for i in order[first[:polish]]]
    return min(candidates, key=lambda tour: int(D[tour, np.roll(tour, -1)].sum()))
