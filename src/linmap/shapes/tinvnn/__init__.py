"""TinvNN: one canonical pose for every copy of a point set, so that any network on top is invariant.

After Zhang, Wang, Zhang, Cui and Zhu (arXiv 2112.12345): classical multidimensional scaling as the initial
representation, with rules for signs and equal eigenvalues that leave no choice to the solver. `TinvEmbedding` is the
one line before a network, `TinvWrapper` both together, `TinvFrame` the way back.
"""

from linmap.shapes.tinvnn.classifier import PointCloudClassifier
from linmap.shapes.tinvnn.embedding import TinvEmbedding
from linmap.shapes.tinvnn.frame import TinvFrame, tinv_frame
from linmap.shapes.tinvnn.graph_transform import TinvTransform
from linmap.shapes.tinvnn.invariance import invariance_error
from linmap.shapes.tinvnn.mds import TinvMDS
from linmap.shapes.tinvnn.networks import EdgeConvNet, PointNet
from linmap.shapes.tinvnn.signs import moment_signs
from linmap.shapes.tinvnn.tour_solver import TourSolver
from linmap.shapes.tinvnn.tours import tour_length, two_opt
from linmap.shapes.tinvnn.wrapper import TinvWrapper

__all__ = [
    "EdgeConvNet",
    "PointCloudClassifier",
    "PointNet",
    "TinvEmbedding",
    "TinvFrame",
    "TinvMDS",
    "TinvTransform",
    "TinvWrapper",
    "TourSolver",
    "invariance_error",
    "moment_signs",
    "tinv_frame",
    "tour_length",
    "two_opt",
]
