"""Ctrl-C without loss: the step in progress ends, and a checkpoint is written."""

from __future__ import annotations

import signal
import threading


class Interruption:
    """Turns the first Ctrl-C into a wish to stop after the current step; a second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False  # in this process
        self.agreed = False  # in all of them

    def __enter__(self) -> Interruption:
        self.handles = threading.current_thread() is threading.main_thread()
        if self.handles:
            self.previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handles:
            signal.signal(signal.SIGINT, self.previous)

    def _request(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self.previous)
