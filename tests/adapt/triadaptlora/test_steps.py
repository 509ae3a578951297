"""Who forgets the allocator is told so."""

import gc
import warnings

import pytest
import torch

from adapt.triadaptlora.problem import Net, adapted, config_of, configured, trainable
from linmap.adapt import RankAllocator
from linmap.adapt.triadaptlora import steps
from typed import of_class, present


def stepped(model, n, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(trainable(model), lr=0.0)
    for parameter in trainable(model):
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(n):
        optimizer.step()
    return optimizer


def test_a_hundred_steps_without_the_allocator_warn_once():
    model, _ = adapted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = stepped(model, 100)
    with pytest.warns(UserWarning, match="100 optimiser steps have passed.*'default'.*allocator.step"):
        stepped(model, 1, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepped(model, 200, optimizer)


@pytest.mark.filterwarnings("error")
def test_one_call_is_enough_and_fixed_ranks_need_none():
    model, allocator = adapted()
    optimizer = stepped(model, 50)
    allocator.step(50, optimizer)
    stepped(model, 150, optimizer)
    model, _ = adapted(growth="none")
    stepped(model, 150)
    other = torch.nn.Linear(2, 2)
    adapted()
    stepped(other, 150)  # of nobody's concern


def test_models_and_allocators_are_not_kept_alive():
    gc.collect()
    before = len(steps._listeners), len(steps._steps)
    model, allocator = adapted()
    stepped(model, 2)
    assert (len(steps._listeners), len(steps._steps)) == (before[0] + 1, before[1] + 1)
    del model, allocator
    gc.collect()
    assert (len(steps._listeners), len(steps._steps)) == before


def test_the_allocator_finds_the_optimiser_that_moves_its_adapter():
    model, allocator = adapted()
    stepped(torch.nn.Linear(2, 2), 1)
    assert allocator._optimizer is None
    optimizer = stepped(model, 1)
    assert present(allocator._optimizer)() is optimizer


def test_a_wrapped_model_is_recognised():
    model, _ = adapted()
    compiled = of_class(torch.nn.Module, torch.compile(model, backend="eager"))
    allocator = RankAllocator(compiled, config_of(model))
    assert set(allocator.ranks()) == set(Net().names)
    optimizer = stepped(model, 1)
    allocator.step(1, optimizer)
    assert "default" not in steps._steps[model.base_model]
    assert configured().growth == "linear"
