"""GBWBN (arXiv 2504.00660): human motion by actor, few clips, EEG, and matrices by condition number."""

from studies.gbwbn.eeg import mamem_network
from studies.gbwbn.motion import by_actor, by_eps, few_shots, three_actors
from studies.gbwbn.synthetic import by_condition
from studies.study import Protocol

MOTION = "HDM05 whole (spd/hdm05_11class.npz in LINMAP_DATA)"
PROTOCOLS = [
    Protocol("actors", "Which normalisation is best on actors never seen, with a third who chooses?", by_actor, MOTION),
    Protocol("three-actors", "And with all three actors to train by, 30 epochs, nothing chosen?", three_actors, MOTION),
    Protocol("few-shots", "And with three clips of an action to train by?", few_shots, MOTION),
    Protocol("mamem", "Does the published EEG network gain from it, or the augmented covariance?", mamem_network),
    Protocol("eps", "Which normalisation bears real matrices that are regularised less and less?", by_eps, MOTION),
    Protocol("synthetic", "How do gradients and losses depend on the condition number?", by_condition),
]
