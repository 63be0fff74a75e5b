"""A study that begins with the trials of another, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import InputError
from hpo.importing import IMPORTED, TrialImport, comparable
from hpo.publishing import publish_best
from hpo.record import RECORD, StudyRecord
from hpo.requirements import parse_requirements
from objectives import FineTune
from storage import open_storage


class Space:
    """An objective with a conditional space and a value that one formula gives."""

    metric_name = "score"
    search_options = ("high", "kinds")

    def __init__(self, high: float = 1.0, kinds: tuple[str, ...] = ("a", "b")) -> None:
        self.high = high
        self.kinds = kinds

    def suggest(self, trial: Any) -> None:
        trial.suggest_float("x", 0, self.high)
        if trial.suggest_categorical("kind", self.kinds) == "b":
            trial.suggest_int("layers", 1, 4)

    def __call__(self, trial: Any) -> float:
        self.suggest(trial)
        trial.set_user_attr("metrics", {"recall": 1 - trial.params["x"]})
        trial.report(trial.params["x"], 1)
        if trial.number % 7 == 6:
            raise optuna.TrialPruned
        if trial.number % 7 == 5:
            raise RuntimeError("fails")
        return float(trial.params["x"])


def plain(trial: Any) -> float:
    return float(Space()(trial))


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RDBStorage:
    if request.param == "sqlite":
        return open_storage(f"sqlite:///{tmp_path}/hpo.db")
    return open_storage(request.getfixturevalue("postgres_url"))


@pytest.fixture
def sqlite(tmp_path: Path) -> RDBStorage:
    return open_storage(f"sqlite:///{tmp_path}/hpo.db")


def record(directory: str = "runs/none", **changes: Any) -> StudyRecord:
    fields: dict[str, Any] = {"objective": "m:Space", "options": {"high": 1.0}, "seed": 0}
    return StudyRecord(**{**fields, "directory": directory, **changes})


def make_old(
    storage: RDBStorage, trials: int = 14, objective: Any = None, **changes: Any
) -> optuna.Study:
    study = optuna.create_study(
        study_name="old", storage=storage, sampler=optuna.samplers.RandomSampler(seed=1)
    )
    study.set_user_attr(RECORD, record(**changes).model_dump())
    study.optimize(objective or Space(), trials, catch=RuntimeError)
    return study


def plan(
    storage: RDBStorage, objective: Any = None, require: tuple[str, ...] = (), **changes: Any
) -> TrialImport:
    arguments: dict[str, Any] = {
        "source": "old",
        "target": "new",
        "record": record(),
        "directions": ["minimize"],
    }
    return TrialImport.plan(
        storage,
        objective=objective or Space(),
        requirements=parse_requirements(require),
        **{**arguments, **changes},
    )


def new_study(storage: RDBStorage) -> optuna.Study:
    return optuna.create_study(study_name="new", storage=storage, load_if_exists=True)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return [each for each in study.trials if each.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def content(trial: FrozenTrial) -> dict[str, Any]:
    """Return everything of a trial but its number and where it came from."""
    return {
        "state": trial.state,
        "params": trial.params,
        "distributions": trial.distributions,
        "values": trial.values,
        "steps": trial.intermediate_values,
        "attrs": {key: value for key, value in trial.user_attrs.items() if key != IMPORTED},
        "times": (trial.datetime_start, trial.datetime_complete),
    }


def test_finished_trials_arrive_whole(storage: RDBStorage) -> None:
    old = make_old(storage)
    importing = plan(storage)
    assert "new" not in {each.study_name for each in storage.get_all_studies()}
    new = new_study(storage)
    assert importing.write(new, storage) == 12
    assert [content(each) for each in new.trials] == [content(each) for each in finished(old)]
    assert {each.state for each in new.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert [each.user_attrs[IMPORTED] for each in new.trials] == [
        {"study": "old", "number": each.number} for each in finished(old)
    ]
    assert new.best_value == old.best_value
    assert new.user_attrs[IMPORTED] == {"from": "old", "trials": 12, "done": True}
    assert importing.describe() == ["from  old: 12 of 12 trials fit"]


def test_a_trial_is_taken_over_if_the_new_space_would_draw_it(sqlite: RDBStorage) -> None:
    old = make_old(sqlite, 28)
    importing = plan(sqlite, Space(0.5, ("a", "c")))
    new = new_study(sqlite)
    importing.write(new, sqlite)
    fitting = [t for t in finished(old) if t.params["x"] <= 0.5 and t.params["kind"] == "a"]
    assert [trial.params for trial in new.trials] == [trial.params for trial in fitting]
    assert 0 < len(fitting) < len(finished(old))
    for trial in new.trials:
        assert trial.distributions["x"] == optuna.distributions.FloatDistribution(0, 0.5)
    assert sum(importing.skipped.values()) == len(finished(old)) - len(fitting)
    assert set(importing.skipped) == {"x lies outside 0..0.5", "kind lies outside a, c"}
    # They are trials of the new space: Optuna goes on with other choices, and samples jointly.
    new.optimize(Space(0.5, ("a", "c")), 20, catch=RuntimeError)
    assert len(new.trials) == len(fitting) + 20


def test_parameters_that_came_or_went_are_a_misfit(sqlite: RDBStorage) -> None:
    make_old(sqlite)

    class More(Space):
        def suggest(self, trial: Any) -> None:
            super().suggest(trial)
            trial.suggest_int("depth", 1, 2)

    class Fewer(Space):
        def suggest(self, trial: Any) -> None:
            trial.suggest_float("x", 0, 1)

    class Broken(Space):
        def suggest(self, trial: Any) -> None:
            super().suggest(trial)
            raise KeyError("unexpected")

    with pytest.raises(InputError, match=r"trials .*: 12 not: it has no depth\. Leave"):
        plan(sqlite, More())
    with pytest.raises(InputError, match="not: it has kind, layers, for which the objective does"):
        plan(sqlite, Fewer())
    with pytest.raises(InputError, match=r"suggest fails on it \(KeyError: 'unexpected'\)"):
        plan(sqlite, Broken())


def test_requirements_are_judged_anew(storage: RDBStorage) -> None:
    old = make_old(storage, 0)
    old.set_user_attr(RECORD, {**record().model_dump(), "require": ["recall>=0.99"]})
    for x in (0.1, 0.9):
        trial = old.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.set_user_attr("metrics", {"recall": x})
        trial.set_constraint("recall>=0.99", 0.99 - x)
        trial.set_constraint("of the objective", -1.0)
        old.tell(trial, x)
    old.add_trial(
        optuna.create_trial(
            value=0.0,
            params={"x": 0.5},
            distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
        )
    )

    class OnlyX(Space):
        def suggest(self, trial: Any) -> None:
            trial.suggest_float("x", 0, 1)

    importing = plan(storage, OnlyX(), require=("recall>=0.5", "score<=1"))
    new = new_study(storage)
    importing.write(new, storage)
    assert importing.skipped == {"it has no metric 'recall'; it has 'value', 'score'": 1}
    assert [trial.constraints for trial in new.trials] == [
        {"recall>=0.5": 0.4, "score<=1": -0.9, "of the objective": -1.0},
        {"recall>=0.5": -0.4, "score<=1": pytest.approx(-0.1), "of the objective": -1.0},
    ]
    assert new.best_trial.number == 1


def test_again_adds_nothing(storage: RDBStorage) -> None:
    old = make_old(storage)
    new = new_study(storage)
    plan(storage).write(new, storage)
    again = plan(storage)
    assert again.write(new, storage) == 0
    assert again.describe() == []
    # Neither does an old study that has gone on, or gone away.
    old.optimize(Space(), 3)
    assert plan(storage).write(new, storage) == 0
    optuna.delete_study(study_name="old", storage=storage)
    assert plan(storage).write(new, storage) == 0
    assert len(new.trials) == 12


@pytest.mark.parametrize("killed_after", [0, 1, 7, 12])
def test_an_import_cut_short_is_completed(
    storage: RDBStorage, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_old(storage)
    new = new_study(storage)
    create = storage.create_new_trial
    count = 0

    def create_or_die(*arguments: Any, **options: Any) -> int:
        nonlocal count
        if count == killed_after:
            raise KeyboardInterrupt
        count += 1
        return create(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "create_new_trial", create_or_die)
        if killed_after < 12:
            with pytest.raises(KeyboardInterrupt):
                plan(storage).write(new, storage)
        else:
            plan(storage).write(new, storage)
    assert len(new.trials) == killed_after
    plan(storage).write(new, storage)
    assert [content(each) for each in new.trials] == [content(each) for each in finished(old)]
    assert new.user_attrs[IMPORTED]["done"]


def test_without_suggest_a_new_trial_shows_the_space(sqlite: RDBStorage) -> None:
    old = make_old(sqlite, 28, plain)
    importing = plan(sqlite, plain)
    new = new_study(sqlite)
    assert importing.write(new, sqlite) == 0
    assert "24 of 24 trials wait for a new one" in importing.describe()[0]

    def run(high: float, kind: str) -> list[FrozenTrial]:
        trial = new.ask()
        trial.suggest_float("x", 0, high)
        if trial.suggest_categorical("kind", ["a", "b"]) != kind:
            new.tell(trial, state=TrialState.FAIL)
            return run(high, kind)
        if kind == "b":
            trial.suggest_int("layers", 1, 8)
        return importing.learn(new.tell(trial, 1.0))

    of_a = [t for t in finished(old) if t.params["kind"] == "a" and t.params["x"] <= 0.5]
    of_b = [t for t in finished(old) if t.params["kind"] == "b" and t.params["x"] <= 0.5]
    added = run(0.5, "a")
    assert [each.params for each in added] == [each.params for each in of_a]
    assert [new.trials[each.number].params for each in added] == [each.params for each in of_a]
    assert run(0.5, "a") == []
    # Another kind of trial, another part of the space; and a crash before it could be learnt from.
    importing = plan(sqlite, plain)
    assert importing.write(new, sqlite) == 0
    assert [each.params for each in run(0.5, "b")] == [each.params for each in of_b]
    imported = [each for each in new.trials if IMPORTED in each.user_attrs]
    assert new.user_attrs[IMPORTED] == {"from": "old", "trials": len(imported), "done": False}
    assert len(imported) == len(of_a) + len(of_b)
    # The next start learns from the trials that are there.
    assert plan(sqlite, plain).write(new, sqlite) == 0
    assert importing.waiting == len(finished(old)) - len(imported)


def test_a_restart_learns_from_what_has_finished(sqlite: RDBStorage) -> None:
    make_old(sqlite, 4, lambda trial: trial.suggest_float("x", 0, 1))
    new = new_study(sqlite)
    plan(sqlite, plain).write(new, sqlite)
    new.optimize(lambda trial: trial.suggest_float("x", 0, 2), 1)
    assert plan(sqlite, plain).write(new, sqlite) == 4
    assert new.user_attrs[IMPORTED] == {"from": "old", "trials": 4, "done": True}


@pytest.mark.parametrize("stored", [True, False])
def test_a_storage_that_fails_while_it_learns_is_asked_again(
    sqlite: RDBStorage, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(sqlite, 6, lambda trial: trial.suggest_float("x", 0, 1))
    importing, new = plan(sqlite, plain), new_study(sqlite)
    importing.write(new, sqlite)
    trial = new.ask()
    trial.suggest_float("x", 0, 1)
    shown = new.tell(trial, 1.0)
    create: Callable[..., int] = sqlite.create_new_trial
    count = 0

    def fails_once(*arguments: Any, **options: Any) -> int:
        nonlocal count
        count += 1
        if count == 3:
            if stored:  # and the connection broke before it was said
                create(*arguments, **options)
            raise optuna.exceptions.StorageInternalError("gone")
        return create(*arguments, **options)

    monkeypatch.setattr(sqlite, "create_new_trial", fails_once)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        importing.learn(shown)
    added = importing.learn(shown)
    assert sorted(each.number for each in added) == [1, 2, 3, 4, 5, 6]
    assert len(new.trials) == 7
    assert new.user_attrs[IMPORTED] == {"from": "old", "trials": 6, "done": True}


def test_changed_choices_of_a_plain_function_do_no_harm(sqlite: RDBStorage) -> None:
    make_old(sqlite, 6, lambda trial: float(trial.suggest_categorical("k", [1, 2])))
    importing, new = plan(sqlite, plain), new_study(sqlite)
    importing.write(new, sqlite)

    def objective(trial: optuna.Trial) -> float:
        return float(trial.suggest_categorical("k", [2, 3]))

    new.optimize(objective, 1)
    added = importing.learn(new.trials[0])
    assert {each.params["k"] for each in added} <= {2}
    new.optimize(objective, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "none"}, "--from none: there is no such study; the storage has old"),
        ({"source": "new"}, "cannot begin with its own trials"),
        ({"directions": ["maximize"]}, "direction was minimize, now maximize"),
        ({"record": record(seed=3)}, "the seed, which decides the splits, was 0, now 3"),
        ({"record": record(objective="m:Other")}, "the objective was m:Space, now m:Other"),
        ({"record": record(options={"high": 1.0, "data": "b"})}, "data was None, now 'b'"),
    ],
)
def test_what_would_not_compare_is_refused(
    sqlite: RDBStorage, changes: dict[str, Any], message: str
) -> None:
    make_old(sqlite, 2)
    with pytest.raises(InputError, match=message):
        plan(sqlite, **changes)
    assert [each.study_name for each in sqlite.get_all_studies()] == ["old"]


def test_other_data_is_refused_and_lost_data_is_said(sqlite: RDBStorage, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "train.jsonl").write_text("the same")
    make_old(sqlite, 2, directory=str(tmp_path / "old"))
    new = record(str(tmp_path / "new"))
    assert plan(sqlite, record=new).notes == []
    (tmp_path / "old" / "data" / "train.jsonl").write_text("others!!")
    with pytest.raises(InputError, match=r"its data was other than .*train\.jsonl is now"):
        plan(sqlite, record=new)
    (tmp_path / "old" / "data" / "train.jsonl").unlink()
    (tmp_path / "old" / "data").rmdir()
    assert "taken on trust" in plan(sqlite, record=new).describe()[-1]
    # Once begun, what trials of the new study write beside their data does not matter.
    new_study(sqlite).set_user_attr(IMPORTED, {"from": "old", "trials": 0, "done": False})
    (tmp_path / "new" / "data" / "cache").write_text("of a trial")
    assert plan(sqlite, record=new).notes == []


def test_the_built_in_objective_takes_trials_into_another_space(sqlite: RDBStorage) -> None:
    def fine_tune(**options: Any) -> FineTune:
        models = options.get("models", ["a", "b"])
        sizes = {"train_pairs": 9000, "dimensions": dict.fromkeys(models, 384)}
        return FineTune(**{"models": models, "resolved": sizes, **options})

    def made_with(objective: FineTune) -> StudyRecord:
        return record(options=json.loads(json.dumps(objective.options())))

    def objective(trial: optuna.Trial) -> float:
        old.suggest(trial)
        return 0.5

    old = fine_tune()
    new = fine_tune(models=["b", "c"], space={"learning_rate": {"low": 1e-5, "high": 1e-4}})
    study = make_old(sqlite, 40, objective, options=made_with(old).options)
    importing = plan(sqlite, new, record=made_with(new))
    target = new_study(sqlite)
    importing.write(target, sqlite)
    assert [trial.params for trial in target.trials] == [
        trial.params
        for trial in study.trials
        if trial.params["base_model"] == "b" and trial.params.get("learning_rate", 0) <= 1e-4
    ]
    assert 0 < len(target.trials) < 20
    other = fine_tune(validation_pairs=100)
    with pytest.raises(InputError, match=r"validation_pairs was 1600, now 100"):
        plan(sqlite, other, record=made_with(other), target="another")


def test_the_model_of_the_best_trial_is_found_where_it_lies(
    sqlite: RDBStorage, tmp_path: Path
) -> None:
    weights = tmp_path / "old" / "trials" / "0" / "model" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_text("of trial 0")

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("model", str(weights.parent))
        return Space()(trial)

    make_old(sqlite, 1, objective)
    new = new_study(sqlite)
    plan(sqlite).write(new, sqlite)
    best = publish_best(new, tmp_path / "new")
    assert best is not None
    assert best.path is not None
    assert (best.path / "weights").read_text() == "of trial 0" == weights.read_text()


def test_nothing_finished_is_said(sqlite: RDBStorage) -> None:
    make_old(sqlite, 0)
    with pytest.raises(InputError, match="it has no finished trial"):
        plan(sqlite)


def test_a_study_of_plain_optuna_says_nothing_of_its_objective(sqlite: RDBStorage) -> None:
    optuna.create_study(study_name="old", storage=sqlite)
    with pytest.raises(InputError, match="hpo did not make this study"):
        plan(sqlite)


def test_a_study_that_began_otherwise_is_left_alone(sqlite: RDBStorage) -> None:
    make_old(sqlite, 2)
    new = new_study(sqlite)
    new.optimize(Space(), 1)
    with pytest.raises(InputError, match="'new' has trials already"):
        plan(sqlite)
    new.set_user_attr(IMPORTED, {"from": "older", "trials": 0, "done": False})
    with pytest.raises(InputError, match="began with the trials of 'older'"):
        plan(sqlite)


def test_search_options_may_differ() -> None:
    before = record(options={"space": {"x": 1}, "data": "a", "resolved": {"n": 1, "sizes": {}}})
    after = record(options={"space": {}, "data": "a", "resolved": {"n": 1, "sizes": {"m": 3}}})
    assert comparable(before, after, ("space", "resolved.sizes")) == []
    assert comparable(before, after, ("space",)) == ["resolved.sizes.m was None, now 3"]
    assert comparable(before, after, ("sizes", "resolved.sizes")) == ["space.x was 1, now None"]
