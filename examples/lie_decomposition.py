"""Tell images apart, warped ones too: `python examples/lie_decomposition.py`; on digits, a minute or two."""

import numpy as np
import torch
import torch.nn.functional as F

from linmap.data.image_sets import embedded_digits
from linmap.data.image_warps import WarpRanges, warp
from linmap.shapes.lie_decomposition import GLnPlus, HaarSampler, LieClassifier, SLn


def digits(part: str, count: int) -> tuple[torch.Tensor, np.ndarray]:
    """Grey images from 0 to 1 with a border, 40 x 40, and their classes."""
    found = embedded_digits(part).subset(range(count))
    assert found.labels is not None
    x = torch.stack([torch.from_numpy(image[..., 0]) for image in found])[:, None] / 255
    return F.pad(x, (6, 6, 6, 6)), found.labels


def seen(x: torch.Tensor) -> np.ndarray:
    """From -1 to 1, 20 x 20."""
    return (2 * F.avg_pool2d(x, 2) - 1).numpy()


# The group: coordinates of all matrices of determinant 1, also of those without a logarithm.
group = SLn(2)
g = torch.tensor([[-2.0, 0.0], [0.0, -0.5]])
print("coordinates", group.coords(g).tolist(), "and back", group.from_coords(group.coords(g)).tolist())
samples = HaarSampler(GLnPlus(3), radius=0.5).sample(5)  # any n
print("GL+(3): determinants", torch.linalg.det(samples.g).tolist())

# A network that has seen undeformed digits only, tested on deformed ones.
x, y = digits("train", 2000)
x_test, y_test = digits("test", 500)
h, shift = WarpRanges().draw(len(x_test), torch.Generator().manual_seed(0))
classifier = LieClassifier("sl2", epochs=8).fit(seen(x), y)
clean, warped = (classifier.score(seen(images), y_test) for images in (x_test, warp(x_test, h, shift)))
print(f"clean {clean:.3f}, warped {warped:.3f}")

classifier.save("lie_network")
print("saved and loaded:", (LieClassifier.load("lie_network").predict(seen(x_test)) == y_test).mean())
