"""PyTorch's function transforms, programs of open size and threads: everywhere the values of the plain call."""

import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adapt.cases import inside
from adapt.kinds import METHODS, adapted, inputs
from typed import gradient_of

every_method = pytest.mark.parametrize("method", METHODS)


def merged(model) -> nn.Module:
    """The same function in plain layers."""
    return model.merge_and_unload()


def batches() -> list[torch.Tensor]:
    """Few tokens, and many: the methods go other ways for them."""
    x = inputs("Linear")
    return [x[:2], x.repeat(8, 1)]


def apart(model, parameters, x):
    return torch.func.functional_call(model, parameters, (x,))


@every_method
def test_derivatives_of_every_kind_are_those_of_plain_layers(method):
    model, plain = adapted(method, "Linear"), merged(adapted(method, "Linear"))
    for x in batches():
        assert torch.allclose(torch.func.jacrev(model)(x[0]), torch.func.jacrev(plain)(x[0]))
        assert torch.allclose(torch.func.jacfwd(model)(x[0]), torch.func.jacfwd(plain)(x[0]))
        tangent = torch.cos(x)
        for ours, theirs in zip(*(torch.func.jvp(f, (x,), (tangent,)) for f in (model, plain)), strict=True):
            assert torch.allclose(ours, theirs)


@every_method
def test_gradients_of_each_example_add_up_to_that_of_the_batch(method):
    model = adapted(method, "Linear")
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    for x in batches():
        gradient = torch.func.grad(lambda own, x: apart(model, own, x).square().sum())
        each = torch.vmap(gradient, (None, 0))(parameters, x)
        model.zero_grad()
        model(x).square().sum().backward()
        assert each
        for name, of_examples in each.items():
            assert torch.allclose(of_examples.sum(0), gradient_of(model.get_parameter(name)))


@every_method
@pytest.mark.parametrize("grad", [True, False])
def test_an_ensemble_of_adapters_answers_as_each_of_them(method, grad):
    model = adapted(method, "Linear")
    own = {name: p.detach() for name, p in model.named_parameters() if "linmap_" in name}
    stacked = {name: torch.stack([p, 2 * p, -p]) for name, p in own.items()}
    with torch.set_grad_enabled(grad):
        for x in batches():
            together = torch.vmap(lambda own, x: apart(model, own, x), (0, None))(stacked, x)
            alone = [apart(model, {name: factor * p for name, p in own.items()}, x) for factor in (1, 2, -1)]
            assert torch.allclose(together, torch.stack(alone))


@pytest.mark.parametrize("method", ["bone bat", "bone bat-row", "salt all"])  # those with more than one way
def test_an_exported_program_takes_any_number_of_rows(method):
    model = inside(adapted(method, "Linear"))
    program = torch.export.export(model, (batches()[1],), dynamic_shapes={"x": {0: torch.export.Dim("n", min=2)}})
    for x in batches():
        assert torch.allclose(program.module()(x), model(x))


@every_method
@pytest.mark.parametrize("grad", [True, False])
def test_shapes_alone_are_enough_to_tell_the_shape_of_the_answer(method, grad):
    model = adapted(method, "Linear")
    with torch.set_grad_enabled(grad):
        for x in batches():
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                assert model(mode.from_tensor(x)).shape == (len(x), 4)
        model.to("meta")
        assert [model(x.to("meta")).shape for x in batches()] == [(len(x), 4) for x in batches()]


@pytest.mark.parametrize("method", ["bone bat", "triadaptlora"])
def test_threads_that_name_other_adapters_at_the_same_time_get_their_own(method):
    model, x = adapted(method, "Linear"), batches()[1]
    names = ["default", "__base__"]
    with torch.no_grad():
        right = {name: model(x, adapter_names=[name] * len(x)) for name in names}
    assert not torch.allclose(*right.values())
    both, wrong = threading.Barrier(2), []
    first = inside(model).first

    def meet(*_):
        both.wait(timeout=30)  # inside of the model, with the names of both threads at hand

    def ask(name):
        with torch.no_grad():
            if not torch.allclose(model(x, adapter_names=[name] * len(x)), right[name]):
                wrong.append(name)

    first.register_forward_pre_hook(meet)
    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_kept_weight_that_another_thread_forgets_at_once_is_still_the_answer(monkeypatch):
    layer, x = inside(adapted("bone bat", "Linear")).first, batches()[1]
    with torch.no_grad():
        right = layer(x)
        monkeypatch.setattr(type(layer), "_cache", property(lambda self: None, lambda self, kept: None), raising=False)
        assert torch.equal(layer(x), right)
