"""What the tests of hpo/ share: a channel without a coordinator, and an observer that remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo.protocol import AnyEvent, AnyReply, ObjectiveSpec, Task
from hpo.status import Moment, Status
from storage import Ownership


class Free(Ownership):
    """The ownership of a study that nobody else can have."""

    def check(self) -> bool:
        return True

    def release(self) -> None:
        pass


def make_task(directory: Path, reference: str = "m:f", **changes: Any) -> Task:
    """Return a task that runs in ``directory``."""
    fields: dict[str, Any] = {
        "attempt": "0.1.test",
        "study": "s",
        "number": 0,
        "objective": ObjectiveSpec(reference=reference),
        "created": "2026-01-01T00:00:00",
        "seed": 1,
        "directory": str(directory / "trial"),
        "place": "trial",
        "log": str(directory / "log"),
        "directions": ("minimize",),
    }
    return Task(**{**fields, **changes})


class Recorder:
    """A channel that keeps what was sent and answers from a list, or through a function."""

    def __init__(self, answer: Callable[[AnyEvent], AnyReply | None] = lambda event: None) -> None:
        self.sent: list[AnyEvent] = []
        self.waits: list[float | None] = []
        self._answer = answer
        self._replies: list[AnyReply] = []

    def send(self, make: Callable[[int], AnyEvent]) -> None:
        event = make(len(self.sent))
        self.sent.append(event)
        reply = self._answer(event)
        if reply is not None:
            self._replies.append(reply)

    def receive(self, timeout: float | None) -> AnyReply | None:
        self.waits.append(timeout)
        if not self._replies and timeout is None:
            raise AssertionError("waits forever for a reply that nobody sends")
        return self._replies.pop(0) if self._replies else None


class Watcher:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.status: Status | None = None
        self.closed = False

    def on(self, moment: Moment, status: Status) -> None:
        self.moments.append(moment)
        self.status = status

    def tick(self, status: Status) -> None:
        self.status = status

    def close(self) -> None:
        self.closed = True

    def texts(self, kind: str) -> list[str]:
        return [moment.text for moment in self.moments if moment.kind == kind]
