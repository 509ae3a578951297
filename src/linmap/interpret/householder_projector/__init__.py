"""Householder Projector: orthogonal latent directions of a generator (Song, Zhang, Sebe and Wang, ICCV 2023).

`reflections` and `isometry` are the algebra, `projector` the layer, `first_layer` the same in a convolutional
generator, `layers` swaps them in by name. `sefa` is the baseline; `traversal`, `jacobian` and `path_length` read and
measure directions. `finetuning` trains a swapped generator, on images or on what the original one draws; `adversaries`
and `discriminator` are its losses.
"""

from linmap.interpret.householder_projector.finetuning import FineTuning, finetune
from linmap.interpret.householder_projector.first_layer import ProjectedFirstLayer
from linmap.interpret.householder_projector.isometry import nearest_isometry, projector_weight
from linmap.interpret.householder_projector.jacobian import jacobian_basis
from linmap.interpret.householder_projector.layers import named_directions, project_layers
from linmap.interpret.householder_projector.path_length import interpretable_path_length, perceptual_path_length
from linmap.interpret.householder_projector.projector import HouseholderProjector
from linmap.interpret.householder_projector.reflections import householder_product, reflectors
from linmap.interpret.householder_projector.sefa import sefa
from linmap.interpret.householder_projector.traversal import rank_directions, traversal_range, traverse

__all__ = [
    "FineTuning",
    "HouseholderProjector",
    "ProjectedFirstLayer",
    "finetune",
    "householder_product",
    "interpretable_path_length",
    "jacobian_basis",
    "named_directions",
    "nearest_isometry",
    "perceptual_path_length",
    "project_layers",
    "projector_weight",
    "rank_directions",
    "reflectors",
    "sefa",
    "traversal_range",
    "traverse",
]
