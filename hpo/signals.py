"""Ctrl-C and SIGTERM while a study runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hpo.coordinator import INTERRUPTED, Coordinator


@contextmanager
def signals(coordinator: Coordinator) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the study well: once to finish what runs, twice to stop it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread, and so to whoever runs there
        return

    asked = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            coordinator.interrupt()
        else:
            coordinator.drain(INTERRUPTED)
        asked = True

    before = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
