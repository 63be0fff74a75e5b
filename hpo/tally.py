"""Counting finished trials: what is best, and whether that is enough."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from hpo.feasible import is_feasible
from hpo.plan import Plan
from hpo.status import Status
from hpo.text import score


class Tally:
    """Keeps the counts of a :class:`Status` and applies the rules that end a search early.

    Args:
        status: Whose counts to keep.
        plan: The rules: ``target`` and ``patience``.
        single: Whether the study has one direction; only then is there a best trial.
    """

    def __init__(self, status: Status, plan: Plan, single: bool) -> None:
        self._status = status
        self._plan = plan
        self._single = single
        self._counted: set[int] = set()

    def recount(self, trials: Iterable[FrozenTrial]) -> None:
        """Count ``trials`` anew; those that are not finished do not matter."""
        status = self._status
        status.complete = status.pruned = status.failed = status.infeasible = 0
        status.best, status.since_best = None, 0
        self._counted.clear()
        finished = [trial for trial in trials if trial.state.is_finished()]
        # In the order in which they ended, which is what patience counts by.
        finished.sort(key=lambda trial: (trial.datetime_complete or datetime.max, trial.number))
        for trial in finished:
            self.count(trial)

    def count(self, trial: FrozenTrial) -> bool:
        """Count one more finished trial, once; return whether it is the best so far."""
        if trial.number not in self._counted:
            self._counted.add(trial.number)
            self._count(trial)
        return self._status.best is not None and self._status.best[1] == trial.number

    def _count(self, trial: FrozenTrial) -> None:
        status = self._status
        if trial.state is TrialState.FAIL:
            status.failed += 1
            return
        status.since_best += 1
        if trial.state is TrialState.PRUNED:
            status.pruned += 1
            return
        status.complete += 1
        if not is_feasible(trial):
            status.infeasible += 1
        elif self._single:
            assert trial.value is not None  # a completed trial of one direction has one
            if status.best is None or status.better(trial.value, status.best[0]):
                status.best, status.since_best = (trial.value, trial.number), 0

    def enough(self) -> str:
        """Return why the search may end before its number of trials; empty if it may not."""
        status, plan = self._status, self._plan
        if plan.target is not None and status.best is not None:
            value, number = status.best
            if value == plan.target or status.better(value, plan.target):
                return f"trial {number} reached {score(value)} (--target {plan.target:g})"
        if plan.patience is not None and status.since_best >= plan.patience:
            return f"{status.since_best} trials brought no improvement (--patience {plan.patience})"
        return ""
