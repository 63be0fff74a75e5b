"""The coordinator's loop, mostly with the inline executor: it is the loop that is tested here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import hpo
from hpo.attempts import read_attempts, trial_seed
from hpo.baselines import BASELINES
from hpo.coordinator import Coordinator
from hpo.database import Database
from hpo.errors import StudyStoppedError
from hpo.executors import Executor, Handle
from hpo.executors.inline import InlineExecutor
from hpo.executors.local import LocalExecutor
from hpo.objective import load_objective
from hpo.plan import Plan
from hpo.protocol import AnyEvent, AnyReply, Cause, Done, Failed, ObjectiveSpec, Report, Task
from tests.hpo import sample_objectives
from tests.hpo.support import Free, Watcher


class Bench:
    """A study in memory, and what it takes to run coordinators on it one after the other."""

    def __init__(self, directory: Path, **study: Any) -> None:
        self.directory = directory
        self.storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(seed=1),
            study_name="bench",
            **study,
        )
        self.watcher = Watcher()

    def coordinator(
        self,
        objective: Callable[[Any], Any],
        trials: int = 5,
        executor: Executor | None = None,
        reference: str = "here:objective",
        **plan: Any,
    ) -> Coordinator:
        return Coordinator(
            self.study,
            self.storage,
            Database(Free),
            objective,
            executor or InlineExecutor(objective),
            Plan(
                study="bench",
                trials=trials,
                spec=ObjectiveSpec(reference=reference),
                directory=self.directory,
                seed=0,
                **plan,
            ),
            [self.watcher],
        )

    def run(self, objective: Callable[[Any], Any], trials: int = 5, **more: Any) -> Coordinator:
        coordinator = self.coordinator(objective, trials, **more)
        coordinator.run()
        return coordinator

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.trials]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_it_reaches_its_target_and_no_more(bench: Bench) -> None:
    status = bench.run(sample_objectives.quadratic, trials=7).status
    assert bench.states() == ["COMPLETE"] * 7
    assert (status.complete, status.finished) == (7, 7)
    assert status.best == (bench.study.best_value, bench.study.best_trial.number)
    assert all("squared" in trial.user_attrs for trial in bench.study.trials)


def test_trials_is_the_total_over_all_runs(bench: Bench) -> None:
    bench.run(sample_objectives.quadratic, trials=3)
    bench.run(sample_objectives.quadratic, trials=3)
    assert len(bench.study.trials) == 3
    bench.run(sample_objectives.quadratic, trials=5)
    assert len(bench.study.trials) == 5


def test_values_are_what_plain_optuna_gets(bench: Bench) -> None:
    bench.run(sample_objectives.quadratic, trials=8)
    plain = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    plain.optimize(sample_objectives.quadratic, n_trials=8)
    assert [(t.params, t.value) for t in bench.study.trials] == [
        (t.params, t.value) for t in plain.trials
    ]


def test_pruning_is_what_plain_optuna_does(bench: Bench) -> None:
    bench.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    bench.run(sample_objectives.pruning, trials=12)
    plain = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
    )
    plain.optimize(sample_objectives.pruning, n_trials=12)
    assert "PRUNED" in bench.states()
    assert [(t.state, t.intermediate_values) for t in bench.study.trials] == [
        (t.state, t.intermediate_values) for t in plain.trials
    ]


def test_several_directions(tmp_path: Path) -> None:
    bench = Bench(tmp_path, directions=["minimize", "maximize"])
    bench.run(sample_objectives.two_values, trials=4)
    assert all(sum(trial.values) == pytest.approx(1) for trial in bench.study.trials)


def test_every_attempt_is_written_down(bench: Bench) -> None:
    bench.run(sample_objectives.quadratic, trials=1)
    (attempt,) = read_attempts(bench.study.trials[0].user_attrs)
    assert attempt.cause is Cause.OK
    assert attempt.values == (bench.study.trials[0].value,)
    assert attempt.end is not None
    assert attempt.start <= attempt.end
    assert attempt.machine


def test_an_enqueued_trial_is_run_with_its_parameters(bench: Bench) -> None:
    bench.study.enqueue_trial({"x": 3.0, "kind": "absolute"}, user_attrs={"memo": "mine"})
    bench.run(sample_objectives.quadratic, trials=2)
    assert bench.study.trials[0].value == 3.0
    assert bench.study.trials[0].user_attrs["memo"] == "mine"


@pytest.mark.parametrize(
    ("returned", "cause"), [(None, "bug"), ("text", "bug"), (math.nan, "diverged")]
)
def test_a_bad_value_fails_its_trial_and_the_study_goes_on(
    bench: Bench, returned: Any, cause: str
) -> None:
    def objective(trial: Any) -> Any:
        x = trial.suggest_float("x", 0, 1)
        return returned if trial.number in (0, 2) else x

    status = bench.run(objective, trials=4).status
    assert (status.complete, status.failed) == (4, 2)
    assert [bench.study.trials[n].state.name for n in (0, 2)] == ["FAIL", "FAIL"]
    assert [str(read_attempts(bench.study.trials[n].user_attrs)[-1].cause) for n in (0, 2)] == [
        cause,
        cause,
    ]


def test_three_bugs_in_a_row_stop_the_study_with_one_traceback(bench: Bench) -> None:
    with pytest.raises(StudyStoppedError) as caught:
        bench.run(sample_objectives.prints_and_raises, trials=10)
    assert bench.states() == ["FAIL"] * 3
    message = str(caught.value)
    assert "3 times in a row" in message
    assert message.count("Traceback") == 1
    assert "this objective is broken" in message


def test_a_finished_trial_ends_a_row_of_bugs(bench: Bench) -> None:
    def objective(trial: Any) -> float:
        x: float = trial.suggest_float("x", 0, 1)
        if trial.number % 3 != 2:
            raise RuntimeError("sometimes")
        return x

    assert bench.run(objective, trials=3).status.failed == 6


def test_failures_that_are_no_bug_have_a_limit_too(bench: Bench) -> None:
    def objective(trial: Any) -> float:
        raise MemoryError

    with pytest.raises(StudyStoppedError, match=r"--max-failures 4.*out-of-memory"):
        bench.run(objective, trials=10, max_failures=4)
    assert bench.states() == ["FAIL"] * 4


def test_baselines_are_scored_first_and_once(bench: Bench) -> None:
    bench.study = optuna.create_study(
        storage=bench.storage, study_name="offers", direction="maximize"
    )
    objective = sample_objectives.Offers(bound=1.0)
    objective.prepare(bench.directory, 0)
    data = bench.directory / "data"
    status = bench.run(objective, trials=2, data=data).status
    kinds = [moment.kind for moment in bench.watcher.moments]
    assert kinds.index("start") > max(n for n, kind in enumerate(kinds) if kind == "baseline")
    assert status.baseline == (0.5, "offers {'model': 'fancy'}")
    records = bench.study.user_attrs[BASELINES]
    assert [(each["params"]["model"], each["value"]) for each in records] == [
        ("plain", 0.25),
        ("fancy", 0.5),
    ]
    assert records[0]["metrics"] == {"length": 5}
    status = bench.run(objective, trials=4, data=data).status
    assert len(bench.study.user_attrs[BASELINES]) == 2
    assert status.baseline == (0.5, "offers {'model': 'fancy'}")


def test_sampling_before_dispatch_leaves_no_zombie_if_it_raises(bench: Bench) -> None:
    class Broken:
        def suggest(self, trial: Any) -> None:
            trial.suggest_float("x", 0, 1)
            raise KeyError("space")

        def __call__(self, trial: Any) -> float:
            raise AssertionError("never dispatched")

    with pytest.raises(StudyStoppedError, match="KeyError"):
        bench.run(Broken())
    assert bench.states() == ["FAIL"] * 3


def test_the_best_directories_stay(tmp_path: Path) -> None:
    bench = Bench(tmp_path, direction="maximize")
    objective = sample_objectives.Offers(bound=1.0)
    objective.prepare(tmp_path, 0)
    bench.run(objective, trials=8, keep=3, data=tmp_path / "data")
    best = sorted(bench.study.trials, key=lambda trial: -trial.value)[:3]
    kept = {int(path.name) for path in (tmp_path / "trials").iterdir()}
    assert kept == {trial.number for trial in best}
    bench.run(objective, trials=16, keep=3, data=tmp_path / "data")
    best = sorted(bench.study.trials, key=lambda trial: -trial.value)[:3]
    kept = {int(path.name) for path in (tmp_path / "trials").iterdir()}
    assert kept == {trial.number for trial in best}


def test_a_drained_study_finishes_what_runs(bench: Bench) -> None:
    coordinator: list[Coordinator] = []

    def objective(trial: Any) -> float:
        x: float = trial.suggest_float("x", 0, 1)
        if trial.number == 2:
            coordinator[0].drain("enough")
        return x

    coordinator.append(bench.coordinator(objective, trials=10))
    coordinator[0].run()
    assert bench.states() == ["COMPLETE"] * 3
    assert coordinator[0].ended_early == "enough"


def test_no_trial_starts_after_the_timeout(bench: Bench) -> None:
    coordinator = bench.coordinator(sample_objectives.quadratic, trials=1000, timeout=0.2)
    coordinator.run()
    assert 0 < len(bench.study.trials) < 1000
    assert coordinator.ended_early == "the time is up"


def test_an_interrupted_trial_goes_on_with_its_number_and_parameters(bench: Bench) -> None:
    coordinator: list[Coordinator] = []
    resumed: list[bool] = []

    def objective(trial: Any) -> float:
        x: float = trial.suggest_float("x", 0, 1)
        attempt = hpo.current_attempt()
        resumed.append(attempt.resume)
        (attempt.directory / "checkpoint").touch()
        if len(resumed) == 2:
            coordinator[0].interrupt()
        trial.report(x, 0)
        trial.should_prune()
        return x

    coordinator.append(bench.coordinator(objective, trials=3))
    coordinator[0].run()
    assert bench.states() == ["COMPLETE", "RUNNING"]
    params = bench.study.trials[1].params
    bench.run(objective, trials=3)
    assert bench.states() == ["COMPLETE"] * 3
    assert bench.study.trials[1].params == params
    assert resumed[:3] == [False, False, True]
    attempts = read_attempts(bench.study.trials[1].user_attrs)
    assert [str(each.cause) for each in attempts] == ["stopped", "ok"]
    assert len({each.id for each in attempts}) == 2


def test_a_result_that_was_heard_but_not_told_is_not_run_again(bench: Bench) -> None:
    trial = bench.study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr(
        "attempts",
        [{"id": "0.1.a", "start": "t", "end": "t", "cause": "ok", "values": [0.25]}],
    )

    def objective(trial: Any) -> float:
        raise AssertionError("it was finished already")

    bench.run(objective, trials=1)
    assert bench.study.trials[0].value == 0.25


class Scripted:
    """An executor that says what a test tells it to, to show what the coordinator makes of it."""

    capacity = 1
    worst_case = 0.0
    description = "scripted"

    def __init__(self, *answers: Callable[[Task], list[AnyEvent]]) -> None:
        self.answers = list(answers)
        self.tasks: list[Task] = []
        self.replies: list[AnyReply] = []

    def submit(self, task: Task) -> Handle:
        self.tasks.append(task)
        return {"call": task.attempt}

    def attach(self, task: Task, handle: Handle) -> bool:
        return False

    def events(self, timeout: float) -> list[AnyEvent]:
        return self.answers.pop(0)(self.tasks[-1])

    def reply(self, attempt: str, reply: AnyReply) -> None:
        self.replies.append(reply)

    def stop(self, attempt: str) -> None:
        raise AssertionError("nothing is stopped here")

    def other_costs(self) -> float:
        return 0.0

    def discard(self, place: str) -> None:
        pass

    def close(self) -> None:
        pass


def done(task: Task, value: float, sequence: int = 0, **more: Any) -> Done:
    return Done(attempt=task.attempt, sequence=sequence, state="complete", values=(value,), **more)


def test_repeats_and_latecomers_are_dropped(bench: Bench) -> None:
    def first(task: Task) -> list[AnyEvent]:
        report = Report(attempt=task.attempt, sequence=0, step=1, value=0.5)
        late = Report(attempt="0.0.superseded", sequence=99, step=2, value=9.0)
        other = Report(attempt=task.attempt, sequence=0, step=3, value=9.0)
        return [report, late, other, report]

    executor = Scripted(first, lambda task: [done(task, 1.0, 1), done(task, 2.0, 2)])
    bench.run(lambda trial: 0.0, trials=1, executor=executor)
    (trial,) = bench.study.trials
    assert (trial.value, trial.intermediate_values) == (1.0, {1: 0.5})
    assert len(executor.replies) == 1


def test_done_alone_carries_the_whole_trial(bench: Bench) -> None:
    executor = Scripted(
        lambda task: [
            done(
                task,
                1.0,
                curve=((1, 0.5), (2, 0.75)),
                user_attrs={"metrics": {"roc_auc": 1.0}},
                constraints={"recall": -0.5},
            )
        ]
    )
    bench.run(lambda trial: 0.0, trials=1, executor=executor)
    (trial,) = bench.study.trials
    assert trial.intermediate_values == {1: 0.5, 2: 0.75}
    assert trial.user_attrs["metrics"] == {"roc_auc": 1.0}
    assert trial.constraints == {"recall": -0.5}


def lost(task: Task) -> list[AnyEvent]:
    return [Failed(attempt=task.attempt, sequence=0, cause=Cause.LOST, message="gone")]


def test_a_lost_attempt_is_tried_again_and_an_attempt_has_its_handle(bench: Bench) -> None:
    executor = Scripted(lost, lost, lambda task: [done(task, 1.0)])
    bench.run(lambda trial: 0.0, trials=1, executor=executor)
    attempts = read_attempts(bench.study.trials[0].user_attrs)
    assert [str(each.cause) for each in attempts] == ["lost", "lost", "ok"]
    assert [each.handle for each in attempts] == [{"call": each.id} for each in attempts]
    assert [task.resume for task in executor.tasks] == [False, True, True]
    assert len({task.seed for task in executor.tasks}) == 1


def test_a_trial_that_kills_every_worker_fails_in_the_end(bench: Bench) -> None:
    executor = Scripted(lost, lost, lost, lambda task: [done(task, 1.0)])
    bench.run(lambda trial: 0.0, trials=1, executor=executor, retries=2)
    assert bench.states() == ["FAIL", "COMPLETE"]


def test_trial_seeds_are_stable_and_differ() -> None:
    assert trial_seed(0, 1) == trial_seed(0, 1)
    seeds = {trial_seed(study, number) for study in range(10) for number in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_killed_worker_costs_an_attempt_not_a_trial(bench: Bench, tmp_path: Path) -> None:
    reference = "tests.hpo.sample_objectives:dies_once"
    executor = LocalExecutor(tmp_path, workers=2)
    try:
        objective = load_objective(ObjectiveSpec(reference=reference))
        bench.run(objective, trials=4, executor=executor, reference=reference)
    finally:
        executor.close()
    assert bench.states() == ["COMPLETE"] * 4
    attempts = read_attempts(bench.study.trials[1].user_attrs)
    assert [str(each.cause) for each in attempts] == ["lost", "ok"]
    assert all(trial.state is TrialState.COMPLETE for trial in bench.study.trials)


def test_a_pruning_that_was_heard_but_not_told_is_not_run_again(bench: Bench) -> None:
    trial = bench.study.ask()
    trial.report(0.5, 1)
    trial.set_user_attr("attempts", [{"id": "0.1.a", "start": "t", "end": "t", "cause": "pruned"}])

    def objective(trial: Any) -> float:
        raise AssertionError("it was finished already")

    bench.run(objective, trials=1)
    assert bench.states() == ["PRUNED"]
