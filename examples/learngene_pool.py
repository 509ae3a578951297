"""One model in, a family of sizes out: `python examples/learngene_pool.py`; digits of the package, a minute or two."""

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from linmap.compress.learngene_pool import Descendant, LearngenePool, VisionTransformer, distill, record_teacher
from linmap.data.image_preparation import ImagePreparation
from linmap.data.image_sets import embedded_digits
from linmap.training import TrainingConfig, train


def digits(part: str) -> TensorDataset:
    """Grey images of 28 x 28 from -1 to 1, and their classes."""
    images = embedded_digits(part)
    x = ImagePreparation(scale=1 / 255, mean=(0.5,), std=(0.5,)).batch(images)[:, :1]
    return TensorDataset(x, torch.as_tensor(images.labels))


data, test = digits("train"), digits("test")


def settings(epochs: int, lr: float = 1e-3) -> TrainingConfig:
    return TrainingConfig(epochs=epochs, lr=lr, optimizer="adamw", weight_decay=0.05, schedule="linear")


# The ancestry model: yours, or here a small one that is trained first.
teacher = VisionTransformer(28, 7, 1, 10, dim=96, depth=6, heads=3)
train(teacher, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data, config=settings(8))

# Two auxiliaries learn from it; it runs once over the data.
recorded = record_teacher(teacher, data, blocks=[1, 3, 5])
tiny, base = (VisionTransformer(28, 7, 1, 10, dim=dim, depth=3, heads=heads) for dim, heads in ((32, 2), (96, 3)))
distill(teacher, tiny, recorded, config=settings(3), points="front,end")
distill(teacher, base, recorded, config=settings(3), points="end")

# The pool: nine models of 0.7 to 6.3 million MACs out of 390,000 parameters.
pool = LearngenePool([tiny, base])
pool.init_stitches("lstsq", data=data.tensors[0].split(250))
pool.fit(recorded, config=settings(3, 5e-4), teacher=teacher)
print(pool.evaluate(test).sort_values("macs").to_string(index=False))
print("best for their MACs:", pool.frontier())

model = pool.build(max_macs=3e6)  # stands alone: saves, trains and exports without the pool
model.save("descendant")
again = Descendant.load("descendant")
print(f"{again.cost.macs:,} MACs and {again.cost.params:,} parameters, in the folder descendant/")
