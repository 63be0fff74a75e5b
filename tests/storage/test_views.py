"""The views say in SQL what Optuna says in Python."""

from __future__ import annotations

import json
import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage import StorageError, create_views, open_storage

if TYPE_CHECKING:
    from tests.conftest import PostgresServer


def rows(storage: Any, question: str) -> list[dict[str, Any]]:
    with storage.engine.connect() as connection:
        found = connection.exec_driver_sql(question).mappings()
        decoded = [dict(row) for row in found]
    for row in decoded:
        if isinstance(row.get("params"), str):  # SQLite has no type for JSON
            row["params"] = json.loads(row["params"])
    return decoded


def run_study(storage: Any, name: str, direction: str) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction=direction,
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    for _ in range(12):
        trial = study.ask()
        value = trial.suggest_float("rate", 1e-5, 1e-2, log=True)
        trial.suggest_int("size", 2, 64, log=True)
        trial.suggest_categorical("kind", ["a", "it's", None, True, 3, 2.5])
        if trial.number % 2:
            trial.suggest_float("sometimes", 0, 1, step=0.25)
        trial.set_user_attr("metrics", {"roc_auc": value, "f1": 0.5, "seconds": 3})
        costs = [{"cause": "lost", "dollars": 0.25}, {"cause": "ok", "dollars": 0.5}]
        trial.set_user_attr("attempts", costs)
        trial.set_user_attr("model", "runs/x/model")
        study.tell(trial, value)
    trial = study.ask()
    trial.set_user_attr("attempts", [{"cause": "bug"}])
    study.tell(trial, state=TrialState.FAIL)
    study.ask()
    return study


def test_a_row_a_trial_with_decoded_parameters(url: str) -> None:
    storage = open_storage(url)
    study = run_study(storage, "s", "maximize")
    create_views(storage)
    found = rows(storage, "select * from hpo_trials order by number")
    assert [row["state"] for row in found] == [trial.state.name for trial in study.trials]
    for row, trial in zip(found[:12], study.trials, strict=False):
        assert row["params"].pop("rate") == pytest.approx(trial.params["rate"])
        assert row["params"] == {
            name: value for name, value in trial.params.items() if name != "rate"
        }
        assert row["value"] == pytest.approx(trial.value)
        assert row["roc_auc"] == pytest.approx(trial.value)
        assert (row["f1"], row["mcc"]) == (0.5, None)
        assert (row["cause"], row["attempts"], row["model"]) == ("ok", 2, "runs/x/model")
        assert row["dollars"] == 0.75
        assert row["seconds"] == pytest.approx(trial.duration.total_seconds(), abs=2e-3)
    assert (found[12]["cause"], found[12]["dollars"]) == ("bug", None)
    assert found[12]["value"] is None


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_is_optunas_best(url: str, direction: str) -> None:
    storage = open_storage(url)
    create_views(storage)
    studies = [run_study(storage, name, direction) for name in ("one", "two")]
    found = {row["study"]: row for row in rows(storage, "select * from hpo_best")}
    for study in studies:
        row = found[study.study_name]
        assert row["number"] == study.best_trial.number
        assert row["params"]["kind"] == study.best_params["kind"]
        assert row["value"] == pytest.approx(study.best_value)


def test_the_best_is_feasible(url: str) -> None:
    storage = open_storage(url)
    create_views(storage)
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    for value, constraint in [(3.0, 0.5), (2.0, 0.0), (1.0, -1.0)]:
        trial = study.ask()
        trial.set_constraint("recall", constraint)
        study.tell(trial, value)
    (row,) = rows(storage, "select number, value from hpo_best")
    assert row == {"number": 1, "value": 2.0}
    assert study.best_trial.number == 1


def test_infinite_values_and_several_directions(url: str) -> None:
    storage = open_storage(url)
    create_views(storage)
    study = optuna.create_study(storage=storage, study_name="s")
    study.tell(study.ask(), math.inf)
    study.tell(study.ask(), 5.0)
    several = optuna.create_study(
        storage=storage, study_name="front", directions=["minimize", "maximize"]
    )
    several.tell(several.ask(), [1.0, 2.0])
    found = rows(storage, "select study, number, value from hpo_trials order by study, number")
    assert [row["value"] for row in found] == [1.0, math.inf, 5.0]
    assert [row["study"] for row in rows(storage, "select study from hpo_best")] == ["s"]


FLOATS = st.floats(allow_nan=False, width=64)
CONSTRAINTS = st.one_of(
    st.sampled_from([0.0, -0.0, math.inf, -math.inf, 5e-324, -1.0, 0.25]), FLOATS
)


@st.composite
def trials(draw: st.DrawFn) -> FrozenTrial:
    """A trial such as Optuna, an older Optuna and the dashboard leave them."""
    complete = draw(st.integers(0, 3)) > 0
    attrs: dict[str, Any] = {
        f"constraints:{name}": draw(CONSTRAINTS)
        for name in draw(st.lists(st.sampled_from(["recall>=0.5", "mcc", "%s"]), unique=True))
    }
    if draw(st.integers(0, 3)) == 0:
        attrs["constraints"] = draw(st.lists(CONSTRAINTS, max_size=3))
    value = draw(st.one_of(st.sampled_from([math.inf, -math.inf, 0.0, -0.0, 1.0]), FLOATS))
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.FAIL,
        value=value if complete else None,
        system_attrs=attrs,
    )


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A storage with views for all examples of a property."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('views')}/hpo.db"
    else:
        server = request.getfixturevalue("postgres_server")
        server.execute("CREATE DATABASE views_of_all_examples")
        url = server.url("views_of_all_examples")
    storage = open_storage(url)
    create_views(storage)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@settings(max_examples=25, deadline=None)
@given(
    direction=st.sampled_from(["minimize", "maximize"]), given_trials=st.lists(trials(), max_size=6)
)
def test_the_best_is_optunas_best_whatever_the_constraints(
    shared: Any, direction: str, given_trials: list[FrozenTrial]
) -> None:
    study = optuna.create_study(storage=shared, direction=direction)
    for trial in given_trials:
        study.add_trial(trial)
    found = rows(shared, f"select * from hpo_best where study = '{study.study_name}'")
    try:
        best = study.best_trial
    except ValueError:  # no trial is complete and feasible
        assert found == []
        return
    feasible = [
        trial
        for trial in study.get_trials(states=(TrialState.COMPLETE,))
        if all(value <= 0 for value in trial.constraints.values())
    ]
    (row,) = found
    assert row["value"] == best.value
    # Optuna's choice among equals is the database's whim; the view takes the first.
    assert row["number"] == min(each.number for each in feasible if each.value == best.value)
    assert row["feasible"] == 1
    every = rows(shared, f"select * from hpo_trials where study = '{study.study_name}'")
    assert {row["number"]: bool(row["feasible"]) for row in every} == {
        trial.number: all(value <= 0 for value in trial.constraints.values())
        for trial in study.trials
    }


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["roc_auc", "cause", "dollars", "x\\u0000"]), inner, max_size=3
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None)
@given(metrics=JSON, attempts=JSON, model=JSON, choice=st.one_of(st.text(max_size=6), st.floats()))
@example({"roc_auc": math.nan, "f1": "good"}, 3, "a\x00b", "\x00\x00")
@example({"roc_auc": math.inf}, [{"values": [-math.inf], "cause": "ok"}], "\\u0000", math.inf)
@example({}, ["dollars", {"dollars": 1}, {"dollars": "2"}, [{"dollars": 3}], None], "m", 0.0)
@example({}, [{"dollars": 0.5}, {"dollars": math.nan}, {"dollars": True}], "m", 0.0)
@example([], [{"message": "\udc80 \ud800 \U0001f600", "cause": "bug"}], "m", "\ud83d\ude00\udfff")
def test_no_attribute_breaks_the_view(
    shared: Any, metrics: Any, attempts: Any, model: Any, choice: Any
) -> None:
    study = optuna.create_study(storage=shared, direction="maximize")
    study.add_trial(
        create_trial(
            value=1.0,
            params={"odd": choice, "x": 0.5},
            distributions={
                "odd": CategoricalDistribution((choice, "NaN")),
                "x": FloatDistribution(0, 1),
            },
            user_attrs={"metrics": metrics, "attempts": attempts, "model": model},
        )
    )
    (row,) = rows(shared, f"select * from hpo_best where study = '{study.study_name}'")
    assert row["params"]["x"] == 0.5
    odd = row["params"]["odd"]
    if isinstance(choice, float):
        assert (None if odd is None else float(odd)) == (choice if math.isfinite(choice) else None)
    elif choice.isprintable():
        assert odd == choice
    given = metrics.get("roc_auc") if isinstance(metrics, dict) else None
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    assert row["roc_auc"] == (given if is_number and math.isfinite(given) else None)
    assert row["attempts"] == (len(attempts) if isinstance(attempts, list) else None)
    assert row["dollars"] == _dollars(attempts)


def _dollars(attempts: Any) -> Any:
    """Return the sum of what ``attempts`` cost, of those that say it as a number."""
    records = attempts if isinstance(attempts, list) else []
    costs = [each.get("dollars") for each in records if isinstance(each, dict)]
    numbers = [each for each in costs if isinstance(each, int | float) and each is not True]
    finite = [each for each in numbers if each is not False and math.isfinite(each)]
    return pytest.approx(sum(finite), rel=1e-9, abs=1e-9) if finite else None


@settings(max_examples=25, deadline=None)
@given(numbers=st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=20))
def test_no_digit_of_a_parameter_is_lost(shared: Any, numbers: list[float]) -> None:
    study = optuna.create_study(storage=shared)
    given_params = {f"p{place}": number for place, number in enumerate(numbers)}
    distributions = {name: FloatDistribution(0, 1e12) for name in given_params}
    study.add_trial(create_trial(value=0.0, params=given_params, distributions=distributions))
    (row,) = rows(shared, f"select params from hpo_best where study = '{study.study_name}'")
    # SQLite reads one number in ten thousand one bit off, here as everywhere.
    assert row["params"] == pytest.approx(given_params, rel=3e-16, abs=0)


def test_views_are_made_once_and_renewed_when_they_differ(url: str) -> None:
    storage = open_storage(url)
    create_views(storage)
    mark = "rowid, name" if url.startswith("sqlite") else "oid, relname"
    table = "sqlite_master" if url.startswith("sqlite") else "pg_class"
    column = mark.split()[1]
    question = f"select {mark} from {table} where {column} in ('hpo_best', 'hpo_trials')"
    before = rows(storage, question)
    create_views(storage)
    assert rows(storage, question) == before
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("drop view hpo_best")
        connection.exec_driver_sql("drop view hpo_trials")
        connection.exec_driver_sql("create view hpo_trials as select 1 as old")
    create_views(storage)
    assert rows(storage, "select study from hpo_best") == []


OLD = (
    "create view hpo_trials as select s.study_name as study, t.number as number, 1 as rank "
    "from trials t join studies s on s.study_id = t.study_id",
    "create view hpo_best as select * from hpo_trials where number = 0",
)


def test_older_views_are_renewed_by_several_at_once(url: str) -> None:
    storages = [open_storage(url) for _ in range(4)]
    study = optuna.create_study(storage=storages[0], study_name="s")
    study.tell(study.ask(), 1.0)
    for _ in range(3):
        with storages[0].engine.begin() as connection:
            for view in ("hpo_best", "hpo_trials"):
                connection.exec_driver_sql(f"drop view if exists {view}")
            for statement in OLD:
                connection.exec_driver_sql(statement)
        with ThreadPoolExecutor(len(storages)) as threads:
            list(threads.map(create_views, storages))  # none of them raises
        (row,) = rows(storages[0], "select * from hpo_best")
        assert (row["study"], row["value"], "rank" in row) == ("s", 1.0, False)


def test_a_view_of_ones_own_on_them_is_not_destroyed(url: str) -> None:
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        for statement in (*OLD, "create view mine as select study, number from hpo_best"):
            connection.exec_driver_sql(statement)
    if url.startswith("sqlite"):  # which looks names up when the view is read
        create_views(storage)
    else:
        with pytest.raises(StorageError, match="view mine depends on view hpo_best") as caught:
            create_views(storage)
        assert "Drop that" in str(caught.value)
        assert list(rows(storage, "select rank from hpo_trials")) == []
    assert rows(storage, "select * from mine") == []


def test_a_view_that_only_gains_columns_keeps_what_is_built_on_it(postgres_url: str) -> None:
    storage = open_storage(postgres_url)
    create_views(storage)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("create view mine as select study, value from hpo_best")
        connection.exec_driver_sql("grant select on hpo_best to pg_monitor")
        connection.exec_driver_sql("comment on view hpo_best is 'of another version'")
    create_views(storage)
    assert rows(storage, "select * from mine") == []
    question = "select has_table_privilege('pg_monitor', 'hpo_best', 'select') as may"
    assert rows(storage, question) == [{"may": True}]


def test_who_may_not_make_views_is_told(postgres_server: PostgresServer, postgres_url: str) -> None:
    open_storage(postgres_url).engine.dispose()
    database = postgres_url.rpartition("/")[2]
    role = f"reader_{database}"
    postgres_server.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        database=database,
    )
    storage = open_storage(postgres_server.url(database, role, "x"))
    with pytest.raises(StorageError, match="GRANT CREATE ON SCHEMA public"):
        create_views(storage)
    create_views(open_storage(postgres_url))
    create_views(storage)  # which finds them as they should be
    storage.engine.dispose()
    postgres_server.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)


def test_a_table_of_that_name_is_left_alone(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/hpo.db")
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("create table hpo_best (mine)")
    with pytest.raises(StorageError, match="another one"):
        create_views(storage)
    assert rows(storage, "select name from sqlite_master where name like 'hpo_%'") == [
        {"name": "hpo_best"}
    ]


def test_sqlite_itself_reads_them(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/hpo.db")
    create_views(storage)
    run_study(storage, "s", "maximize")
    with sqlite3.connect(tmp_path / "hpo.db") as connection:
        (params,) = connection.execute("select params from hpo_best").fetchone()
    assert set(json.loads(params)) >= {"rate", "size", "kind"}
