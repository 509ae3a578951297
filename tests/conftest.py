"""Shared settings of the test run."""

import atexit
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch

import typechecker

jaxtyping.jaxtyped = typechecker.jaxtyped
gc.disable()  # until everything is imported: there is little to collect, and much to look through
hypothesis.settings.register_profile("default", deadline=None, max_examples=12, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("default")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # Ray kills workers where other programs take the memory
torch.set_num_threads(1)  # two pytest workers share two cores
if not torch.accelerator.is_available():  # a seed would be kept for each kind of device, with the stack of calls
    torch.manual_seed = torch.default_generator.manual_seed
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Laws meet more random inputs where the slow tests run, too."""
    if config.option.markexpr == "slow or not slow":
        hypothesis.settings.load_profile("thorough")


def pytest_collection_finish() -> None:
    """What was imported stays, and is not looked through at each collection of garbage."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 30)  # a test leaves little behind
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """A worker of xdist has told everything, and ends: Python takes ten seconds to take all apart that was imported."""
    if hasattr(config, "workerinput"):
        # Pools of processes end here, for which the next line would wait.
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        os._exit(0)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember of the files that they wrote stays in the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINMAP_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The messages of warnings that are logged."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    yield messages
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def unset_memory_is_nan() -> Iterator[None]:
    """What `torch.empty` and `to_empty` give is NaN, not whatever lay there: values that nobody set are seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # it is this that fills memory
    assert torch.empty(8).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture
def annotations_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's program: wrong types reach our own checks; Dynamo meets no run-time check of shapes, nor what it
    gave up on in tests before."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
