# %% [markdown]
# # One pose for every copy of a shape
#
# A network that reads coordinates gives another answer when the shape is turned. You can show it thousands of turned
# copies, or you can take the pose away: **TinvNN** replaces the points by coordinates that depend on their distances
# alone. Every copy of a shape, turned, moved or resized, becomes the same point set, and any network behind it is
# invariant, exactly.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from linmap.data.clouds import ldraw_shapes
from linmap.shapes.tinvnn import PointCloudClassifier, TinvEmbedding

# %% [markdown]
# ## Shapes
#
# 681 parts of a construction toy (LDraw), as clouds of 512 points, in 14 classes.

# %%
shapes = ldraw_shapes()
points, labels = shapes.batch(256), shapes.named_labels()
print(f"{len(points)} clouds; {len(np.unique(labels))} classes:", ", ".join(np.unique(labels)[:6]), "...")


def turned(clouds, seed):
    """Each cloud in an orientation, a place and a size of its own."""
    draw = np.random.default_rng(seed)
    turns, _ = np.linalg.qr(draw.standard_normal((len(clouds), 3, 3)))
    sizes, places = draw.uniform(0.5, 2, (len(clouds), 1, 1)), draw.standard_normal((len(clouds), 1, 3))
    return (sizes * (clouds @ turns) + places).astype(np.float32)


# %% [markdown]
# ## Three copies, one pose
#
# Above, one shape in three poses. Below, each of them behind `TinvEmbedding`.

# %%
shape = points[labels == "Animal"][:1]
copies = np.concatenate([shape, turned(shape, 1), turned(shape, 5)])
canonical = TinvEmbedding()(torch.as_tensor(copies)).numpy()
print(f"largest difference between the three below: {np.abs(canonical - canonical[0]).max():.1e}")

fig = plt.figure(figsize=(5.2, 3.6))
for row, clouds in enumerate((copies - copies.mean(1, keepdims=True), canonical)):
    for column, cloud in enumerate(clouds):
        ax = fig.add_subplot(2, 3, 3 * row + column + 1, projection="3d")
        ax.scatter(*cloud.T, s=2, c=copies[0][:, 1], cmap="viridis")
        reach = np.abs(cloud).max()
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
        ax.set_axis_off()
plt.show()

# %% [markdown]
# ## Two classifiers
#
# The same small PointNet, once behind the canonical pose and once on raw coordinates, trained on shapes as they stand
# in the catalogue. Then both see the test shapes as they stand, and turned.

# %%
common = [name for name in np.unique(labels) if (labels == name).sum() >= 45][:6]
rows = np.flatnonzero(np.isin(labels, common))
rows = np.random.default_rng(0).permutation(rows)
train, test = rows[: len(rows) * 2 // 3], rows[len(rows) * 2 // 3 :]
print(f"{len(train)} shapes to learn from, {len(test)} to judge by, {len(common)} classes")

scores = {}
for name, representation in {"canonical pose": "moment", "raw coordinates": "raw"}.items():
    classifier = PointCloudClassifier(representation, n_points=128, epochs=12, random_state=0)
    classifier.fit(points[train], labels[train])
    stands = classifier.score(points[test], labels[test])
    any_pose = classifier.score(turned(points[test], 2), labels[test])
    scores[name] = (stands, any_pose)
    print(f"{name:16s} as they stand {stands:.3f}, turned {any_pose:.3f}")

# %%
fig, ax = plt.subplots(figsize=(5.2, 2.4))
for offset, (name, values) in zip((-0.18, 0.18), scores.items(), strict=True):
    ax.barh(np.arange(2) + offset, values, height=0.34, label=name)
ax.axvline(1 / len(common), color="gray", linestyle="--")
ax.set(yticks=[0, 1], yticklabels=["as they stand", "turned"], xlabel="accuracy (dashed: chance)")
ax.invert_yaxis()
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# Both facts matter. In any pose the canonical network answers as before, and the raw one is near chance. But where all
# shapes stand alike, the pose itself is information, and raw coordinates are ahead.
#
# ## On your own data
#
# ```console
# $ linmap apply tinvnn --data points.csv --out canonical.csv    # the pose alone, nothing trained
# $ linmap compare tinvnn --data shapes/                         # meshes or clouds in folders by class
# $ linmap fit tinvnn --data shapes/ --out run
# ```
#
# If augmentation or a histogram of distances serves you better, `compare` says so. [Shapes](../shapes.md) has the
# rules for mirror images and ties, the networks for warped images, and the planning of teeth.
