"""The way from before to after in small stages, as aligners need it.

A tooth moves along one line from its centre before to its centre after, and turns about one axis through the centre
(slerp). How far along it is at each stage is its schedule. All teeth begin with even schedules; where two teeth would
collide on the way, one of them goes early or late, or both leave their lines and come back, within the limits of a
stage, or stages are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.spatial.transform import Rotation

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.neighbours import Neighbours
from linmap.shapes.tooth_arrangement.slots import FDI
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet, rigid_motions

MAX_SHIFT_MM, MAX_TURN_DEG = 0.25, 2.0
TOLERANCE_MM = 0.2
TRIES = 12
"""Pairs whose order is looked at before stages are added."""
DETOURS = 12
"""Times that teeth are moved out of each other at the stages where no order helps."""
LESS = 0.9
"""Share of the excess that two of these times must leave at most, or no more follow."""
FOLLOWING, SWEEPS = 40, 200
"""Passes over the stages in which steps become short enough, and those of them that only add to detours."""
LONGEST = 1.6
"""Most stages, over the fewest that the limits allow."""


@dataclass(frozen=True)
class StageCollision:
    """Two teeth that stand deeper in each other at a stage than tolerated, than before and than after."""

    stage: int
    teeth: tuple[int, int]
    depth_mm: float


@dataclass(frozen=True)
class Stages:
    """A plan in stages."""

    motions: np.ndarray
    """(stages + 1, 32, 4, 4) on columns, in the coordinates of the set before: the identity first, the plan last."""
    progress: np.ndarray
    """(stages + 1, 32), from 0 to 1: how far each tooth is."""
    collisions: tuple[StageCollision, ...]
    """What no order that was tried avoids; empty in most plans."""
    depths: np.ndarray
    """(stages + 1, pairs): penetration in mm of every pair of neighbours."""

    @property
    def count(self) -> int:
        """Stages between before and after, the last one included."""
        return len(self.motions) - 1


def stages_between(
    teeth: ToothSet,
    motions: np.ndarray,
    n_stages: int | None = None,
    *,
    max_shift: float = MAX_SHIFT_MM,
    max_turn: float = MAX_TURN_DEG,
    tolerance: float = TOLERANCE_MM,
    neighbours: Neighbours | None = None,
) -> Stages:
    """Stages from a tooth set to a plan, checked for collisions.

    Parameters
    ----------
    teeth
        Before treatment.
    motions
        The plan, (32, 4, 4) on columns, mm.
    n_stages
        How many; as few as the limits allow when left out, and more where that avoids a collision.
    max_shift, max_turn
        Most mm of a tooth's centre and most degrees in one stage.
    tolerance
        Penetration in mm that is no collision; neither is what two teeth have before or after anyway.
    neighbours
        Of the same teeth, where they are at hand.

    Raises
    ------
    ValueError
        If `n_stages` is too few for the limits (says how many are needed), or an argument cannot be used.
    """
    motions = rigid_motions(motions)
    for name, value in (("max_shift", max_shift), ("max_turn", max_turn)):
        if not value > 0:
            raise ArgumentError(f"{name}={value} must be positive.")
    if not tolerance >= 0:
        raise ArgumentError(f"tolerance={tolerance} must not be negative.")
    path = _Path(teeth, motions)
    needed = path.needed(max_shift, max_turn)
    fewest = max(int(needed.max()), 1)
    if n_stages is not None and n_stages < fewest:
        raise ArgumentError(
            f"n_stages={n_stages} is too few: {fewest} are needed for at most {max_shift:g} mm and {max_turn:g} "
            "degrees a stage and tooth."
        )
    neighbours = neighbours or Neighbours(teeth)
    tried: list[_Order] = []
    counts = list(_counts(fewest)) if n_stages is None else [n_stages]
    for count, orders in product(counts, (True, False)):  # even schedules leave the most room for detours
        tried.append(_Order(path, neighbours, needed, count, tolerance))
        if orders:
            tried[-1].improve()
        tried[-1].detour(max_shift)
        if not tried[-1].excess:
            break
    return min(tried, key=lambda order: order.excess).result()


def _counts(fewest: int) -> Iterator[int]:
    yield fewest
    if fewest > 1:
        yield int(np.ceil(1.25 * fewest))
        yield int(np.ceil(LONGEST * fewest))


class _Path:
    """The lines and axes that teeth move along."""

    def __init__(self, teeth: ToothSet, motions: np.ndarray) -> None:
        self.present = np.asarray(teeth.mask, dtype=bool)
        self.motions = motions
        self.centers = np.asarray(teeth.centroids())
        self.shifts = np.einsum("sij,sj->si", motions[:, :3, :3], self.centers) + motions[:, :3, 3] - self.centers
        self.shifts[~self.present] = 0
        self.turns = Rotation.from_matrix(motions[:, :3, :3]).as_rotvec()
        self.turns[~self.present] = 0

    def needed(self, max_shift: float, max_turn: float) -> np.ndarray:
        """Fewest stages of each tooth, (32,), 0 for one that stays."""
        shifts = np.linalg.norm(self.shifts, axis=1) / max_shift
        turns = np.degrees(np.linalg.norm(self.turns, axis=1)) / max_turn
        return np.ceil(np.maximum(shifts, turns) - 1e-6).astype(int)

    def at(self, slot: int, share: float) -> np.ndarray:
        """The motion of one tooth when so much is done, (4, 4); exactly the identity and the plan at 0 and 1."""
        if share <= 0 or not self.present[slot]:
            return np.eye(4)
        if share >= 1:
            return self.motions[slot]
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec(share * self.turns[slot]).as_matrix()
        center = self.centers[slot]
        motion[:3, 3] = center + share * self.shifts[slot] - motion[:3, :3] @ center
        return motion


def schedules(needed: int, count: int) -> list[np.ndarray]:
    """Ways to spread a tooth's movement over `count` stages without breaking a limit: even, early, late, (count + 1,).

    `needed` is the fewest stages that the tooth can take.
    """
    steps = np.arange(count + 1)
    even = steps / count
    if needed == 0 or needed >= count:
        return [even]
    early = np.minimum(steps / needed, 1.0)
    middle = np.clip((steps - (count - needed) // 2) / needed, 0.0, 1.0)
    return [even, early, 1 - early[::-1], middle]


class _Order:
    """The schedules of all teeth, and what they make collide."""

    def __init__(self, path: _Path, neighbours: Neighbours, needed: np.ndarray, count: int, tolerance: float) -> None:
        self.path, self.neighbours, self.count = path, neighbours, count
        self.options = [schedules(int(need), count) for need in needed]
        self.chosen = [ways[0] for ways in self.options]
        self.held = [slot for slot, need in enumerate(needed) if need == 0]
        self.offsets = np.zeros((count + 1, len(needed), 3))
        """mm from the lines."""
        self._kept: dict[tuple[int, float, float], float] = {}
        self.depths = np.zeros((count + 1, len(neighbours.pairs)))
        for pair, (a, b) in enumerate(neighbours.pairs):
            self.depths[:, pair] = self._column(pair, self.chosen[a], self.chosen[b])
        self.allowed = np.maximum(np.maximum(self.depths[0], self.depths[-1]), tolerance) + 1e-9

    def improve(self) -> None:
        """For one colliding pair after another, the schedules that collide least; even ones at the start."""
        hopeless: set[int] = set()
        for _ in range(TRIES):
            excess = np.maximum(self.depths - self.allowed, 0).max(0, initial=0.0)
            excess[list(hopeless)] = 0
            if not excess.any():
                return
            worst = int(excess.argmax())
            if not self._reorder(worst):
                hopeless.add(worst)

    @property
    def excess(self) -> float:
        """mm by which the deepest pair is deeper than allowed."""
        return float((self.depths - self.allowed).max(initial=0.0))

    def detour(self, max_shift: float) -> None:
        """Shift teeth out of each other at the stages where no order helps, and spread that over the stages around."""
        pairs = self.neighbours.pairs
        allowed = dict(zip(pairs, self.allowed.tolist(), strict=True))
        before = [np.inf, np.inf]
        for _ in range(DETOURS):
            bad = self.depths > self.allowed
            if not bad.any() or self.excess > LESS * before[-2]:
                return
            before.append(self.excess)
            moved: set[int] = set()
            for stage in np.flatnonzero(bad.any(1)).tolist():
                motions = self._motions(stage)
                deep = [pairs[pair] for pair in np.flatnonzero(bad[stage])]
                shift = (self.neighbours.apart(motions, self.held, allowed, deep) - motions)[:, :3, 3]
                self.offsets[stage] += shift
                moved |= set(np.flatnonzero(shift.any(1)).tolist())
            for slot in moved:
                line = self.path.centers[slot] + self.chosen[slot][:, None] * self.path.shifts[slot]
                self.offsets[:, slot] = spread(line, self.offsets[:, slot], max_shift)
            touched = [number for number, pair in enumerate(pairs) if moved & set(pair)]
            for stage in range(1, self.count):
                motions = self._motions(stage)
                self.depths[stage, touched] = [self.neighbours.depth(pairs[number], motions) for number in touched]

    def result(self) -> Stages:
        motions = np.stack([self._motions(stage) for stage in range(self.count + 1)])
        bad = np.argwhere(self.depths > self.allowed).tolist()
        found = tuple(StageCollision(stage, self._teeth(pair), float(self.depths[stage, pair])) for stage, pair in bad)
        return Stages(motions, np.stack(self.chosen, 1), found, self.depths)

    def _motions(self, stage: int) -> np.ndarray:
        """(32, 4, 4)."""
        motions = np.stack([self.path.at(slot, float(way[stage])) for slot, way in enumerate(self.chosen)])
        motions[:, :3, 3] += self.offsets[stage]
        return motions

    def _teeth(self, pair: int) -> tuple[int, int]:
        a, b = self.neighbours.pairs[pair]
        return FDI[a], FDI[b]

    def _reorder(self, worst: int) -> bool:
        """Give a pair the schedules with the least excess in all pairs that it touches; whether that helped."""
        a, b = self.neighbours.pairs[worst]
        touched = [i for i, pair in enumerate(self.neighbours.pairs) if a in pair or b in pair]
        best, found = self._excess(touched, self.depths[:, touched]), None
        for of_a, of_b in product(self.options[a], self.options[b]):
            own = {a: of_a, b: of_b}
            columns = np.stack([self._with(own, pair) for pair in touched], 1)
            if (cost := self._excess(touched, columns)) < best - 1e-9:
                best, found = cost, (own, columns)
        if found is None:
            return False
        own, self.depths[:, touched] = found
        for slot, schedule in own.items():
            self.chosen[slot] = schedule
        return True

    def _excess(self, pairs: list[int], depths: np.ndarray) -> float:
        return float(np.maximum(depths - self.allowed[pairs], 0).sum())

    def _with(self, own: dict[int, np.ndarray], pair: int) -> np.ndarray:
        a, b = self.neighbours.pairs[pair]
        return self._column(pair, own.get(a, self.chosen[a]), own.get(b, self.chosen[b]))

    def _column(self, pair: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Depths of one pair at all stages under two schedules."""
        a, b = self.neighbours.pairs[pair]
        found = np.empty(self.count + 1)
        for stage, (x, y) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            if (pair, x, y) not in self._kept:
                self._kept[pair, x, y] = self.neighbours.between((a, b), self.path.at(a, x), self.path.at(b, y))
            found[stage] = self._kept[pair, x, y]
        return found


def spread(line: np.ndarray, offsets: np.ndarray, limit: float) -> np.ndarray:
    """Offsets from a line with which no step is longer than `limit`, (stages + 1, 3); the first and last are zero.

    Where a step is too long, the end that is nearer to the line follows the other one; where that does not suffice,
    both come together, which is a projection onto a convex set that the line itself lies in.
    """
    places = line + offsets
    inner = np.ones(len(line), bool)
    inner[[0, -1]] = False
    for sweep in range(SWEEPS):
        long = np.flatnonzero(np.linalg.norm(np.diff(places, axis=0), axis=1) > limit + 1e-9)
        if not len(long):
            return places - line
        for k in long:
            gap = places[k + 1] - places[k]
            length = float(np.linalg.norm(gap))
            if length <= limit:
                continue
            first, second = float(inner[k]), float(inner[k + 1])
            if sweep < FOLLOWING and first and second:
                first = float(np.linalg.norm(places[k] - line[k]) < np.linalg.norm(places[k + 1] - line[k + 1]))
                second = 1 - first
            excess = gap * (1 - limit / length) / max(first + second, 1)
            places[k] += first * excess
            places[k + 1] -= second * excess
    found = places - line
    for share in np.linspace(1, 0, 101):  # it is convex
        if np.linalg.norm(np.diff(line + share * found, axis=0), axis=1).max() <= limit + 1e-9:
            return share * found
    return np.zeros_like(found)
