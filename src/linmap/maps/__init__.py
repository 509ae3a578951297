"""Every structured matrix, one file per structure, behind one interface: `LinearMap`."""

from linmap.maps.base import LinearMap
from linmap.maps.block_affine import BlockAffine
from linmap.maps.cayley import Cayley
from linmap.maps.compose import Compose
from linmap.maps.dense import Dense
from linmap.maps.diagonal import Diagonal
from linmap.maps.diagonal_plus_low_rank import DiagonalPlusLowRank
from linmap.maps.exponential import Exponential
from linmap.maps.hadamard import hadamard_factors, hadamard_transform
from linmap.maps.householder import Householder
from linmap.maps.identity import Identity
from linmap.maps.implicit import Implicit
from linmap.maps.kronecker import Kronecker
from linmap.maps.low_rank import LowRank
from linmap.maps.permutation import Permutation
from linmap.maps.rigid import Rigid
from linmap.maps.row_stochastic import RowStochastic
from linmap.maps.signed_hadamard import SignedHadamard
from linmap.maps.spectral import Spectral
from linmap.maps.triangular_pair import TriangularPair

__all__ = [
    "BlockAffine",
    "Cayley",
    "Compose",
    "Dense",
    "Diagonal",
    "DiagonalPlusLowRank",
    "Exponential",
    "Householder",
    "Identity",
    "Implicit",
    "Kronecker",
    "LinearMap",
    "LowRank",
    "Permutation",
    "Rigid",
    "RowStochastic",
    "SignedHadamard",
    "Spectral",
    "TriangularPair",
    "hadamard_factors",
    "hadamard_transform",
]
