"""Householder Projector: orthogonal latent directions of a generator (Song, Zhang, Sebe and Wang, ICCV 2023).

`reflections` and `isometry` are the algebra, `projector` the layer, `first_layer` the same in a convolutional
generator, `weights` what a layer to be replaced applies, `layers` swaps them in by name. `sefa` is the baseline;
`traversal`, `jacobian` and `path_length` read and measure directions. `finetuning` trains a swapped generator, on
images or on what the original one draws; `adversaries` and `discriminator` are its losses. `generators` meets
generators of folders and of the user's, `stylegan2` is an architecture; `directions` lists what was found, `changes`,
`attributes` and `frechet` measure it (on `features`), `pictures` draws it and `runs` saves it.
"""

from linmap.interpret.householder_projector.attributes import Profile, colour_attributes, profiles, stroke_attributes
from linmap.interpret.householder_projector.changes import entanglement, image_changes
from linmap.interpret.householder_projector.directions import DirectionSet, find_directions, sefa_of
from linmap.interpret.householder_projector.features import image_features
from linmap.interpret.householder_projector.finetuning import FineTuning, finetune
from linmap.interpret.householder_projector.first_layer import ProjectedFirstLayer
from linmap.interpret.householder_projector.frechet import frechet_distance
from linmap.interpret.householder_projector.generators import as_generator, draw_codes, load_generator, save_generator
from linmap.interpret.householder_projector.isometry import nearest_isometry, projector_weight
from linmap.interpret.householder_projector.jacobian import jacobian_basis
from linmap.interpret.householder_projector.layers import named_directions, project_layers
from linmap.interpret.householder_projector.path_length import interpretable_path_length, perceptual_path_length
from linmap.interpret.householder_projector.pictures import draw_contact_sheet, draw_sheet
from linmap.interpret.householder_projector.projector import HouseholderProjector
from linmap.interpret.householder_projector.reflections import householder_product, reflectors
from linmap.interpret.householder_projector.runs import load_run, recalibrate_, save_run
from linmap.interpret.householder_projector.sefa import sefa
from linmap.interpret.householder_projector.stylegan2 import StyleGAN2Like
from linmap.interpret.householder_projector.traversal import rank_directions, traversal_range, traverse

__all__ = [
    "DirectionSet",
    "FineTuning",
    "HouseholderProjector",
    "Profile",
    "ProjectedFirstLayer",
    "StyleGAN2Like",
    "as_generator",
    "colour_attributes",
    "draw_codes",
    "draw_contact_sheet",
    "draw_sheet",
    "entanglement",
    "find_directions",
    "finetune",
    "frechet_distance",
    "householder_product",
    "image_changes",
    "image_features",
    "interpretable_path_length",
    "jacobian_basis",
    "load_generator",
    "load_run",
    "named_directions",
    "nearest_isometry",
    "perceptual_path_length",
    "profiles",
    "project_layers",
    "projector_weight",
    "rank_directions",
    "recalibrate_",
    "reflectors",
    "save_generator",
    "save_run",
    "sefa",
    "sefa_of",
    "stroke_attributes",
    "traversal_range",
    "traverse",
]
