"""SQLite: what a file must be before it is opened, and how every connection to it is set up."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

from storage.errors import StorageError

_log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 30.0
"""How long a write to SQLite waits for another writer, such as optuna-dashboard, in seconds."""


class WalConnection(sqlite3.Connection):
    """A connection in WAL mode with ``synchronous=NORMAL``.

    A class and not an event of the engine, because Optuna connects inside its constructor, before
    anybody could attach one, and makes a new engine when a storage is unpickled.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (mode,) = self.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode == "wal":
            self.execute("PRAGMA synchronous=NORMAL")
        else:
            # NORMAL could corrupt on power loss then, so the slow and safe default stays.
            _log.warning(
                "SQLite cannot use WAL here (journal mode %s), as on some network file systems: "
                "every commit waits for the disk. Put the database on a local disk.",
                mode,
            )


def check_file(path: Path) -> None:
    """Refuse a path that cannot hold a SQLite database; nothing is created.

    Raises:
        StorageError: The folder is missing or read-only, or ``path`` is something else than a
            writable SQLite database or an empty file.
    """
    folder = path.parent
    if not folder.exists():
        raise StorageError(
            f"The SQLite file {str(path)!r} cannot be made: there is no folder {str(folder)!r}. "
            "Create it, or name another file (sqlite:////… with four slashes is an absolute path)."
        )
    if not folder.is_dir():
        raise StorageError(
            f"The SQLite file {str(path)!r} cannot be made: {str(folder)!r} is not a folder."
        )
    if path.is_dir():
        raise StorageError(
            f"The storage {str(path)!r} is a folder; name a file in it, such as "
            f"sqlite:///{path}/hpo.db."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            f"The SQLite file {str(path)!r} cannot be written: its folder {str(folder)!r} is "
            "read-only for this user, and SQLite keeps its log there. Name a file elsewhere."
        )
    if path.exists():
        _check_existing(path)


def _check_existing(path: Path) -> None:
    """Refuse a file that is not a writable SQLite database."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise StorageError(
            f"The storage {str(path)!r} is a device, a pipe or a socket; name an ordinary file."
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise StorageError(
            f"The SQLite file {str(path)!r} cannot be read and written by this user: "
            "change its permissions, or name another file."
        )
    # Asked through SQLite. This process may have the database open, and to open and close the file
    # in any other way would free SQLite's own locks on it (POSIX locks belong to the process and
    # the file): the next program to leave the database would then take away the write-ahead log
    # under our feet, and with it what everybody writes from then on.
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S
    )
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            return  # busy or damaged: whoever opens it says so
        with path.open("rb") as file:
            start = file.read(16)
        raise StorageError(
            f"The file {str(path)!r} is not a SQLite database: it starts with {start!r}. "
            "Name another file; this one is left as it is."
        ) from error
    finally:
        connection.close()
