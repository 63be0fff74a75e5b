"""Where a study stands, and what just happened: all that a progress view is given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Kind = Literal[
    "begin",
    "baseline",
    "ask",
    "start",
    "report",
    "verdict",
    "complete",
    "pruned",
    "failed",
    "retry",
    "stop",
    "database",
    "end",
]


@dataclass(frozen=True)
class Moment:
    """Something that happened.

    Attributes:
        kind: What.
        text: One line for people.
        detail: More lines, such as the end of an attempt's output.
        trial: The number of the trial it happened to; ``None`` if to none.
        attempt: The id of the attempt it happened to; ``None`` if to none.
        data: The facts behind ``text``, as JSON.
    """

    kind: Kind
    text: str
    detail: str = ""
    trial: int | None = None
    attempt: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunningTrial:
    """An attempt that runs now. ``number`` is -1 for a baseline."""

    number: int
    label: str
    attempt: int = 1
    step: int | None = None
    value: float | None = None
    since: float = field(default_factory=time.monotonic)


@dataclass
class Status:
    """Where a study stands.

    Attributes:
        study: The study's name.
        metric: What is optimised, by name; ``None`` if the objective does not say.
        maximize: Whether larger is better (first direction).
        trials: Finished trials to reach.
        complete: Completed trials, over all runs of the study.
        pruned: Pruned trials, likewise.
        failed: Failed trials, likewise.
        infeasible: How many of the completed trials break a requirement.
        since_best: Finished trials since the best one got better.
        best: Value and number of the best completed trial that is feasible.
        baseline: Value and name of the best untuned baseline.
        running: What runs now, by attempt id.
        away: Whether the database is away; trials go on, and nothing can be written.
    """

    study: str
    metric: str | None
    maximize: bool
    trials: int
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    infeasible: int = 0
    since_best: int = 0
    best: tuple[float, int] | None = None
    baseline: tuple[float, str] | None = None
    running: dict[str, RunningTrial] = field(default_factory=dict)
    away: bool = False
    began: float = field(default_factory=time.monotonic)
    finished_before: int = 0

    @property
    def finished(self) -> int:
        """Completed and pruned trials."""
        return self.complete + self.pruned

    def better(self, value: float, than: float) -> bool:
        """Whether ``value`` beats ``than``."""
        return value > than if self.maximize else value < than

    def gain(self) -> float | None:
        """Return how much the best trial is better than the best baseline."""
        if self.best is None or self.baseline is None:
            return None
        difference = self.best[0] - self.baseline[0]
        return difference if self.maximize else -difference

    def seconds_left(self) -> float | None:
        """Estimate the time to the target from the pace of this run; ``None`` before the first."""
        done_here = self.finished - self.finished_before
        if done_here <= 0:
            return None
        pace = (time.monotonic() - self.began) / done_here
        return pace * max(0, self.trials - self.finished)


class Observer(Protocol):
    """Somebody who watches a study."""

    def on(self, moment: Moment, status: Status) -> None:
        """Take note of ``moment``."""

    def tick(self, status: Status) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """The study ended."""
