import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from linmap.training import mean_loss
from linmap.training.batches import epoch_order, reader, shards
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
    counted = [part for own in parts for part, weight in own if weight > 0]
    assert torch.equal(torch.cat(counted).sort().values, torch.arange(n))
    assert max(map(len, counted)) <= -(-n // (accumulation * processes))
    gradient = sum(weight * values[part].mean() for own in parts for part, weight in own) / processes
    torch.testing.assert_close(gradient, values.mean())


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
