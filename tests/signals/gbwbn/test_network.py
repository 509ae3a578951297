from typing import Any, cast

import pytest
import torch
from spd_learn.modules import SPDBatchNormLie, SPDBatchNormMeanVar
from torch.utils.data import TensorDataset

from geometry.spd.matrices import spd
from linmap.geometry.delays import augmented_covariance
from linmap.geometry.spd import bw_mean, sym_log
from linmap.signals.gbwbn import (
    AugmentedCovariance,
    ConvolutionalCovariance,
    GBWBatchNorm,
    ReEig,
    ReLogEig,
    SPDNet,
    recalibrate,
)
from linmap.training import TrainingConfig, train
from typed import tensor

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")


def test_features_are_the_logarithm_of_the_rectified_projection() -> None:
    net = SPDNet((6, 4), 3, None, floor=1e-3)
    X = spd(5, n=6)
    W = tensor(cast(Any, net.bimaps)[0].weight).detach()[0]
    torch.testing.assert_close(W.T @ W, torch.eye(4, dtype=X.dtype))
    logs = sym_log(ReEig(1e-3)(W.T @ X @ W))
    features = net.features(X)
    torch.testing.assert_close(features.norm(dim=1), logs.norm(dim=(1, 2)))
    torch.testing.assert_close(features[:, 0], logs[:, 0, 0])
    torch.testing.assert_close(ReLogEig(4, 1e-3, X.dtype)(W.T @ X @ W), features)
    assert torch.equal(SPDNet((6, 4), 3, None, floor=10**30)(X).isfinite(), torch.ones(5, 3, dtype=torch.bool))
    torch.testing.assert_close(net(X), features @ net.linear.weight.T + net.linear.bias)


@pytest.mark.parametrize(
    ("norm", "kind"), [("gbw", GBWBatchNorm), ("aim", SPDBatchNormMeanVar), ("lem", SPDBatchNormLie), (None, None)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_normalisation_trains_all_parameters(norm, kind, dtype) -> None:
    net = SPDNet((6, 5, 4), 3, norm, dtype=dtype)
    assert kind is None or all(isinstance(layer, kind) for layer in net.norms)
    net(spd(8, n=6, dtype=dtype)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_training_separates_classes_and_keeps_the_projection_orthogonal() -> None:
    y = torch.arange(40) % 2
    scale = torch.ones(40, 6, dtype=torch.float64)
    scale[:, 0] += y
    X = scale[:, :, None] * spd(40, n=6) * scale[:, None, :]
    torch.manual_seed(0)
    net = SPDNet((6, 4), 2, norm_options={"theta": 0.5})
    history = train(
        net,
        lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]),
        TensorDataset(X, y),
        config=TrainingConfig(epochs=30, batch_size=20, lr=0.02),
    )
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    W = tensor(cast(Any, net.bimaps)[0].weight).detach()[0]
    torch.testing.assert_close(W.T @ W, torch.eye(4, dtype=X.dtype))


def test_recalibration_gives_each_layer_the_statistics_of_all_data() -> None:
    torch.manual_seed(0)
    net = SPDNet((6, 5, 4), 2)
    X = spd(12, n=6)
    for seed in range(3):
        net.train()(spd(12, n=6, seed=seed))
    recalibrate(net, X.split(5), mean_iter=7)
    assert not net.training
    inner = net.bimaps[0](X)
    torch.testing.assert_close(net.norms[0].running_mean, bw_mean(inner, n_iter=7, tol=0.0), rtol=1e-10, atol=1e-12)
    second = net.bimaps[1](net.rectifiers[0](net.norms[0](inner))).detach()
    torch.testing.assert_close(net.norms[1].running_mean, bw_mean(second, n_iter=7, tol=0.0), rtol=1e-10, atol=1e-12)
    whole = GBWBatchNorm(4, mean_iter=7, momentum=1.0)
    whole(second)
    torch.testing.assert_close(net.norms[1].running_var, whole.running_var)


def test_recalibration_takes_tuples_and_refuses_what_it_cannot_use() -> None:
    net = SPDNet((6, 4), 2)
    recalibrate(net, [(spd(9, n=6), torch.zeros(9))])
    with pytest.raises(ValueError, match="Identity has no GBWBatchNorm"):
        recalibrate(torch.nn.Identity(), [spd(3)])
    with pytest.raises(ValueError, match="the loader is empty"):
        recalibrate(net, [])


def test_gradients_reach_the_epochs_and_the_filters() -> None:
    X = torch.randn(6, 3, 40, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(AugmentedCovariance(2, 3, 0.1)(X), augmented_covariance(X, 2, 3, 0.1))
    for front, size in (
        (AugmentedCovariance(2, 3), 6),
        (ConvolutionalCovariance(3, 8, 5, 6), 5),
        (ConvolutionalCovariance(3, 8, 5, 6, order=2, lag=2), 10),
    ):
        X.grad = None
        net = SPDNet((size, 4), 2, front=front)
        net(X).square().sum().backward()
        assert X.grad is not None
        assert float(X.grad.abs().sum()) > 0
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((6,), 2), "dims must be two or more sizes"),
        (((4, 6), 2), "none larger than the one before"),
        (((6, 4), 1), "n_classes must be at least 2"),
        (((6, 4), 2, "bw"), "norm must be 'gbw'"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_arguments_are_named(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPDNet(*arguments)
