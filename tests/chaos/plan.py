"""What a run of the harness is to do: to which study, how often, and what can be done to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "coordinator": 30,
    "worker": 24,
    "stopped worker": 8,
    "coordinator + stopped worker": 8,
    "fork server": 3,
    "stopped fork server": 2,
    "SIGTERM": 5,
    "SIGTERM twice": 5,
}
"""What can be done to a study, and how often among all."""

POSTGRES_KINDS = {"PostgreSQL": 14, "PostgreSQL + coordinator": 6}

GAP_SECONDS = (0.0, 5.0, 1.0)
"""Between two kills, of which some are then to meet a coordinator that has just started."""


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        database: ``sqlite`` or ``postgresql``.
        kills: How many.
        seed: Of everything random.
        objective: ``module:function``; any deterministic Optuna objective.
        path: Folders in which to look for it.
        trials: The coordinator's ``--trials``; raised by as much each time it is reached early.
        workers: How many workers.
        without: Kinds of kill to leave out.
        gap: Shortest, longest and most likely seconds between two kills.
        second_every: After so many kills, a second coordinator is started beside the first.
        patience: Seconds without any progress, or with a stopped worker, that are too many.
        extra: Further arguments of ``hpo.run``.
        keep: Where to leave everything; ``None`` leaves a folder behind only with findings.
        quiet: Whether to print nothing.
    """

    database: str
    kills: int = 200
    seed: int = 7
    objective: str = "tests.chaos.objectives:mixed"
    path: tuple[Path, ...] = ()
    trials: int = 100
    workers: int = 2
    without: tuple[str, ...] = ()
    gap: tuple[float, float, float] = GAP_SECONDS
    second_every: int = 20
    patience: float = 180.0
    extra: tuple[str, ...] = ()
    keep: Path | None = None
    quiet: bool = False
