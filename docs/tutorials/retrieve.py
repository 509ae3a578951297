# %% [markdown]
# # Change the embedder, keep the index
#
# Your search runs on vectors of an old embedding model. A better model exists, but its vectors cannot be compared with
# those in the index, and embedding millions of documents again takes weeks. **BT²** finds an orthogonal change of
# basis: queries of the new model are turned so that they can search the old vectors today, and nothing of the new
# model is lost.
#
# Then, in the second half, we search records that have no embedding at all: **MBAT** makes one vector of every JSON
# record, without a schema and without training, and says why two records are alike.

# %%
import matplotlib.pyplot as plt
import numpy as np

from linmap.data import EMBEDDED
from linmap.data.records import read_records
from linmap.retrieve.bt2 import EmbeddingUpgrade, backfill_curve, nearest_rows
from linmap.retrieve.mbat import JSONVectorizer

# %% [markdown]
# ## Two embedders of the same questions
#
# 1,500 questions of bank customers, embedded by an old and by a new model. The label is the intent: a good search
# finds questions with the same intent.

# %%
arrays = np.load(EMBEDDED / "banking77_embeddings.npz")
new, old, label = arrays["new"].astype(float), arrays["old"].astype(float), arrays["label"]
pairs, queries, gallery = np.split(np.random.default_rng(0).permutation(len(new)), [600, 800])
print(f"old: {old.shape[1]} numbers, new: {new.shape[1]}; {len(pairs)} pairs to learn from")


def precision(ranking):
    """The share of the ten nearest that have the intent of the query."""
    return (label[gallery][ranking[:, :10]] == label[queries][:, None]).mean()


# %% [markdown]
# ## One orthogonal matrix
#
# `fit` needs vectors of the same items by both models, and no labels.

# %%
upgrade = EmbeddingUpgrade().fit(new[pairs], old[pairs])
print(upgrade.report_["verdict"])

found = {
    "old model on the old index": precision(nearest_rows(old[queries], old[gallery], k=10)),
    "new queries on the old index": precision(nearest_rows(upgrade.transform_query(new[queries]), old[gallery], k=10)),
    "everything embedded again": precision(nearest_rows(new[queries], new[gallery], k=10)),
}
for name, value in found.items():
    print(f"{name:30s} {value:.3f}")

# %% [markdown]
# ## Fill up at your own pace
#
# New documents are stored by the new model from now on, old ones are embedded again when there is time. Searches of
# the mixed index get better with every row.

# %%
curve = backfill_curve(upgrade, new[queries], new[gallery], old[gallery], precision)
fig, ax = plt.subplots()
ax.plot(curve.fractions, curve.values, "o-")
ax.axhline(found["old model on the old index"], color="gray", linestyle="--")
ax.text(1, found["old model on the old index"], "old model", ha="right", va="bottom")
ax.set(xlabel="share of the index that is embedded again", ylabel="precision of the first ten")
ax.set_title("Questions of bank customers")
plt.show()

# %% [markdown]
# ## Records without an embedder
#
# Now 418 synthetic patients, each a JSON document of some hundred values at different depths. Every key is an
# orthogonal matrix, every value a vector of ±1, and a document is their sum: similar documents have similar vectors.

# %%
records = list(read_records(EMBEDDED / "fhir_patients.jsonl"))
vectorizer = JSONVectorizer(arrays="both", ignore=["**.id"])
vectors = vectorizer.transform([record.document for record in records])
paths = vectorizer.get_feature_paths([records[0].document])
print(f"{len(records)} records, {len(paths)} paths in the first, {vectors.shape[1]} numbers each")

# %%
kind = np.array([str(record.label) for record in records])
centred = vectors - vectors.mean(0)
plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
fig, ax = plt.subplots()
for name in np.unique(kind):
    ax.scatter(*plane[kind == name].T, s=12, label=name)
ax.set(xticks=[], yticks=[], title="The patients on the two main axes of their vectors")
ax.legend(title="label", fontsize=7)
plt.show()

# %% [markdown]
# ## Why are two records alike?
#
# The similarity is a sum over what both have at the same path, so the reasons are exact: they and the crosstalk add up
# to the cosine.

# %%
cosines = vectors @ vectors.T
np.fill_diagonal(cosines, -1)
first, second = np.unravel_index(cosines.argmax(), cosines.shape)
why = vectorizer.similarity_breakdown(records[first].document, records[second].document)
print(f"{records[first].id} and {records[second].id}, cosine {why.cosine:.3f}")
for path, share, left, right in why.contributions[:6]:
    print(f"  {share:+.3f}  {path[:40]}: {str(left)[:24]} and {str(right)[:24]}")
print(f"  {sum(c[1] for c in why.contributions[6:]):+.3f}  {len(why.contributions) - 6} further paths")
print(f"  {why.crosstalk:+.3f}  crosstalk")

# %% [markdown]
# ## On your own data
#
# ```console
# $ linmap fit bt2 --new new.npy --old old.npy --out upgrade
# $ linmap apply upgrade --data queries.npy --output query --out for_the_old_index.npy
# $ linmap apply mbat --data records.jsonl --out vectors.parquet
# $ linmap search vectors.parquet --id p0000            # the nearest records, and why
# ```
#
# BT² is for the time until the index is embedded anew; if that takes one night, do that instead. For long texts a
# language model's embedding is ahead of MBAT. [Retrieve](../retrieve.md) has the details, [stores](../stores.md) the
# vector databases, and [Which one should I take?](../choosing.md) the measured figures.
