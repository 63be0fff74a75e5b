"""The views say in SQL what Optuna says in Python."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from storage import create_views, open_storage


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
        trial.set_user_attr("attempts", [{"cause": "lost"}, {"cause": "ok"}])
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
        assert row["seconds"] == pytest.approx(trial.duration.total_seconds(), abs=2e-3)
    assert found[12]["cause"] == "bug"
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


def test_sqlite_itself_reads_them(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/hpo.db")
    create_views(storage)
    run_study(storage, "s", "maximize")
    with sqlite3.connect(tmp_path / "hpo.db") as connection:
        (params,) = connection.execute("select params from hpo_best").fetchone()
    assert set(json.loads(params)) >= {"rate", "size", "kind"}
