"""linearscope against forward and backward passes of the same networks: EfficientNet-lite0, SmolLM2-135M, DINOv2-small.

Bars: a column within 1.5 forward passes of a convolutional network, a row of a transformer within 1.3 plain backward
passes through the same graph, and its memory within 1.5 times that of such a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Measurement, compare, peak_memory
from linmap.data.images import embedded_image, square
from linmap.data.pretrained import bundled_model, efficientnet_lite0
from linmap.interpret.linearscope import AffineInterpreter, LinearScope
from linmap.recipes.linearscope.loading import normalised

BATCH = 16
BAR = 1 / 1.5
ROW_BAR = 1 / 1.3
ROWS = 4
"""In one batch, of a transformer."""
FEW: dict[str, Any] = {"repeats": 5, "warm_up": 1}


@torch.no_grad()
def run() -> list[Measurement]:
    found = convolutional()
    for tokens in (64, 512):
        found += transformer(f"SmolLM2-135M, {tokens} tokens", *language_model(tokens))
    for size in (98, 224):
        found += transformer(f"DINOv2-small, {size} x {size}", *vision_model(size))
    return found


def convolutional() -> list[Measurement]:
    model, x = efficientnet_lite0().requires_grad_(False), normalised(square(embedded_image("chelsea"), 224))
    interp = LinearScope(model).at(x)

    def forwards() -> Tensor:
        return torch.cat([model(x) for _ in range(BATCH)])

    def forward_mode_columns() -> Tensor:
        impulse = torch.zeros_like(x)
        impulse.view(-1)[0] = 1
        return torch.func.jvp(model, (x,), (impulse,))[1]

    def reverse_mode_row() -> Tensor:
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(model(leaf)[0, 285], leaf)[0]

    def columns() -> Tensor:
        return interp.columns(range(BATCH), BATCH)

    def forward() -> Tensor:
        return model(x)

    def column() -> Tensor:
        return interp.columns([0])

    interp.row(285)  # builds the graph that all rows share
    return [
        compare(f"{BATCH} columns in one batch", columns, f"{BATCH} forwards", forwards, bar=BAR, repeats=7, warm_up=1),
        compare("one column", column, "one forward", forward, bar=BAR),
        compare("one column", column, "torch.func.jvp", forward_mode_columns),
        compare("one row", lambda: interp.row(285), "autograd: forward, backward", reverse_mode_row),
        compare("reading the map", lambda: LinearScope(model).at(x), "one forward", forward, repeats=5),
    ]


def language_model(tokens: int) -> tuple[Callable[[Tensor], Tensor], Callable[[], AffineInterpreter]]:
    """From embeddings to the logits of the last token: the model as a function, and how it is read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = bundled_model("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    text = (
        "It is a truth universally acknowledged, that a single man in possession of a good fortune must want a wife. "
    )
    ids = AutoTokenizer.from_pretrained(folder)(30 * text, return_tensors="pt").input_ids[:, :tokens]

    def logits(x: Tensor) -> Tensor:
        return model(inputs_embeds=x, logits_to_keep=1, use_cache=False).logits[0, -1]

    return logits, lambda: LinearScope(model).at(ids, logits_to_keep=1)


def vision_model(size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[], AffineInterpreter]]:
    """From pixels to the vector of the class token."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(bundled_model("dinov2-small"), local_files_only=True).eval().requires_grad_(False)
    x = normalised(square(embedded_image("chelsea"), size))

    def features(x: Tensor) -> Tensor:
        return model(x).last_hidden_state[0, 0]

    return features, lambda: LinearScope(model, output=lambda o: o.last_hidden_state[:, 0]).at(x)


def transformer(
    name: str, function: Callable[[Tensor], Tensor], read: Callable[[], AffineInterpreter]
) -> list[Measurement]:
    interp = read()
    x, output = interp.input, int(interp.output.argmax())
    interp.row(output)  # builds the graph that all rows share
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        y = function(leaf)[output]

    def backward() -> Tensor:
        return torch.autograd.grad(y, leaf, retain_graph=True)[0]

    def passes() -> Tensor:
        with torch.enable_grad():
            fresh = x.clone().requires_grad_()
            return torch.autograd.grad(function(fresh)[output], fresh)[0]

    memory, plain = peak_memory(lambda: read().row(output)), peak_memory(passes)
    note = f"reading and row: {memory / plain:.2f} of the memory of a forward and backward"
    rows = range(ROWS)
    return [
        compare(
            f"{name}: a row",
            lambda: interp.row(output),
            "backward",
            backward,
            bar=ROW_BAR,
            memory=memory,
            note=note,
            **FEW,
        ),
        compare(
            f"{name}: {ROWS} rows",
            lambda: interp.rows(rows),
            f"{ROWS} backwards",
            lambda: [backward() for _ in rows],
            bar=ROW_BAR,
            **FEW,
        ),
        compare(f"{name}: a column", lambda: interp.columns([0]), "forward", lambda: function(x), bar=BAR, **FEW),
        compare(f"{name}: reading the map", read, "forward", lambda: function(x), **FEW),
    ]
