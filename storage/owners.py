"""Who owns a study now, for those who only want to know.

Nothing here takes a lock or makes a file: a coordinator that starts meanwhile must not be refused
because somebody was looking.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from storage.address import PostgresAddress, SqliteAddress, parse_database
from storage.errors import Owner, StorageError
from storage.explain import explain
from storage.ownership import (
    HOLDER,
    halves,
    held_here,
    lock_key,
    lock_path,
    parse_owner,
    read_owner,
)


def owner_of(url: str, study_name: str) -> Owner | None:
    """Return who owns a study now; ``None`` if nobody does.

    Args:
        url: The address of the database, as for :func:`storage.open_storage`.
        study_name: The name of the study.

    Raises:
        StorageError: The URL is wrong, or the database cannot be reached.
    """
    return owners_of(url, [study_name]).get(study_name)


def owners_of(url: str, study_names: Iterable[str]) -> dict[str, Owner]:
    """Return the owners of those of the studies that have one, by name; see :func:`owner_of`."""
    address = parse_database(url)
    if isinstance(address, SqliteAddress):
        found = {name: _file_owner(lock_path(address.path, name)) for name in study_names}
        return {name: owner for name, owner in found.items() if owner is not None}
    return _advisory_owners(address, study_names)


def _file_owner(path: Path) -> Owner | None:
    """Return who holds the lock on ``path``."""
    held = held_here.get(path)
    if held is not None and held.pid == os.getpid():
        return held  # and to open the file and close it again would free the lock
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(
            f"The lock file {str(path)!r} cannot be read ({error.strerror}): change its "
            "permissions."
        ) from error
    try:
        return read_owner(path) if _is_locked(descriptor) else None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Ask whether another process has locked the file, without locking it for a moment."""
    # C's struct flock: type, whence, start, length, process; macOS has the numbers first.
    if sys.platform == "darwin":
        layout, place, fields = "qqihh", 3, (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
    else:
        layout, place, fields = "hhqqi0q", 0, (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, *fields))
    return bool(struct.unpack(layout, answer)[place] != fcntl.F_UNLCK)


def _advisory_owners(address: PostgresAddress, study_names: Iterable[str]) -> dict[str, Owner]:
    """Return who holds the advisory locks of the studies, by name."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    from storage.opening import connect_options

    options = connect_options(address, f"hpo {os.getpid()} asks for owners")
    engine = create_engine(address.url, connect_args=options, poolclass=NullPool)
    found = {}
    try:
        with engine.connect() as connection:
            for name in study_names:
                holder = connection.execute(text(HOLDER), halves(lock_key(name))).first()
                if holder is not None:
                    found[name] = parse_owner(holder[0], holder[1])
    except SQLAlchemyError as error:
        raise explain(address, error) from error
    return found
