"""Names of `linmap.artifacts` that recipes take from here."""

from linmap.artifacts import check_free, staged

__all__ = ["check_free", "staged"]
