# %% [markdown]
# # Classify EEG with a memory
#
# Somebody looks at one of five flickering lights, and an EEG cap should tell at which. Good classifiers see each epoch
# through the covariance of its channels, which forgets in which order the samples came. The **augmented covariance**
# puts copies of the signal, some samples later, below the signal before the covariance is taken: one larger matrix
# that holds the rhythm too.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from linmap.data.epochs import mamem
from linmap.signals.acm import ACMClassifier, AugmentedCovariance, select_order_lag
from linmap.signals.gbwbn import SPDNetClassifier

# %% [markdown]
# ## The recording
#
# A subject of the MAMEM data set, filtered to 4 to 35 Hz. The five classes are the lights. We use three sessions: two
# train, one tests, in turn.

# %%
recording = mamem(5).filtered(4, 35)
epochs = recording.take(recording.session < 3)
X, y, session = epochs.X, epochs.labels(), epochs.session
print(f"{X.shape[0]} epochs of {X.shape[1]} channels and {X.shape[2]} samples at {epochs.sfreq:.0f} Hz")

# %%
times = np.arange(X.shape[2]) / epochs.sfreq
fig, ax = plt.subplots()
for row, channel in enumerate(range(0, X.shape[1], 2)):
    ax.plot(times, X[0, channel] / X[0].std() / 4 - row, linewidth=1, color="#0072b2")
ax.set(xlabel="seconds", yticks=[], title="One epoch, every second channel")
plt.show()

# %% [markdown]
# ## One larger matrix
#
# On the left the covariance of an epoch. On the right the augmented one, with four copies that are eight samples
# apart: the blocks beside the diagonal say how channels follow each other.

# %%
plain = AugmentedCovariance(order=1, lag=1).fit_transform(X)
augmented = AugmentedCovariance(order=4, lag=8).fit_transform(X)
fig, axes = plt.subplots(1, 2, figsize=(5.2, 2.7))
for ax, matrix, title in zip(axes, (plain[0], augmented[0]), ("plain", "order 4, lag 8"), strict=True):
    limit = np.abs(matrix).max() / 2
    ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set(title=f"{title}: {len(matrix)} x {len(matrix)}", xticks=[], yticks=[])
    ax.grid(False)
plt.show()

# %% [markdown]
# ## Does it help?
#
# The same classifier behind both: tangent space and a support vector machine. Every session is predicted by the
# others.

# %%
answers = {}
for name, (order, lag) in {"plain": (1, 1), "augmented": (4, 8)}.items():
    classifier = ACMClassifier((order, lag), kernel="linear")
    answers[name] = cross_val_predict(classifier, X, y, groups=session, cv=LeaveOneGroupOut())
    print(f"{name:10s} {(answers[name] == y).mean():.3f}   (chance: {1 / len(np.unique(y)):.2f})")

# %%
fig, axes = plt.subplots(1, 2, figsize=(5.2, 2.9))
classes = np.unique(y)
for ax, (name, answer) in zip(axes, answers.items(), strict=True):
    table = np.array([[(answer[y == true] == said).mean() for said in classes] for true in classes])
    ax.imshow(table, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(table.shape):
        ax.text(j, i, f"{table[i, j]:.1f}"[-2:], ha="center", va="center", fontsize=8, color="gray")
    places = np.arange(len(classes))
    ax.set(title=name, xlabel="predicted", xticks=places, yticks=places, xticklabels=classes, yticklabels=classes)
    ax.tick_params(labelsize=7)
    ax.grid(False)
plt.show()

# %% [markdown]
# ## Which order, which lag?
#
# Both can be chosen without labels, from the signal alone, or by cross-validation inside the training epochs
# (`ACMClassifier()` does that by default).

# %%
order, lag = select_order_lag(X, "mdop", n_epochs=20, random_state=0)[:2]
print(f"from the signal alone: order {order}, lag {lag} samples ({1000 * lag / epochs.sfreq:.0f} ms)")

# %% [markdown]
# ## A network on covariances
#
# The room's second system is a batch normalisation for networks whose features are covariance matrices: their mean is
# taken on the curved space of such matrices, and the metric can be deformed by a power θ. Here a small network with
# it, behind both matrices.

# %%
train, test = session < 2, session == 2
for name, matrices in {"plain": plain, "augmented": augmented}.items():
    network = SPDNetClassifier(dims=(8,), theta=0.25, epochs=10).fit(matrices[train], y[train])
    print(f"network on {name} covariances, last session: {network.score(matrices[test], y[test]):.3f}")

# %% [markdown]
# On so few epochs the tangent space with a support vector machine is the better choice. The network is for larger
# sets, and for features that are to be learnt on the way.

# %% [markdown]
# ## On your own data
#
# ```console
# $ linmap compare acm --data my-epo.fif --band 4 35     # is the memory worth it on your epochs?
# $ linmap fit acm --data my-epo.fif --out run           # MNE epochs, or .npz with X, y, sfreq
# $ linmap apply run --data new-epo.fif --out classes.csv
# ```
#
# Lags help for steady rhythms. For imagined movements with a good band-pass the plain covariance is as good; the
# figures stand in [Which one should I take?](../choosing.md), the details in [Signals](../signals.md).
