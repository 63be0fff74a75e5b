"""Studies that cost money: what they spend, what they write down, and what is never paid twice."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.attempts import read_attempts
from hpo.baselines import BASELINE_ATTEMPTS, BASELINES
from hpo.budget import COSTS
from hpo.coordinator import HANDED_OVER, Coordinator
from hpo.database import Database
from hpo.errors import StudyStoppedError
from hpo.executors.inline import InlineExecutor
from hpo.plan import Plan
from hpo.protocol import NO_TRIAL, Cause, ObjectiveSpec, Task
from hpo.settings import check
from hpo.status import Status
from hpo.summary import summary, trial_row
from tests.hpo.paying import Fate, Paying
from tests.hpo.support import Free
from tests.hpo.test_coordinator import Bench
from tests.hpo.test_outages import Bench as FlakyBench
from tests.hpo.test_outages import Flaky


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.002)
    monkeypatch.setattr("hpo.coordinator.BILL_SECONDS", 1.0)
    monkeypatch.setattr("hpo.database.FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def plain(trial: Any) -> float:
    x: float = trial.suggest_float("x", 0, 1)
    return x


class WithBaseline:
    """An objective with a baseline, which may have to wait.

    Args:
        wait: What a baseline waits for.
    """

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.wait = wait
        self.baselines_run = 0

    def baselines(self) -> list[dict[str, Any]]:
        return [{"model": "plain"}, {"model": "fancy"}]

    def baseline(self, trial: Any) -> float:
        self.baselines_run += 1
        name = trial.suggest_categorical("model", ["plain", "fancy"])
        self.wait()
        return 0.25 if name == "plain" else 0.5

    def __call__(self, trial: Any) -> float:
        return plain(trial)


def of_trials(fate: Fate, *first: Fate) -> Callable[[Task], Fate]:
    """Give attempts of trials ``first`` in turn, then ``fate``; baselines cost nothing."""
    left = list(first)

    def choose(task: Task) -> Fate:
        if task.number == NO_TRIAL:
            return Fate(0.0)
        return left.pop(0) if left else fate

    return choose


fates = st.lists(
    st.builds(
        Fate,
        dollars=st.floats(0, 1),
        cause=st.sampled_from(
            [None, None, None, Cause.LOST, Cause.PREEMPTED, Cause.TIMEOUT, Cause.OUT_OF_MEMORY]
        ),
        told=st.booleans(),
    ),
    max_size=40,
)


def after(turns: int) -> Callable[[], bool]:
    """Return a function that says no so many times, and then yes."""
    count = itertools.count()
    return lambda: next(count) >= turns


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    fates=fates,
    worst_case=st.floats(0.05, 1),
    limit=st.floats(0.05, 6),
    capacity=st.integers(1, 3),
    kills=st.lists(st.integers(0, 30), max_size=2),
    other=st.floats(0, 0.1),
)
def test_max_cost_is_never_exceeded(
    tmp_path_factory: pytest.TempPathFactory,
    fates: list[Fate],
    worst_case: float,
    limit: float,
    capacity: int,
    kills: list[int],
    other: float,
) -> None:
    bench = Bench(tmp_path_factory.mktemp("study"))
    left = [Fate(each.dollars * worst_case, each.cause, each.told) for each in fates]
    executor = Paying(
        WithBaseline(),
        lambda task: left.pop(0) if left else Fate(worst_case),
        worst_case,
        capacity,
    )
    executor.other = min(other, limit)
    plan = {"executor": executor, "max_cost": limit, "retries": 2, "max_failures": 99}
    for turns in kills:
        executor.killed = after(turns)
        coordinator = bench.coordinator(executor.objective, 12, **plan)
        with contextlib.suppress(SystemExit):
            coordinator.run()
        status = coordinator.status
        assert executor.bill <= min(limit, status.spent + status.reserved) + 1e-6
    executor.killed = lambda: False
    coordinator = bench.run(executor.objective, 12, **plan)
    status = coordinator.status
    assert status.reserved == 0
    assert executor.bill <= status.spent + 1e-6
    assert status.spent <= limit + 1e-6
    assert status.finished == 12 or coordinator.ended_early.startswith("--max-cost ")
    # The next run starts with exactly what this one ended with.
    following = bench.coordinator(plain, 1, executor=executor, max_cost=limit)
    following.run()
    assert following.status.spent == pytest.approx(status.spent)


def test_a_study_that_has_spent_its_money_says_so_and_goes_on_with_more(bench: Bench) -> None:
    executor = Paying(plain, lambda task: Fate(0.4), worst_case=0.5)
    first = bench.run(plain, 10, executor=executor, max_cost=1.5)
    assert bench.states() == ["COMPLETE"] * 3
    assert first.ended_early == (
        "--max-cost 1.5: $1.20 are spent, and another attempt may cost $0.50"
    )
    assert bench.watcher.texts("end") == [first.ended_early]
    again = bench.run(plain, 10, executor=executor, max_cost=1.5)
    assert bench.states() == ["COMPLETE"] * 3
    assert again.ended_early == first.ended_early
    more = bench.run(plain, 10, executor=executor, max_cost=2.0)
    assert bench.states() == ["COMPLETE"] * 4
    assert more.status.spent == pytest.approx(1.6)
    assert more.status.spent_before == pytest.approx(1.2)


def test_what_runs_is_waited_for_before_there_is_said_to_be_no_money(bench: Bench) -> None:
    executor = Paying(plain, lambda task: Fate(0.1), worst_case=1.0, capacity=4)
    bench.run(plain, 8, executor=executor, max_cost=2.0)
    # Never more than two at once are paid for in the worst case; together eight cost 0.80.
    assert bench.states() == ["COMPLETE"] * 8


def test_a_trial_that_there_is_no_money_to_try_again_waits_for_the_next_run(bench: Bench) -> None:
    executor = Paying(plain, of_trials(Fate(0.5), Fate(0.9, Cause.LOST)))
    coordinator = bench.run(plain, 2, executor=executor, max_cost=1.5)
    assert bench.states() == ["RUNNING"]
    assert coordinator.ended_early.startswith("--max-cost 1.5: $0.90 are spent")
    params = bench.study.trials[0].params
    bench.run(plain, 2, executor=executor, max_cost=5.0)
    assert bench.states() == ["COMPLETE", "COMPLETE"]
    trial = bench.study.trials[0]
    assert trial.params == params
    attempts = read_attempts(trial.user_attrs)
    assert [(each.cause, each.dollars) for each in attempts] == [("lost", 0.9), ("ok", 0.5)]


def test_an_attempt_records_what_it_cost(bench: Bench) -> None:
    executor = Paying(plain, of_trials(Fate(0.5), Fate(0.25, Cause.PREEMPTED)))
    coordinator = bench.run(plain, 2, executor=executor, max_cost=20.0)
    first, second = read_attempts(bench.study.trials[0].user_attrs)
    assert (first.gpu, first.seconds, first.dollars) == ("L4", 36.0, 0.25)
    assert (second.reserved, second.dollars) == (1.0, 0.5)
    row = trial_row(bench.study.trials[0])
    assert (row["gpu"], row["dollars"]) == ("L4", 0.75)
    given = check({"max_cost": 20})
    lines = summary(bench.study, coordinator.status, "", given, None)
    assert "cost  $1.25 of $20.00 · $0.62 a finished trial · 0.03 GPU hours" in lines


def test_an_attempt_whose_end_says_nothing_costs_its_worst_case(bench: Bench) -> None:
    executor = Paying(plain, lambda task: Fate(0.1, told=False))
    coordinator = bench.run(plain, 2, executor=executor, max_cost=2.5)
    assert coordinator.status.spent == 2.0
    assert [each["dollars"] for each in map(trial_row, bench.study.trials)] == [1.0, 1.0]


def test_a_study_that_costs_nothing_says_nothing_of_money(bench: Bench) -> None:
    coordinator = bench.run(plain, 2)
    assert not coordinator.status.is_paid
    assert (
        not {"dollars", "reserved", "gpu"} & bench.study.trials[0].user_attrs["attempts"][0].keys()
    )
    assert trial_row(bench.study.trials[0])["dollars"] is None
    lines = summary(bench.study, coordinator.status, "", check({}), None)
    assert not any(line.startswith("cost") for line in lines)


def test_costs_outside_of_attempts_are_remembered(bench: Bench) -> None:
    executor = Paying(plain, lambda task: Fate(0.25))
    executor.other = 0.5
    coordinator = bench.run(plain, 2, executor=executor)
    assert coordinator.status.spent == 1.0
    assert bench.study.user_attrs[COSTS] == {"other": 0.5}
    executor.other = 0.125
    assert bench.run(plain, 2, executor=executor).status.spent == 1.125
    assert bench.study.user_attrs[COSTS] == {"other": 0.625}


# What runs on after its coordinator.


class Gate:
    """Lets an objective through once it is open; opens by itself when a test is over."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> None:
        self.event.wait(20)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.event.set()


def killed_once_submitted(executor: Paying, count: int) -> Callable[[], bool]:
    return lambda: len(executor.submitted) >= count


def test_a_baseline_is_found_again_by_the_next_coordinator(bench: Bench, gate: Gate) -> None:
    objective = WithBaseline(gate)
    executor = Paying(objective, lambda task: Fate(0.25), capacity=2)
    executor.killed = killed_once_submitted(executor, 2)
    with pytest.raises(SystemExit):
        bench.run(objective, 1, executor=executor)
    written = bench.study.user_attrs[BASELINE_ATTEMPTS]
    assert [each["params"] for each in written] == objective.baselines()
    assert [each["attempts"][0]["handle"]["call"] for each in written] == [
        task.attempt for task in executor.submitted
    ]
    executor.killed = lambda: False
    gate.event.set()
    coordinator = bench.run(objective, 1, executor=executor)
    assert objective.baselines_run == 2
    assert sorted(executor.attached) == sorted(task.attempt for task in executor.submitted[:2])
    assert len(executor.submitted) == 3
    scores = {each["params"]["model"]: each["value"] for each in bench.study.user_attrs[BASELINES]}
    assert scores == {"plain": 0.25, "fancy": 0.5}
    ends = [each["attempts"][0] for each in bench.study.user_attrs[BASELINE_ATTEMPTS]]
    assert [(each["cause"], each["dollars"]) for each in ends] == [("ok", 0.25)] * 2
    assert coordinator.status.spent == 0.75


def test_a_baseline_that_is_gone_is_paid_for_and_tried_again(bench: Bench, gate: Gate) -> None:
    objective = WithBaseline(gate)
    executor = Paying(objective, of_trials(Fate(0.5)))
    executor.killed = killed_once_submitted(executor, 1)
    with pytest.raises(SystemExit):
        bench.run(objective, 1, executor=executor)
    executor.killed = lambda: False
    executor.forgets.add(executor.submitted[0].attempt)
    gate.event.set()
    coordinator = bench.run(objective, 1, executor=executor)
    (plain_one,) = (
        each["attempts"]
        for each in bench.study.user_attrs[BASELINE_ATTEMPTS]
        if each["params"] == {"model": "plain"}
    )
    assert [(each["cause"], each["dollars"]) for each in plain_one] == [("lost", 1.0), ("ok", 0.0)]
    assert coordinator.status.spent == 1.5
    assert len(bench.study.user_attrs[BASELINES]) == 2


def test_a_baseline_that_is_lost_is_tried_again_as_money_allows(bench: Bench) -> None:
    left = [Fate(0.5, Cause.LOST)]
    executor = Paying(WithBaseline(), lambda task: left.pop() if left else Fate(0.5))
    coordinator = bench.run(executor.objective, 1, executor=executor, max_cost=1.25)
    assert coordinator.ended_early.startswith("--max-cost")
    assert len(executor.submitted) == 1
    assert BASELINES not in bench.study.user_attrs
    bench.run(executor.objective, 1, executor=executor, max_cost=4)
    assert len(bench.study.user_attrs[BASELINES]) == 2
    assert bench.states() == ["COMPLETE"]


def test_what_runs_goes_on_when_a_study_is_handed_over(bench: Bench, gate: Gate) -> None:
    coordinators: list[Coordinator] = []

    def objective(trial: Any) -> float:
        x = plain(trial)
        if trial.number == 1:
            coordinators[0].hand_over("the function's time is up")
            gate()
        return x

    executor = Paying(objective, lambda task: Fate(0.25))
    coordinators.append(bench.coordinator(objective, 3, executor=executor))
    coordinators[0].run()
    assert coordinators[0].ended_early == HANDED_OVER
    assert bench.watcher.texts("end") == ["the function's time is up"]
    assert executor.stopped == []
    (attempt,) = read_attempts(bench.study.trials[1].user_attrs)
    assert (attempt.end, attempt.handle) == (None, {"call": attempt.id})
    seen: list[tuple[float, float]] = []

    def tick(status: Status) -> None:
        seen.append((status.spent, status.reserved))
        gate.event.set()

    bench.watcher.tick = tick  # type: ignore[method-assign]
    following = bench.coordinator(objective, 3, executor=executor)
    following.run()
    assert seen[0] == (0.25, 1.0)  # what was taken up may yet cost the worst case
    assert executor.attached == [attempt.id]
    assert bench.states() == ["COMPLETE"] * 3
    assert [len(read_attempts(trial.user_attrs)) for trial in bench.study.trials] == [1, 1, 1]
    assert len(executor.submitted) == 3
    assert following.status.spent == 0.75
    lines = summary(bench.study, coordinators[0].status, HANDED_OVER, check({"trials": 3}), None)
    assert lines[-1].startswith("resume")


def test_a_study_that_is_handed_over_keeps_what_waits(bench: Bench) -> None:
    coordinators: list[Coordinator] = []

    def fate(task: Task) -> Fate:
        coordinators[0].hand_over("enough")
        return Fate(0.25, Cause.LOST if len(executor.submitted) == 1 else None)

    executor = Paying(plain, fate)
    coordinators.append(bench.coordinator(plain, 1, executor=executor))
    coordinators[0].run()
    assert bench.states() == ["RUNNING"]
    bench.run(plain, 1, executor=executor)
    assert bench.states() == ["COMPLETE"]


def test_a_study_is_handed_over_once_its_database_has_everything(
    tmp_path: Path, gate: Gate
) -> None:
    storage = Flaky()
    bench = FlakyBench(tmp_path, storage)
    coordinators: list[Coordinator] = []

    def objective(trial: Any) -> float:
        x = plain(trial)
        storage.leave()
        trial.report(x, 0)
        coordinators[0].hand_over("the function's time is up")
        time.sleep(0.05)
        storage.come_back()
        gate()
        return x

    executor = Paying(objective)
    coordinators.append(bench.coordinator(objective, trials=1))
    coordinators[0]._executor = executor
    coordinators[0].run()
    assert not bench.journal.exists()
    assert bench.study.trials[0].intermediate_values.keys() == {0}
    assert bench.study.trials[0].state.name == "RUNNING"


# What is stopped.


def interrupted(bench: Bench, executor: Paying, **plan: Any) -> Coordinator:
    coordinator = bench.coordinator(executor.objective, 2, executor=executor, **plan)
    executor.killed = lambda: bool(executor.submitted) and bool(coordinator.interrupt())
    coordinator.run()
    return coordinator


def endless(trial: Any) -> float:
    for step in range(2000):
        trial.report(0.5, step)
        time.sleep(0.002)
        trial.should_prune()
    return 0.5


def test_what_is_stopped_may_still_say_what_it_cost(bench: Bench) -> None:
    executor = Paying(endless, lambda task: Fate(0.125))
    assert interrupted(bench, executor).status.spent == 0.125
    (attempt,) = read_attempts(bench.study.trials[0].user_attrs)
    assert (attempt.cause, attempt.dollars) == (Cause.STOPPED, 0.125)
    assert bench.states() == ["RUNNING"]


def test_what_is_stopped_and_stays_silent_costs_its_worst_case(
    bench: Bench, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.coordinator.BILL_SECONDS", 0.05)

    def stuck(trial: Any) -> float:
        gate()
        return 0.0

    coordinator = interrupted(bench, Paying(stuck))
    assert coordinator.status.spent == 1.0
    (attempt,) = read_attempts(bench.study.trials[0].user_attrs)
    assert (attempt.cause, attempt.dollars) == (Cause.STOPPED, 1.0)


def test_a_baseline_that_is_stopped_is_scored_by_the_next_run(
    bench: Bench, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.coordinator.BILL_SECONDS", 0.05)
    objective = WithBaseline(gate)
    executor = Paying(objective)
    coordinator = bench.coordinator(objective, 1, executor=executor)
    executor.killed = lambda: bool(executor.submitted) and bool(coordinator.interrupt())
    coordinator.run()
    ((attempt,),) = (each["attempts"] for each in bench.study.user_attrs[BASELINE_ATTEMPTS])
    assert (attempt["cause"], attempt["dollars"]) == ("stopped", 1.0)
    gate.event.set()
    bench.run(objective, 1)
    assert len(bench.study.user_attrs[BASELINES]) == 2


# Waiting for a machine.


class Late(Paying):
    """Paying, where a machine is free only after a while."""

    free = 0.0

    def events(self, timeout: float) -> list[Any]:
        if time.monotonic() < self.free:
            time.sleep(timeout)
            return []
        return super().events(timeout)


def test_the_time_that_an_attempt_waits_for_a_machine_is_not_its_own(bench: Bench) -> None:
    executor = Late(plain)
    executor.free = time.monotonic() + 0.4
    coordinator = bench.coordinator(plain, 1, executor=executor, trial_timeout=0.2)
    seen: list[bool] = []
    bench.watcher.tick = lambda status: seen.extend(  # type: ignore[method-assign]
        each.started for each in status.running.values()
    )
    coordinator.run()
    assert bench.states() == ["COMPLETE"]
    assert len(seen) > 10
    assert not seen[10]


@pytest.mark.parametrize("silent", [False, True], ids=["started", "first word lost"])
def test_an_attempt_that_runs_too_long_is_stopped(bench: Bench, silent: bool) -> None:
    executor = Paying(endless, lambda task: Fate(0.125), silent=silent)
    coordinator = bench.coordinator(
        endless, 1, executor=executor, trial_timeout=0.1, retries=0, max_failures=1
    )
    with pytest.raises(StudyStoppedError):
        coordinator.run()
    (attempt,) = read_attempts(bench.study.trials[0].user_attrs)
    assert (attempt.cause, attempt.dollars) == (Cause.TIMEOUT, 0.125)


# Outages.


def run_paid(directory: Path, storage: Flaky) -> tuple[FlakyBench, Paying, Coordinator]:
    bench = FlakyBench(directory, storage)
    objective = WithBaseline()
    executor = Paying(objective, of_trials(Fate(0.5), Fate(0.25, Cause.LOST)))
    executor.other = 0.125
    plan = Plan(
        study="s",
        trials=2,
        spec=ObjectiveSpec(reference="here:objective"),
        directory=directory,
        seed=0,
    )
    database = Database(Free, 60.0)
    coordinator = Coordinator(bench.study, storage, database, objective, executor, plan)
    storage.armed = True
    coordinator.run()
    storage.armed = False
    return bench, executor, coordinator


@pytest.mark.slow
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_an_outage_at_any_call_loses_no_cent(tmp_path: Path, answered: bool) -> None:
    storage = Flaky()
    _, executor, _ = run_paid(tmp_path / "quiet", storage)
    assert executor.bill == 0.125 + 0.25 + 0.5 + 0.5
    assert storage.count > 40
    for first in range(1, storage.count + 1):
        bench, executor, coordinator = run_paid(tmp_path / str(first), Flaky(first, 2, answered))
        assert [each.state.name for each in bench.study.trials] == ["COMPLETE"] * 2, first
        assert executor.bill == 0.125 + 0.25 + 0.5 + 0.5, first
        baselines = bench.study.user_attrs[BASELINES]
        assert [each["value"] for each in baselines] == [0.25, 0.5], first
        assert len(executor.submitted) == 5, first
        assert coordinator.status.reserved == 0, first
        # An attempt that was written down just before the outage never began: it is taken for paid.
        phantoms = coordinator.status.spent - executor.bill
        assert phantoms in (0.0, executor.worst_case), first
        following = bench.coordinator(WithBaseline(), trials=2)
        following.run()
        assert following.status.spent >= executor.bill, first
        assert following.status.spent <= coordinator.status.spent, first
        assert isinstance(following._executor, InlineExecutor)
