"""Make your own transformer faster without training it: `python examples/token_transforming.py`"""

import time

import torch
from transformers import Dinov2Config, Dinov2Model

from linmap.compress.token_transforming import TokenTransform, compress

# Any ViT, DINOv2, tower of CLIP or SigLIP, or BERT-like encoder; here a small one with random weights. It has the speed
# of a trained one but not its tokens: what merging keeps of yours, `linmap compare token_transforming` tells.
torch.manual_seed(0)
model = Dinov2Model(Dinov2Config(hidden_size=192, num_hidden_layers=6, num_attention_heads=3, image_size=224)).eval()
rough = torch.randn(4, 3, 8, 8)
images = torch.nn.functional.interpolate(rough, (224, 224), mode="bilinear")  # 256 patches and the class token


def seconds() -> float:
    start = time.perf_counter()
    with torch.no_grad():
        model(images)
    return time.perf_counter() - start


with torch.no_grad():
    whole = model(images).last_hidden_state
    with compress(model, stages=(0.5, (1, 3, 5))) as handle:
        merged = handle.restore(model(images).last_hidden_state)
        n, after = handle.recovery().shape[1:]

print(f"{n} tokens, {after} after the last block; restored: {tuple(merged.shape)}")
print(f"cosine with the model as it is: {float(torch.cosine_similarity(whole, merged, dim=-1).mean()):.4f}")

# The other ways to have fewer tokens are settings of the same code.
ways = {
    "many to many": TokenTransform(),
    "ToMe": TokenTransform(select="bipartite", assign="hard"),
    "pruning": TokenTransform(select="importance", assign="prune"),
}
for name, transform in ways.items():
    plain, fast = [], []
    for _ in range(3):  # in turn, so that both meet the same machine
        plain.append(seconds())
        with compress(model, stages=(0.5, (1, 3, 5)), transform=transform):
            fast.append(seconds())
    print(f"{name:12s} {min(plain) / min(fast):.2f} times as fast")
