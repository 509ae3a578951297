"""Classify covariances: `python examples/gbwbn.py cov.npz` (X, y, domain); without a file, human motion (HDM05)."""

import sys

import numpy as np
import torch

from linmap.data.covariances import hdm05, load_covariances
from linmap.signals.gbwbn import GBWBatchNorm, SPDNetClassifier

data = load_covariances(sys.argv[1]) if len(sys.argv) > 1 else hdm05(subset=True)
assert data.domain is not None
held = data.domain == np.unique(data.domain)[-1]  # the last actor is never trained on
train, test = data.take(~held), data.take(held)

classifier = SPDNetClassifier(dims=(20,), theta=0.25, epochs=10).fit(train.X, train.labels())
print(f"accuracy on {np.unique(test.domain)}: {classifier.score(test.X, test.labels()):.2f}")

norm = classifier.model_.norms[0]
assert isinstance(norm, GBWBatchNorm)
print(f"mean residual {norm.mean_residual:.2f}, condition of the mean {norm.condition:.0f}, folded {norm.n_folded}")

layer = GBWBatchNorm(3)  # the layer by itself, in any network
A = torch.randn(8, 3, 6, dtype=torch.float64)
print(layer(A @ A.mT).mean(0).detach())
