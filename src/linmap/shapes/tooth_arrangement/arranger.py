"""What the estimators share: data, the frame of a model, training, ranking of proposals, saving."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict, cast

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor, nn
from torch.utils.data import TensorDataset

from linmap.data.schema import Length, check_fields
from linmap.errors import ArgumentError, ArgumentTypeError, check_count
from linmap.geometry.rigid import rotation_from_six, six_from_rotation
from linmap.shapes.tooth_arrangement.arrangement import Arrangement, ranked
from linmap.shapes.tooth_arrangement.augmentation import augmented
from linmap.shapes.tooth_arrangement.autoencoder import pretrain
from linmap.shapes.tooth_arrangement.checks import check_pairs, check_parameters
from linmap.shapes.tooth_arrangement.frames import fixes_pose, mean_arch, registered
from linmap.shapes.tooth_arrangement.guidance import ArchForm
from linmap.shapes.tooth_arrangement.meshes import Patches, framed_patches
from linmap.shapes.tooth_arrangement.neighbours import Neighbours
from linmap.shapes.tooth_arrangement.network import HEADS, ArrangementNetwork, Encoder, reads_meshes
from linmap.shapes.tooth_arrangement.pairs import ToothPairs, motion_matrices, unmoved
from linmap.shapes.tooth_arrangement.shifts import Shifts
from linmap.shapes.tooth_arrangement.slots import FDI, TEETH, slots_of
from linmap.shapes.tooth_arrangement.targets import IDENTITY, Scales, Target
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet
from linmap.shapes.tooth_arrangement.turns import Turns
from linmap.training import TrainingConfig, TrainingHistory, parts, private, train
from linmap.training.randomness import Source
from linmap.training.saving import SavedEstimator

DECAY = 0.01  # weight decay of AdamW
SAMPLER = ("sampling_steps", "eta")  # parameters of which training does not depend
CASES = 100  # at once in prediction
PRETRAINING = 1000  # teeth that the mesh encoder is pre-trained on, at most
MESHES = 64  # of them in a step


Arch = Annotated[list[float], Length(3)]


class Learnt(TypedDict):
    """What a run says beside parameters and weights."""

    scales: dict[str, Any]
    mean_arch: Annotated[list[Arch], Length(32)]


class Arranger(SavedEstimator, BaseEstimator):
    """Base of the estimators, which add what is drawn: `_noised` in training, `_sampled` in prediction."""

    SYSTEM = "tooth_arrangement"
    LEARNT = Learnt

    points: int
    width: int
    blocks: int
    target: Target
    epochs: int
    batch_size: int
    lr: float
    random_state: int
    encoder: Encoder
    patches: int
    pretrain_epochs: int

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
        self._check_pairs(pairs)
        if not (pairs.mask.sum(1) > 1).any():
            raise ArgumentError("pairs have one tooth in each case, which is no arch to learn; give more teeth.")
        pairs = pairs.to(torch.float64)
        self.mean_arch_ = mean_arch(pairs.centroid, pairs.mask)
        R, _ = registered(pairs.centroid, pairs.mask, self.mean_arch_)
        points = _about_centroids(pairs) @ R.mT[:, None]
        self.turns_ = Turns.fit(points, R[:, None] @ pairs.rotation @ R.mT[:, None], pairs.mask)
        data, turn = self._framed(pairs)
        patches = self._patches(pairs, turn)
        points = _about_centroids(data)
        self.shifts_ = Shifts.fit(points, data.centroid, data.after_centroid, data.mask)
        self.scales_ = Scales.of(self.target, data, self.shifts_(points, data.centroid, data.mask))
        self.model_ = self.build()
        if self.pretrain_epochs:
            self._pretrain(pairs, None if checkpoints is None else Path(checkpoints), resume)
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
            TensorDataset(*parts, pairs.mask, *(patches or ())),
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
        check_count("n_samples", n_samples)
        self._check_seen(pairs)
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
        check_count("n_samples", n_samples)
        slots = slots_of("fixed", fixed)
        mask = teeth.mask
        if absent := [FDI[slot] for slot in slots if not mask[slot]]:
            raise ArgumentError(f"fixed: tooth {absent[0]} is not in the set; name teeth that are there.")
        form = ArchForm(arch_width, arch_depth, mask)
        case = unmoved([teeth], self.points, self.patches if reads_meshes(self.encoder) else None)
        generator = torch.Generator().manual_seed(seed)
        self._check_seen(case)
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
        return ranked(motions, neighbours, mask.numpy())

    # -- saving --------------------------------------------------------------------------------------------------------

    def _learnt(self) -> dict[str, Any]:
        return {"scales": asdict(self.scales_), "mean_arch": self.mean_arch_}

    def _restore(self, config: Mapping[str, Any]) -> None:
        self.scales_ = Scales(**config["scales"])
        check_fields(self.scales_)
        self.mean_arch_ = torch.tensor(config["mean_arch"], dtype=torch.float64)

    def _tensors(self) -> dict[str, Tensor]:
        return self.turns_.tensors() | self.shifts_.tensors()

    def _take(self, tensors: dict[str, Tensor]) -> None:
        self.turns_, self.shifts_ = Turns.from_tensors(tensors), Shifts.from_tensors(tensors)

    def build(self) -> ArrangementNetwork:
        """The untrained network, drawn with `random_state` and nothing else."""
        with private(self.random_state):
            return ArrangementNetwork(self.width, self.blocks, self.encoder, self.mean_arch_)

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def _seen(self) -> Tensor:
        """(32,): the teeth that training pairs had."""
        return self.mean_arch_.any(-1)

    def _check_parameters(self) -> None:
        check_parameters(self.get_params())

    def _check_pairs(self, pairs: ToothPairs) -> None:
        check_pairs(pairs, self.points, self.encoder, self.patches)

    def _check_seen(self, pairs: ToothPairs) -> None:
        """Pairs for a fitted estimator."""
        self._check_pairs(pairs)
        if not (pairs.mask & self._seen).any(1).all():
            raise ArgumentError("pairs have a case none of whose teeth the training pairs had.")

    def _patches(self, pairs: ToothPairs, turn: Tensor) -> Patches | None:
        """The meshes as the network sees them, turned as `_framed` turns the teeth."""
        if pairs.meshes is None or not reads_meshes(self.encoder):
            return None
        R, _ = registered(pairs.centroid, pairs.mask & self._seen, self.mean_arch_)
        return framed_patches(pairs.meshes, pairs.centroid, turn @ R[:, None], pairs.mask)

    def _pretrain(self, pairs: ToothPairs, checkpoints: Path | None, resume: bool) -> None:
        """Let the mesh encoder guess masked patches of teeth before treatment, a random choice of all."""
        meshes, encoder = pairs.meshes, self.model_.mesh
        assert meshes is not None
        assert encoder is not None
        teeth = pairs.mask.nonzero()
        order = torch.randperm(len(teeth), generator=torch.Generator().manual_seed(self.random_state))[:PRETRAINING]
        pretrain(
            encoder,
            [meshes.tooth(case, slot, pairs.centroid[case, slot]) for case, slot in teeth[order].tolist()],
            epochs=self.pretrain_epochs,
            batch_size=MESHES,
            lr=self.lr,
            warmup_epochs=self.pretrain_epochs // 10,
            width=self.width,
            depth=max(1, self.blocks // 2),
            heads=HEADS,
            random_state=self.random_state,
            checkpoints=None if checkpoints is None else checkpoints / "pretraining",
            resume=resume,
        )

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
        generator = cast(Source, self.model_.draws.source).on(batch[0].device)
        points, centroid, after, R, mask, *meshes = augmented(tuple(batch), generator)
        y = torch.cat([after, six_from_rotation(R.mT)], -1)
        guess = self.shifts_(points, centroid, mask)
        z = self.scales_.normalised(y, guess).masked_fill(~mask[..., None], 0)
        noised, t = self._noised(z, generator)
        patches = Patches(*meshes) if meshes else None
        predicted = model(points, self._places(centroid, guess), mask, noised, t, patches)
        moved = self.scales_.motions(predicted, guess)
        turned = points @ rotation_from_six(moved[..., 3:]) + moved[..., None, :3]
        points_error = (turned - points @ R.mT - after[..., None, :]).square().mean((-1, -2))
        error = (predicted - z).square().mean(-1) + points_error / self.scales_.place**2
        return (error * mask).sum() / (mask.sum() * len(predicted)) * parts.share(mask.sum())

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
        patches = self._patches(pairs, turn)
        self.model_.eval()
        with torch.no_grad():
            context = self.model_.context(points.float(), self._places(centroid, guess).float(), mask, patches)
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


def _about_centroids(pairs: ToothPairs) -> Tensor:
    """The points before treatment about the centroid of each tooth, zeros where there is none."""
    return torch.where(pairs.mask[..., None, None], pairs.before - pairs.centroid[:, :, None], 0)
