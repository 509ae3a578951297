"""The schedule and the sampler, against formulas written out and against what must come out."""

import math

import pytest
import torch
from torch import Tensor

from linmap.shapes.tooth_arrangement import CosineDDIM, time_embedding


def test_the_schedule_is_the_cosine_of_nichol_and_dhariwal():
    ddim = CosineDDIM(1000)
    product, bars = 1.0, []
    for i in range(1000):
        f0, f1 = (math.cos((u / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (i, i + 1))
        beta = min(max(1 - f1 / f0, 0), 0.999)
        product *= 1 - beta
        bars.append(product)
        assert float(ddim.betas[i]) == pytest.approx(beta, abs=1e-12)
    assert ddim.betas.dtype == torch.float64
    assert torch.allclose(ddim.alpha_bar(torch.arange(1000)), torch.tensor(bars, dtype=torch.float64), rtol=1e-9)
    assert float(ddim.alpha_bar(800)) == pytest.approx(0.0931, abs=5e-5)
    assert float(ddim.alpha_bar(-1)) == 1
    assert float(ddim.alpha_bar(0.73)) == bars[0]
    assert torch.equal(ddim.alpha_bar(torch.tensor([799.9, -1.0])), ddim.alpha_bar(torch.tensor([799, -1])))


@pytest.mark.parametrize("t", [-2, -1.5, 1000, 999.5, float("nan")])
def test_times_outside_are_refused(t: float):
    with pytest.raises(ValueError, match="t must lie"):
        CosineDDIM(1000).alpha_bar(t)


def test_noised_mixes_signal_and_noise():
    ddim, y, noise = CosineDDIM(100), torch.randn(3, 4, 9), torch.randn(3, 4, 9)
    t = torch.tensor([0, 50, 99])
    for row, at in enumerate(t.tolist()):
        left = float(ddim.alpha_bar(at))
        expected = math.sqrt(left) * y[row] + math.sqrt(1 - left) * noise[row]
        assert torch.allclose(ddim.noised(y, t, noise)[row], expected, atol=1e-6)


def test_times_are_squares():
    times = CosineDDIM().times(100, 800)
    assert times.tolist() == pytest.approx([(math.sqrt(800) * i / 99) ** 2 for i in range(100)])


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_denoiser_that_knows_gets_its_answer(eta: float):
    answer = torch.randn(2, 32, 9)
    found = CosineDDIM().sample(lambda y, t: answer, torch.randn(2, 32, 9), eta=eta, generator=torch.Generator())
    assert torch.allclose(found, answer, atol=1e-6)


def walk(denoiser, y: Tensor, steps: int, eta: float, start: float, noise: Tensor) -> Tensor:
    """DDIM (equations 12 and 16 of Song, Meng and Ermon), in Python numbers."""
    bars = [1 - float(b) for b in CosineDDIM().betas]
    for i in range(1, 1000):
        bars[i] *= bars[i - 1]
    times = [(math.sqrt(start) * i / (steps - 1)) ** 2 for i in range(steps)]
    for visited, i in enumerate(reversed(range(steps))):
        a, b = bars[int(times[i] + 1e-9)], bars[int(times[i - 1])] if i else 1.0
        y0 = denoiser(y, torch.full((len(y),), times[i], dtype=y.dtype))
        direction = (y - math.sqrt(a) * y0) / math.sqrt(1 - a)
        sigma = eta * math.sqrt(max((1 - a / b) * (1 - b) / (1 - a), 0))
        y = math.sqrt(b) * y0 + sigma * noise[visited] + math.sqrt(max(1 - b - sigma**2, 0)) * direction
    return y


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_the_sampler_walks_as_written_down(eta: float):
    generator = torch.Generator().manual_seed(0)
    y, noise = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((2, 4, 9), (12, 2, 4, 9)))
    seen = []

    def denoiser(y: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.tanh(y) * (0.5 + t[:, None, None] / 2000)

    found = CosineDDIM().sample(denoiser, y, steps=12, eta=eta, start=700, noise=noise)
    assert torch.equal(torch.stack(seen)[:, 0], CosineDDIM().times(12, 700).flip(0))  # fractional, downwards
    assert torch.allclose(found, walk(denoiser, y, 12, eta, 700, noise), atol=1e-9)


def test_known_entries_come_back_and_are_seen_noised():
    known, y = torch.randn(2, 32, 9), torch.randn(2, 32, 9)
    mask = torch.zeros_like(known, dtype=torch.bool)
    mask[:, 3] = True
    ddim, spread = CosineDDIM(), []

    def denoiser(y: Tensor, t: Tensor) -> Tensor:
        left = float(ddim.alpha_bar(t[0]))
        spread.append((y[:, 3] - math.sqrt(left) * known[:, 3]).std() / math.sqrt(1 - left))
        return y * 0.3

    found = ddim.sample(denoiser, y, known=known, known_mask=mask, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found[mask], known[mask])
    assert not torch.equal(found[~mask], known[~mask])
    assert torch.stack(spread).mean() == pytest.approx(1, abs=0.05)


def test_sampling_without_noise_is_deterministic_and_leaves_the_global_generator_alone():
    y = torch.randn(2, 4, 9)
    state = torch.get_rng_state()
    first, second = (CosineDDIM().sample(lambda y, t: y / 2, y, eta=0.0, steps=9) for _ in range(2))
    assert torch.equal(first, second)
    third, fourth = (
        CosineDDIM().sample(lambda y, t: y / 2, y, steps=9, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert torch.equal(third, fourth)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda d, y: d.sample(lambda y, t: y, y, steps=1), "steps"),
        (lambda d, y: d.sample(lambda y, t: y, y, start=1000), "start"),
        (lambda d, y: d.sample(lambda y, t: y, y, eta=1.5), "eta"),
        (lambda d, y: d.sample(lambda y, t: y, y, noise=y), "noise"),
        (lambda d, y: d.sample(lambda y, t: y, y, known=y), "known_mask"),
        (lambda d, y: d.sample(lambda y, t: y, y, known=y, known_mask=y[0] > 0), "known_mask"),
        (lambda d, y: d.noised(y, torch.zeros(5), y), "t must"),
        (lambda d, y: d.noised(y, torch.zeros(2), y[0]), "noise"),
        (lambda d, y: CosineDDIM(0), "timesteps"),
        (lambda d, y: time_embedding(y, 8), "t must"),
        (lambda d, y: time_embedding(torch.zeros(2), 0), "width"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, word):
    with pytest.raises(ValueError, match=word):
        call(CosineDDIM(), torch.zeros(2, 4, 9))


@pytest.mark.parametrize("width", [8, 9, 288])
def test_the_time_embedding_is_cosines_then_sines(width: int):
    t = torch.tensor([0.0, 3.5, 999.0], dtype=torch.float64)
    half = width // 2
    for row, at in enumerate(t.tolist()):
        angles = [at * 10000 ** (-i / half) for i in range(half)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles] + [0.0] * (width % 2)
        assert time_embedding(t, width)[row].tolist() == pytest.approx(expected)
