"""Two views for people who ask the database itself: ``hpo_trials`` and ``hpo_best``.

Optuna stores a categorical as the index of its choice and spreads a trial over six tables. The
views put a trial in a row, with parameters as they were chosen, so that ``select * from hpo_best``
answers "which parameters won?" in psql or sqlite3, without Python.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from storage.errors import StorageError
from storage.explain import driver_error
from storage.view_sql import best_query, trials_query

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import Connection

LOCK_TIMEOUT_S = 10
"""How long a renewal waits for somebody who is reading the views in PostgreSQL, in seconds."""

# PostgreSQL's codes for what a view cannot be: replaced by one of other columns, dropped while
# other objects depend on it, or locked in time.
_OTHER_COLUMNS, _DEPENDED_ON, _LOCKED = "42P16", "2BP01", "55P03"


def create_views(storage: RDBStorage) -> None:
    """Make or renew the views ``hpo_trials`` and ``hpo_best`` in a storage's database.

    ``hpo_trials`` has a row a trial: study, number, state, value (the first of several), params (a
    JSON object), metrics, cause and number of attempts, seconds, model, times, whether it is
    feasible, the ``trial_id`` of Optuna's tables, and the dollars that its attempts cost.
    ``hpo_best`` has the winner of every study of one direction, or its best feasible completed
    trial if there were no finals. Nothing is
    touched if both are there as this version writes them. In PostgreSQL a view is replaced where it
    stands if it only gains columns, which keeps what depends on it and who may read it.

    Raises:
        StorageError: The role may not make views, or other objects depend on older ones.
    """
    from sqlalchemy.exc import SQLAlchemyError

    statements = _statements(storage.engine.dialect.name)
    try:
        with storage.engine.begin() as connection:
            if not _are_current(connection, statements):
                _lock(connection)
                # Another coordinator may have renewed them while this one waited.
                if not _are_current(connection, statements):
                    _renew(connection, statements)
    except SQLAlchemyError as error:
        raise StorageError(_refusal(error)) from error


def _statements(dialect: str) -> dict[str, str]:
    """Return the queries of the views by name, in the order in which they are made."""
    best = (
        "SELECT * FROM hpo_trials WHERE trial_id IN "
        f"(SELECT best.trial_id FROM ({best_query(dialect)}) best)"
    )
    return {"hpo_trials": trials_query(dialect).strip(), "hpo_best": best}


def _mark(statements: dict[str, str]) -> str:
    """Return what tells these views from those of another version."""
    return hashlib.sha256(repr(statements).encode()).hexdigest()[:16]


def _are_current(connection: Connection, statements: dict[str, str]) -> bool:
    if connection.dialect.name == "postgresql":  # which keeps no text of a view, but a comment
        question = "SELECT obj_description(to_regclass('hpo_best'), 'pg_class')"
        return bool(connection.exec_driver_sql(question).scalar() == _mark(statements))
    question = "SELECT name, sql FROM sqlite_master WHERE name IN ('hpo_trials', 'hpo_best')"
    found = {row.name: row.sql for row in connection.exec_driver_sql(question)}
    return found == {name: f"CREATE VIEW {name} AS {query}" for name, query in statements.items()}


def _lock(connection: Connection) -> None:
    """Keep other coordinators from renewing the views until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('hpo views'))")
    else:  # Python's driver begins no transaction before DROP and CREATE of its own accord
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _renew(connection: Connection, statements: dict[str, str]) -> None:
    if connection.dialect.name == "postgresql":
        if not _replace(connection, statements):
            _make(connection, statements)
        connection.exec_driver_sql(f"COMMENT ON VIEW hpo_best IS '{_mark(statements)}'")
    else:
        _make(connection, statements)


def _replace(connection: Connection, statements: dict[str, str]) -> bool:
    """Replace views where they stand; False, and nothing done, if their columns differ."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with connection.begin_nested():
            for name, query in statements.items():
                connection.exec_driver_sql(f"CREATE OR REPLACE VIEW {name} AS {query}")
    except SQLAlchemyError as error:
        if getattr(driver_error(error), "pgcode", None) != _OTHER_COLUMNS:
            raise
        return False
    return True


def _make(connection: Connection, statements: dict[str, str]) -> None:
    for name in reversed(statements):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
    for name, query in statements.items():
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def _refusal(error: Exception) -> str:
    """Say why the views could not be made, and what to do."""
    cause = driver_error(error)
    code = getattr(cause, "pgcode", None)
    if code == _DEPENDED_ON:
        diagnosis: Any = cause
        details = "; ".join((diagnosis.diag.message_detail or "").splitlines())
        return (
            "The views hpo_trials and hpo_best are of an older hpo and have other columns now, but "
            f"something else is built on them: {details}. Drop that (keep its definition: "
            "pg_dump --schema-only), start again, and make it anew."
        )
    said = " ".join(str(cause).split())
    if code == _LOCKED:
        way_out = "Another session is reading them in an open transaction: end it, and start again."
    elif code is None:
        way_out = "Give tables and views of yours that have these names another one."
    else:
        way_out = (
            "Let the role create views in this database (GRANT CREATE ON SCHEMA public), start as "
            "the role that made them, or use another database."
        )
    return f"The views hpo_trials and hpo_best cannot be made: {said}. {way_out}"
