"""Runs one attempt at a time in the coordinator's own process: the way to debug an objective.

The objective runs in a thread of its own, so that a suggestion which it waits for can be answered
by the coordinator's loop; the two take turns. Breakpoints work, prints appear where you look, an
objective need not be importable, and values depend on the seed alone.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from hpo.executors import Handle
from hpo.objective import Objective
from hpo.protocol import AnyEvent, AnyReply, Stop, Task
from hpo.worker import run_attempt


class InlineExecutor:
    """Runs attempts in this process.

    Args:
        objective: The objective to call; no import takes place.
    """

    capacity = 1
    worst_case = 0.0
    description = "in this process, one trial at a time"

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._events: queue.SimpleQueue[AnyEvent] = queue.SimpleQueue()
        self._running: dict[str, _ThreadChannel] = {}

    def submit(self, task: Task) -> Handle:
        """Start ``task`` in a thread."""
        channel = _ThreadChannel(self._events)
        self._running = {task.attempt: channel}
        # A daemon: an objective that never ends must not keep a stopped coordinator alive.
        threading.Thread(
            target=run_attempt,
            args=(task, channel, None, self._objective),
            name=f"trial-{task.number}",
            daemon=True,
        ).start()
        return {}

    def attach(self, task: Task, handle: Handle) -> bool:
        """Return False: an attempt ends with the process that ran it."""
        return False

    def events(self, timeout: float) -> list[AnyEvent]:
        """Return the next events."""
        found: list[AnyEvent] = []
        try:
            found.append(self._events.get(timeout=timeout))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return found

    def reply(self, attempt: str, reply: AnyReply) -> None:
        """Hand ``reply`` to the objective's thread."""
        channel = self._running.get(attempt)
        if channel is not None:
            channel.replies.put(reply)

    def stop(self, attempt: str) -> None:
        """Ask the attempt to end when it next waits for an answer; a thread cannot be killed."""
        self.reply(attempt, Stop())

    def other_costs(self) -> float:
        """Return 0: this machine is paid anyway."""
        return 0.0

    def discard(self, place: str) -> None:
        """Do nothing: what trials leave is on this machine, where the coordinator removes it."""

    def close(self) -> None:
        """Ask what still runs to end."""
        for attempt in list(self._running):
            self.stop(attempt)


class _ThreadChannel:
    """A worker's line to a coordinator in the same process."""

    def __init__(self, events: queue.SimpleQueue[AnyEvent]) -> None:
        self._events = events
        self._sequence = 0
        self.replies: queue.SimpleQueue[AnyReply] = queue.SimpleQueue()

    def send(self, make: Callable[[int], AnyEvent]) -> None:
        event = make(self._sequence)
        self._sequence += 1
        self._events.put(event)

    def receive(self, timeout: float | None) -> AnyReply | None:
        try:
            return self.replies.get(timeout=timeout)
        except queue.Empty:
            return None
