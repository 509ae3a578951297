"""A Ray cluster that is not there is told in one line, at once; one that is there is not kept out."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linmap.cli import main
from linmap.data.engines import ray_actors
from linmap.data.engines.ray_actors import GREETING, join, silent
from linmap.errors import UsageError


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """The address of a program that reads the greeting and says this; of None, nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.recv(len(GREETING))
                if answer is None:
                    line.recv(1)
                else:
                    line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def fake(error: BaseException | None = None) -> Any:
    """A Ray that cannot be joined, or that notes how it was started."""
    calls: list[tuple[Any, ...]] = []

    def init(address: str, **options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        calls.append((address, options.get("num_cpus")))
        if error is not None:
            raise error

    here = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
    return SimpleNamespace(init=init, util=here, calls=calls)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(bytes([0, 0, 18, 4, 0]), None), (b"HTTP/1.1 400 Bad Request", "another kind"), (b"", "another kind")],
)
def test_only_grpc_is_waited_for(answer: bytes, why: str | None) -> None:
    with answering(answer) as address:
        found = silent(fake(), address)
    assert found is None if why is None else why in str(found)


def test_one_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors, "ANSWER", 0.2)
    with answering(None) as address:
        assert "timed out" in str(silent(fake(), address))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "ray://127.0.0.1:1", "127.0.0.1:99999999"])
def test_an_address_where_nobody_listens_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    ray = fake()
    with pytest.raises(UsageError, match=f"RAY_ADDRESS={address} leads to no Ray cluster .*unset RAY_ADDRESS"):
        join(ray, 2)
    assert ray.calls == []


@pytest.mark.parametrize(
    "error", [ConnectionError("a\nb"), ValueError("Invalid address format: x"), RuntimeError("c.")]
)
def test_what_ray_refuses_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "x")
    with pytest.raises(UsageError) as caught:
        join(fake(error), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", [None, ""])
def test_without_an_address_ray_starts_here_whatever_else_runs(address: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address) if address is not None else monkeypatch.delenv("RAY_ADDRESS", False)
    before, ray = signal.getsignal(signal.SIGTERM), fake()
    join(ray, 2)
    assert ray.calls == [("local", 2)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sigterm_while_ray_starts_is_the_programs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", False)
    met: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: met.append(number))
    try:
        with pytest.raises(SystemExit):
            join(fake(SystemExit(signal.SIGTERM)), 2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert met == [signal.SIGTERM]


def test_the_command_says_it_in_a_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    words = ["apply", "mbat", "--dim", "64", "--out", str(tmp_path / "v.npy"), "--engine", "ray"]
    assert main(words) == 2
    assert capfd.readouterr().err.startswith("linmap: RAY_ADDRESS=127.0.0.1:1 leads to no Ray cluster (connection")
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
