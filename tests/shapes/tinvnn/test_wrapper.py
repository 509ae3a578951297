"""Networks behind the embedding: invariant, where the same network on raw coordinates is not."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from linmap.shapes.tinvnn import EdgeConvNet, PointNet, TinvEmbedding, TinvTransform, TinvWrapper, invariance_error
from linmap.shapes.tinvnn.attention_model import AttentionModel
from shapes.tinvnn.shapes import SYMMETRIC, copy_of, orthogonal

GROUPS = ["E(d)xR+", "SE(d)xR+", "E(d)", "SE(d)", "O(d)", "SO(d)"]


class Encoder(nn.Module):
    """The attention model's encoder, pooled: another network that does not mind the order."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AttentionModel(3, 16, 2, 2, 32)

    def forward(self, H: Tensor) -> Tensor:
        x = self.model.embed(H)
        for layer in self.model.layers:
            x = layer(x)
        return x.pow(4).mean(1)  # means are normalised away


def networks() -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [PointNet(3, 5).eval(), EdgeConvNet(3, 5, k=6).eval(), Encoder().eval()]


def clouds(n: int = 40) -> Tensor:
    return torch.randn(4, n, 3, generator=torch.Generator().manual_seed(0)).exp()


@pytest.mark.parametrize("net", networks(), ids=lambda net: type(net).__name__)
@pytest.mark.parametrize("group", GROUPS)
def test_untrained_networks_are_invariant_and_raw_ones_are_not(net: nn.Module, group: Any) -> None:
    wrapper = TinvWrapper(net, TinvEmbedding(reflections="S" not in group))
    assert invariance_error(wrapper, clouds(), group, n=4) < 1e-5
    assert invariance_error(net, clouds(), group, n=4) > 1e-3
    double = TinvWrapper(net.double(), TinvEmbedding(reflections="S" not in group))
    assert invariance_error(double, clouds().double(), group, n=4) < 1e-9
    net.float()


@pytest.mark.parametrize("name", [name for name, shape in SYMMETRIC.items() if shape.shape[1] == 3])
def test_symmetric_shapes_too(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = SYMMETRIC[name]
    for net in networks():
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            wrapper = TinvWrapper(net.to(dtype))
            expected = wrapper(shape.to(dtype))
            for _ in range(3):
                other = wrapper(copy_of(shape, generator)[torch.randperm(len(shape), generator=generator)].to(dtype))
                assert (other - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("average", ["prob", "logit"])
def test_averages_over_frames(average: Any) -> None:
    net, X = networks()[0], clouds()
    for signs in ("frames", "random"):
        embedding = TinvEmbedding(signs=signs)
        wrapper = TinvWrapper(net, embedding, average).eval()
        outputs = torch.stack([net(H) for H in embedding.frames(X).unbind(1)], 1)
        expected = outputs.mean(1) if average == "logit" else outputs.softmax(-1).mean(1).log()
        torch.testing.assert_close(wrapper(X), expected)
        torch.testing.assert_close(wrapper(X[0]), expected[0])
    training = TinvWrapper(net, TinvEmbedding(signs="random"))
    draw = training(X, generator=torch.Generator().manual_seed(3))
    H = TinvEmbedding(signs="random")(X, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(draw, net(H))


def test_masks_reach_the_network() -> None:
    X, net = clouds(), networks()[0]
    mask = torch.ones(4, 40, dtype=torch.bool)
    mask[1, 30:] = False
    for signs in ("moment", "frames"):
        wrapper = TinvWrapper(net, TinvEmbedding(signs=signs)).eval()
        torch.testing.assert_close(wrapper(X, mask)[1], wrapper(X[1, :30]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(wrapper(X, mask)[0], wrapper(X[0]), atol=1e-5, rtol=1e-5)
    assert all(name.startswith("net.") for name in wrapper.state_dict())


def test_the_error_is_what_its_generator_draws() -> None:
    net, X = networks()[0], clouds()
    torch.manual_seed(0)
    first = invariance_error(net, X, "SO(d)", 3, torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    assert invariance_error(net, X, "SO(d)", 3, torch.Generator().manual_seed(1)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert invariance_error(net, X, "SO(d)", 3, torch.Generator().manual_seed(2)) != first


def test_the_groups_hold_what_their_names_say() -> None:
    X = clouds()

    def det(X: Tensor) -> Tensor:  # of three edges: changes with scale and with the hand, not with shifts
        return torch.linalg.det((X[:, 1:4] - X[:, :1]).double())

    def centre(X: Tensor) -> Tensor:
        return X.mean(1).norm(dim=-1)

    assert invariance_error(det, X, "SE(d)") < 1e-4
    assert invariance_error(det, X, "E(d)") == pytest.approx(2, abs=1e-4)
    assert invariance_error(det, X, "SE(d)xR+") > 1
    assert invariance_error(centre, X, "O(d)") < 1e-5
    assert invariance_error(centre, X, "E(d)") > 0.1
    assert invariance_error(lambda X: torch.zeros(2), X) == 0
    assert math.isnan(invariance_error(lambda X: torch.full((2,), torch.nan), X))


def test_graphs_with_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    X, sizes = clouds(), [40, 25, 4]  # of three points, the sign of the third axis is open
    position = torch.cat([X[i, :n] for i, n in enumerate(sizes)])
    batch = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(len(batch), generator=generator)
    data = SimpleNamespace(pos=position[order], batch=batch[order], normal=position[order], y=1)
    new = TinvTransform()(data)
    assert data.pos is not new.pos
    assert new.y == 1
    for i, n in enumerate(sizes):
        H, frame = TinvEmbedding()(X[i, :n], return_frame=True)
        back = torch.empty_like(position)
        back[order] = new.pos
        torch.testing.assert_close(back[batch == i], H, atol=1e-5, rtol=1e-4)
        back[order] = new.normal
        torch.testing.assert_close(back[batch == i], X[i, :n] @ frame.Q, atol=1e-4, rtol=1e-4)
    one = TinvTransform()(SimpleNamespace(pos=X[0] @ orthogonal(3, generator).float()))
    torch.testing.assert_close(one.pos, TinvEmbedding()(X[0]), atol=1e-5, rtol=1e-4)
    for wrong in (SimpleNamespace(), SimpleNamespace(pos=X)):
        with pytest.raises(TypeError, match=r"data\.pos"):
            TinvTransform()(wrong)
    with pytest.raises(ValueError, match=r"data\.batch"):
        TinvTransform()(SimpleNamespace(pos=X[0], batch=torch.zeros(3)))
