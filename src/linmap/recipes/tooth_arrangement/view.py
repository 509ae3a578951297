"""Plans of where teeth go, as points in space: before, after and between, tooth by tooth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from linmap.data.door import load_json
from linmap.errors import DataError, UsageError
from linmap.recipes.tooth_arrangement.apply import MOTIONS, PLAN
from linmap.recipes.tooth_arrangement.page import drawn_apart, patient_axes
from linmap.recipes.view import Asked, Seen, whole
from linmap.shapes.tooth_arrangement import FDI, TADPM, DentitionSimulator, ToothSet
from linmap.shapes.tooth_arrangement.cases import load_case
from linmap.shapes.tooth_arrangement.movements import JAW, movements

POINTS = 110
"""Of a tooth."""
PROPOSALS = 4
"""Drawn for a simulated patient."""
PATIENTS = 1000
"""Simulated patients, by number."""


class PlanView:
    """The proposals of a plan, or those of a fitted model for simulated patients."""

    def __init__(self, seen: Seen) -> None:
        self.simulated = seen.verb == "fit"
        if self.simulated:
            self.model = TADPM.load(seen.artifact)
            self.patient = -1
            self._simulate(seen.seed % PATIENTS)
        else:
            if seen.data is None:
                raise UsageError("This plan has no teeth of its own.")
            self._place(load_case(seen.data), _planned(seen.artifact / PLAN / MOTIONS))

    def start(self) -> dict[str, Any]:
        """The teeth before, and the first proposal."""
        about = {"proposals": len(self.motions), "patients": PATIENTS if self.simulated else 0}
        return about | {"patient": self.patient if self.simulated else 0} | self.answer({"proposal": 0})

    def answer(self, asked: Asked) -> dict[str, Any]:
        """A `proposal`, of a simulated `patient` where patients are simulated: each tooth before and after, in mm with
        x to the left of the patient, y up and z to the front, and what is done to it in words."""
        if self.simulated and "patient" in asked:
            self._simulate(whole(asked, "patient", PATIENTS))
        motions = self.motions[whole(asked, "proposal", len(self.motions))]
        after = np.einsum("sij,spj->spi", motions[:, :3, :3], self.points) + motions[:, None, :3, 3]
        told = {one.fdi: one.words() for one in movements(self.teeth, motions)}
        teeth = [
            {
                "fdi": int(FDI[slot]),
                "upper": slot < JAW,
                "before": self._shown(self.points[slot], slot),
                "after": self._shown(after[slot], slot),
                "words": told.get(FDI[slot], "stays"),
            }
            for slot in self.slots
        ]
        return {"teeth": teeth, "radius": self.radius}

    def _simulate(self, patient: int) -> None:
        if patient == self.patient:
            return
        simulator = DentitionSimulator(points=self.model.points)
        (teeth, _), *_ = simulator.sample_sets(1, generator=torch.Generator().manual_seed(patient))
        self._place(teeth, self.model.arrange(teeth, n_samples=PROPOSALS, seed=patient).motions.numpy())
        self.patient = patient

    def _place(self, teeth: ToothSet, motions: np.ndarray) -> None:
        """Keep teeth and proposals, and how they are seen."""
        self.teeth, self.motions = teeth, motions
        self.slots = [int(slot) for slot in np.flatnonzero(np.asarray(teeth.mask))]
        self.points = teeth.points(POINTS).double().numpy()
        self.axes = patient_axes(teeth)
        self.apart = drawn_apart(teeth, self.axes[1])
        every = self.points[self.slots].reshape(-1, 3) @ self.axes.T
        self.centre = (every.min(0) + every.max(0)) / 2
        self.radius = float(np.linalg.norm(every - self.centre, axis=1).max())

    def _shown(self, points: np.ndarray, slot: int) -> np.ndarray:
        up = self.apart if slot < JAW else -self.apart
        return (points @ self.axes.T - self.centre + [0.0, up, 0.0]).round(3)


def _planned(path: Any) -> np.ndarray:
    """(proposals, 32, 4, 4) of what `linmap apply` wrote."""
    found = load_json(path)["proposals"]
    if not found:
        raise DataError(f"{path.name} holds no proposal.")
    motions = np.tile(np.eye(4), (len(found), 32, 1, 1))
    for number, proposal in enumerate(found):
        for fdi, matrix in proposal["motions"].items():
            motions[number, FDI.index(int(fdi))] = matrix
    return motions
