import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from linmap.training import TrainingConfig, mean_loss, train
from linmap.training.batches import batch_sizes, epoch_order, reader, shards
from training.problem import make_data, make_model, squared_error

CPU = torch.device("cpu")


@given(samples=st.integers(0, 200), seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
def test_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(samples, seed, epoch) -> None:
    order = epoch_order(samples, seed, epoch)
    torch.rand(3)  # the global generator has no part in it
    assert torch.equal(order.sort().values, torch.arange(samples))
    assert torch.equal(order, epoch_order(samples, seed, epoch))


def test_orders_differ_between_seeds_and_epochs() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@given(n=st.integers(1, 40), accumulation=st.integers(1, 5), processes=st.integers(1, 5))
def test_the_weighted_parts_make_the_mean_of_the_batch(n, accumulation, processes) -> None:
    values = torch.randn(n, dtype=torch.float64)
    parts = [list(shards(torch.arange(n), accumulation, processes, process)) for process in range(processes)]
    assert len({len(own) for own in parts}) == 1  # as collective operations need
    assert len(parts[0]) <= accumulation
    counted = [part.own for own in parts for part in own if part.weight > 0]
    assert torch.equal(torch.cat(counted).sort().values, torch.arange(n))
    assert max(map(len, counted)) <= -(-n // (accumulation * processes))
    gradient = sum(part.weight * values[part.own].mean() for own in parts for part in own) / processes
    torch.testing.assert_close(gradient, values.mean())


@given(n=st.integers(1, 40), accumulation=st.integers(1, 5), processes=st.integers(1, 5), least=st.integers(1, 2))
def test_every_number_of_processes_accumulates_the_same_batches(n, accumulation, processes, least) -> None:
    one = [part.own.tolist() for part in shards(torch.arange(n), accumulation, 1, 0, least)]
    for process in range(processes):
        parts = list(shards(torch.arange(n), accumulation, processes, process, least))
        assert [part.whole.tolist() for part in parts] == one
        for part in parts:
            own = part.whole[part.first : part.first + len(part.own)]
            assert torch.equal(own, part.own)
            assert len(own) >= (1 if part.weight else min(least, len(part.whole)))


class Ready(Dataset):
    """Returns a batch at once, and counts on never being asked for a sample."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        raise AssertionError("the batch is ready")

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"x": 2 * torch.tensor(indices)}


class Samples(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"x": 2 * index}


@pytest.mark.parametrize("data", [Ready(), Samples(), Subset(Samples(), range(6))], ids=lambda d: type(d).__name__)
def test_datasets_give_the_same_batch_whichever_way_they_are_read(data) -> None:
    batch = reader(data, CPU)(torch.tensor([3, 0, 3]))
    assert torch.equal(batch["x"], torch.tensor([6, 0, 6]))


def test_tensors_in_memory_are_read_as_samples_are() -> None:
    data = make_data()
    indices = torch.tensor([7, 7, 2])
    x, y = reader(data, CPU)(indices)
    for row, index in enumerate(indices.tolist()):
        assert torch.equal(x[row], data[index][0])
        assert torch.equal(y[row], data[index][1])


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="data is empty"):
        reader(TensorDataset(torch.zeros(0, 3)), CPU)


def test_a_stream_is_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self):
            yield 1

    with pytest.raises(TypeError, match=r"map-style dataset.*Stream"):
        reader(Stream(), CPU)


@given(batch_size=st.integers(1, 60))
def test_the_mean_loss_does_not_depend_on_the_batch_size(batch_size) -> None:
    model, data = make_model().train(), make_data()
    found = mean_loss(model, squared_error, data, batch_size)
    assert model.training
    with torch.no_grad():
        expected = nn.functional.mse_loss(model.eval()(data.tensors[0]), data.tensors[1])
    assert found == pytest.approx(float(expected), rel=1e-12)


@given(st.integers(1, 200), st.integers(1, 40), st.booleans())
def test_batches_hold_every_sample_once_and_none_is_alone_where_two_are_needed(samples, batch_size, never_one) -> None:
    sizes = batch_sizes(samples, batch_size, never_one)
    assert sum(sizes) == samples
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] <= batch_size + never_one
    if never_one and samples > 1 and batch_size > 1:
        assert min(sizes) > 1
    elif not never_one:
        assert len(sizes) == math.ceil(samples / batch_size)


@given(st.integers(2, 9), st.integers(1, 4))
def test_no_part_of_a_small_last_batch_is_a_single_sample(n, accumulation) -> None:
    parts = list(shards(torch.arange(n), accumulation, 1, 0, least=2))
    assert torch.equal(torch.cat([part.own for part in parts]), torch.arange(n))
    assert min(len(part.own) for part in parts) > 1
    assert sum(part.weight for part in parts) == pytest.approx(1)


@pytest.mark.parametrize("samples", [17, 16, 1 + 8, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_batch_normalisation_trains_whatever_is_left_for_the_last_batch(samples, accumulation, tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()
    config = TrainingConfig(epochs=2, batch_size=8, lr=0.01, accumulation=accumulation)
    data = make_data(samples)
    history = train(model, squared_error, data, config=config, out=tmp_path)
    assert history.steps == 2 * max(1, samples // 8 + (samples % 8 > 1))
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
