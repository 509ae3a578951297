"""Transformation matrices as first-class objects, and the published systems that stand on them."""

from linmap.registration import register

__version__ = "0.1.0"

register()
