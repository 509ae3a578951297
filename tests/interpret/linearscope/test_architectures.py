"""Networks as people have them: recurrent layers, other memory formats, Transformers' models, no batch axis."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.interpret.linearscope import AffineInterpreter, LinearScope, UnknownOperationError


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in layers.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(*self.children(), x)


def network(function: Callable[..., Tensor], **layers: nn.Module) -> nn.Module:
    net = Function(function, **layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    return net.double().eval()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def jacobian(net: nn.Module, x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(net, x).reshape(-1, x.numel())


def check(interp: AffineInterpreter, net: nn.Module, x: Tensor) -> None:
    assert interp.exactness() < 1e-12
    with torch.no_grad():
        torch.testing.assert_close(interp.output, net(x), rtol=1e-10, atol=1e-12)


# -- recurrent layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_read_in_their_parts(kind: Callable[..., nn.RNNBase]):
    net = network(lambda r, x: r(x)[0][:, -1], r=kind(3, 4, bidirectional=True, batch_first=True))
    flags = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    interp = LinearScope(net).at(random(1, 3, 3))
    check(interp, net, random(1, 3, 3))
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == flags
    assert {"sigmoid", "tanh"} & set(interp.report()["units"])


def test_a_recurrent_network_of_relus_is_its_jacobian():
    net = network(lambda r, x: r(x)[0], r=nn.RNN(3, 4, nonlinearity="relu", batch_first=True))
    x = random(1, 5, 3)
    torch.testing.assert_close(LinearScope(net).at(x).dense(), jacobian(net, x))


def test_cells_and_packed_sequences_are_read():
    net = network(lambda g, c, x: c(g(x))[0], g=nn.GRUCell(3, 4), c=nn.LSTMCell(4, 2))
    check(LinearScope(net).at(random(1, 3)), net, random(1, 3))

    def packed(r: nn.Module, x: Tensor) -> Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]], batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(r(sequence)[0], batch_first=True)[0]

    net = network(packed, r=nn.LSTM(3, 4, batch_first=True))
    check(LinearScope(net).at(random(1, 5, 3)), net, random(1, 5, 3))


# -- memory formats and axes ---------------------------------------------------------------------------------------


def test_channels_last_gives_the_same_map():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    net, x = net.double().eval(), random(1, 3, 8, 8)
    expected = LinearScope(net).at(x).dense()
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(LinearScope(net).at(last).dense(), expected)
    torch.testing.assert_close(
        LinearScope(cast(Any, net).to(memory_format=torch.channels_last)).at(last).dense(), expected
    )


def test_pooling_of_a_transposed_sequence_is_read():
    net = network(lambda p, n, x: p(n(x).mT).flatten(1), p=nn.AdaptiveAvgPool1d(1), n=nn.LayerNorm(6))
    check(LinearScope(net).at(random(1, 5, 6)), net, random(1, 5, 6))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: network(lambda c, x: c(x.unsqueeze(1)).relu().mean((2, 3)), c=nn.Conv2d(1, 4, (3, 9))), (1, 8, 20)),
        (lambda: network(lambda c, x: c(x[:, None]).relu().mean(-1), c=nn.Conv1d(1, 4, 9, 4)), (1, 50)),
        (lambda: network(lambda f, c, x: c(f(x).view(-1, 2, 2, 2)), f=nn.Linear(5, 8), c=nn.Conv2d(2, 1, 1)), (1, 5)),
    ],
)
def test_axes_are_the_networks_affair(net: Callable[[], nn.Module], shape: tuple[int, ...]):
    model, x = net(), random(*shape)
    torch.testing.assert_close(LinearScope(model).at(x).dense(), jacobian(model, x))


@pytest.mark.parametrize("mode", ["record", "parallel"])
@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: network(lambda c, x: c(x).relu(), c=nn.Conv1d(3, 4, 3)), (3, 9)),
        (lambda: network(lambda f, x: torch.ones(5, 5).double() @ f(x).relu(), f=nn.Linear(3, 2)), (5, 3)),
        (lambda: network(lambda f, x: f(x).relu(), f=nn.Linear(8, 2)), (8,)),
        (lambda: network(lambda f, x: f(x).relu(), f=nn.Linear(8, 2)), (1, 8)),
    ],
)
def test_networks_without_batch_axis_are_read_whole(net: Callable[[], nn.Module], shape: tuple[int, ...], mode: Any):
    model, x = net(), random(*shape)
    interp = LinearScope(model, batched=False, mode=mode).at(x)
    torch.testing.assert_close(interp.dense(), jacobian(model, x))
    assert interp.votes(1).shape == x.shape
    with torch.no_grad():
        torch.testing.assert_close(interp(torch.stack([x, x])), torch.stack([interp.output] * 2))
    with pytest.raises(ValueError, match="batched=False"):
        LinearScope(model).at(torch.cat([x, x]))


# -- units at zero and ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu(x) ** 2,
        lambda x: F.relu(x).square(),
        lambda x: (lambda r: r * r)(F.relu(x)),
        lambda x: F.lp_pool1d(F.relu(x)[:, None], 2, 2),
        lambda x: F.relu(x).sqrt() + x,
        lambda x: F.relu(x).log1p() + F.relu(x).expm1() + torch.exp(F.relu(x)),
    ],
)
def test_secants_of_a_dead_unit_are_zero(function: Callable[[Tensor], Tensor]):
    x = torch.tensor([[-1.0, -2.0, 0.0, 3.0, 0.0, 0.5]], dtype=torch.float64)
    net = network(function)
    interp = LinearScope(net, allow_secant=True).at(x)
    check(interp, net, x)
    assert interp.dense().isfinite().all()


@pytest.mark.parametrize(
    "end",
    [
        lambda z: F.log_softmax(z, 1),
        lambda z: F.softmax(z, 1),
        lambda z: F.log_softmax(z, 1)[0],
        lambda z: F.softmax(z.unsqueeze(0), 2).squeeze(0),
    ],
)
@pytest.mark.parametrize("mode", ["record", "parallel"])
def test_softmaxes_at_the_end_are_cut_off(end: Callable[[Tensor], Tensor], mode: Any):
    net = network(lambda f, x: end(f(x)), f=nn.Linear(4, 3))
    with pytest.warns(UserWarning, match="its logits are interpreted"):
        interp = LinearScope(net, mode=mode).at(random(1, 4))
    with torch.no_grad():
        torch.testing.assert_close(interp.output.flatten(), net.get_submodule("f")(random(1, 4)).flatten())
        torch.testing.assert_close(interp.dense(), net.get_parameter("f.weight"))


def test_log_softmax_holds_its_normaliser_where_it_stays():
    net = network(lambda f, x: F.log_softmax(f(x), 1), f=nn.Linear(4, 3))
    with warnings.catch_warnings(action="error"):
        interp = LinearScope(net, strip_softmax=False).at(random(1, 4))
    check(interp, net, random(1, 4))
    torch.testing.assert_close(interp.dense(), net.get_parameter("f.weight").detach())


def test_what_is_made_of_a_softmax_is_not_its_logits():
    with pytest.raises(ValueError, match="does not depend on the input through any operation with a slope"):
        LinearScope(network(lambda x: torch.softmax(x, 1).mul_(2))).at(random(1, 4))
    net = network(lambda x: torch.log_softmax(x, 1).mul_(2))
    check(LinearScope(net).at(random(1, 4)), net, random(1, 4))


def test_infinite_outputs_are_exact_where_they_are_equal():
    net = network(lambda f, x: f(x).masked_fill(torch.tensor([False, True, False]), -torch.inf), f=nn.Linear(4, 3))
    assert LinearScope(net).at(random(1, 4)).exactness() < 1e-12


# -- precisions and scripted parts ---------------------------------------------------------------------------------


class MixedPrecision(nn.Module):
    """Linear layers in bfloat16, the norm between them in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.last(self.norm(torch.relu(self.first(x)))).float()


def test_rounding_of_a_lower_precision_goes_to_the_residual():
    torch.manual_seed(0)
    net, x = MixedPrecision().eval(), torch.randn(1, 6)
    interp = LinearScope(net).at(x)
    assert interp.exactness() < 1e-6
    rough, fine = interp.dense(), LinearScope(net.double()).at(x.double()).dense()
    torch.testing.assert_close(rough.double(), fine, rtol=0, atol=0.02 * float(fine.abs().max()))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * 2


def test_a_scripted_part_is_read_like_any_other():
    net, x = nn.Sequential(nn.Linear(4, 4), torch.jit.script(Doubled()), nn.Linear(4, 2)).double().eval(), random(1, 4)
    torch.testing.assert_close(LinearScope(net).at(x).dense(), jacobian(net, x))


# -- complex numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.fft.rfft(x).real,
        lambda x: torch.fft.rfft(x).abs(),
        lambda x: torch.fft.irfft(torch.fft.rfft(x)),
        lambda x: torch.stft(x, 4, window=torch.ones(4).double(), return_complex=True).abs(),
        lambda x: torch.fft.fft(x).angle(),
        lambda x: torch.complex(x, x).abs(),
        lambda x: (x * 1j).imag,
        lambda x: (x + 1j).real,
        lambda x: torch.view_as_complex(x.view(1, 4, 2)).abs(),
        lambda x: torch.polar(x, x).real,
        lambda x: x.to(torch.complex128).abs(),
    ],
)
def test_complex_numbers_are_refused_by_name(function: Callable[[Tensor], Tensor]):
    with pytest.raises(UnknownOperationError, match=r"in the model \(.*\): complex numbers are not followed"):
        LinearScope(network(function)).at(random(1, 8))


# -- Transformers' models ------------------------------------------------------------------------------------------


def small_models() -> dict[str, Callable[[], tuple[nn.Module, Tensor]]]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    audio = {
        "conv_dim": (8, 8),
        "conv_stride": (5, 2),
        "conv_kernel": (10, 3),
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 7,
    }
    swin = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4}
    return {
        "swin": lambda: (
            transformers.SwinForImageClassification(transformers.SwinConfig(**swin)),
            torch.randn(1, 3, 16, 16),
        ),
        "wav2vec2": lambda: (
            transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**sizes, **audio)),
            torch.randn(1, 200),
        ),
    }


@pytest.mark.parametrize("name", ["swin", "wav2vec2"])
def test_models_of_transformers_are_read(name: str):
    torch.manual_seed(0)
    model, x = small_models()[name]()
    interp = LinearScope(model.eval(), output=lambda o: o.logits).at(x)
    assert interp.exactness() < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(interp.output, model(x).logits, rtol=1e-4, atol=1e-5)


class Encoder(nn.Module):
    """Token ids, an embedding, and a layer that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.block = nn.Embedding(20, 6), Block()

    def forward(self, ids: Tensor) -> Tensor:
        return self.block(scale=2.0, hidden=self.words(ids))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, scale: float, hidden: Tensor) -> Tensor:
        return torch.relu(self.linear(hidden)) * scale


def test_a_map_may_begin_behind_the_embedding_of_token_ids():
    net, ids = Encoder().double().eval(), torch.tensor([[3, 1, 4]])
    for from_ in ("block", "words", None):
        interp = LinearScope(net, from_=from_).at(ids)
        torch.testing.assert_close(interp.input, net.words(ids))
        torch.testing.assert_close(interp.output, net(ids))
        assert interp.exactness() < 1e-12
    with pytest.raises(TypeError, match=r"from_='0': this layer takes torch.int64, which has no slope"):
        LinearScope(nn.Sequential(net).eval(), from_="0").at(ids)
    net.add_module("others", nn.Embedding(3, 2))
    with pytest.raises(TypeError, match=r"token ids.*from_=PATH names the embedding.*'words', 'others'"):
        LinearScope(net).at(ids)
