"""Learngene Pool: the small protocol on digits, and DINOv2-small as the ancestry model."""

from studies.learngene_pool.digits import digits, few_passes, six_thousand
from studies.learngene_pool.dinov2 import dinov2, starts
from studies.study import Protocol

PROTOCOLS = [
    Protocol("digits", "What do distilled auxiliaries and the start of the stitches buy?", digits),
    Protocol("digits-3", "The same with 2,000 digits and three passes.", few_passes),
    Protocol("digits-6000", "The same with 6,000 digits.", six_thousand, needs="mnist/mnist_12k.npz, in LINMAP_DATA"),
    Protocol("dinov2", "Does the order hold with DINOv2-small as the ancestry model?", dinov2),
    Protocol("dinov2-starts", "In which order do the starts of the stitches come there, seed by seed?", starts),
]
