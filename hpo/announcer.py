"""Telling those who watch a study what happens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpo.attempts import LiveTrial
from hpo.status import Kind, Moment, Observer, Status


class Announcer:
    """Hands moments to observers.

    Args:
        observers: Who watches.
        status: Where the study stands, shown with every moment.
    """

    def __init__(self, observers: Iterable[Observer], status: Status) -> None:
        self._observers = list(observers)
        self._status = status

    def note(self, kind: Kind, text: str, of: object = None, detail: str = "", **data: Any) -> None:
        """Announce something.

        Args:
            kind: What happened.
            text: One line for people.
            of: The trial that it happened to, if it is one.
            detail: More lines.
            data: The facts, as JSON.
        """
        number = attempt = None
        if isinstance(of, LiveTrial):
            number = of.number
            attempt = of.attempts[-1].id if of.attempts else None
            if len(of.attempts) > 1 and kind in ("start", "report", "failed"):
                text += f" (attempt {len(of.attempts)})"
        moment = Moment(kind, text, detail, number, attempt, data)
        for observer in self._observers:
            observer.on(moment, self._status)

    def tick(self) -> None:
        """Let the observers know that time has passed."""
        for observer in self._observers:
            observer.tick(self._status)
