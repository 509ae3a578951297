# %% [markdown]
# # Read a network as one affine map
#
# A network with ReLUs, pools and gates takes decisions on its way: this unit is on, that maximum wins. Hold these
# decisions for one input, and what remains is a matrix and a vector, y = F x + r, that equal the network at this
# input. **LinearScope** finds them. Rows of F say how every pixel votes for a class, and the votes add up to the
# answer.
#
# We read an image classifier at a photograph, and a language model at a sentence.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from linmap.data.images import embedded_image, square
from linmap.data.pretrained import bundled_model, efficientnet_lite0
from linmap.interpret.linearscope import LinearScope

# %% [markdown]
# ## A photograph and its classes

# %%
photo = square(embedded_image("chelsea"), 224)
x = torch.tensor(photo).permute(2, 0, 1)[None].float().sub(127).div(128)
model = efficientnet_lite0().requires_grad_(False)

reading = LinearScope(model).at(x)
difference = (reading.matvec(x) + reading.residual - model(x)).abs().max()
print(f"F x + r equals the network to {difference:.1e}")

top = reading.output[0].topk(3).indices.tolist()
chances = reading.output[0].softmax(-1)
print("its first classes (ImageNet numbers):", ", ".join(f"{k} ({chances[k]:.0%})" for k in top))

# %% [markdown]
# 281, 282 and 285 are tabby, tiger cat and Egyptian cat.
#
# ## The votes of the pixels
#
# `votes` multiplies a row of F with the pixels: what each of them adds to the class. They and the residual, which
# comes from the biases, add up exactly.

# %%
best = top[0]
votes = reading.votes(best).sum(0)
value, residual = float(reading.output[0, best]), float(reading.residual[0, best])
print(f"class {best}: {value:.2f} = {float(votes.sum()):.2f} from the pixels + {residual:.2f} from the biases")


def smooth(image, width=9):
    kernel = torch.hann_window(width + 2)[1:-1]
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    return torch.nn.functional.conv2d(image[None, None], kernel[None, None], padding=width // 2)[0, 0]


fig, axes = plt.subplots(1, 3, figsize=(5.2, 2.1))
pictures = [("photograph", photo, {})]
for k in top[:2]:
    picture = smooth(reading.votes(k).sum(0))
    limit = picture.abs().quantile(0.995)
    pictures.append((f"votes for {k}", picture, {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}))
for ax, (title, picture, options) in zip(axes, pictures, strict=True):
    ax.imshow(picture, **options)
    ax.set(title=title, xticks=[], yticks=[])
    ax.grid(False)
plt.show()

# %% [markdown]
# Red votes for, blue against. Look at the sum first: where most of a logit comes from the biases, as here, the votes
# of the pixels nearly cancel, and no heat map should be read as the reason for the answer. Votes for one class alone
# are hard to read: cats share most of their evidence. The difference of two rows says why the one and not the other.

# %%
contrast = smooth((reading.row(top[0]) - reading.row(top[1])).reshape(3, 224, 224).mul(x[0]).sum(0))
limit = contrast.abs().quantile(0.995)
fig, ax = plt.subplots(figsize=(3, 3))
ax.imshow(photo)
ax.imshow(contrast, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.65)
ax.set(title=f"{top[0]} rather than {top[1]}", xticks=[], yticks=[])
ax.grid(False)
plt.show()

# %% [markdown]
# ## Patterns
#
# Singular vectors of F are found without building it, which here would have 150 million entries. The first are the
# patterns that the network, frozen at this photograph, amplifies most.

# %%
U, S, Vh = reading.svd(3)
fig, axes = plt.subplots(1, 3, figsize=(5.2, 2.1))
for ax, gain, pattern in zip(axes, S, Vh, strict=True):
    picture = reading.as_input(pattern).sum(-3).squeeze()
    limit = picture.abs().quantile(0.995)
    ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set(title=f"gain {gain:.1f}", xticks=[], yticks=[])
    ax.grid(False)
plt.show()

# %% [markdown]
# ## A language model
#
# The same for text: which words add how much to the next one?

# %%
text = "Berlin is the capital of Germany, Rome is the capital of Italy, and the capital of France is"
folder = bundled_model("smollm2-135m")
language = AutoModelForCausalLM.from_pretrained(folder).float().eval().requires_grad_(False)
sentence = LinearScope(language).text(text, AutoTokenizer.from_pretrained(folder))
print("next:", ", ".join(f"{p.token.word} {p.probability:.0%}" for p in sentence.predictions(3)))

told = sentence.contributions()
words, values = [token.word for token in sentence.tokens], np.asarray(told.values)
print(f"logit of {told.target.word}: {told.value:.2f} = {values.sum():.2f} + {told.residual:.2f}")

fig, ax = plt.subplots(figsize=(5.2, 4))
ax.barh(np.arange(len(words)), values, color=np.where(values > 0, "#d55e00", "#0072b2"))
ax.set(yticks=np.arange(len(words)), yticklabels=words, xlabel=f"what each word adds to {told.target.word}")
ax.tick_params(axis="y", labelsize=8)
ax.invert_yaxis()
plt.show()

# %% [markdown]
# ## On your own data
#
# ```console
# $ linmap apply linearscope --data photo.png --out reading
# $ linmap apply linearscope --model package.module:function --data photo.png --out reading    # your own network
# $ linmap apply linearscope --model smollm2-135m --data prompt.txt --target " Paris" --out reading
# ```
#
# The map belongs to this one input: it does not say what the network would make of another.
# [Interpret](../interpret.md) explains what is held and what is proven, and has the second system of the room, which
# finds directions in image generators.
