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
    "finalist",
    "winner",
    "evaluation",
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
    """An attempt that runs now, or waits for a machine.

    Attributes:
        number: The trial's number, -1 for what is none, such as a baseline.
        label: What it tries.
        attempt: Which attempt of the trial it is, from 1.
        step: The last step that it reported.
        value: What it reported there.
        started: Whether it was heard of since it was submitted.
        since: When it started, or was submitted, by the monotonic clock.
        name: What stands for it in a list.
    """

    number: int
    label: str
    attempt: int = 1
    step: int | None = None
    value: float | None = None
    started: bool = False
    since: float = field(default_factory=time.monotonic)
    name: str = ""

    def __post_init__(self) -> None:
        """Name a trial by its number."""
        self.name = self.name or f"#{self.number}"

    def start(self) -> None:
        """Take note that it runs from now on."""
        self.started, self.since = True, time.monotonic()


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
        began: When this run began, by the monotonic clock.
        finished_before: Finished trials of earlier runs.
        spent: Dollars that the study has cost, over all its runs.
        spent_before: Dollars of them that earlier runs spent.
        reserved: Dollars that are set aside for what runs.
        max_cost: Dollars that it may cost; ``None`` for no limit.
        worst_case: Dollars that another attempt may cost; 0 on a machine that is paid anyway.
        finals: Finished runs of finalists, and how many there are to be; ``None`` before.
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
    spent: float = 0.0
    spent_before: float = 0.0
    reserved: float = 0.0
    max_cost: float | None = None
    worst_case: float = 0.0
    finals: tuple[int, int] | None = None

    @property
    def is_paid(self) -> bool:
        """Whether money is spent on this study, or was."""
        return self.spent > 0 or self.worst_case > 0

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

    def dollars_per_hour(self) -> float:
        """Return what this run has spent an hour so far; what runs is counted when it has ended."""
        hours = (time.monotonic() - self.began) / 3600
        return (self.spent - self.spent_before) / hours if hours > 0 else 0.0

    def dollars_per_trial(self) -> float | None:
        """Return what was spent for each finished trial; ``None`` before the first."""
        return self.spent / self.finished if self.finished else None


class Observer(Protocol):
    """Somebody who watches a study."""

    def on(self, moment: Moment, status: Status) -> None:
        """Take note of ``moment``."""

    def tick(self, status: Status) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """The study ended."""
