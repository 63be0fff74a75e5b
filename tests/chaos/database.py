"""The database under test: how it is read without a trace, and killed where it can be.

It is read with the drivers themselves and not through Optuna, in one read-only transaction a look:
what is looked for are faults in the writing, and a cache would hide them.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optuna.distributions import json_to_distribution

from tests.postgres import PostgresServer

STUDY = "chaos"
FINISHED = ("COMPLETE", "PRUNED")
_NAMED = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


@dataclass
class Row:
    """A trial as the database has it.

    Attributes:
        number: The trial's number.
        state: The name of Optuna's state.
        stored: Its parameters, as (distribution in JSON, internal value).
        values: What the objective returned.
        steps: Its intermediate values.
        attrs: Its user attributes.
    """

    number: int
    state: str
    stored: dict[str, tuple[str, float]] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    steps: dict[int, float] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as an objective sees them."""
        return {
            name: json_to_distribution(text).to_external_repr(value)
            for name, (text, value) in self.stored.items()
        }

    @property
    def is_finished(self) -> bool:
        """Whether it counts towards ``--trials``."""
        return self.state in FINISHED


@dataclass
class Look:
    """The study as it was at one moment.

    Attributes:
        rows: Its trials by their key in the database; two of one number would both be here.
        taken: A ``time.monotonic()`` just after that moment.
    """

    rows: dict[int, Row]
    taken: float

    @property
    def finished(self) -> int:
        """How many trials are complete or pruned."""
        return sum(row.is_finished for row in self.rows.values())


class Database(Protocol):
    """What the harness asks of a database."""

    url: str
    server: PostgresServer | None

    def look(self) -> Look:
        """Read the study; empty if there is none yet."""

    def visit(self) -> None:
        """Open the database as anybody would who asks it something, and close it again."""

    def close(self, keep: bool) -> None:
        """Stop what was started, and delete it unless it is to be kept."""


class SqliteDatabase:
    """``hpo.db`` in the coordinator's folder."""

    server: PostgresServer | None = None

    def __init__(self, folder: Path) -> None:
        self.url = "sqlite:///hpo.db"
        self._path = folder / "hpo.db"

    def look(self) -> Look:
        """Read the study; empty if there is none yet."""
        if not self._path.exists():
            return Look({}, time.monotonic())
        # mode=ro also keeps this connection from tidying up after a coordinator that was killed.
        connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=30)
        with closing(connection):
            connection.isolation_level = None
            connection.execute("BEGIN")
            known = "SELECT count(*) FROM sqlite_master WHERE name = 'trial_intermediate_values'"
            return _look(lambda text: connection.execute(text).fetchall(), known)

    def visit(self) -> None:
        """Do what ``sqlite3 hpo.db`` does: the last connection to close also tidies up."""
        if self._path.exists():
            with closing(sqlite3.connect(self._path, timeout=30)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def close(self, keep: bool) -> None:
        """Do nothing: the file goes with its folder."""


class PostgresDatabase:
    """A database on a server of its own, which loses nothing that it acknowledged."""

    def __init__(self) -> None:
        self._server = PostgresServer.create(durable=True)
        self._server.execute(f"CREATE DATABASE {STUDY}")
        self.server: PostgresServer | None = self._server
        self.url = self._server.url(STUDY)

    def look(self) -> Look:
        """Read the study; empty if there is none yet."""
        with closing(self._server.connect(STUDY)) as connection:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            cursor = connection.cursor()

            def query(text: str) -> list[Any]:
                cursor.execute(text)
                found: list[Any] = cursor.fetchall()
                return found

            known = (
                "SELECT count(*) FROM pg_class WHERE relname = 'trial_intermediate_values' "
                "AND relkind = 'r'"
            )
            return _look(query, known)

    def visit(self) -> None:
        """Do nothing: every look is one."""

    def close(self, keep: bool) -> None:
        """Stop the server, and delete it unless it is to be kept."""
        if not keep:
            self._server.remove()
        elif self._server.is_running:
            self._server.stop()


def _look(query: Callable[[str], list[Any]], known: str) -> Look:
    """Read the study by ``query``; ``known`` counts its last table, which is made late."""
    if query(known)[0][0] == 0:
        return Look({}, time.monotonic())
    mine = f"(SELECT study_id FROM studies WHERE study_name = '{STUDY}')"
    trials = query(f"SELECT trial_id, number, state FROM trials WHERE study_id = {mine}")
    rows = {trial_id: Row(number, state) for trial_id, number, state in trials}
    of_study = f"WHERE trial_id IN (SELECT trial_id FROM trials WHERE study_id = {mine})"
    params = "trial_id, param_name, distribution_json, param_value FROM trial_params"
    for trial_id, name, text, value in query(f"SELECT {params} {of_study} ORDER BY param_id"):
        rows[trial_id].stored[name] = (text, value)
    values = "trial_id, value, value_type FROM trial_values"
    for trial_id, value, kind in query(f"SELECT {values} {of_study} ORDER BY objective"):
        rows[trial_id].values.append(_NAMED.get(kind, value))
    steps = "trial_id, step, intermediate_value, intermediate_value_type"
    for trial_id, step, value, kind in query(
        f"SELECT {steps} FROM trial_intermediate_values {of_study}"
    ):
        rows[trial_id].steps[step] = _NAMED.get(kind, value)
    attrs = "trial_id, key, value_json FROM trial_user_attributes"
    for trial_id, key, text in query(f"SELECT {attrs} {of_study}"):
        rows[trial_id].attrs[key] = json.loads(text)
    return Look(rows, time.monotonic())
