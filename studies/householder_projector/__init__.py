"""Householder Projector (arXiv 2307.08012): faces of a DCGAN, digits of a small style-based generator."""

from studies.householder_projector.digits import digits
from studies.householder_projector.faces import distillation, faces
from studies.study import Protocol

FACES = "the package gan-face-generate"
PROTOCOLS = [
    Protocol("faces", "Are the projector's directions of a face generator less alike than SeFa's, and at what cost?",
             faces, FACES),
    Protocol("distillation", "Without images: what keeps the quality of a projected generator best?", distillation,
             FACES),
    Protocol("digits", "The same in a style-based generator of digits, whose other layers keep the whole style?",
             digits, "mnist/mnist_12k.npz, in LINMAP_DATA"),
]  # fmt: skip
