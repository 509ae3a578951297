"""A state-space classifier on your own series, and the same model on a stream: `python examples/hippo.py [series.npz]`.

The archive holds X (n, length, channels), or X (sum of lengths, channels) and lengths, and labels y.
"""

import sys

import numpy as np

from linmap.data.sequences import load_series
from linmap.sequence.hippo import OnlineProjection
from linmap.sequence.s4 import S4Classifier

data = load_series(sys.argv[1] if len(sys.argv) > 1 else "JapaneseVowels")
labels = data.require_labels()
held_out = np.arange(len(data)) % 4 == 3
train, test = data.take(np.flatnonzero(~held_out)), data.take(np.flatnonzero(held_out))

# The steps dt come from the length of the series; 1 / dt is how far back a feature looks at first.
model = S4Classifier(n_layers=2, d_model=32, d_state=16, epochs=10)
model.fit(train.series, train.require_labels())
print(f"accuracy on {len(test)} series: {model.score(test.series, test.require_labels()):.3f}")

# A stream: one sample at a time, in the same time and memory for each, with the same answers.
stream = model.stream()
for sample in test.series[0]:
    probabilities = stream.update(sample)
print(f"after {stream.count} samples: {model.classes_[probabilities.argmax()]} ({probabilities.max():.2f})")

# The theory: all of a signal's past in 32 numbers, updated sample by sample.
signal = np.sin(np.arange(1000) / 40) + np.sin(np.arange(1000) / 17)
memory = OnlineProjection("legs", 32)
memory.extend(signal)
error = memory.reconstruct(np.arange(1000) + 0.5).numpy() - signal[::-1]
print(f"1,000 samples from 32 numbers: error {np.sqrt((error**2).mean()):.4f}, signal {signal.std():.2f}")
