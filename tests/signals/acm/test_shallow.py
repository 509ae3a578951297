"""The network that augmented covariances are compared with."""

from pathlib import Path

import numpy as np
import torch

from linmap.signals.acm.shallow import ShallowNet, ShallowNetClassifier


def test_the_network_is_the_published_architecture() -> None:
    network = ShallowNet(22, 1125, 4)
    assert sum(p.numel() for p in network.parameters()) == (40 * 25 + 40) + 40 * 40 * 22 + 2 * 40 + (40 * 69 * 4 + 4)
    assert network(torch.randn(2, 22, 1125)).shape == (2, 4)


def powers(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose first channel is louder in class b."""
    y = np.array(["a", "b"])[np.arange(count) % 2]
    X = np.random.default_rng(seed).normal(size=(count, 2, 120))
    X[y == "b", 0] *= 4
    return X, y


def test_it_learns_a_power_whatever_its_unit_and_draws_from_its_own_seed(tmp_path: Path) -> None:
    (X, y), held, (X_test, y_test) = powers(64, 0), powers(16, 1), powers(32, 2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = ShallowNetClassifier(40, random_state=1).fit(X, y, held, tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert (one.predict(X_test) == y_test).mean() > 0.9
    short, microvolts = (
        ShallowNetClassifier(2, random_state=1).fit(unit * X, y, (unit * held[0], held[1])) for unit in (1, 1e6)
    )
    assert np.array_equal(microvolts.predict(1e6 * X_test), short.predict(X_test))
