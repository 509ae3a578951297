"""The errors that linmap raises on purpose, beside the built-in `ValueError` and `TypeError`."""


class LinmapError(Exception):
    """Base class: a message that says which argument, what came, what was expected, and what to do."""


class UsageError(LinmapError):
    """A command was called the wrong way (exit code 2)."""


class DataError(LinmapError, ValueError):
    """The user's data cannot be used as it is; the message names the first offending place."""


class ArtifactError(LinmapError):
    """A saved run cannot be read: missing, of another system, or of a format that is too new."""


class SingularMapError(LinmapError, ValueError):
    """The map has no inverse (not square, or of deficient rank)."""


class DivergenceError(LinmapError, ArithmeticError):
    """Training cannot go on: a loss or a weight is no longer finite."""
