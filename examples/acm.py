"""Classify EEG epochs: `python examples/acm.py my-epo.fif` (or .npz); without a file, a subject of MAMEM."""

import sys

import numpy as np
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, cross_val_score

from linmap.data.epochs import load_epochs, mamem
from linmap.signals.acm import ACMClassifier, select_order_lag

if len(sys.argv) > 1:
    epochs = load_epochs(sys.argv[1])  # MNE's -epo.fif, or X, y, sfreq, session, group in an .npz
else:
    recording = mamem(5).filtered(4, 35)
    epochs = recording.take(recording.session < 3)

X, y = epochs.X, epochs.labels()
groups = np.arange(len(X)) if epochs.group is None else epochs.group  # pieces of one trial stay together
outer = groups if epochs.session is None else epochs.session
splitter = GroupKFold(3) if epochs.session is None else LeaveOneGroupOut()

for name, classifier in {
    "plain covariance": ACMClassifier((1, 1), kernel="linear"),
    "augmented, order 4, lag 8": ACMClassifier((4, 8), kernel="linear"),
}.items():
    print(f"{name}: {cross_val_score(classifier, X, y, groups=outer, cv=splitter).mean():.3f}")

searched = ACMClassifier(orders=(1, 2, 4), lags=(4, 8), inner_cv=GroupKFold(3)).fit(X, y, groups)
print(f"chosen by cross-validation: order {searched.order_}, lag {searched.lag_} samples")
print("chosen by MDOP, without labels: order {}, lag {}".format(*select_order_lag(X, n_epochs=20, random_state=0)[:2]))
