"""The database behind the dashboard: whether it has changed, and what its studies say.

Reading a study anew costs seconds once it has thousands of trials, and asking whether anything has
changed costs less than a millisecond: SQLite counts the commits of others (``data_version``), and
two equal snapshots of PostgreSQL (``pg_current_snapshot``) see the same rows. Both are exact, so
that nothing here depends on how long ago something was read.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import StorageError, open_storage

if TYPE_CHECKING:
    from collections.abc import Hashable

    from optuna.storages import RDBStorage
    from optuna.study._frozen import FrozenStudy
    from sqlalchemy.engine import Connection

# optuna-dashboard keeps the note of a trial in attributes of its study: a version, and the text
# in pieces.
_NOTE = re.compile(r"dashboard:(?P<trial>\d+):note_(?:ver|str:(?P<piece>\d+))")
_NOTES_LIKE = "dashboard:%:note_%"

_VERSION = {
    "sqlite": "PRAGMA data_version",
    "postgresql": "SELECT pg_current_snapshot()::text",
}
_READ_ONLY = {
    "sqlite": "PRAGMA query_only = ON",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
}


class UnavailableError(StorageError):
    """The database cannot be asked just now; the text says why."""


class Database:
    """A study's database, asked whether it changed and read without writing.

    Args:
        url: As for :func:`storage.open_storage`, which opens it.
        read_only: Have the database itself refuse every write on the connections used here.

    Raises:
        StorageError: The database cannot be opened.
    """

    def __init__(self, url: str, *, read_only: bool) -> None:
        self.storage: RDBStorage = open_storage(url)
        self.engine = self.storage.engine
        self._dialect = self.engine.dialect.name
        self._file = Path(self.engine.url.database or "") if self._dialect == "sqlite" else None
        self._identity = self._file_identity()
        self._watcher: Connection | None = None
        self._openings = 0
        if read_only:
            self._refuse_writes()

    def version(self) -> Hashable:
        """Return a token that is another one as soon as anybody has committed anything.

        Raises:
            UnavailableError: The database does not answer, or its file is gone.
        """
        from sqlalchemy.exc import SQLAlchemyError

        identity = self._file_identity()
        if identity != self._identity:  # the file was replaced: open connections read the old one
            self._forget()
            self._identity = identity
        try:
            return (self._openings, self._ask())
        except SQLAlchemyError:  # a restarted server has closed the connection; a new one may work
            self._forget()
        try:
            return (self._openings, self._ask())
        except SQLAlchemyError as error:
            self._forget()
            raise unavailable(error) from error

    @property
    def openings(self) -> int:
        """How often the database was opened anew; what was read before may be of another one."""
        return self._openings

    def studies(self) -> list[FrozenStudy]:
        """Return all studies by their id, with their attributes but without notes of trials."""
        from optuna.study import StudyDirection
        from optuna.study._frozen import FrozenStudy

        with self.engine.connect() as connection:
            names = _rows(connection, "SELECT study_id, study_name FROM studies ORDER BY study_id")
            directions = defaultdict(list)
            for study_id, direction in _rows(
                connection, "SELECT study_id, direction FROM study_directions ORDER BY objective"
            ):
                directions[study_id].append(StudyDirection[direction])
            user_attrs = _attributes(
                connection, "SELECT study_id, key, value_json FROM study_user_attributes"
            )
            system_attrs = _attributes(
                connection,
                "SELECT study_id, key, value_json FROM study_system_attributes "
                "WHERE key NOT LIKE :notes",
                notes=_NOTES_LIKE,
            )
        return [
            FrozenStudy(
                study_name=name,
                direction=None,
                directions=directions[study_id],
                user_attrs=user_attrs[study_id],
                system_attrs=system_attrs[study_id],
                study_id=study_id,
            )
            for study_id, name in names
        ]

    def notes(self, study_id: int) -> dict[int, dict[str, Any]]:
        """Return the notes of a study's trials by trial id: version and body."""
        with self.engine.connect() as connection:
            rows = _rows(
                connection,
                "SELECT key, value_json FROM study_system_attributes "
                "WHERE study_id = :study AND key LIKE :notes",
                study=study_id,
                notes=_NOTES_LIKE,
            )
        versions: dict[int, int] = {}
        pieces: dict[int, dict[int, str]] = defaultdict(dict)
        for key, value in rows:
            if (found := _NOTE.fullmatch(key)) is None:
                continue
            trial = int(found["trial"])
            if found["piece"] is None:
                versions[trial] = int(json.loads(value))
            else:
                pieces[trial][int(found["piece"])] = json.loads(value)
        return {
            trial: {
                "version": version,
                "body": "".join(v for _, v in sorted(pieces[trial].items())),
            }
            for trial, version in versions.items()
        }

    def first_trial(self, study_id: int) -> tuple[Any, ...]:
        """Return how many trials a study has, and what tells it from another with its id."""
        with self.engine.connect() as connection:
            (row,) = _rows(
                connection,
                "SELECT count(*), min(trial_id), min(datetime_start) FROM trials "
                "WHERE study_id = :study",
                study=study_id,
            )
        return tuple(row)

    def close(self) -> None:
        """Close every connection."""
        self._forget()

    def _ask(self) -> Any:
        if self._watcher is None:
            # One connection for good: SQLite's number means something on the same one only.
            self._watcher = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self._watcher.exec_driver_sql(_VERSION[self._dialect]).scalar_one()

    def _forget(self) -> None:
        """Close what is open; the next question opens the database anew."""
        if self._watcher is not None:
            self._watcher.invalidate()
            self._watcher.close()
            self._watcher = None
        self.engine.dispose()
        self._openings += 1

    def _file_identity(self) -> tuple[int, int] | None:
        """Return what tells SQLite's file from another of its name; ``None`` for a server."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError as error:  # and connecting would make an empty file
            raise UnavailableError(f"{self._file}: {error.strerror}") from error
        return found.st_dev, found.st_ino

    def _refuse_writes(self) -> None:
        """Have every connection refuse writes; those that are open are closed."""
        from sqlalchemy import event

        def on_connect(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(_READ_ONLY[self._dialect])
            cursor.close()
            connection.commit()

        event.listen(self.engine, "connect", on_connect)
        self.engine.dispose()


def unavailable(error: BaseException) -> UnavailableError:
    """Return the error for people that says what ``error`` of SQLAlchemy or Optuna means."""
    while (below := getattr(error, "orig", None) or error.__cause__) is not None:
        error = below
    return UnavailableError(" ".join(str(error).split()))


def _in_order(pieces: dict[int, str]) -> list[str]:
    return [pieces[position] for position in sorted(pieces)]


def _rows(connection: Connection, statement: str, **values: Any) -> list[Any]:
    from sqlalchemy import text

    return list(connection.execute(text(statement), values))


def _attributes(
    connection: Connection, statement: str, **values: Any
) -> defaultdict[int, dict[str, Any]]:
    """Return attributes by study id."""
    found: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for study_id, key, value in _rows(connection, statement, **values):
        found[study_id][key] = json.loads(value)
    return found
