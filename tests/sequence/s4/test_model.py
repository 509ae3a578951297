from typing import Any, Literal

import pytest
import torch

from linmap.sequence.s4 import SequenceModel
from linmap.sequence.s4.model import Pooling

KINDS = [("s4d", "layer", True, "mean"), ("s4", "batch", False, "last"), ("s4d", "batch", True, None)]


def build(
    layer: Literal["s4d", "s4"], norm: Literal["layer", "batch"], prenorm: bool, pooling: Pooling | None, **options: Any
) -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(2, 3, 2, 8, 4, layer=layer, norm=norm, prenorm=prenorm, pooling=pooling, **options)
    for norm_module in model.norms:
        if isinstance(norm_module, torch.nn.BatchNorm1d):
            norm_module.running_mean = torch.randn(8)
            norm_module.running_var = torch.rand(8) + 0.5
    return model.double().eval()


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_the_same_as_at_once(kind) -> None:
    model, x = build(*kind), torch.randn(3, 9, 2, dtype=torch.float64)
    state, outputs = model.initial_state(3), []
    state = {k: v.to(torch.complex128) if v.is_complex() else v for k, v in state.items()}
    for l in range(9):
        y, state = model.step(x[:, l], state)
        outputs.append(y)
    for l in range(9):
        expected = model(x)[:, l] if model.pooling is None else model(x[:, : l + 1])
        torch.testing.assert_close(outputs[l], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(kind, bidirectional: bool) -> None:
    model = build(*kind, bidirectional=bidirectional)
    x, lengths = torch.randn(3, 9, 2, dtype=torch.float64), torch.tensor([4, 9, 1])
    found = model(x, lengths)
    x[0, 4:] = torch.nan
    torch.testing.assert_close(model(x, lengths)[:, :1], found[:, :1])
    for i, length in enumerate(lengths.tolist()):
        alone = model(x[i : i + 1, :length])
        together = found[i : i + 1, :length] if model.pooling is None else found[i : i + 1]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_batch_norm_reads_no_padding() -> None:
    torch.manual_seed(0)
    model = SequenceModel(1, 1, 1, 4, 2, norm="batch")
    norm = model.norms[0]
    x = torch.randn(2, 8, 1)
    model(x, torch.tensor([8, 3]))
    seen = torch.cat([model.encoder(x[0]), model.encoder(x[1, :3])])
    torch.testing.assert_close(norm.running_mean, 0.1 * seen.mean(0))


def test_the_published_size_of_the_small_classifier() -> None:
    model = SequenceModel(1, 10, n_layers=2, d_model=32, d_state=16)
    assert sum(p.numel() for p in model.parameters()) == 7946


def test_groups_hold_every_parameter_once() -> None:
    slow, rest = SequenceModel(1, 2, 2, 4, 4).optim_groups(1e-2, 0.05)
    assert slow["lr"] == 1e-3
    assert (rest["lr"], rest["weight_decay"]) == (1e-2, 0.05)
    assert len({id(p) for g in (slow, rest) for p in g["params"]}) == len(
        list(SequenceModel(1, 2, 2, 4, 4).parameters())
    )


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_settings_and_inputs() -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"layer": "s5"}, "layer=s5 must be one of"),
        ({"norm": "group"}, "norm=group must be one of"),
        ({"pooling": "max"}, "pooling=max must be one of"),
        ({"n_layers": 0}, "n_layers=0 must be positive"),
    )
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            SequenceModel(1, 2, **options)
    model = SequenceModel(1, 2, 1, 4, 2, norm="batch")
    with pytest.raises(ValueError, match=r"x must be \(B, L, d_in\) with d_in = 1"):
        model(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"batch norm .* call .eval\(\) first"):
        model.step(torch.zeros(2, 1), model.initial_state(2))
