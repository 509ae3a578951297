"""Lie group decompositions: which setting trains, what it withstands, and how invariant it is."""

from studies.lie_decomposition.orbits import orbits
from studies.lie_decomposition.robustness import robustness
from studies.lie_decomposition.settings import settings
from studies.study import Protocol

MNIST = "12,000 digits of MNIST (mnist/mnist_12k.npz in LINMAP_DATA)"
PROTOCOLS = [
    Protocol("settings", "Which setting of a group network trains within 650 steps?", settings, MNIST),
    Protocol("robustness", "Trained on 2,000 clean digits: who finds the class of warped ones?", robustness, MNIST),
    Protocol("orbits", "How invariant is the network, by number of samples and by stretch?", orbits, MNIST),
]
