"""``--design grid``: every combination once, and how many there are said first."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState

import hpo
from hpo.design import count_combinations, settle, settle_beforehand
from hpo.dry_run import describe_plan
from hpo.errors import InputError, StudyStoppedError
from hpo.grid import GridSampler, has_more
from hpo.settings import Settings, check, load
from hpo.study import run_study
from objectives import FineTune
from tests.hpo import grid_objectives
from tests.hpo.grid_objectives import COMBINATIONS, Offers, RunsOut
from tests.hpo.support import Watcher
from tests.objectives.conftest import pairs_file, tiny_model

__all__ = ["pairs_file", "tiny_model"]  # fixtures

Space = tuple[str, list[Any]]
"""A parameter's name and, by level, the space below it; ``None`` for a leaf."""


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def spaces(depth: int = 0) -> st.SearchStrategy[Space | None]:
    """Return conditional spaces; a name may stand for other levels in another branch."""
    below = st.none() if depth == 3 else st.deferred(lambda: spaces(depth + 1))
    names = st.sampled_from([f"{letter}{depth}" for letter in "ab"])
    node = st.tuples(names, st.lists(below, min_size=1, max_size=3))
    return node if depth == 0 else st.one_of(st.none(), node)


def leaves(space: Space | None) -> list[tuple[tuple[str, int], ...]]:
    if space is None:
        return [()]
    name, children = space
    return [
        ((name, level), *rest) for level, below in enumerate(children) for rest in leaves(below)
    ]


class PausedError(Exception):
    """A worker that has shown one more parameter and is interrupted there."""


def walk(space: Space | None, trial: Any, one_step: bool = False) -> None:
    """Ask for the parameters of a trial, or only for the next one."""
    while space is not None:
        name, children = space
        is_new = one_step and name not in trial.params
        space = children[trial.suggest_int(name, 0, len(children) - 1)]
        if is_new:
            raise PausedError


class Bench:
    """Asks and tells as a coordinator does, in an order that ``source`` decides."""

    def __init__(self, space: Space, source: random.Random) -> None:
        self.space = space
        self.source = source
        self.storage = InMemoryStorage()
        optuna.create_study(study_name="s", storage=self.storage)
        self.resume()

    def resume(self) -> None:
        """Go on as another process that knows nothing."""
        self.study = optuna.load_study(
            study_name="s",
            storage=self.storage,
            sampler=GridSampler(self.source.randrange(1000)),
        )

    def run(self, at_once: bool) -> None:
        for _ in range(10_000):
            running = self.study.get_trials(states=(TrialState.RUNNING,))
            move = self.source.random()
            if move < 0.05:
                self.resume()
            elif len(running) < 4 and move < 0.5 and has_more(self.study):
                trial = self.study.ask()
                if at_once:
                    walk(self.space, trial)
            elif running:
                self.step(self.source.choice(running)._trial_id)
            elif not has_more(self.study):
                return
        raise AssertionError("it never ends")

    def step(self, trial_id: int) -> None:
        trial = Trial(self.study, trial_id)
        try:
            walk(self.space, trial, one_step=True)
        except PausedError:
            return
        state = self.source.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
        self.study.tell(trial, 0.0 if state is TrialState.COMPLETE else None, state=state)


def tried(study: optuna.Study) -> Counter[tuple[tuple[str, Any], ...]]:
    return Counter(tuple(trial.params.items()) for trial in study.trials)


@settings(deadline=None)
@given(spaces(), st.integers(0, 2**32), st.booleans())
def test_every_leaf_is_tried_once_in_any_order_of_events(
    space: Space, order: int, at_once: bool
) -> None:
    bench = Bench(space, random.Random(order))
    bench.run(at_once)
    expected = leaves(space)
    assert tried(bench.study) == Counter(expected)
    found = count_combinations(lambda trial: walk(space, trial))
    assert found.count == len(expected)


def test_the_first_trials_are_a_fair_sample() -> None:
    space: Space = ("model", [("size", [None] * 20)] * 2)
    bench = Bench(space, random.Random(0))
    models = []
    for _ in range(20):
        trial = bench.study.ask()
        walk(space, trial)
        models.append(trial.params["model"])
        bench.study.tell(trial, 0.0)
    assert 6 <= models.count(0) <= 14


def test_a_trial_that_failed_before_its_first_parameter_counts_for_nothing() -> None:
    bench = Bench(("x", [None, None]), random.Random(0))
    bench.study.tell(bench.study.ask(), state=TrialState.FAIL)
    bench.run(at_once=False)
    assert tried(bench.study) == Counter([(), (("x", 0),), (("x", 1),)])


def test_an_objective_that_asks_at_random_is_refused() -> None:
    study = optuna.create_study(sampler=GridSampler(0))
    study.ask().suggest_int("x", 0, 1)
    with pytest.raises(StudyStoppedError, match=r"after nothing .* asked for y .*for x \(0"):
        study.ask().suggest_int("y", 0, 1)


def test_choices_that_optuna_cannot_tell_apart_are_one_level() -> None:
    def suggest(trial: Any) -> None:
        trial.suggest_categorical("x", [16, 16.0, True, 1, float("nan")])

    study = optuna.create_study(sampler=GridSampler(0))
    assert count_combinations(suggest).count == 3
    for _ in range(3):
        assert has_more(study)
        suggest(trial := study.ask())
        study.tell(trial, 0.0)
    assert not has_more(study)


# Settings.


def test_the_number_of_trials_is_that_of_the_combinations() -> None:
    settled, lines = settle(check({"design": "grid"}), Offers())
    assert (settled.trials, settled.sampler, settled.pruner) == (COMBINATIONS, "grid", "none")
    assert lines == [
        "design grid: 11 combinations (kind 2, rate 3, share 3, depth 2; some apply in their own "
        "branch only)"
    ]


def test_levels_that_all_combine_are_multiplied() -> None:
    def suggest(trial: Any) -> None:
        trial.suggest_categorical("model", ["a", "b"])
        trial.suggest_int("epochs", 1, 3)
        trial.suggest_categorical("loss", ["only"])

    assert str(count_combinations(suggest)) == "6 combinations (model 2 × epochs 3)"


def test_fewer_trials_are_a_part_and_more_are_all() -> None:
    settled, lines = settle(load({"design": "grid", "trials": 4}), Offers())
    assert settled.trials == 4
    assert lines[0].endswith("; 4 of them, drawn evenly by the seed (--trials 4)")
    settled, lines = settle(load({"design": "grid", "trials": 64}), Offers())
    assert settled.trials == COMBINATIONS
    assert lines[0].endswith("; each runs once, so --trials 64 stops there")


def test_what_is_settled_stays_through_json() -> None:
    given = {"design": "grid", "trials": 4, "pruner": "median"}
    settled, _ = settle(check(given), Offers())
    again, _ = settle(check(settled.model_dump(mode="json")), Offers())
    assert again == settled
    assert (again.trials, again.pruner) == (4, "median")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"design": "grid", "sampler": "tpe"}, "--sampler tpe with --design grid: .* leave it out"),
        ({"sampler": "grid"}, "--sampler grid: say --design grid"),
    ],
)
def test_samplers_belong_to_a_search(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settle(load(given), Offers())


def test_a_range_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"temperature \(0..1\) has none but a range: list"):
        hpo.optimize(Offers(low=0), design="grid", executor="inline", progress=False)
    assert list(tmp_path.iterdir()) == []
    assert settle(check({"design": "grid"}), Offers(low=1))[0].trials == COMBINATIONS  # one level


def test_a_slip_of_too_many_combinations_is_refused() -> None:
    with pytest.raises(InputError, match=r"more than 50,000 combinations \(samples 50001 levels"):
        count_combinations(lambda trial: trial.suggest_int("samples", 1, 10**9))


def grid_of(space: dict[str, Any], model: Path, pairs: Path) -> tuple[Settings, FineTune]:
    objective = FineTune(data=str(pairs), models=[str(model), f"{model}@layers=1"], space=space)
    return load({"design": "grid", "space": space}), objective


LEVELS = {
    "num_samples": [64, 128],
    "head_num_samples": [64],
    "dimension": [8, 32],
    "tuning": ["full", "head"],
    "loss": ["CoSENT"],
    "batch_size": [16],
    "warmup": [0.1],
    "head_learning_rate": [1e-3],
    "head_epochs": [2],
}


def test_ranges_of_the_built_in_objective_are_named_with_what_to_write(
    tiny_model: Path, pairs_file: Path
) -> None:
    settings, objective = grid_of(LEVELS, tiny_model, pairs_file)
    with pytest.raises(InputError) as caught:
        settle_beforehand(settings, objective)
    assert str(caught.value) == (
        "--design grid tries every level of a parameter, and learning_rate (3e-05..0.0003) has "
        "none but a range: list them, as in --space learning_rate=3e-05,9.5e-05,0.0003; --design "
        "search draws from ranges."
    )


def test_parameters_count_in_their_own_branch_only(tiny_model: Path, pairs_file: Path) -> None:
    space = {**LEVELS, "learning_rate": [1e-5, 1e-4]}
    settled, lines = settle_beforehand(*grid_of(space, tiny_model, pairs_file))
    full = 2 * 2 * (1 + 2) * 2  # pairs, rates, dimension 32 or 8 in two ways, dropout
    head = 2
    assert settled.trials == 2 * (full + head)
    assert lines[0].startswith("design grid: 52 combinations (base_model 2, tuning 2, num_samples")
    _, lines = settle_beforehand(*grid_of({**space, "tuning": ["head"]}, tiny_model, pairs_file))
    assert lines == ["design grid: 4 combinations (base_model 2 × dimension 2)"]


# Runs.


def run(objective: Any, **changes: Any) -> optuna.Study:
    given = {"design": "grid", "study": "g", "workers": 2, "progress": False, **changes}
    return hpo.optimize(objective, **given)


def count(study: optuna.Study) -> tuple[int, int]:
    """Return how many trials there are, and how many combinations they tried."""
    return len(study.trials), len(tried(study))


@pytest.mark.parametrize("executor", ["inline", "local"])
@pytest.mark.parametrize("objective", [Offers(), grid_objectives.plain])
def test_a_run_tries_every_combination_once(objective: Any, executor: str) -> None:
    study = run(objective, executor=executor)
    assert count(study) == (COMBINATIONS, COMBINATIONS)
    assert count(run(objective, executor=executor)) == (COMBINATIONS, COMBINATIONS)


@pytest.mark.parametrize("objective", [RunsOut(), grid_objectives.out_of_memory])
def test_a_failed_combination_is_not_tried_again(objective: Any) -> None:
    study = run(objective)
    assert count(study) == (COMBINATIONS, COMBINATIONS)
    assert len(study.get_trials(states=(TrialState.FAIL,))) == 2


def test_another_attempt_is_the_same_trial() -> None:
    study = run(grid_objectives.dies_once)
    assert count(study) == (COMBINATIONS, COMBINATIONS)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_several_directions_need_nothing_more() -> None:
    study = run(grid_objectives.two_values, direction=("minimize", "maximize"))
    assert count(study) == (COMBINATIONS, COMBINATIONS)


def test_a_plain_objective_with_a_range_is_refused_when_it_asks() -> None:
    with pytest.raises(StudyStoppedError, match=r"x has none but the range 0\.\.1: list"):
        run(grid_objectives.a_range, executor="inline")


def test_a_part_is_completed_later() -> None:
    assert count(run(Offers(), trials=4)) == (4, 4)
    assert count(run(Offers())) == (COMBINATIONS, COMBINATIONS)


def test_a_design_cannot_change() -> None:
    run(Offers(), trials=2, executor="inline")
    with pytest.raises(InputError, match=r"made with --design grid, not search; .* --study NEW"):
        run(Offers(), design="search", trials=4, executor="inline")


def test_a_combination_that_somebody_repeats_takes_no_place() -> None:
    study = run(Offers(), trials=2, executor="inline")
    first = study.trials[0].params
    study.enqueue_trial(first)
    study.enqueue_trial({"kind": "wide"})  # the rest is drawn, and is none that was tried
    assert count(run(Offers(), trials=4, executor="inline")) == (4, 3)
    study = run(Offers(), executor="inline")
    assert count(study) == (COMBINATIONS + 1, COMBINATIONS)
    assert tried(study)[tuple(first.items())] == 2


def test_old_trials_that_fit_are_not_tried_again() -> None:
    run(Offers(), study="old", design="search", trials=20, executor="inline", sampler="random")
    study = run(Offers(), from_study="old", executor="inline")
    repeats = 20 - len(tried(optuna.load_study(study_name="old", storage="sqlite:///hpo.db")))
    assert repeats > 0
    assert count(study) == (COMBINATIONS + repeats, COMBINATIONS)


def test_the_header_says_the_design_and_the_number_first() -> None:
    said: list[str] = []
    given = check({"design": "grid", "study": "g", "executor": "inline"})
    run_study(Offers(), None, given, [Watcher()], said.append)
    assert said[0].startswith("study g · 11 trials · ")
    assert said[1].startswith("design grid: 11 combinations (kind 2, ")


def test_a_dry_run_says_it_too() -> None:
    lines = describe_plan(Offers(), check({"design": "grid", "executor": "inline"}))
    assert lines[0].startswith("design grid: 11 combinations")
    assert any(line.startswith("trials   11 finished") for line in lines)
    assert "sampler  grid, pruner none, seed 0" in lines


def test_a_killed_run_goes_on_with_what_is_left() -> None:
    command = [sys.executable, "-m", "hpo.run", "--objective", "grid_slow:slow", "--workers", "2"]
    command += ["--design", "grid", "--executor", "local", "--study", "g"]
    Path("grid_slow.py").write_bytes(Path(grid_objectives.__file__).read_bytes())
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and finished() < 4:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert 4 <= finished() < COMBINATIONS
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    study = optuna.load_study(study_name="g", storage="sqlite:///hpo.db")
    assert count(study) == (COMBINATIONS, COMBINATIONS)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def finished() -> int:
    """Count the finished trials, without what Optuna writes when it opens a database."""
    try:
        with closing(sqlite3.connect("file:hpo.db?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'")
            return int(rows.fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0
