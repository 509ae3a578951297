"""Tooth arrangement: a diffusion over rigid motions of the teeth (TADPM)."""

from linmap.geometry.points import ball_query, farthest_points, square_distances
from linmap.geometry.rigid import geodesic_angle, kabsch, rotation_from_six, six_from_rotation
from linmap.shapes.tooth_arrangement import metrics
from linmap.shapes.tooth_arrangement.autoencoder import MeshAutoencoder, pretrain
from linmap.shapes.tooth_arrangement.cases import load_case
from linmap.shapes.tooth_arrangement.clinical_pairs import load_pairs
from linmap.shapes.tooth_arrangement.denoiser import ToothDenoiser, load_official
from linmap.shapes.tooth_arrangement.diffusion import CosineDDIM, time_embedding
from linmap.shapes.tooth_arrangement.encoders import MeshEncoder, PointEncoder, ToothContext
from linmap.shapes.tooth_arrangement.estimator import TADPM, Arrangement, MotionRegression
from linmap.shapes.tooth_arrangement.features import face_features, patch_features, patch_vertices
from linmap.shapes.tooth_arrangement.guidance import ArchForm, arch_form
from linmap.shapes.tooth_arrangement.losses import ArrangementLoss, arrangement_loss
from linmap.shapes.tooth_arrangement.movements import Movement, movement_table, movements, tooth_axes
from linmap.shapes.tooth_arrangement.pairs import ToothPairs, apply_motion, motion_matrices
from linmap.shapes.tooth_arrangement.remeshing import remesh
from linmap.shapes.tooth_arrangement.simulator import DentitionSimulator
from linmap.shapes.tooth_arrangement.slots import FDI, MIRROR, slot_of
from linmap.shapes.tooth_arrangement.stages import Stages, stages_between
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

__all__ = [
    "FDI",
    "MIRROR",
    "TADPM",
    "ArchForm",
    "Arrangement",
    "ArrangementLoss",
    "CosineDDIM",
    "DentitionSimulator",
    "MeshAutoencoder",
    "MeshEncoder",
    "MotionRegression",
    "Movement",
    "PointEncoder",
    "Stages",
    "ToothContext",
    "ToothDenoiser",
    "ToothPairs",
    "ToothSet",
    "apply_motion",
    "arch_form",
    "arrangement_loss",
    "ball_query",
    "face_features",
    "farthest_points",
    "geodesic_angle",
    "kabsch",
    "load_case",
    "load_official",
    "load_pairs",
    "metrics",
    "motion_matrices",
    "movement_table",
    "movements",
    "patch_features",
    "patch_vertices",
    "pretrain",
    "remesh",
    "rotation_from_six",
    "six_from_rotation",
    "slot_of",
    "square_distances",
    "stages_between",
    "time_embedding",
    "tooth_axes",
]
