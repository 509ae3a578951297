"""The version, for those who want no more of linmap than that."""

__version__ = "0.1.0"
