"""Transformation matrices as first-class objects, and the published systems that stand on them."""

from linmap.compress.registration import register
from linmap.version import __version__

__all__ = ["__version__"]

register()
