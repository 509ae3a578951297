from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from linmap.retrieve.bt2 import (
    PAPER,
    BasisTransformHead,
    BT2Loss,
    basis_transform,
    parameter_groups,
    pseudo_classifier,
)
from linmap.training import TrainingConfig, train
from linmap.training.config import learning_rate
from typed import gradient_of, present

SIZES = [(6, 6, 2), (8, 5, 3), (5, 8, 3), (6, 4, 0), (4, 4, 4)]


def parameters(d: int, d_old: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return {
        "h": draw(7, d + d_old),
        "W3": draw(d_old, d + d_old),
        "b3": draw(d_old),
        "P": torch.linalg.qr(draw(d, d))[0],
        "O": torch.linalg.qr(draw(d_old, d_old))[0],
        "W_cls": draw(5, d),
    }


def numpy_forward(p: dict[str, torch.Tensor], C: float, d: int, a: int) -> tuple[np.ndarray, ...]:
    h, W3, b3, P, O, W = (p[name].detach().numpy() for name in ("h", "W3", "b3", "P", "O", "W_cls"))
    d_old, rows = len(O), []
    for x in h:
        f = x[:d] / np.linalg.norm(x[:d])
        r = W3 @ np.maximum(x, 0) + b3
        u = r[:a] / np.linalg.norm(r[:a]) if a else r[:0]
        psi = np.concatenate([u, C * P @ f])
        bc = O @ psi[:d_old]
        rows.append((W @ f, f, bc, np.concatenate([bc, psi[d_old:]])))
    return tuple(np.stack(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize(("d", "d_old", "a"), SIZES)
def test_forward_is_the_definition(d: int, d_old: int, a: int) -> None:
    p = parameters(d, d_old)
    out = basis_transform(**p, C=1.7, d_new=d, n_extra=a)
    for found, expected in zip((out.logits, out.f, out.phi_bc, out.phi_new), numpy_forward(p, 1.7, d, a), strict=True):
        np.testing.assert_allclose(present(found), expected, atol=1e-12)


@given(st.sampled_from(SIZES[:3] + SIZES[4:]), st.floats(0.1, 10), st.integers(0, 1000))
def test_the_bases_change_no_inner_product(sizes: tuple[int, int, int], C: float, seed: int) -> None:
    d, d_old, a = sizes
    out = basis_transform(**parameters(d, d_old, seed), C=C, d_new=d, n_extra=a)
    p = parameters(d, d_old, seed)
    u = F.normalize(F.linear(F.relu(p["h"]), p["W3"], p["b3"])[:, :a], dim=-1)
    expected = u @ u.T + C**2 * out.f @ out.f.T
    torch.testing.assert_close(out.phi_new @ out.phi_new.T, expected, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close((out.phi_new**2).sum(1), torch.full((7,), 1 + C**2, dtype=torch.float64))


@pytest.mark.parametrize(("d", "d_old", "a"), SIZES)
def test_the_module_is_the_function_with_its_parameters(d: int, d_old: int, a: int) -> None:
    p = parameters(d, d_old)
    head = BasisTransformHead(d + d_old, d, d_old, a, C=1.3, n_classes=5).double()
    head.set_bases(p["P"], p["O"])
    with torch.no_grad():
        head.old_only.weight.copy_(p["W3"])
        head.old_only.bias.copy_(p["b3"])
        present(head.classifier).weight.copy_(p["W_cls"])
    out, expected = head(p["h"]), basis_transform(**p, C=1.3, d_new=d, n_extra=a)
    for name in ("logits", "f", "phi_bc", "phi_new"):
        torch.testing.assert_close(getattr(out, name), getattr(expected, name), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("d", "d_old", "a"), SIZES)
def test_the_exported_matrices_give_the_same_embedding(d: int, d_old: int, a: int) -> None:
    head = BasisTransformHead(3, d, d_old, a).double()
    x = torch.randn(9, 3, dtype=torch.float64)
    h, out = head.project(x), head(x)
    u = F.normalize(head.old_only(F.relu(h))[:, :a], dim=-1)
    torch.testing.assert_close(head.export()(u, out.f), out.phi_new, rtol=0, atol=1e-12)


def numpy_loss(p: dict, C: float, d: int, a: int, labels, new, old, c, weights, t: float) -> float:
    logits, f, bc, _ = numpy_forward(p, C, d, a)
    phi = bc / np.linalg.norm(bc, axis=1, keepdims=True)

    def cross_entropy(z: np.ndarray) -> float:
        return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]))

    return (
        cross_entropy(logits)
        + weights[0] * (1 - np.mean((f * new).sum(1)))
        + weights[1] * cross_entropy(phi @ c.T / t)
        + weights[2] * (1 - np.mean((phi * old).sum(1)))
    )


@pytest.mark.parametrize("weights", [(1.0, 10.0, 5.0), (0.3, 2.0, 0.7)])
def test_loss_and_its_gradients_are_the_definition(weights: tuple[float, float, float]) -> None:
    d, d_old, a, C = 6, 5, 2, 2.0
    p = parameters(d, d_old)
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (7,), generator=g)
    new, old, c = (torch.randn(n, m, generator=g, dtype=torch.float64) for n, m in ((7, d), (7, d_old), (5, d_old)))
    new, old = F.normalize(new, dim=-1), F.normalize(old, dim=-1)
    for name in ("h", "W3"):
        p[name].requires_grad_()
    loss = BT2Loss(*weights, temperature=0.5)(basis_transform(**p, C=C, d_new=d, n_extra=a), labels, new, old, c)
    loss.backward()
    arguments = (C, d, a, labels.numpy(), new.numpy(), old.numpy(), c.numpy(), weights, 0.5)
    assert loss.item() == pytest.approx(numpy_loss(p, *arguments), abs=1e-10)
    for name in ("h", "W3"):
        for i, j in ((0, 0), (3, 7), (2, 4)):
            values = []
            for step in (1e-6, -1e-6):
                moved = {key: value.detach().clone() for key, value in p.items()}
                moved[name][i, j] += step
                values.append(numpy_loss(moved, *arguments))
            assert gradient_of(p[name])[i, j].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def test_the_classifier_touches_neither_bases_nor_old_only_part() -> None:
    head = BasisTransformHead(4, 6, 5, 2, n_classes=3)
    head(torch.randn(8, 4)).logits.square().sum().backward()
    assert all(parameter.grad is None for parameter in [*head.orthogonal_parameters(), *head.old_only.parameters()])


def test_label_smoothing_mixes_in_the_mean_of_all_classes() -> None:
    out = basis_transform(**parameters(6, 5), C=2.0, d_new=6, n_extra=2)
    labels, zeros = torch.tensor([0, 1, 2, 3, 4, 0, 1]), torch.zeros
    arguments = (out, labels, zeros(7, 6).double(), zeros(7, 5).double(), zeros(5, 5).double())
    loss = BT2Loss(0, 0, 0, label_smoothing=0.1)(*arguments)
    log_p = present(out.logits).log_softmax(-1)
    expected = -0.9 * log_p[torch.arange(7), labels].mean() - 0.1 * log_p.mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.usefixtures("annotations_unchecked")
def test_pseudo_classifier_is_the_mean_of_each_class() -> None:
    feats, labels = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    found = pseudo_classifier(feats, labels, 3)
    for k in range(3):
        torch.testing.assert_close(found[k], feats[labels == k].mean(0))
    with pytest.raises(ValueError, match="no item has the label 3"):
        pseudo_classifier(feats, labels, 4)
    with pytest.raises(ValueError, match=r"0 \.\.\. 1"):
        pseudo_classifier(feats, labels, 2)
    with pytest.raises(ValueError, match="as many"):
        pseudo_classifier(feats, labels[:5], 3)


@pytest.mark.parametrize(("data", "w"), [("cifar-100", 5), ("imagenet", 20)])
def test_schedule_of_the_paper_in_closed_form(data, w: int) -> None:
    rates = [learning_rate(PAPER[data], 0, epoch, 1) for epoch in (0, w - 1, w, 99)]
    last = 0.5e-3 * (1 + np.cos(np.pi * (99 - w) / (100 - w)))
    assert rates == pytest.approx([1e-3 / w, 1e-3, 1e-3, last])


def test_bases_stay_orthogonal_with_the_determinant_they_had() -> None:
    torch.manual_seed(0)
    head = BasisTransformHead(4, 6, 5, 2, n_classes=3)
    x, y = torch.randn(16, 4), torch.arange(16) % 3
    new, old, c = F.normalize(torch.randn(16, 6), dim=-1), F.normalize(torch.randn(16, 5), dim=-1), torch.randn(3, 5)
    before = [basis.matrix().detach().clone() for basis in (head.P, head.O)]
    loss = BT2Loss()

    def step(head: Any, batch: tuple[torch.Tensor]) -> torch.Tensor:
        (rows,) = batch
        for basis, first in zip((head.P, head.O), before, strict=True):
            Q = basis.matrix()
            torch.testing.assert_close(Q.T @ Q, torch.eye(len(Q)), rtol=0, atol=1e-5)
            assert Q.det().sign() == first.det().sign()
        return loss(head(x[rows]), y[rows], new[rows], old[rows], c)

    rows = torch.arange(16)
    start = step(head, (rows,)).item()
    train(head, step, TensorDataset(rows), config=TrainingConfig(epochs=30, batch_size=8, lr=0.05))
    assert step(head, (rows,)).item() < start - 1
    assert not torch.allclose(head.P.matrix(), before[0], atol=0.1)


def test_weight_decay_leaves_the_bases_out() -> None:
    head = BasisTransformHead(4, 6, 5, 2)
    decayed, free = parameter_groups(torch.nn.Sequential(torch.nn.Linear(2, 4), head))
    assert ("weight_decay" in decayed, free["weight_decay"]) == (False, 0.0)
    assert {id(parameter) for parameter in free["params"]} == {id(part) for part in head.orthogonal_parameters()}
    assert len(decayed["params"]) == 6


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="n_extra = 6 must lie between 0 and d_old = 5"):
        BasisTransformHead(4, 6, 5, 6)
    with pytest.raises(ValueError, match="raise n_extra to at least 4"):
        BasisTransformHead(4, 4, 8, 3)
    with pytest.raises(ValueError, match="C must be positive"):
        BasisTransformHead(4, 6, 5, 2, C=0.0)
    with pytest.raises(ValueError, match="P must be an orthogonal matrix"):
        BasisTransformHead(4, 6, 5, 2).set_bases(2 * torch.eye(6), torch.eye(5))
    with pytest.raises(ValueError, match="temperature must be positive"):
        BT2Loss(temperature=0.0)


def test_a_series_of_three_updates_stays_comparable_with_the_first() -> None:
    torch.manual_seed(0)
    labels = torch.arange(120) % 6
    items = torch.randn(6, 10)[labels] + 0.3 * torch.randn(120, 10)
    phi = first = F.normalize(items @ torch.randn(10, 4), dim=-1)
    widths = [4]
    for _ in range(3):
        teacher = F.normalize(items @ torch.randn(10, widths[-1]), dim=-1)
        head = BasisTransformHead(10, widths[-1], widths[-1], 2, n_classes=6)
        pseudo, loss, old = pseudo_classifier(phi, labels, 6), BT2Loss(), phi

        def step(head, batch, pseudo=pseudo, loss=loss) -> torch.Tensor:
            x, y, phi_new, phi_old = batch
            return loss(head(x), y, phi_new, phi_old, pseudo)

        data = TensorDataset(items, labels, teacher, old)
        train(head, step, data, config=TrainingConfig(epochs=30, batch_size=40, lr=0.02))
        phi = F.normalize(head(items).phi_new.detach(), dim=-1)
        widths.append(phi.shape[1])
    assert widths == [4, 6, 8, 10]
    found = labels[(phi[:, :4] @ first.T).fill_diagonal_(-9).argmax(1)]
    assert (found == labels).float().mean() > 0.5  # chance is 1 in 6
