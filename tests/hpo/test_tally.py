"""Counting finished trials, in whatever order they are read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from hpo.feasible import is_feasible
from hpo.plan import Plan
from hpo.protocol import ObjectiveSpec
from hpo.status import Status
from hpo.tally import Tally

NOON = datetime(2026, 1, 1, 12)

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def trial(
    number: int,
    state: TrialState = COMPLETE,
    value: float = 0.0,
    ended: float | None = None,
    violations: tuple[float, ...] = (),
) -> FrozenTrial:
    """Return a trial that ended ``ended`` seconds after noon, by default in order of numbers."""
    seconds = number if ended is None else ended
    return FrozenTrial(
        number=number,
        state=state,
        value=value if state is COMPLETE else None,
        datetime_start=NOON,
        datetime_complete=NOON + timedelta(seconds=seconds) if state.is_finished() else None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={f"constraints:rule{n}": each for n, each in enumerate(violations)},
        intermediate_values={},
        trial_id=number,
    )


@dataclass
class Bench:
    """A tally and the status it keeps."""

    status: Status
    tally: Tally

    @property
    def counts(self) -> tuple[Any, ...]:
        status = self.status
        return (
            *(status.complete, status.pruned, status.failed, status.infeasible),
            *(status.best, status.since_best),
        )


def bench(maximize: bool = True, single: bool = True, **rules: Any) -> Bench:
    status = Status("s", None, maximize, 100)
    spec = ObjectiveSpec(reference="m:f")
    plan = Plan(study="s", trials=100, spec=spec, directory=Path("unused"), seed=0, **rules)
    return Bench(status, Tally(status, plan, single))


trials_in_any_order = st.lists(
    st.tuples(
        st.sampled_from(list(TrialState)),
        # Few values, so that there are ties; an objective may return an infinity.
        st.sampled_from([-1.0, 0.0, 0.5, float("inf"), float("-inf")]),
        st.integers(0, 5),
        st.sampled_from([(), (0.0,), (-1.0, 0.25), (float("inf"),)]),
    ),
    max_size=12,
).map(lambda rows: [trial(number, *row) for number, row in enumerate(rows)])


@given(trials=trials_in_any_order, data=st.data(), maximize=st.booleans())
def test_a_recount_is_what_counting_one_by_one_in_order_of_completion_gives(
    trials: list[FrozenTrial], data: st.DataObject, maximize: bool
) -> None:
    one_by_one = bench(maximize)
    finished = [each for each in trials if each.state.is_finished()]
    for each in sorted(finished, key=lambda t: (t.datetime_complete, t.number)):
        one_by_one.tally.count(each)
    read = bench(maximize)
    read.tally.recount(data.draw(st.permutations(trials)))
    assert read.counts == one_by_one.counts
    read.tally.recount(trials)  # as after an outage: anew, not on top
    assert read.counts == one_by_one.counts


@given(trials=trials_in_any_order, maximize=st.booleans())
def test_the_counts_are_those_of_the_trials(trials: list[FrozenTrial], maximize: bool) -> None:
    counted = bench(maximize)
    counted.tally.recount(trials)
    status = counted.status
    by_state = [each.state for each in trials]
    assert status.complete == by_state.count(COMPLETE)
    assert status.pruned == by_state.count(PRUNED)
    assert status.failed == by_state.count(FAIL)
    assert status.finished == status.complete + status.pruned
    feasible = [each for each in trials if each.state is COMPLETE and is_feasible(each)]
    assert status.infeasible == status.complete - len(feasible)
    values = [each.value for each in feasible]
    best = status.best[0] if status.best else None
    assert best == (max if maximize else min)(values, default=None)  # type: ignore[type-var]
    assert status.since_best <= status.finished


@given(trials=trials_in_any_order)
def test_a_trial_counts_once_however_often_it_is_told(trials: list[FrozenTrial]) -> None:
    counted = bench()
    counted.tally.recount(trials)
    before = counted.counts
    for each in trials:
        if each.state.is_finished():
            best = counted.tally.count(each)
            assert best == (counted.status.best is not None and before[4][1] == each.number)
    assert counted.counts == before


def test_the_first_of_equals_is_the_best_and_an_equal_one_is_no_improvement() -> None:
    counted = bench()
    counted.tally.recount([trial(0, value=0.5, ended=9), trial(1, value=0.5, ended=2)])
    assert counted.status.best == (0.5, 1)
    assert counted.status.since_best == 1


def test_patience_counts_by_completion_and_failed_trials_do_not_try_it() -> None:
    counted = bench(patience=2)
    counted.tally.recount(
        [
            trial(0, value=0.9, ended=50),  # numbered first, and ended last: the newest is the best
            trial(1, value=0.1, ended=1),
            trial(2, PRUNED, ended=2),
            trial(3, FAIL, ended=3),
            trial(4, value=0.1, ended=4),
        ]
    )
    assert counted.status.since_best == 0
    assert counted.tally.enough() == ""
    for number in (5, 6, 7):
        counted.tally.count(trial(number, FAIL, ended=100 + number))
    assert counted.tally.enough() == ""
    counted.tally.count(trial(8, PRUNED, ended=200))
    counted.tally.count(trial(9, value=0.9, ended=201))
    assert counted.tally.enough() == "2 trials brought no improvement (--patience 2)"


def test_infeasible_trials_are_never_the_best_and_do_try_patience() -> None:
    counted = bench(patience=3, target=0.8)
    for number in range(3):
        best = counted.tally.count(trial(number, value=0.9 + number / 100, violations=(0.1,)))
        assert not best
    assert counted.status.best is None
    assert counted.status.infeasible == 3
    assert "--patience 3" in counted.tally.enough()
    assert counted.tally.count(trial(3, value=0.8, violations=(0.0,)))
    assert counted.tally.enough() == "trial 3 reached 0.8000 (--target 0.8)"


@pytest.mark.parametrize(
    ("maximize", "value", "reached"),
    [(True, 0.5, True), (True, 0.4, False), (False, 0.5, True), (False, 0.6, False)],
)
def test_a_target_is_reached_in_the_studys_direction(
    maximize: bool, value: float, reached: bool
) -> None:
    counted = bench(maximize, target=0.5)
    counted.tally.count(trial(0, value=value))
    assert bool(counted.tally.enough()) is reached


def test_several_directions_have_counts_and_no_best() -> None:
    counted = bench(single=False)
    several = trial(0)
    several.values = [0.5, 0.25]
    assert not counted.tally.count(several)
    assert counted.counts == (1, 0, 0, 0, None, 1)
