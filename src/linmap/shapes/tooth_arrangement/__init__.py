"""Tooth arrangement: a diffusion over rigid motions of the teeth (TADPM)."""

from linmap.geometry.points import ball_query, farthest_points, square_distances
from linmap.geometry.rigid import geodesic_angle, kabsch, rotation_from_six, six_from_rotation
from linmap.shapes.tooth_arrangement import metrics
from linmap.shapes.tooth_arrangement.cases import load_case
from linmap.shapes.tooth_arrangement.clinical_pairs import load_pairs
from linmap.shapes.tooth_arrangement.movements import Movement, movement_table, movements, tooth_axes
from linmap.shapes.tooth_arrangement.pairs import ToothPairs, apply_motion, motion_matrices
from linmap.shapes.tooth_arrangement.relief import relieve
from linmap.shapes.tooth_arrangement.remeshing import remesh
from linmap.shapes.tooth_arrangement.simulator import DentitionSimulator
from linmap.shapes.tooth_arrangement.slots import FDI, MIRROR, slot_of
from linmap.shapes.tooth_arrangement.stages import Stages, stages_between
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

__all__ = [
    "FDI",
    "MIRROR",
    "DentitionSimulator",
    "Movement",
    "Stages",
    "ToothPairs",
    "ToothSet",
    "apply_motion",
    "ball_query",
    "farthest_points",
    "geodesic_angle",
    "kabsch",
    "load_case",
    "load_pairs",
    "metrics",
    "motion_matrices",
    "movement_table",
    "movements",
    "relieve",
    "remesh",
    "rotation_from_six",
    "six_from_rotation",
    "slot_of",
    "square_distances",
    "stages_between",
    "tooth_axes",
]
