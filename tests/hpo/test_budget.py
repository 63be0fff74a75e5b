"""Money is set aside before it is spent, and no sequence of starts and ends goes over the limit."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from optuna.trial import create_trial

from hpo.budget import COSTS, Budget, Ledger, dollars, limit_text, recorded_attempts
from hpo.importing import IMPORTED
from hpo.protocol import Usage
from hpo.status import Status


def usage(amount: float) -> Usage:
    return Usage(gpu="L4", seconds=1.0, dollars=amount)


class Spending(RuleBasedStateMachine):
    """Attempts that start whenever they may and cost up to the worst case."""

    @initialize(limit=st.floats(0.01, 100), worst_case=st.floats(0.001, 10))
    def open(self, limit: float, worst_case: float) -> None:
        self.limit, self.worst_case = limit, worst_case
        self.budget = Budget(limit, worst_case)
        self.running: list[str] = []
        self.billed: list[float] = []
        self.count = 0

    @rule()
    def start_if_it_fits(self) -> None:
        if not self.budget.fits():
            return
        self.count += 1
        self.running.append(str(self.count))
        self.budget.reserve(str(self.count))

    @precondition(lambda self: self.running)
    @rule(part=st.floats(0, 1), told=st.booleans(), repeated=st.booleans())
    def end(self, part: float, told: bool, repeated: bool) -> None:
        attempt = self.running.pop()
        cost = part * self.worst_case
        self.billed.append(cost)
        for _ in range(1 + repeated):
            self.budget.settle(attempt, usage(cost) if told else None)

    @precondition(lambda self: self.running)
    @rule()
    def read_what_is_recorded(self) -> None:
        self.budget.recall(self.running[-1], self.worst_case)
        self.budget.recall("1", self.worst_case)

    @invariant()
    def nothing_goes_over_the_limit(self) -> None:
        if not hasattr(self, "budget"):
            return
        assert self.budget.spent + self.budget.reserved <= self.limit + 1e-6
        assert sum(self.billed) <= self.budget.spent + 1e-6
        assert self.budget.reserved == pytest.approx(len(self.running) * self.worst_case)


TestSpending = Spending.TestCase


def test_an_attempt_that_cost_more_than_its_worst_case_is_charged_all_of_it() -> None:
    budget = Budget(2.0, 1.0)
    budget.reserve("a")
    budget.settle("a", usage(1.5))
    assert (budget.spent, budget.reserved, budget.fits()) == (1.5, 0.0, False)


def test_an_end_that_says_nothing_costs_all_that_was_set_aside() -> None:
    budget = Budget(None, 1.0)
    budget.reserve("a", 0.25)
    budget.settle("a", None)
    budget.settle("unknown", None)
    assert budget.spent == 1.25
    budget.settle("a", usage(0.125))  # its bill comes late
    assert budget.spent == 1.125


@given(count=st.integers(1, 400), cents=st.integers(1, 100))
def test_a_limit_of_n_worst_cases_has_room_for_n_attempts(count: int, cents: int) -> None:
    budget = Budget(count * cents / 100, cents / 100)
    for number in range(count):
        assert budget.fits()
        budget.reserve(str(number))
    assert not budget.fits()


@pytest.mark.parametrize(("limit", "worst_case"), [(None, 5.0), (0.01, 0.0), (None, 0.0)])
def test_without_a_limit_or_a_price_everything_fits(limit: float | None, worst_case: float) -> None:
    budget = Budget(limit, worst_case)
    for number in range(3):
        budget.reserve(str(number))
    assert budget.fits()


def test_what_belongs_to_no_attempt_counts_too() -> None:
    budget = Budget(1.0, 0.5)
    budget.add(0.6)
    assert not budget.fits()
    assert budget.refusal() == ("--max-cost 1: $0.60 are spent, and another attempt may cost $0.50")


def record(attempt: str, **fields: object) -> dict[str, object]:
    return {"id": attempt, "start": "2026-01-01T00:00:00.000+00:00", **fields}


def test_a_ledger_opens_with_what_the_database_holds() -> None:
    study = optuna.create_study()
    study.set_user_attr(COSTS, {"other": 0.125})
    study.set_user_attr(
        "baseline_attempts",
        [{"params": {"model": "m"}, "attempts": [record("-1.1.a", reserved=9.0, dollars=0.25)]}],
    )
    finished = [record("0.1.a", dollars=1.0), record("0.2.b", dollars=2.0), record("0.3.c")]
    study.add_trial(create_trial(value=0.0, user_attrs={"attempts": finished}))
    mark = {"study": "old", "number": 0}
    taken_over = {"attempts": [record("0.1.z", dollars=64.0)], IMPORTED: mark}
    study.add_trial(create_trial(value=0.0, user_attrs=taken_over))
    study.ask().set_user_attr("attempts", [record("2.1.a", reserved=4.0)])
    status = Status("s", None, True, 10)
    ledger = Ledger(study, status, 20.0, 1.0)
    for _ in range(2):  # as after an outage
        ledger.recount(study.trials)
    assert status.spent == 0.125 + 0.25 + 1.0 + 2.0 + 4.0
    assert (status.max_cost, status.worst_case, status.reserved) == (20.0, 1.0, 0.0)
    assert len(recorded_attempts(study, study.trials)) == 5
    ledger.add(0.5)
    ledger.save()
    assert study.user_attrs[COSTS] == {"other": 0.625}


def test_amounts_read_well() -> None:
    assert [dollars(each) for each in (0, 1.42, 0.031, 0.0042, 0.000037, 1234.5)] == [
        "$0.00",
        "$1.42",
        "$0.03",
        "$0.0042",
        "$0.000037",
        "$1,234.50",
    ]
    assert [limit_text(each) for each in (20, 2.5)] == ["$20", "$2.50"]
