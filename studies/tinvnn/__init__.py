"""TinvNN (arXiv 2112.12345): shapes in any pose, tours of transformed cities, and digits that a turn makes equal."""

from studies.study import Protocol
from studies.tinvnn.digits import six_and_nine
from studies.tinvnn.shapes import eight_classes, fourteen_classes
from studies.tinvnn.tours import random_cities, tsplib

PROTOCOLS = [
    Protocol("shapes", "What does an invariant representation cost on aligned shapes, and save on turned ones?",
             fourteen_classes),
    Protocol("eight-classes", "And without the classes that differ by their proportions alone?", eight_classes),
    Protocol("tsp-20", "Does a solver of tours keep its lengths when the cities are turned, moved, resized, mirrored?",
             random_cities),
    Protocol("tsplib", "How far from the optimum are its tours of TSPLIB's instances, and of their copies?", tsplib,
             "TSPLIB (tsplib/*.tsp in LINMAP_DATA)"),
    Protocol("six-and-nine", "What does invariance lose where the pose is the class?", six_and_nine),
]  # fmt: skip
