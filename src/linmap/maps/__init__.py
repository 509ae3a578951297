"""Every structured matrix, one file per structure, behind one interface: `LinearMap`."""

from importlib import import_module

_HOMES = {
    "LinearMap": "base",
    "Dense": "dense",
    "Diagonal": "diagonal",
    "Identity": "identity",
    "Permutation": "permutation",
    "Householder": "householder",
    "Exponential": "exponential",
    "Cayley": "cayley",
    "SignedHadamard": "signed_hadamard",
    "Kronecker": "kronecker",
    "LowRank": "low_rank",
    "TriangularPair": "triangular_pair",
    "BlockAffine": "block_affine",
    "Spectral": "spectral",
    "RowStochastic": "row_stochastic",
    "DiagonalPlusLowRank": "diagonal_plus_low_rank",
    "Rigid": "rigid",
    "Implicit": "implicit",
    "Compose": "compose",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"linmap.maps.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'linmap.maps' has no attribute {name!r}")
