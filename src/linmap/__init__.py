"""Transformation matrices as first-class objects, and the published systems that stand on them."""

__version__ = "0.1.0"
