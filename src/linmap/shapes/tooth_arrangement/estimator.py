"""`TADPM` proposes set-ups by a diffusion, `MotionRegression` gives one by regression; they share everything else."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor, nn
from torch.utils.data import TensorDataset

from linmap import artifacts
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.geometry.rigid import rotation_from_six, six_from_rotation
from linmap.shapes.tooth_arrangement.augmentation import Batch, augmented
from linmap.shapes.tooth_arrangement.diffusion import CosineDDIM
from linmap.shapes.tooth_arrangement.frames import fixes_pose, mean_arch, registered
from linmap.shapes.tooth_arrangement.guidance import ArchForm
from linmap.shapes.tooth_arrangement.neighbours import Neighbours
from linmap.shapes.tooth_arrangement.network import ArrangementNetwork, Encoder
from linmap.shapes.tooth_arrangement.pairs import ToothPairs, motion_matrices
from linmap.shapes.tooth_arrangement.scoring import smoothness
from linmap.shapes.tooth_arrangement.shifts import Shifts
from linmap.shapes.tooth_arrangement.slots import FDI, TEETH, slots_of
from linmap.shapes.tooth_arrangement.targets import IDENTITY, Scales, Target
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet
from linmap.shapes.tooth_arrangement.turns import Turns
from linmap.training import TrainingConfig, TrainingHistory, private, train
from linmap.training.randomness import Source

SYSTEM = "tooth_arrangement"
DRAWS = 2  # noised motions of each case in a step
START = 0.8  # time of the sampler's start, over the number of timesteps
DECAY = 0.01  # weight decay of AdamW
SAMPLER = ("sampling_steps", "eta")  # parameters of which training does not depend
CASES = 100  # at once in prediction


@dataclass(frozen=True)
class Arrangement:
    """Proposed set-ups, best first."""

    motions: Tensor
    """(n_samples, 32, 4, 4) float64: act on columns (x, y, z, 1), in mm, in the coordinates of the teeth."""
    scores: dict[str, np.ndarray]
    """(n_samples,) each: "collision", the depth in mm of the deepest neighbours; "smoothness", the r.m.s. distance in
    mm of tooth centres from a smooth arch; "total", their sum, by which proposals are sorted."""


class _Arranger(BaseEstimator):
    """What the two estimators share: data, frame, network, training, ranking, saving."""

    points: int
    width: int
    blocks: int
    target: Target
    epochs: int
    batch_size: int
    lr: float
    random_state: int
    encoder: Encoder

    def fit(self, pairs: ToothPairs, *, checkpoints: Path | str | None = None, resume: bool = False) -> Self:
        """Train on cases before and after treatment.

        Parameters
        ----------
        pairs
            In mm, with as many points a tooth as `points` says.
        checkpoints, resume
            Folder for checkpoints, and whether to go on from the last one.

        Raises
        ------
        ValueError
            If the pairs have another number of points, a case has no tooth, a value of a present tooth is not finite,
            or a parameter is out of its range.
        """
        self._check_parameters()
        self._check_pairs(pairs, fitted=False)
        pairs = pairs.to(torch.float64)
        self.mean_arch_ = mean_arch(pairs.centroid, pairs.mask)
        R, _ = registered(pairs.centroid, pairs.mask, self.mean_arch_)
        points = _about_centroids(pairs) @ R.mT[:, None]
        self.turns_ = Turns.fit(points, R[:, None] @ pairs.rotation @ R.mT[:, None], pairs.mask)
        data, _ = self._framed(pairs)
        points = _about_centroids(data)
        self.shifts_ = Shifts.fit(points, data.centroid, data.after_centroid, data.mask)
        self.scales_ = Scales.of(self.target, data, self.shifts_(points, data.centroid, data.mask))
        self.model_ = self._build()
        steps = -(-len(pairs) // self.batch_size) * self.epochs
        config = TrainingConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            optimizer="adamw",
            weight_decay=DECAY,
            schedule="linear",
            warmup_steps=steps // 10,
            clip_norm=1.0,
            seed=self.random_state,
        )
        parts = [part.float() for part in (points, data.centroid, data.after_centroid, data.rotation)]
        self.history_: TrainingHistory | None = train(
            self.model_,
            self._loss,
            TensorDataset(*parts, pairs.mask),
            config=config,
            out=checkpoints,
            resume=resume,
            description=type(self).__name__,
            seed_globally=False,
            settings={name: value for name, value in self.get_params().items() if name not in SAMPLER},
            source=pairs,
        )
        self.model_.cpu()
        return self

    def predict(self, pairs: ToothPairs, n_samples: int = 1, seed: int = 0) -> Float[Tensor, "samples cases 32 9"]:
        """Motions y = [c', six numbers of R^T] of cases, in mm, as the network gives them: neither moved out of
        collisions nor ranked. Only `before`, `centroid` and `mask` are read.

        Raises
        ------
        ValueError
            As `fit`, or if `n_samples` is less than 1.
        """
        check_is_fitted(self, "model_")
        _check_samples(n_samples)
        self._check_pairs(pairs)
        pairs = pairs.to(torch.float64)
        generator = torch.Generator().manual_seed(seed)
        found = [
            self._predicted(pairs[torch.arange(at, min(at + CASES, len(pairs)))], n_samples, generator)
            for at in range(0, len(pairs), CASES)
        ]
        return torch.cat(found, 1)

    def arrange(
        self,
        teeth: ToothSet,
        n_samples: int = 8,
        fixed: Sequence[int] = (),
        seed: int = 0,
        arch_width: Any = None,
        arch_depth: Any = None,
    ) -> Arrangement:
        """Propose set-ups of one patient's teeth.

        Parameters
        ----------
        teeth
            Before treatment.
        n_samples
            Proposals.
        fixed
            FDI numbers of teeth that must not move; the others are proposed given them.
        seed
            Of the draws.
        arch_width, arch_depth
            What the arches are brought to in each step of the sampler, in mm (`ArchForm`): the distance of the first
            molars' centroids, and that of the central incisors' from the line of the molars. A number for both jaws, or
            a mapping of "upper" and "lower". Fixed teeth, and teeth that are then moved out of collisions, may miss it.

        Raises
        ------
        ValueError
            If a fixed tooth is unknown or absent, `n_samples` is less than 1, an arch form cannot be had, or the
            estimator has not been fitted.

        Warns
        -----
        UserWarning
            If there are teeth that no training pair had, such as third molars: they stay where they are. If there are
            too few teeth to tell the pose of the model.
        """
        check_is_fitted(self, "model_")
        if not isinstance(teeth, ToothSet):
            raise ArgumentTypeError(f"teeth must be a ToothSet, got {type(teeth).__name__}.")
        _check_samples(n_samples)
        slots = slots_of("fixed", fixed)
        mask = teeth.mask
        if absent := [FDI[slot] for slot in slots if not mask[slot]]:
            raise ArgumentError(f"fixed: tooth {absent[0]} is not in the set; name teeth that are there.")
        form = ArchForm(arch_width, arch_depth, mask)
        case = _unmoved(teeth.points(self.points), teeth.centroids(), mask)
        generator = torch.Generator().manual_seed(seed)
        self._check_pairs(case)
        if not fixes_pose(case.centroid[0, mask & self._seen]):
            warnings.warn(
                "the pose of the model cannot be told from fewer than three teeth, or teeth on a line; motions hold "
                "only if it stands as the training pairs do.",
                stacklevel=2,
            )
        y = self._predicted(case, n_samples, generator, slots, form if form else None)[:, 0]
        motions = motion_matrices(case.centroid, y).numpy()
        held = slots + (mask & ~self._seen).nonzero()[:, 0].tolist()
        if unseen := [FDI[slot] for slot in held if slot not in slots]:
            warnings.warn(
                f"no training pair has the teeth {', '.join(map(str, unseen))}; they are left where they are.",
                stacklevel=2,
            )
        motions[:, [slot for slot in range(TEETH) if slot in held or not mask[slot]]] = np.eye(4)
        neighbours = Neighbours(teeth, reach=1)
        motions = np.stack([neighbours.apart(proposal, held) for proposal in motions])
        return _ranked(motions, neighbours, mask.numpy())

    # -- saving --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str, **more: Any) -> None:
        """Write parameters and weights into `folder`; `more` goes into the configuration."""
        check_is_fitted(self, "model_")
        config = {
            "estimator": type(self).__name__,
            "parameters": self.get_params(),
            "scales": asdict(self.scales_),
            "mean_arch": self.mean_arch_,
        } | more
        tensors = dict(self.model_.state_dict()) | self.turns_.tensors() | self.shifts_.tensors()
        artifacts.save(folder, SYSTEM, artifacts.plain(config), tensors, seed=self.random_state)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """What `save` wrote.

        Raises
        ------
        ArtifactError
            If the folder holds no such run.
        ValueError
            If it holds the other estimator's.
        """
        config, tensors = artifacts.load(folder, SYSTEM)
        with artifacts.reading(folder):
            if config["estimator"] != cls.__name__:
                raise ArgumentError(f"{folder} holds a {config['estimator']}, not a {cls.__name__}; load it by that.")
            self = cls(**config["parameters"])
            self.scales_, self.mean_arch_ = (
                Scales(**config["scales"]),
                torch.tensor(config["mean_arch"], dtype=torch.float64),
            )
            self.turns_, self.shifts_ = Turns.from_tensors(tensors), Shifts.from_tensors(tensors)
            self.history_, self.model_ = None, self._build()
            self.model_.load_state_dict(tensors)
            self.model_.eval()
        return self

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def _seen(self) -> Tensor:
        """(32,): the teeth that training pairs had."""
        return self.mean_arch_.any(-1)

    def _build(self) -> ArrangementNetwork:
        with private(self.random_state):
            return ArrangementNetwork(self.width, self.blocks, self.encoder, self.mean_arch_)

    def _check_parameters(self) -> None:
        for name in ("points", "width", "blocks", "epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name} must be a whole number of at least 1, got {value!r}.")
        _check_target(self.target)
        if self.encoder not in get_args(Encoder):
            raise ArgumentError(f"encoder must be one of {', '.join(get_args(Encoder))}, got {self.encoder!r}.")

    def _check_pairs(self, pairs: ToothPairs, fitted: bool = True) -> None:
        if not isinstance(pairs, ToothPairs):
            raise ArgumentTypeError(f"pairs must be ToothPairs, got {type(pairs).__name__}.")
        if pairs.points != self.points:
            raise ArgumentError(f"pairs have {pairs.points} points a tooth, and points={self.points}; make them alike.")
        if not len(pairs) or not pairs.mask.any(1).all():
            raise ArgumentError("pairs have no case, or a case without teeth; leave it out.")
        if fitted and not (pairs.mask & self._seen).any(1).all():
            raise ArgumentError("pairs have a case none of whose teeth the training pairs had.")
        for name in ("before", "after", "centroid", "after_centroid", "rotation"):
            if not getattr(pairs, name)[pairs.mask].isfinite().all():
                raise ArgumentError(f"pairs.{name} holds values that are not finite for a tooth that is there.")

    def _framed(self, pairs: ToothPairs) -> tuple[ToothPairs, Tensor]:
        """The pairs laid over the mean arch by their places before treatment, where each tooth is turned by the first
        guess of its rotation; and these turns (B, 32, 3, 3)."""
        R, t = registered(pairs.centroid, pairs.mask & self._seen, self.mean_arch_)
        points = _about_centroids(pairs) @ R.mT[:, None]
        turn = self.turns_(points, pairs.mask)
        centroid = pairs.centroid @ R.mT + t[:, None]
        framed = ToothPairs(
            points @ turn.mT + centroid[:, :, None],
            pairs.after @ R.mT[:, None] + t[:, None, None],
            centroid,
            pairs.after_centroid @ R.mT + t[:, None],
            R[:, None] @ pairs.rotation @ R.mT[:, None] @ turn.mT,
            pairs.mask,
        )
        return framed, turn

    def _loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """The error of normalised motions and of points, each in the unit of the motions' own size."""
        network = cast(ArrangementNetwork, model)
        generator = cast(Source, network.draws.source).on(batch[0].device)
        points, centroid, after, R, mask = augmented(cast(Batch, tuple(batch)), generator)
        y = torch.cat([after, six_from_rotation(R.mT)], -1)
        guess = self.shifts_(points, centroid, mask)
        z = self.scales_.normalised(y, guess).masked_fill(~mask[..., None], 0)
        noised, t = self._noised(z, generator)
        predicted = network(points, self._places(centroid, guess), mask, noised, t)
        moved = self.scales_.motions(predicted, guess)
        turned = points @ rotation_from_six(moved[..., 3:]) + moved[..., None, :3]
        points_error = (turned - points @ R.mT - after[..., None, :]).square().mean((-1, -2))
        error = (predicted - z).square().mean(-1) + points_error / self.scales_.place**2
        return (error * mask).sum() / (mask.sum() * len(predicted))

    def _predicted(
        self,
        pairs: ToothPairs,
        n_samples: int,
        generator: Generator,
        fixed: Sequence[int] = (),
        form: ArchForm | None = None,
    ) -> Float[Tensor, "samples cases 32 9"]:
        framed, turn = self._framed(pairs)
        mask = pairs.mask & self._seen
        centroid = framed.centroid.masked_fill(~mask[..., None], 0)
        points = _about_centroids(framed)
        guess = self.shifts_(points, centroid, mask)
        self.model_.eval()
        with torch.no_grad():
            context = self.model_.context(points.float(), self._places(centroid, guess).float(), mask)
            context, masks = context.repeat(n_samples, 1, 1), mask.repeat(n_samples, 1)
            centers, guesses = (part.repeat(n_samples, 1, 1).float() for part in (centroid, guess))
            unmoved = six_from_rotation(turn).repeat(n_samples, 1, 1).float()  # M of the turn back
            known = self.scales_.normalised(torch.cat([centers, unmoved], -1), guesses)
            held = torch.zeros_like(known, dtype=torch.bool)
            held[:, list(fixed)] = True
            guide = None if form is None else lambda z: self._guided(z, guesses, form)
            z = self._sampled(context, masks, generator, (known, held) if fixed else None, guide)
        y = self.scales_.motions(z, guesses).double().unflatten(0, (n_samples, -1))
        return self._unframed(y, turn, pairs)

    def _places(self, centroid: Tensor, guess: Tensor) -> Float[Tensor, "cases 32 6"]:
        """mm from the mean arch, and to the first guess: deviations, for the places themselves would drown them."""
        return torch.cat([centroid - self.mean_arch_.to(centroid), guess - centroid], -1)

    def _guided(self, z: Tensor, guess: Tensor, form: ArchForm) -> Tensor:
        y = self.scales_.motions(z, guess)
        return self.scales_.normalised(torch.cat([form(y[..., :3]), y[..., 3:]], -1), guess)

    def _unframed(self, y: Tensor, turn: Tensor, pairs: ToothPairs) -> Tensor:
        """Motions of the teeth as they are, in the coordinates of the pairs."""
        R, t = registered(pairs.centroid, pairs.mask & self._seen, self.mean_arch_)
        place = (y[..., :3] - t[:, None]) @ R
        M = R.mT[:, None] @ turn.mT @ rotation_from_six(y[..., 3:]) @ R[:, None]
        unmoved = torch.cat([pairs.centroid, M.new_tensor(IDENTITY).expand(*pairs.mask.shape, 6)], -1)
        y = torch.where(self._seen[:, None], torch.cat([place, six_from_rotation(M)], -1), unmoved)
        return y.masked_fill(~pairs.mask[..., None], 0)

    def _noised(self, z: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _sampled(
        self, context: Tensor, mask: Tensor, generator: Generator, given: tuple[Tensor, Tensor] | None, guide: Any
    ) -> Tensor:
        raise NotImplementedError


class TADPM(_Arranger):
    """Set-ups of teeth by a diffusion over their motions.

    Parameters
    ----------
    points
        Points of each tooth that the network sees.
    width, blocks
        Of the transformers: one for the context, one for the denoiser.
    timesteps
        Of the diffusion.
    sampling_steps, eta
        Of the sampler; eta=0 adds no noise on the way.
    target
        "shift": the network predicts what a first guess of c' - c leaves; "absolute": c', as in the paper.
    epochs, batch_size, lr
        Of the training: AdamW, whose rate rises over a tenth of the steps and then falls to zero.
    random_state
        Seed.
    encoder
        "moments": each tooth by a small PointNet and its moments. "points": both jaws by the paper's PointNet++ too,
        which takes many times as long.

    Attributes
    ----------
    model_
        The network.
    mean_arch_
        (32, 3): the mean place of each tooth in the training pairs; models are laid over it before the network sees
        them, so that neither their place nor their pose matters.
    turns_
        A first guess of each tooth's rotation; teeth are turned by it before the network sees them, and the rest of
        the rotation is what the network predicts.
    shifts_
        A first guess of each tooth's shift c' - c; the network sees it.
    scales_
        What motions are divided by.
    history_
        Of the training.
    """

    def __init__(
        self,
        points: int = 64,
        width: int = 96,
        blocks: int = 3,
        timesteps: int = 1000,
        sampling_steps: int = 50,
        eta: float = 1.0,
        target: Target = "shift",
        epochs: int = 15,
        batch_size: int = 25,
        lr: float = 1e-3,
        random_state: int = 0,
        encoder: Encoder = "moments",
    ) -> None:
        self.points, self.width, self.blocks = points, width, blocks
        self.timesteps, self.sampling_steps, self.eta = timesteps, sampling_steps, eta
        _check_target(target)
        self.target: Target = target
        self.epochs, self.batch_size, self.lr, self.random_state = epochs, batch_size, lr, random_state
        self.encoder: Encoder = encoder

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._diffusion.times(self.sampling_steps, START * self.timesteps)
        if not 0 <= self.eta <= 1:
            raise ArgumentError(f"eta must lie in 0 to 1, got {self.eta}.")

    @property
    def _diffusion(self) -> CosineDDIM:
        return CosineDDIM(self.timesteps)

    def _noised(self, z: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        t = torch.randint(self.timesteps, (DRAWS, len(z)), generator=generator, device=z.device)
        noise = torch.randn(DRAWS, *z.shape, generator=generator, device=z.device)
        y = self._diffusion.noised(z.repeat(DRAWS, 1, 1), t.flatten(), noise.flatten(0, 1))
        return y.unflatten(0, (DRAWS, -1)), t.float()

    def _sampled(
        self, context: Tensor, mask: Tensor, generator: Generator, given: tuple[Tensor, Tensor] | None, guide: Any
    ) -> Tensor:
        denoiser = self.model_.denoiser
        known, known_mask = given or (None, None)
        start = torch.randn(*mask.shape, 9, generator=generator)
        return self._diffusion.sample(
            lambda y, t: denoiser(y, t, context, mask),
            start,
            steps=self.sampling_steps,
            eta=self.eta,
            start=START * self.timesteps,
            generator=generator,
            known=known,
            known_mask=known_mask,
            guide=guide,
        )


class MotionRegression(_Arranger):
    """One set-up by regression with the network of `TADPM`: what a diffusion must beat.

    All of its proposals are the same, and fixed teeth are held without the others being told.

    Parameters
    ----------
    points, width, blocks, target, epochs, batch_size, lr, random_state, encoder
        As in `TADPM`.

    Attributes
    ----------
    model_, mean_arch_, turns_, shifts_, scales_, history_
        As in `TADPM`.
    """

    def __init__(
        self,
        points: int = 64,
        width: int = 96,
        blocks: int = 3,
        target: Target = "shift",
        epochs: int = 15,
        batch_size: int = 25,
        lr: float = 1e-3,
        random_state: int = 0,
        encoder: Encoder = "moments",
    ) -> None:
        self.points, self.width, self.blocks = points, width, blocks
        _check_target(target)
        self.target: Target = target
        self.epochs, self.batch_size, self.lr, self.random_state = epochs, batch_size, lr, random_state
        self.encoder: Encoder = encoder

    def _noised(self, z: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(z)[None], z.new_zeros(1, len(z))

    def _sampled(
        self, context: Tensor, mask: Tensor, generator: Generator, given: tuple[Tensor, Tensor] | None, guide: Any
    ) -> Tensor:
        z = self.model_.denoiser(context.new_zeros(*mask.shape, 9), context.new_zeros(len(mask)), context, mask)
        z = z if guide is None else guide(z)
        return z if given is None else torch.where(given[1], given[0], z)


def _ranked(motions: np.ndarray, neighbours: Neighbours, present: np.ndarray) -> Arrangement:
    collision = np.array([neighbours.deepest(proposal) for proposal in motions])
    centers = np.einsum("psij,sj->psi", motions[..., :3, :3], neighbours.centers) + motions[..., :3, 3]
    smooth = np.array([smoothness(proposal, present) for proposal in centers])
    scores = {"collision": collision, "smoothness": smooth, "total": collision + smooth}
    order = np.argsort(scores["total"], kind="stable")
    return Arrangement(torch.from_numpy(motions[order]), {name: values[order] for name, values in scores.items()})


def _unmoved(points: Tensor, centroid: Tensor, mask: Tensor) -> ToothPairs:
    """One case whose set-up is what it is."""
    eye = torch.eye(3, dtype=centroid.dtype).expand(1, TEETH, 3, 3)
    return ToothPairs(points[None], points[None], centroid[None], centroid[None], eye, mask[None])


def _about_centroids(pairs: ToothPairs) -> Tensor:
    """The points before treatment about the centroid of each tooth, zeros where there is none."""
    return torch.where(pairs.mask[..., None, None], pairs.before - pairs.centroid[:, :, None], 0)


def _check_target(target: str) -> None:
    if target not in get_args(Target):
        raise ArgumentError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}.")


def _check_samples(n_samples: int) -> None:
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 1:
        raise ArgumentError(f"n_samples must be a whole number of at least 1, got {n_samples!r}.")
