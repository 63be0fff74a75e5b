"""Finalists with new seeds, the winner, and the one opening of the test split."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

import hpo
import storage as storages
from hpo.attempts import Attempt
from hpo.budget import Ledger
from hpo.cli import app
from hpo.errors import InputError
from hpo.evaluation import COMPARISON, EVALUATION, EVALUATION_ATTEMPTS, OPENINGS
from hpo.executors import Handle
from hpo.executors.inline import InlineExecutor
from hpo.finalists import FINALIST_ATTEMPTS, FINALISTS, WINNER
from hpo.protocol import NO_TRIAL, SCORES, AnyEvent, Cause, Failed, Task, Usage
from hpo.status import Status
from tests.hpo.paying import Fate, Paying
from tests.hpo.test_coordinator import Bench


class Lottery:
    """An objective whose value is its parameter and the luck of its seed; it evaluates a winner.

    Args:
        luck: Says from trial number and directory how lucky a run is.
    """

    metric_name = "points"
    direction = "maximize"
    frugality = ("size",)

    def __init__(self, luck: Callable[[int, str], float] = lambda number, place: 0.0) -> None:
        self.luck = luck
        self.seeds: list[tuple[str, int]] = []
        self.asked: list[tuple[dict[str, Any], Path | None, Path]] = []
        self.fails: set[str] = set()

    def __call__(self, trial: Any) -> float:
        current = hpo.current_attempt()
        place = current.directory.name
        x = trial.suggest_int("x", 0, 9)
        self.seeds.append((place, current.seed))
        assert current.test is None
        trial.report(-1.0, 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        if place in self.fails:
            raise ZeroDivisionError(place)
        (current.directory / "model").mkdir()
        trial.set_user_attr("model", str(current.directory / "model"))
        trial.set_user_attr("metrics", {"size": x, "threshold": 0.5})
        trial.set_user_attr(SCORES, base64.b64encode(struct.pack("<f", x)).decode())
        return x + self.luck(trial.number, place)

    def evaluate(self, trial: Any) -> float:
        current = hpo.current_attempt()
        question = trial.user_attrs["final"]
        self.asked.append((question, current.test, current.assets["hpo:winner"]))
        trial.set_user_attr(
            COMPARISON,
            {
                "pairs": 4,
                "candidates": [
                    {
                        "trial": each["trial"],
                        "run": each["run"],
                        "difference": {"value": 0.0, "low": -1.0, "high": 1.0},
                        "as_good": True,
                    }
                    for each in question["candidates"]
                ],
            },
        )
        if current.test is not None:
            measures = {"roc_auc": {"value": 0.9, "low": 0.8, "high": 0.95}}
            trial.set_user_attr(EVALUATION, {"pairs": 7, "measures": measures, "baselines": []})
        return 0.9


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "test.jsonl").write_text("for the winner alone")
    return Bench(tmp_path, direction="maximize")


def attrs(bench: Bench) -> dict[str, Any]:
    return bench.study.user_attrs


def test_the_best_run_again_with_new_seeds_and_one_wins(bench: Bench) -> None:
    objective = Lottery()
    bench.run(objective, 12, finalists=3, seeds=2)
    values = sorted({t.params["x"] for t in bench.study.trials}, reverse=True)[:3]
    winner = attrs(bench)[WINNER]
    assert [each["mean"] for each in winner["ranking"]] == values
    assert winner["mean"] == values[0]
    assert winner["std"] == 0.0
    assert winner["search"]["optimism"] == 0.0
    assert len(attrs(bench)[FINALISTS]) == 6
    own = [seed for place, seed in objective.seeds if "-" in place]
    assert len(set(own)) == 6
    assert not set(own) & {s for p, s in objective.seeds if "-" not in p}
    assert len(bench.study.trials) == 12
    assert bench.watcher.status is not None
    assert bench.watcher.status.finals == (6, 6)


def test_luck_in_the_search_does_not_win(bench: Bench) -> None:
    """One trial of the search was lucky; over fresh seeds it is not, and that is said."""
    lucky: list[int] = []

    def luck(number: int, place: str) -> float:
        if not lucky:
            lucky.append(number)
        return 20.0 if number == lucky[0] and "-" not in place else 0.0

    bench.run(Lottery(luck), 12, finalists=2, seeds=3)
    winner = attrs(bench)[WINNER]
    assert bench.study.best_trial.number == lucky[0]
    by_number = {each["trial"]: each for each in winner["ranking"]}
    assert by_number[lucky[0]]["mean"] < winner["mean"]
    assert winner["search"]["trial"] == lucky[0]
    assert winner["search"]["optimism"] == pytest.approx(20.0)
    assert winner["mean"] == max(each["mean"] for each in winner["ranking"])


def test_no_finalist_is_pruned(bench: Bench) -> None:
    bench.study.pruner = optuna.pruners.ThresholdPruner(lower=0.0, n_warmup_steps=0)
    objective = Lottery()
    bench.study.enqueue_trial({"x": 3})
    bench.study.add_trial(
        optuna.trial.create_trial(
            value=3.0,
            params={"x": 3},
            distributions={"x": optuna.distributions.IntDistribution(0, 9)},
        )
    )
    bench.run(objective, 3, finalists=1, seeds=2)
    assert [each.state for each in bench.study.trials].count(TrialState.PRUNED) == 2
    assert [each["value"] for each in attrs(bench)[FINALISTS]] == [3.0, 3.0]


def test_the_test_split_is_opened_once_and_for_the_winner_alone(bench: Bench) -> None:
    objective = Lottery()
    bench.run(objective, 8, finalists=2, seeds=2)
    ((question, test, model),) = objective.asked
    assert test == bench.directory / "test.jsonl"
    winner = attrs(bench)[WINNER]
    assert model == Path(winner["model"])
    assert model.is_dir()
    assert (question["winner"]["trial"], question["winner"]["run"]) == (winner["trial"], 1)
    (opening,) = attrs(bench)[OPENINGS]
    assert (opening["trial"], opening["run"], opening["by"]) == (winner["trial"], 1, "run")
    assert attrs(bench)[EVALUATION]["measures"]["roc_auc"]["value"] == 0.9
    bench.run(objective, 8, finalists=2, seeds=2)  # the same command
    assert len(objective.asked) == 1
    assert len(attrs(bench)[OPENINGS]) == 1


def test_a_study_that_goes_on_repeats_no_run_and_opens_nothing_again(bench: Bench) -> None:
    objective = Lottery()
    bench.study.enqueue_trial({"x": 4})
    bench.study.enqueue_trial({"x": 5})
    bench.study.enqueue_trial({"x": 3})
    bench.run(objective, 3, finalists=2, seeds=2)
    before = list(objective.seeds)
    bench.study.enqueue_trial({"x": 9})
    bench.run(objective, 4, finalists=2, seeds=2)
    new = [place for place, _ in objective.seeds[len(before) :]]
    assert new == ["3", "3-1", "3-2"]
    assert attrs(bench)[WINNER]["trial"] == 3
    assert [test for _, test, _ in objective.asked] == [bench.directory / "test.jsonl", None]
    assert len(attrs(bench)[OPENINGS]) == 1
    assert attrs(bench)[EVALUATION]["trial"] == 1
    assert attrs(bench)[COMPARISON]["trial"] == 3


def test_the_cheapest_that_is_as_good_is_named(bench: Bench) -> None:
    objective = Lottery()
    for x in (7, 2, 9, 4):
        bench.study.enqueue_trial({"x": x})
    bench.run(objective, 4, finalists=2, seeds=1)
    ((question, _, _),) = objective.asked
    # The other finalist with a run of its own, then the front; cheaper is smaller here.
    assert [(each["trial"], each["run"]) for each in question["candidates"]] == [
        *((0, 1), (0, None), (3, None), (1, None)),
    ]
    assert struct.unpack("<f", base64.b64decode(question["winner"]["scores"])) == (9.0,)
    cheapest = attrs(bench)[COMPARISON]["cheapest"]
    assert (cheapest["trial"], cheapest["run"]) == (1, None)
    assert cheapest["saves"] == {"size": [2.0, 9.0]}
    assert SCORES not in {key for trial in bench.study.trials for key in trial.user_attrs}


def test_weights_that_cannot_win_are_removed(bench: Bench) -> None:
    bench.run(Lottery(lambda number, place: place.endswith("-2") * 0.1), 6, finalists=2, seeds=3)
    left = sorted(path.name for path in (bench.directory / "finalists").iterdir())
    numbers = sorted(each["trial"] for each in attrs(bench)[WINNER]["ranking"])
    assert left == [f"{number}-2" for number in numbers]


def test_a_configuration_that_fails_with_a_seed_cannot_win(bench: Bench) -> None:
    objective = Lottery()
    for x in (9, 5):
        bench.study.enqueue_trial({"x": x})
    objective.fails = {"0-2"}
    bench.run(objective, 2, finalists=2, seeds=3)
    winner = attrs(bench)[WINNER]
    assert winner["trial"] == 1
    assert winner["ranking"][-1]["why"] == "1 of its 3 runs did not finish"
    objective.fails = set()
    count = len(objective.seeds)
    bench.run(objective, 2, finalists=2, seeds=3)
    assert len(objective.seeds) == count  # a bug is not tried again


def test_rules_hold_over_the_seeds(bench: Bench) -> None:
    from hpo.requirements import parse_requirements

    objective = Lottery(lambda number, place: -6.0 if place.startswith("0-") else 0.0)
    for x in (9, 5):
        bench.study.enqueue_trial({"x": x})
    bench.run(objective, 2, finalists=2, seeds=2, requirements=parse_requirements(["points>=4"]))
    winner = attrs(bench)[WINNER]
    assert winner["trial"] == 1
    assert "points>=4" in winner["ranking"][-1]["why"]


class Dying(InlineExecutor):
    """Loses what it is told to lose, and can be stopped after so many attempts."""

    def __init__(self, objective: Any, lose: Callable[[Task], bool]) -> None:
        super().__init__(objective)
        self.tasks: list[Task] = []
        self._lose = lose
        self._lost: list[AnyEvent] = []

    def submit(self, task: Task) -> Handle:
        self.tasks.append(task)
        if not self._lose(task):
            return super().submit(task)
        failed = Failed(attempt=task.attempt, sequence=0, cause=Cause.LOST, message="killed")
        self._lost.append(failed)
        return {}

    def events(self, timeout: float) -> list[AnyEvent]:
        lost, self._lost = self._lost, []
        return lost or super().events(timeout)


def test_a_lost_run_is_made_again_and_a_lost_evaluation_opens_once(bench: Bench) -> None:
    seen: set[str] = set()

    def first_time(task: Task) -> bool:
        known = task.place in seen
        seen.add(task.place)
        return not known and not task.place.startswith("trials/")

    objective = Lottery()
    executor = Dying(objective, first_time)
    bench.run(objective, 3, executor=executor, finalists=1, seeds=2)
    assert attrs(bench)[WINNER] is not None
    assert EVALUATION in attrs(bench)
    assert len(attrs(bench)[OPENINGS]) == 1
    causes = [
        each["cause"]
        for kind in (FINALIST_ATTEMPTS, EVALUATION_ATTEMPTS)
        for one in attrs(bench)[kind]
        for each in one["attempts"]
    ]
    assert causes == ["lost", "ok"] * 3
    tests = [task.test for task in executor.tasks if task.test is not None]
    assert len(tests) == 2
    assert {task.number for task in executor.tasks if task.test} == {NO_TRIAL}


def test_what_is_lost_too_often_is_left_to_the_next_run(bench: Bench) -> None:
    objective = Lottery()
    executor = Dying(objective, lambda task: task.place.endswith("-2"))
    bench.run(objective, 3, executor=executor, finalists=1, seeds=3, retries=1)
    assert WINNER not in attrs(bench)
    assert not objective.asked
    assert any("lost too often" in text for text in said(bench, "stop"))
    bench.run(objective, 3, finalists=1, seeds=3)
    assert attrs(bench)[WINNER] is not None
    assert len(attrs(bench)[OPENINGS]) == 1


@pytest.mark.parametrize("after", range(1, 8))
def test_a_coordinator_that_died_is_followed(bench: Bench, after: int) -> None:
    """Killed after any attempt of the finals, the study ends the same, and nothing is repeated."""
    objective = Lottery()
    for x in (9, 5, 7):
        bench.study.enqueue_trial({"x": x})
    started = 0

    class Killed(BaseException):
        pass

    def dies(task: Task) -> bool:
        nonlocal started
        started += not task.place.startswith("trials/")
        if started == after:
            raise Killed
        return False

    with pytest.raises(Killed):
        bench.run(objective, 3, executor=Dying(objective, dies), finalists=2, seeds=3)
    bench.run(objective, 3, finalists=2, seeds=3)
    places = [place for place, _ in objective.seeds if "-" in place]
    assert sorted(places) == ["0-1", "0-2", "0-3", "2-1", "2-2", "2-3"]
    assert attrs(bench)[WINNER]["trial"] == 0
    assert len(objective.asked) == 1
    assert len(attrs(bench)[OPENINGS]) == 1


def test_a_search_that_a_target_ends_has_finals_too(bench: Bench) -> None:
    bench.study.enqueue_trial({"x": 9})
    coordinator = bench.run(Lottery(), 50, target=9.0, finalists=1, seeds=1)
    assert "--target" in coordinator.ended_early
    assert EVALUATION in attrs(bench)


def test_ctrl_c_begins_no_finals(bench: Bench) -> None:
    objective = Lottery()
    coordinator = bench.coordinator(objective, 50, finalists=1, seeds=1)
    coordinator.drain("interrupted")
    coordinator.run()
    assert FINALISTS not in attrs(bench)


def test_finalists_of_a_plain_objective_are_on_request(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hpo.db"
    options: dict[str, Any] = {"storage": url, "out": tmp_path, "executor": "inline"}

    def objective(trial: Any) -> float:
        return float(trial.suggest_float("x", 0, 1))

    study = hpo.optimize(objective, trials=3, progress=False, **options)
    assert WINNER not in study.user_attrs
    study = hpo.optimize(objective, trials=3, finalists=2, seeds=2, progress=False, **options)
    assert study.user_attrs[WINNER]["trial"] == study.best_trial.number
    assert EVALUATION not in study.user_attrs


def test_several_directions_have_no_finalists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finalists needs one best trial"):
        hpo.optimize(
            lambda trial: (1.0, 2.0),
            direction=("minimize", "maximize"),
            finalists=2,
            executor="inline",
            storage=f"sqlite:///{tmp_path}/hpo.db",
            out=tmp_path,
        )


def test_the_search_leaves_money_for_the_finals(bench: Bench) -> None:
    executor = Paying(Lottery(), lambda task: Fate(0.5))
    plan = {"executor": executor, "finalists": 2, "seeds": 2}
    coordinator = bench.run(executor.objective, 100, max_cost=10.0, **plan)
    assert "about $2.50 are kept for the finalists" in coordinator.ended_early
    assert executor.bill == 9.5
    assert len(bench.study.trials) == 14
    assert EVALUATION in attrs(bench)


def test_finals_that_cost_more_than_is_left_go_on_with_a_higher_limit(bench: Bench) -> None:
    executor = Paying(
        Lottery(), lambda task: Fate(1.0 if task.place.startswith("finalists") else 0.5)
    )
    plan = {"executor": executor, "finalists": 2, "seeds": 2}
    coordinator = bench.run(executor.objective, 100, max_cost=10.0, **plan)
    assert executor.bill <= coordinator.status.spent <= 10.0
    assert WINNER not in attrs(bench)
    assert any("the finals are not finished: --max-cost 10" in each for each in said(bench, "stop"))
    finished = len(bench.study.trials)
    bench.run(executor.objective, finished, max_cost=13.0, **plan)
    assert EVALUATION in attrs(bench)
    places = [task.place for task in executor.submitted if task.place.startswith("finalists")]
    assert len(places) == len(set(places)) == 4


@pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)
def test_the_view_and_the_commands_have_the_winner(tmp_path: Path, url: str) -> None:
    """The best of the search was lucky; all who ask for the best parameters get the winner's."""
    (tmp_path / "test.jsonl").touch()
    objective = Lottery(lambda number, place: 20.0 if place == "0" else 0.0)
    storage = storages.open_storage(url)
    storages.create_views(storage)
    bench = Bench(tmp_path, direction="maximize")
    bench.storage = storage
    bench.study = optuna.create_study(storage=storage, study_name="bench", direction="maximize")
    for x in (2, 7):
        bench.study.enqueue_trial({"x": x})
    bench.run(objective, 2, finalists=2, seeds=2)
    assert bench.study.best_trial.number == 0
    with storage.engine.connect() as connection:
        row = connection.exec_driver_sql("select number, value from hpo_best").one()
    assert tuple(row) == (1, 7.0)
    said = CliRunner().invoke(app, ["best", "--storage", url])
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("trial 1 ")
    assert "final trial 1 wins: 7.0000 ± 0.0000 over 2 new seeds · trial 0 2.0000" in said.stdout
    assert "optimism of the search +20.0000: its best, trial 0, had 22.0000" in said.stdout
    assert "0.9000 (0.8000 to 0.9500)" in said.stdout
    assert "the test split was opened once" in said.stdout
    found = json.loads(CliRunner().invoke(app, ["best", "--json", "--storage", url]).stdout)
    assert (found["number"], found["winner"]["run"]) == (1, 1)
    assert len(found["openings"]) == 1


def said(bench: Bench, kind: str) -> list[str]:
    return [moment.text for moment in bench.watcher.moments if moment.kind == kind]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({EVALUATION: {"measures": {}}}, "evaluate set evaluation.pairs: Field required"),
        ({EVALUATION: 7}, "evaluate set evaluation"),
        ({COMPARISON: {"pairs": 1, "candidates": [{}]}}, "evaluate set comparison.candidates.0"),
    ],
)
def test_an_answer_that_is_none_is_refused_and_says_why(
    bench: Bench, answer: dict[str, Any], why: str
) -> None:
    class Garbling(Lottery):
        def evaluate(self, trial: Any) -> float:
            for key, value in answer.items():
                trial.set_user_attr(key, value)
            return 1.0

    bench.run(Garbling(), 2, finalists=1, seeds=1)
    (text,) = said(bench, "failed")
    assert why in text
    assert EVALUATION not in attrs(bench)
    assert len(attrs(bench)[OPENINGS]) == 1
    bench.run(Garbling(), 2, finalists=1, seeds=1)  # a bug is not tried again
    assert len(said(bench, "failed")) == 1


def test_an_answer_without_candidates_is_one(bench: Bench) -> None:
    class Silent(Lottery):
        def evaluate(self, trial: Any) -> float:
            trial.set_user_attr(COMPARISON, {"pairs": 1, "candidates": []})
            return 1.0

    bench.run(Silent(), 6, finalists=2, seeds=1)
    assert attrs(bench)[COMPARISON]["cheapest"] is None


def test_what_full_trials_cost_is_not_told_by_baselines() -> None:
    """Neither in the run that scored them nor in the next, which reads what was paid."""
    study = optuna.create_study()
    status = Status(study="s", metric=None, maximize=True, trials=1)
    ledger = Ledger(study, status, 10.0, 1.0)
    ledger.settle(Attempt.new(NO_TRIAL, 1).id, Usage(seconds=1, dollars=0.01), full=True)
    assert ledger.expected(2) == 0.0
    ledger.settle(Attempt.new(0, 1).id, Usage(seconds=1, dollars=0.5), full=True)
    assert ledger.expected(2) == 1.0
