"""Learngene Pool: the small protocol on digits, and DINOv2-small as the ancestry model."""

from studies.learngene_pool.digits import digits
from studies.learngene_pool.dinov2 import dinov2
from studies.study import Protocol

PROTOCOLS = [
    Protocol("digits", "What do distilled auxiliaries and the start of the stitches buy?", digits),
    Protocol("dinov2", "Does the order hold with DINOv2-small as the ancestry model?", dinov2),
]
