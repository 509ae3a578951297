"""Pairs of arches before and after treatment, simulated from the statistics of real shapes and poses.

The shapes and the poses are those of real scans; the pair is made up: an aligned arch is put together from a patient's
teeth (the set-up), and each tooth is then moved out of place (the malocclusion). The pose noise does not depend on the
set-up, so the best predictor infers the aligned arch from the shapes and the mean of the poses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from linmap.errors import ArgumentError
from linmap.geometry.points import farthest_points
from linmap.shapes.tooth_arrangement.arches import FIRST, JAW, Contacts, lengths, spaced, tangents, widths
from linmap.shapes.tooth_arrangement.meshes import Templates, ToothMeshes
from linmap.shapes.tooth_arrangement.pairs import ToothPairs
from linmap.shapes.tooth_arrangement.rotations import about_vertical, from_rotation_vector
from linmap.shapes.tooth_arrangement.slots import FDI, TEETH
from linmap.shapes.tooth_arrangement.statistics import ShapeStatistics, area_centroids
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

BITE = 3.2  # mm of each arch from the middle; the statistics have none: molars meet, incisors overlap by about 2 mm
CUT = 2.5  # standard deviations
OVERLAP_BEFORE, OVERLAP_AFTER, EASED = 2.0, 0.2, 0.1  # mm
CROWDED, SPACED = 0.25, 0.15  # shares of the arches
MISSING = 0.1  # share of the cases that lack premolars
WIDER = 1.08  # of the arch of the other set-up
SETS = 16  # choices of the points of a tooth
CHUNK = 64  # cases at once
MIDDLE = JAW // 2 - 1  # the contact at the midline
ATTEMPTS = 200  # chunks in a row without a case that can be kept


@dataclass(frozen=True)
class Cases:
    """Drawn cases: 28 teeth each, in slot order without the third molars."""

    shapes: Float[Tensor, "cases 28 vertices 3"]
    """All vertices, or the points and then those of meshes, about the area-weighted centroids."""
    aligned: Float[Tensor, "cases 28 3 3"]
    """Rotation of each shape in the set-up."""
    target: Float[Tensor, "cases 28 3"]
    """Centroids in the set-up."""
    other: Float[Tensor, "cases 28 3"]
    """Centroids in the other valid set-up: a wider arch, spaces of missing premolars closed."""
    turned: Float[Tensor, "cases 28 3 3"]
    """What the malocclusion turned each tooth by: R is its inverse."""
    center: Float[Tensor, "cases 28 3"]
    """Centroids in the malocclusion."""
    present: Bool[Tensor, "cases 28"]
    kind: Int64[Tensor, "cases 28"]
    """Numbers of the meshes' faces."""

    def kept(self, which: Tensor) -> Cases:
        return Cases(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


class DentitionSimulator:
    """Simulated pairs of real tooth shapes.

    Parameters
    ----------
    path
        Of `dentition_ssm.npz`; the one in the package without.
    points
        Points of each tooth: the farthest vertices of its mean shape from one of 16 first ones, drawn for each tooth
        and case, so that nothing can be learnt from which vertices they are.
    templates
        Ways in which each mean crown, a closed surface, is remeshed where meshes are asked for; one is drawn for each
        tooth and case, so that little can be learnt from where vertices lie.

    Raises
    ------
    ValueError
        If `points` is not between 3 and the 1,500 vertices, or `templates` is less than 1.
    """

    def __init__(self, path: Path | str | None = None, points: int = 64, templates: int = 4) -> None:
        self.statistics = ShapeStatistics.read(path)
        vertices = self.statistics.shape.shape[1]
        if isinstance(points, bool) or not isinstance(points, int) or not 3 <= points <= vertices:
            raise ArgumentError(f"points must be a whole number from 3 to {vertices}, got {points!r}.")
        if isinstance(templates, bool) or not isinstance(templates, int) or templates < 1:
            raise ArgumentError(f"templates must be a whole number of at least 1, got {templates!r}.")
        self.points, self.templates = points, templates
        self.contacts = Contacts(self.statistics)
        self._meshes: dict[int, Templates] = {}

    @cached_property
    def chosen(self) -> Tensor:
        """(16, 28, points): the vertices that may be taken."""
        vertices = self.statistics.shape.shape[1]
        starts = [first * vertices // SETS for first in range(SETS)]
        return torch.stack([farthest_points(self.statistics.shape, self.points, start) for start in starts])

    def meshes(self, patches: int) -> Templates:
        """The meshes that teeth are drawn from, of at most so many patches each."""
        if patches not in self._meshes:
            statistics = self.statistics
            found = Templates.of(statistics.shape, statistics.faces, statistics.slots, patches, self.templates)
            self._meshes[patches] = found
        return self._meshes[patches]

    def sample(
        self,
        n: int,
        severity: float = 1.0,
        generator: Generator | None = None,
        ambiguous: bool = False,
        patches: int | None = None,
    ) -> ToothPairs:
        """Draw cases.

        Parameters
        ----------
        n
            How many.
        severity
            Factor of the pose noise, of crowding and of spacing; 1 is about 12.7 degrees and 1.2 mm.
        generator
            Of the draws; PyTorch's global one without.
        ambiguous
            Give each case one of two set-ups that are both valid, at random (`alternatives`). Half of the cases then
            lack premolars.
        patches
            Give each tooth a mesh of so many patches of 64 faces, which the mesh encoder reads; the rest of the draw is
            the same.

        Raises
        ------
        ValueError
            If a number is out of its range, or so severe that no case can be kept.
        """
        if not ambiguous:
            return self._pairs(self._draw(n, severity, generator, MISSING, patches=patches), patches)
        first, second = self.alternatives(n, severity, generator, patches)
        coin = torch.rand(n, generator=generator) < 0.5
        after = torch.where(coin[:, None, None, None], second.after, first.after)
        centroid = torch.where(coin[:, None, None], second.after_centroid, first.after_centroid)
        return replace(first, after=after, after_centroid=centroid)

    def alternatives(
        self, n: int, severity: float = 1.0, generator: Generator | None = None, patches: int | None = None
    ) -> tuple[ToothPairs, ToothPairs]:
        """Cases with two valid set-ups: the arch as it is with the spaces of missing premolars kept; and an arch that
        is wider by 8 %, with these spaces closed. Nothing before treatment tells which is meant."""
        cases = self._draw(n, severity, generator, 0.5, patches=patches)
        return self._pairs(cases, patches), self._pairs(cases, patches, cases.other)

    def sample_sets(
        self, n: int, severity: float = 1.0, generator: Generator | None = None
    ) -> list[tuple[ToothSet, ToothSet]]:
        """Whole meshes before and after: what `sample` draws with the same generator."""
        cases = self._draw(n, severity, generator, MISSING, whole=True)
        set_up = cases.shapes @ cases.aligned.mT
        before = set_up @ cases.turned.mT + cases.center[:, :, None]
        after = set_up + cases.target[:, :, None]
        return [
            (self._set(b, here), self._set(a, here)) for b, a, here in zip(before, after, cases.present, strict=True)
        ]

    def _set(self, vertices: Tensor, present: Tensor) -> ToothSet:
        numbers = [FDI[slot] for slot in self.statistics.slots.tolist()]
        parts = zip(numbers, vertices.double().numpy(), self.statistics.faces.numpy(), present.tolist(), strict=True)
        return ToothSet({number: (V, F) for number, V, F, there in parts if there})

    def _pairs(self, cases: Cases, patches: int | None, target: Tensor | None = None) -> ToothPairs:
        target = cases.target if target is None else target
        set_up = cases.shapes @ cases.aligned.mT
        before = set_up @ cases.turned.mT + cases.center[:, :, None]
        parts = [before, (set_up + target[:, :, None])[:, :, : self.points], cases.center, target, cases.turned.mT]
        there = cases.present
        before, after, center, target, rotation = (self._spread(part, there) for part in parts)
        mask = torch.zeros(len(there), TEETH, dtype=torch.bool)
        mask[:, self.statistics.slots] = there
        rotation = torch.where(mask[..., None, None], rotation, torch.eye(3))
        meshes = None
        if patches is not None:
            faces = self.meshes(patches).faces.flatten(0, 1)
            meshes = ToothMeshes(before[:, :, self.points :], faces, self._spread(cases.kind + 1.0, there).long())
        return ToothPairs(before[:, :, : self.points], after, center, target, rotation, mask, meshes)

    def _spread(self, part: Tensor, there: Tensor) -> Tensor:
        """From 28 teeth to 32 slots, zeros where there is no tooth."""
        whole = torch.zeros(len(part), TEETH, *part.shape[2:])
        whole[:, self.statistics.slots] = part * there[(..., *[None] * (part.ndim - 2))]
        return whole

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _draw(
        self,
        n: int,
        severity: float,
        generator: Generator | None,
        missing: float,
        whole: bool = False,
        patches: int | None = None,
    ) -> Cases:
        """Cases with all vertices of their teeth, or the chosen ones and those of their meshes."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ArgumentError(f"n must be a whole number of at least 1, got {n!r}.")
        if not 0 <= severity <= 4:
            raise ArgumentError(f"severity must lie in 0 to 4 (1 is usual), got {severity}.")
        parts: list[Cases] = []
        found, empty = 0, 0
        while found < n:
            part = self._candidates(min(CHUNK, max(n - found, 8)), float(severity), generator, missing)
            chosen = torch.randint(SETS, part.present.shape, generator=generator)
            if not whole:
                teeth = torch.arange(2 * JAW)
                index = self.chosen[chosen, teeth][..., None].expand(-1, -1, -1, 3)
                shapes = [part.shapes.gather(2, index)]
                if patches is not None:
                    kind = chosen % self.templates
                    part = replace(part, kind=kind * 2 * JAW + teeth)
                    shapes.append(self.meshes(patches).on(part.shapes, kind))
                part = replace(part, shapes=torch.cat(shapes, 2))
            parts.append(part)
            found += len(part.shapes)
            empty = 0 if len(part.shapes) else empty + 1
            if empty == ATTEMPTS:
                raise ArgumentError(f"severity={severity} leaves no case without teeth inside each other; take less.")
        names = Cases.__dataclass_fields__
        return Cases(*(torch.cat([getattr(part, name) for part in parts])[:n] for name in names))

    def _candidates(self, m: int, severity: float, generator: Generator | None, missing: float) -> Cases:
        """Cases of m candidates whose teeth do not reach too far into each other."""
        shapes, scale = self._shapes(m, generator)
        aligned, target = self._arch(shapes, scale, generator)
        present = self._present(m, missing, generator)
        other = self._other(target, widths(shapes, _seen_by(aligned, tangents(target))), present)
        turned, center = self._malocclusion(target, severity, generator)
        there = present[:, FIRST] & present[:, FIRST + 1]
        before = (self.contacts.depth(shapes, turned @ aligned, center) * there).amax(-1)
        after = (self.contacts.depth(shapes, aligned, target) * there).amax(-1)
        keep = (before <= OVERLAP_BEFORE) & (after <= OVERLAP_AFTER)
        kind = torch.zeros(present.shape, dtype=torch.long)
        return Cases(shapes, aligned, target, other, turned, center, present, kind).kept(keep)

    def _shapes(self, m: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Shapes about their centroids, and the scale of each tooth."""
        statistics = self.statistics
        teeth, modes = statistics.mode_deviation.shape
        scale = 1 + (torch.randn(m, teeth, generator=generator).clamp(-CUT, CUT) @ statistics.scale_root)
        b = torch.randn(m, teeth, modes, generator=generator).clamp(-CUT, CUT) * statistics.mode_deviation
        moved = torch.bmm(b.transpose(0, 1), statistics.modes.flatten(2)).unflatten(-1, (-1, 3))  # tooth by tooth
        shapes = statistics.shape + moved.transpose(0, 1)
        shapes = shapes - area_centroids(shapes, statistics.faces)[:, :, None]
        return shapes * scale[..., None, None], scale

    def _arch(self, shapes: Tensor, scale: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """An aligned arch of a form of its own with neighbours in contact: rotations and centroids."""
        a, b, side, yaw = torch.randn(4, len(shapes), 1, generator=generator).clamp(-CUT, CUT)
        x, y, z = (self.statistics.center * scale.mean(-1)[:, None, None]).unbind(-1)
        aligned = about_vertical(0.003 * yaw * x)
        x, z = x * (1 + 0.05 * a) + 0.8 * side * torch.tanh(x / 10), z * (1 + 0.06 * b)
        y = y + torch.tensor([BITE, -BITE]).repeat_interleave(JAW)
        target = torch.stack([x, y, z], -1)
        wide = widths(shapes, _seen_by(aligned, tangents(target)))
        target = spaced(target, (wide[:, FIRST] + wide[:, FIRST + 1]) / 2 * self._closeness)
        for _ in range(3):  # neighbours that reach into each other move apart
            depth = self.contacts.depth(shapes, aligned, target)
            target = spaced(target, lengths(target) + (depth - EASED).clamp_min(0))
        return aligned, target

    @cached_property
    def _closeness(self) -> Tensor:
        """(26,): the distance of neighbours over the half sum of their widths, of the mean shapes."""
        wide = widths(self.statistics.shape, tangents(self.statistics.center))
        return lengths(self.statistics.center) / ((wide[FIRST] + wide[FIRST + 1]) / 2)

    def _other(self, target: Tensor, wide: Tensor, present: Tensor) -> Tensor:
        """The wider arch, whose teeth next to a missing one close the space."""
        chords = lengths(target)
        gone = ~present
        before, after = wide.roll(1, -1), wide.roll(-1, -1)
        closed = (before + after) / 4  # half of the way from one neighbour to the other
        into, out = gone[:, FIRST + 1] & present[:, FIRST], gone[:, FIRST] & present[:, FIRST + 1]
        chords = torch.where(into, closed[:, FIRST + 1], torch.where(out, closed[:, FIRST], chords))
        both = gone[:, FIRST] & gone[:, FIRST + 1]
        chords = torch.where(both, chords * 0.1, chords)
        return spaced(target * target.new_tensor([WIDER, 1.0, 1.0]), chords)

    def _malocclusion(self, target: Tensor, severity: float, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """What turns each tooth, and where its centroid goes."""
        draw = torch.randn(*target.shape[:2], 6, generator=generator).clamp(-CUT, CUT)
        pose = severity * torch.einsum("ntp,tpq->ntq", draw, self.statistics.pose_root)
        crowded = self._crowded(target, severity, generator)
        return from_rotation_vector(pose[..., 3:]), crowded + 0.5 * pose[..., :3]

    def _crowded(self, target: Tensor, severity: float, generator: Generator | None) -> Tensor:
        """Some arches with the front teeth crowded, some with spaces between them."""
        m = len(target)
        which, size, alternate = torch.rand(3, m, 2, generator=generator)
        shrink = torch.where(which < CROWDED, 8 * size, torch.where(which > 1 - SPACED, -4 * size, 0)) * severity
        chords = lengths(target).unflatten(-1, (2, JAW - 1))
        front = torch.zeros(JAW - 1)
        front[MIDDLE - 2 : MIDDLE + 3] = 1 / 5  # the five contacts from canine to canine
        front[[MIDDLE - 3, MIDDLE + 3]] = -1 / 5  # the premolars follow by a part
        moved = spaced(target, (chords - shrink[..., None] * front).clamp_min(0.5).flatten(-2))
        out = one_hot(torch.where(alternate < 0.5, MIDDLE - 1, MIDDLE), JAW)
        out = out + one_hot(torch.where(alternate < 0.5, MIDDLE + 1, MIDDLE + 2), JAW)
        forward = (out * (shrink.clamp_min(0) / 2)[..., None]).flatten(1)
        outward = torch.linalg.cross(target.new_tensor([0.0, 1.0, 0.0]).expand_as(target), tangents(target))
        return moved - outward * forward[..., None]

    def _present(self, m: int, missing: float, generator: Generator | None) -> Tensor:
        """One to four premolars are missing in a share of the cases."""
        premolars = torch.tensor(
            [i for i, slot in enumerate(self.statistics.slots.tolist()) if FDI[slot] % 10 in (4, 5)]
        )
        lacks = torch.rand(m, generator=generator) < missing
        count = torch.randint(1, 5, (m, 1), generator=generator)
        rank = torch.rand(m, len(premolars), generator=generator).argsort(-1).argsort(-1)
        present = torch.ones(m, 2 * JAW, dtype=torch.bool)
        present[:, premolars] = ~((rank < count) & lacks[:, None])
        return present


def _seen_by(rotation: Tensor, direction: Tensor) -> Tensor:
    """A direction in the frame of a tooth that a rotation has turned."""
    return (rotation.mT @ direction[..., None])[..., 0]
