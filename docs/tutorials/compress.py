# %% [markdown]
# # Make a vision transformer faster without training it
#
# A vision transformer cuts a photograph into patches and carries one vector, a *token*, for each through all of its
# layers. Many of them say the same: sky, table, wall. **Token Transforming** replaces the tokens by fewer ones inside
# the network. How the few are made of the many is one matrix, and merging, pooling and pruning are special cases of
# it.
#
# We apply it to [DINOv2](https://github.com/facebookresearch/dinov2) on real photographs, see what is kept and how
# much time is saved, and look at which patches became one.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from transformers import AutoModel

from linmap.compress.token_transforming import TokenTransform, compress
from linmap.data.image_preparation import read_preparation
from linmap.data.images import embedded_image
from linmap.data.pretrained import bundled_model, dinov2_saliency

# %% [markdown]
# ## A model and three photographs

# %%
folder = bundled_model("dinov2-small")
model = AutoModel.from_pretrained(folder).eval()
preparation = read_preparation(folder)
names = ("chelsea", "coffee", "camera")
images = [embedded_image(name) for name in names]
x = preparation.batch(images)
shown = [preparation.shown(image) for image in images]

with torch.no_grad():
    whole = model(x).last_hidden_state
print(f"{tuple(x.shape)} pixels become {tuple(whole.shape)} tokens: 16 x 16 patches and one for the whole image")

# %% [markdown]
# ## One line
#
# `compress` changes the model while the block runs. `stages=(0.5, (3, 6, 9))` keeps half of the tokens at each of
# three depths. `restore` brings the answer back to all places, for tasks that need one value a pixel.

# %%
with torch.no_grad(), compress(model, stages=(0.5, (3, 6, 9))) as handle:
    fewer = model(x).last_hidden_state
    restored = handle.restore(fewer)
    owners = handle.recovery().argmax(-1)

cosine = torch.cosine_similarity(whole[:, 1:], restored[:, 1:], dim=-1)
print(f"{whole.shape[1]} tokens became {fewer.shape[1]}; cosine with the full model {cosine.mean():.3f}")

# %% [markdown]
# ## Which patches became one?
#
# Each colour is one token of the last layer: patches of one colour travel together. Where a picture is plain, many
# share a token.

# %%
fig, axes = plt.subplots(2, 3, figsize=(5.2, 3.7))
for i, name in enumerate(names):
    groups = owners[i, 1:].reshape(16, 16).numpy()
    order = np.random.default_rng(0).permutation(groups.max() + 1)
    axes[0, i].imshow(shown[i])
    axes[0, i].set_title(name)
    axes[1, i].imshow(shown[i].mean(-1), cmap="gray")
    axes[1, i].imshow(np.kron(order[groups], np.ones((14, 14))), cmap="nipy_spectral", alpha=0.6)
    axes[1, i].set_title(f"{len(np.unique(groups))} tokens")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
plt.show()

# %% [markdown]
# ## What is the price?
#
# Three ways to have fewer tokens, with the same budget in the same code: shares of many tokens (the method), pairs of
# similar tokens (ToMe), and leaving tokens out (pruning). We measure how near the patch features stay to those of the
# full model, and the seconds of the processor for a pass.

# %%
ways = {
    "Token Transforming": TokenTransform(),
    "pairs (ToMe)": TokenTransform(select="bipartite", assign="hard"),
    "pruning": TokenTransform(select="importance", assign="prune"),
}
keeps = (0.8, 0.65, 0.5)


def seconds(repeats=5):
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        model(x)
        taken.append(time.process_time() - start)
    return min(taken)


kept = {}
with torch.no_grad():
    plain = seconds()
    for name, transform in ways.items():
        kept[name] = []
        for keep in keeps:
            with compress(model, stages=(keep, (3, 6, 9)), transform=transform) as handle:
                restored = handle.restore(model(x).last_hidden_state, pruned="nearest")
            kept[name].append(torch.cosine_similarity(whole[:, 1:], restored[:, 1:], dim=-1).mean().item())
    for keep in keeps:
        with compress(model, stages=(keep, (3, 6, 9))):
            print(f"keeping {keep:.0%} at each stage: {plain / seconds():.2f} times as fast")

# %%
fig, ax = plt.subplots()
for name, values in kept.items():
    ax.plot([f"{keep:.0%}" for keep in keeps], values, "o-", label=name)
ax.set(xlabel="tokens kept at each of three stages", ylabel="cosine with the full model")
ax.set_title("Patch features, mean over three photographs")
ax.legend()
plt.show()

# %% [markdown]
# ## Does it still see?
#
# A saliency head, trained on the full model, reads the restored patches without knowing that anything was merged.

# %%
head = dinov2_saliency()
with torch.no_grad():
    full_map = head(whole[:, 1:], (224, 224))
    with compress(model, stages=(0.65, (3, 6, 9))) as handle:
        merged_map = head(handle.restore(model(x).last_hidden_state)[:, 1:], (224, 224))

fig, axes = plt.subplots(1, 3, figsize=(5.2, 2))
for ax, picture, title in zip(axes, (shown[0], full_map[0], merged_map[0]), ("photograph", "all", "65 %"), strict=True):
    ax.imshow(picture, cmap="magma")
    ax.set(title=title, xticks=[], yticks=[])
    ax.grid(False)
plt.show()
print(f"correlation of the two maps: {np.corrcoef(full_map[0].flatten(), merged_map[0].flatten())[0, 1]:.3f}")

# %% [markdown]
# ## On your own data
#
# ```console
# $ linmap compare token_transforming --model my-vit/ --data photos/     # quality against time, at several budgets
# $ linmap apply token_transforming --model my-vit/ --data photos/ --keep .65 --out features.parquet
# ```
#
# ViT, DeiT, DINOv2, CLIP, SigLIP and BERT-like encoders are understood. Where only a class is needed and half of the
# tokens go, ToMe is as good; with one small image at a time the gain is smaller. [Compress](../compress.md) has the
# tables, and two further systems: 4-bit language models, and one model that becomes a family of sizes.
