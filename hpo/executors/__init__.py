"""Where attempts run: one file an executor, one interface.

The coordinator knows executors only through :class:`Executor`. An executor may use processes and
threads as it likes; what it hands over are events, in order for each attempt.
"""

from __future__ import annotations

from typing import Any, Protocol

from hpo.errors import StudyStoppedError
from hpo.protocol import AnyEvent, AnyReply, Task

Handle = dict[str, Any]
"""What an executor needs to find an attempt again, as JSON."""


class ExecutorError(StudyStoppedError):
    """The executor cannot run anything, for a reason that no retry mends."""


class Executor(Protocol):
    """Runs attempts and reports what happens to them."""

    @property
    def capacity(self) -> int:
        """How many attempts it can run at once."""

    @property
    def description(self) -> str:
        """What it is, for people: "2 workers on this machine"."""

    @property
    def worst_case(self) -> float:
        """What one attempt may cost at most, in dollars; 0 on a machine that is paid anyway."""

    def submit(self, task: Task) -> Handle:
        """Start ``task`` and return at once. At most ``capacity`` attempts may run."""

    def attach(self, task: Task, handle: Handle) -> bool:
        """Take up an attempt that an earlier coordinator submitted; False if it is gone.

        After False nothing of that attempt runs any more.
        """

    def events(self, timeout: float) -> list[AnyEvent]:
        """Return what happened; wait up to ``timeout`` seconds for the first event."""

    def reply(self, attempt: str, reply: AnyReply) -> None:
        """Answer a running attempt; does nothing if it has ended."""

    def stop(self, attempt: str) -> None:
        """End a running attempt; a ``Failed`` with cause ``stopped`` follows."""

    def other_costs(self) -> float:
        """Return dollars spent outside attempts since the last call."""

    def discard(self, place: str) -> None:
        """Remove a directory of the study on another machine; it is not wanted any more.

        Args:
            place: The directory, from the study's on: ``trials/7``.
        """

    def close(self) -> None:
        """End everything that still runs and give up all resources."""
