"""Money: set aside before it is spent, settled by what was billed, and never forgotten.

An attempt starts only if the most that it may cost fits under ``--max-cost``, together with all
that is spent and all that is set aside for what runs. What a study has spent is the sum over its
recorded attempts, so that every run of it counts on from the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from hpo.attempts import Attempt
from hpo.baselines import BASELINE_ATTEMPTS
from hpo.evaluation import EVALUATION_ATTEMPTS
from hpo.extras import attempted, is_extra
from hpo.finalists import FINALIST_ATTEMPTS
from hpo.importing import IMPORTED
from hpo.protocol import ATTEMPTS, Cause, Usage
from hpo.status import Status

COSTS = "costs"
"""The study's user attribute that holds dollars which belong to no attempt."""

_OTHER = "other"

_ROUNDING = 1e-9
"""Dollars that a sum of prices may be off by, as numbers are added; no bill knows so little."""


def dollars(amount: float) -> str:
    """Return an amount as people write it: cents, and two digits of what is less than one."""
    if amount == 0 or amount >= 0.01:
        return f"${amount:,.2f}"
    return f"${amount:.{1 - math.floor(math.log10(amount))}f}"


def limit_text(amount: float) -> str:
    """Return a limit as people write it: $20, $2.50."""
    return dollars(amount).removesuffix(".00")


class Budget:
    """Knows what is spent, what is set aside, and whether another attempt fits.

    Args:
        limit: Dollars that may be spent in all; ``None`` for no limit.
        worst_case: Dollars that one attempt may cost at most.
    """

    def __init__(self, limit: float | None, worst_case: float) -> None:
        self._limit = limit
        self._worst_case = worst_case
        self._charged: dict[str, float] = {}
        self._reserved: dict[str, float] = {}
        self._other = 0.0

    @property
    def spent(self) -> float:
        """Dollars that were billed, or must be taken for billed."""
        return math.fsum(self._charged.values()) + self._other

    @property
    def reserved(self) -> float:
        """Dollars that are set aside for what runs."""
        return math.fsum(self._reserved.values())

    @property
    def other(self) -> float:
        """Dollars of ``spent`` that belong to no attempt."""
        return self._other

    def fits(self, held: float = 0.0) -> bool:
        """Return whether another attempt may start, whatever comes of it.

        Args:
            held: Dollars that are to be left for what comes later.
        """
        if self._limit is None or self._worst_case == 0:
            return True
        return self.spent + self.reserved + self._worst_case + held <= self._limit + _ROUNDING

    def refusal(self, held: float = 0.0) -> str:
        """Say why no further attempt starts, once nothing runs that might give some back."""
        assert self._limit is not None
        said = (
            f"--max-cost {self._limit:g}: {dollars(self.spent)} are spent, and another attempt may "
            f"cost {dollars(self._worst_case)}"
        )
        return said + (f"; about {dollars(held)} are kept for the finalists" if held else "")

    def reserve(self, attempt: str, amount: float | None = None) -> None:
        """Set money aside for an attempt that starts, or that is taken up while it runs.

        Args:
            attempt: Its id.
            amount: What was set aside for it when it started; the worst case if that is not known.
        """
        self._charged.pop(attempt, None)
        self._reserved[attempt] = self._worst_case if amount is None else amount

    def settle(self, attempt: str, usage: Usage | None) -> None:
        """Charge an attempt that has ended: what was billed, or all that was set aside for it.

        To do it again changes nothing.
        """
        reserved = self._reserved.pop(attempt, None)
        if usage is not None:
            self._charged[attempt] = usage.dollars
        elif attempt not in self._charged:
            self._charged[attempt] = self._worst_case if reserved is None else reserved

    def recall(self, attempt: str, amount: float) -> None:
        """Charge what an earlier run recorded; what this one knows of the attempt stays."""
        if attempt not in self._reserved:
            self._charged.setdefault(attempt, amount)

    def add(self, amount: float) -> None:
        """Charge what belongs to no attempt."""
        self._other += amount


class Ledger:
    """Keeps a study's budget in step with its database and shows it in its status.

    Attempts carry their own costs in their records; only what belongs to none is written here.

    Args:
        study: Optuna's study.
        status: Where the budget is shown.
        limit: Dollars that the study may cost, over all its runs; ``None`` for no limit.
        worst_case: Dollars that one attempt may cost at most.
    """

    def __init__(
        self, study: Study, status: Status, limit: float | None, worst_case: float
    ) -> None:
        self._study = study
        self._status = status
        self.budget = Budget(limit, worst_case)
        self._written: float | None = None
        self._full: dict[str, float] = {}
        """What attempts cost that ran to their end, by id."""
        status.max_cost, status.worst_case = limit, worst_case

    def recount(self, trials: Iterable[FrozenTrial]) -> None:
        """Charge what the database holds, first in this run or after an outage.

        An attempt without an end is charged all that was set aside for it until its end is heard.

        Args:
            trials: All trials of the study.
        """
        if self._written is None:
            costs: dict[str, Any] = self._study.user_attrs.get(COSTS, {})
            self._written = float(costs.get(_OTHER, 0.0))
            self.budget.add(self._written)
        for record in recorded_attempts(self._study, trials):
            cost = record.get("dollars", record.get("reserved"))
            if cost:
                self.budget.recall(record["id"], cost)
            if cost and record.get("cause") == Cause.OK:
                self._note_full(record["id"], cost)
        self.show()

    def reserve(self, attempt: Attempt) -> None:
        """Set money aside for an attempt that starts, or that is taken up while it runs."""
        self.budget.reserve(attempt.id, attempt.reserved)
        self.show()

    def settle(self, attempt: str, usage: Usage | None, full: bool = False) -> None:
        """Charge an attempt that has ended.

        Args:
            attempt: Its id.
            usage: What was billed; ``None`` if that is not known.
            full: Whether it ran to its end.
        """
        self.budget.settle(attempt, usage)
        if full and usage is not None:
            self._note_full(attempt, usage.dollars)
        self.show()

    def _note_full(self, attempt: str, cost: float) -> None:
        """Take a trial's full cost for what others may cost; extras are cheaper, or finals."""
        if not is_extra(attempt):
            self._full[attempt] = cost

    def expected(self, attempts: int) -> float:
        """Return what so many full attempts may be expected to cost, by those that there were."""
        return attempts * math.fsum(self._full.values()) / len(self._full) if self._full else 0.0

    def add(self, amount: float) -> None:
        """Charge what belongs to no attempt; :meth:`save` writes it down."""
        if amount:
            self.budget.add(amount)
            self.show()

    def save(self) -> None:
        """Write down what belongs to no attempt, if that has changed."""
        other = self.budget.other
        if self._written is not None and self._written != other:
            self._study.set_user_attr(COSTS, {_OTHER: other})
            self._written = other

    def show(self) -> None:
        """Bring the status up to date."""
        self._status.spent, self._status.reserved = self.budget.spent, self.budget.reserved


def recorded_attempts(study: Study, trials: Iterable[FrozenTrial]) -> list[Mapping[str, Any]]:
    """Return the records of all attempts that a study made, those at its extras included.

    A trial that was taken over from another study was paid for there.
    """
    own = [trial.user_attrs for trial in trials if IMPORTED not in trial.user_attrs]
    extras = [
        each
        for kind in (BASELINE_ATTEMPTS, FINALIST_ATTEMPTS, EVALUATION_ATTEMPTS)
        for each in attempted(study, kind)
    ]
    return [record for each in [*own, *extras] for record in each.get(ATTEMPTS, [])]
