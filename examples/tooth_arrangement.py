"""Plan where teeth go: `python examples/tooth_arrangement.py CASE` (a folder with 11.stl, ...), else simulated."""

import sys

import torch

from linmap.shapes.tooth_arrangement import (
    TADPM,
    DentitionSimulator,
    load_case,
    metrics,
    movement_table,
    movements,
    stages_between,
)  # fmt: skip

simulator = DentitionSimulator(points=32)  # real tooth shapes, simulated malocclusions: nobody was treated
model = TADPM(points=32, width=32, epochs=3).fit(simulator.sample(100, generator=torch.Generator().manual_seed(0)))

if len(sys.argv) > 1:
    teeth = load_case(sys.argv[1])
else:
    teeth = simulator.sample_sets(1, generator=torch.Generator().manual_seed(1))[0][0]

fixed = [fdi for fdi in (16, 26) if fdi in teeth.meshes]
found = model.arrange(teeth, n_samples=4, fixed=fixed)  # ranked: the first is the best
print({name: values.round(2).tolist() for name, values in found.scores.items()})

plan = found.motions[0].numpy()
print(movement_table(movements(teeth, plan))[["tooth", "in words"]].head(6).to_string(index=False))

stages = stages_between(teeth, plan)  # at most 0.25 mm and 2 degrees a stage and tooth
print(f"{stages.count} stages, {len(stages.collisions)} collisions on the way")
if {11, 21} <= teeth.meshes.keys():
    after = teeth.apply(plan)
    print(f"gap of 11 and 21: {metrics.gap(after.meshes[11], after.meshes[21]):.2f} mm")
