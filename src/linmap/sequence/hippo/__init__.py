"""HiPPO: the past of a signal as coefficients on orthonormal functions (arXiv 2206.12037, 2008.07669).

`hippo_matrices` and `basis` are the theory, `OnlineProjection` keeps a stream.
"""

from linmap.sequence.hippo.discretization import discretize
from linmap.sequence.hippo.matrices import MEASURES, basis, hippo_matrices, low_rank
from linmap.sequence.hippo.online import OnlineProjection

__all__ = ["MEASURES", "OnlineProjection", "basis", "discretize", "hippo_matrices", "low_rank"]
