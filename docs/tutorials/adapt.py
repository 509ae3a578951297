# %% [markdown]
# # Fine-tune a sentence encoder with Bone
#
# You have a pretrained encoder and a few labelled sentences. Training all of its weights is slow and forgets much; an
# adapter trains a few numbers beside frozen weights. The best known adapter is LoRA. **Bone** takes its place with one
# change: instead of two thin matrices it trains one small block, which is shared along each weight.
#
# We teach [MiniLM](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) to recognise what customers of a
# bank want, with Bone and with LoRA, and look at what each of them changed. Everything here comes with the package.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer

from linmap.adapt import BoneConfig
from linmap.adapt.texts import TextClassifier
from linmap.data import EMBEDDED
from linmap.data.pretrained import bundled_model
from linmap.data.text import labels_of, read_training_texts
from linmap.data.tokens import ClassificationData

# %% [markdown]
# ## The data
#
# BANKING77 holds questions with 77 intents. We take twelve intents, with five sentences of each for training: the
# usual situation of somebody who has just begun to label.

# %%
train_file = read_training_texts(EMBEDDED / "banking77_train.csv.gz", "classification")
test_file = read_training_texts(EMBEDDED / "banking77_test.csv.gz", "classification")
intents = labels_of(train_file.records)[:12]

known = [record for intent in intents for record in [r for r in train_file.records if r.answer == intent][:5]]
new = [record for record in test_file.records if record.answer in intents]
print(f"{len(known)} sentences to learn from, {len(new)} to judge by, {len(intents)} intents")
for record in known[:21:10]:
    print(f"  {record.answer}: {record.text}")

# %% [markdown]
# ## The model and its adapter
#
# linmap's adapters are [PEFT](https://github.com/huggingface/peft) methods: `get_peft_model` with another
# configuration, and nothing else in your program changes. A block of 32 rows has about as many numbers as a LoRA of
# rank 16.

# %%
folder = bundled_model("minilm-l6")
tokenizer = AutoTokenizer.from_pretrained(folder)
train_data = ClassificationData(known, tokenizer, intents, max_length=48)
test_data = ClassificationData(new, tokenizer, intents, max_length=48)

adapters = {
    "Bone": BoneConfig(r=32, mode="bat-row", target_modules=["query", "value"]),
    "LoRA": LoraConfig(r=16, lora_alpha=16, target_modules=["query", "value"]),
}


def classifier(adapter):
    torch.manual_seed(0)
    encoder = get_peft_model(AutoModel.from_pretrained(folder), adapter)
    trained, everything = encoder.get_nb_trainable_parameters()
    print(f"{trained:,} of {everything:,} numbers of the encoder are trained")
    return TextClassifier(encoder, len(intents))


models = {}
for name, adapter in adapters.items():
    print(f"{name}: ", end="")
    models[name] = classifier(adapter)

# %% [markdown]
# ## Training
#
# A plain loop of PyTorch. Transformers' `Trainer` and linmap's own [loop](../training.md), which goes on exactly where
# it was interrupted, do the same with fewer lines.


# %%
def train(model, steps=60):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    draw, losses = np.random.default_rng(0), []
    model.train()
    for _ in range(steps):
        batch = train_data.__getitems__(draw.choice(len(train_data), 12, replace=False).tolist())
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def accuracy(model):
    model.eval()
    batch = test_data.__getitems__(range(len(test_data)))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return (logits.argmax(-1) == batch["labels"]).float().mean().item()


curves = {name: train(model) for name, model in models.items()}
for name, model in models.items():
    print(f"{name}: {accuracy(model):.1%} of the new sentences are understood")

# %%
fig, ax = plt.subplots()
for name, losses in curves.items():
    ax.plot(np.convolve(losses, np.ones(8) / 8, "valid"), label=name)
ax.set(xlabel="step", ylabel="training loss", title="Loss on the training sentences, mean of eight steps")
ax.legend()
plt.show()

# %% [markdown]
# Do not read a winner from one run. Over three seeds and all 77 intents the two are level in accuracy; see [the
# measured figures](../choosing.md). What differs is the shape of the change.
#
# ## What an adapter changed
#
# Merging adds the adapter to the weight, and the result is a plain model again. The difference of the weights before
# and after shows the structure: Bone's change has the fine grain of the weight that its block multiplies, LoRA's is a
# sum of sixteen outer products.

# %%
before = AutoModel.from_pretrained(folder).get_submodule("encoder.layer.5.attention.self.query").weight.detach()
changes = {}
for name, model in models.items():
    plain = model.encoder.merge_and_unload()
    changes[name] = plain.get_submodule("encoder.layer.5.attention.self.query").weight.detach() - before

fig, axes = plt.subplots(1, 2, figsize=(5.2, 2.8))
for ax, (name, change) in zip(axes, changes.items(), strict=True):
    limit = change[:128, :128].abs().max()
    ax.imshow(change[:128, :128], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set(title=f"{name}, rank {torch.linalg.matrix_rank(change)}", xticks=[], yticks=[])
    ax.grid(False)
plt.show()

# %% [markdown]
# With the same number of trained parameters Bone reaches a change of much higher rank, because the block is multiplied
# by the frozen weight. Whether that helps depends on the task; `compare` tells you for yours.
#
# ## On your own data
#
# ```console
# $ linmap fit bone --model minilm-l6 --data intents.csv --out classifier   # columns: text, label
# $ linmap apply classifier --data new.csv --out answers.csv
# $ linmap compare bone --model minilm-l6 --data intents.csv                # beside LoRA, at equal parameters
# ```
#
# `--model` takes any folder or hub name of Transformers. For a language model, give prompts and completions. The [page
# of the room](../adapt.md) has the other two methods (ranks that grow, singular values), and [Which one should I
# take?](../choosing.md) says when plain LoRA is the better choice.
