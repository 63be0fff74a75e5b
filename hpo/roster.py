"""The attempts that run now."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hpo.attempts import LiveTrial
from hpo.executors import Executor
from hpo.extras import Extra
from hpo.status import RunningTrial, Status


@dataclass
class Running:
    """An attempt that the executor runs.

    Attributes:
        subject: What it is an attempt of.
        view: What people see of it.
        sequence: The number of the last event that was heard of it.
        overdue: Whether it was told to stop as it ran for too long.
        abandoned: Whether it was told to stop as its trial is no longer its own. Its worker is busy
            until it has ended, which is all that is waited for.
    """

    subject: LiveTrial | Extra
    view: RunningTrial
    sequence: int = -1
    overdue: bool = False
    abandoned: bool = False


class Roster:
    """Knows what runs, and shows it in a study's status.

    Args:
        executor: Where it runs.
        status: Where it is shown.
    """

    def __init__(self, executor: Executor, status: Status) -> None:
        self._executor = executor
        self._status = status
        self._running: dict[str, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def get(self, attempt: str) -> Running | None:
        """Return an attempt that runs; ``None`` if there is none of that id."""
        return self._running.get(attempt)

    def items(self) -> list[tuple[str, Running]]:
        """Return all attempts with their ids, as of now."""
        return list(self._running.items())

    def trials(self) -> list[LiveTrial]:
        """Return the trials that run."""
        return [each for each in self.subjects() if isinstance(each, LiveTrial)]

    def subjects(self) -> list[LiveTrial | Extra]:
        """Return what runs: trials, and extras of the study."""
        return [each.subject for each in self._running.values() if not each.abandoned]

    def add(self, attempt: str, running: Running) -> None:
        """Take note of an attempt that runs from now on."""
        self._running[attempt] = running
        self._status.running[attempt] = running.view

    def forget(self, attempt: str) -> None:
        """Take note of an attempt that has ended."""
        self._running.pop(attempt, None)
        self._status.running.pop(attempt, None)

    def abandon(self, attempt: str) -> None:
        """Stop an attempt that nobody wants any more."""
        self._running[attempt].abandoned = True
        self._status.running.pop(attempt, None)
        self._executor.stop(attempt)

    def stop_overdue(self, limit: float) -> None:
        """Stop what has run for more than ``limit`` seconds, not counting a wait for a machine."""
        for attempt, running in self.items():
            ran = time.monotonic() - running.view.since if running.view.started else 0.0
            if not running.overdue and ran > limit:
                running.overdue = True
                self._executor.stop(attempt)
