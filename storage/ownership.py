"""One owner a study: two coordinators that told the same trials would lose results.

On PostgreSQL the lock is a session-level advisory lock on its own connection, on SQLite a POSIX
record lock on ``<database>.<hash of the study>.lock``. Both belong to the process and to nothing it
leaves behind: however it dies, the kernel or the server frees them at once, and a lock file that
stays is harmless. Neither passes to a child process, forked or spawned.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import time
import weakref
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from storage.address import PostgresAddress, SqliteAddress, parse_database, shown_url
from storage.errors import OwnedError, Owner, StorageError
from storage.explain import explain
from storage.sqlite import check_file

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_TRIES = 10
_PAUSE_S = 0.05


class Ownership(ABC):
    """The right to run one study, until :meth:`release`; also a context manager."""

    @abstractmethod
    def check(self) -> bool:
        """Return whether the study is still owned, at the cost of one question to the database.

        False means that the lock was lost (the server was restarted, its connection broke, the
        lock file was deleted) and that another coordinator may have it: stop asking and telling,
        and call :func:`own_study` again.
        """

    @abstractmethod
    def release(self) -> None:
        """Give the study up; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def own_study(url: str, study_name: str) -> Ownership:
    """Become the only owner of a study, or fail at once. The study need not exist yet.

    Args:
        url: The address of the database, as for :func:`storage.open_storage`.
        study_name: The name of the study.

    Raises:
        OwnedError: Another coordinator owns it: the message has its process, host and start.
        StorageError: The URL is wrong, or the database cannot be reached.
    """
    if not study_name:
        raise StorageError(
            "The name of the study is empty: give it a name, such as --study pairs-1."
        )
    address = parse_database(url)
    if isinstance(address, SqliteAddress):
        check_file(address.path)
        return _own_file(address.path, study_name)
    return _own_advisory(address, study_name)


def _refusal(study_name: str, owner: Owner) -> OwnedError:
    return OwnedError(
        f"The study {study_name!r} is owned by another coordinator: {owner}. "
        "Wait for it, stop it, or choose another study name.",
        owner,
    )


# ---------------------------------------------------------------------------------------- SQLite

# A POSIX lock belongs to the process: it neither excludes a second one in the same process, nor
# survives when that closes the file. So what this process holds is known here.
held_here: dict[Path, Owner] = {}


class _FileOwnership(Ownership):
    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._pid = os.getpid()
        self._released = False

    def check(self) -> bool:
        return (
            not self._released
            and os.getpid() == self._pid
            and _is_same_file(self._path, self._descriptor)
        )

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        if os.getpid() == self._pid:
            # Removed while it is locked: whoever waits for the old file sees that it is gone.
            if _is_same_file(self._path, self._descriptor):
                self._path.unlink()
            del held_here[self._path]
        os.close(self._descriptor)


def lock_path(database: Path, study_name: str) -> Path:
    """Return the lock file of a study in a SQLite file."""
    digest = hashlib.sha256(study_name.encode()).hexdigest()[:12]
    return database.with_name(f"{database.name}.{digest}.lock")


def _own_file(database: Path, study_name: str) -> Ownership:
    """Lock ``<database>.<hash>.lock`` and write into it who did."""
    path = lock_path(database, study_name)
    for _ in range(_TRIES):
        if path in held_here:
            if held_here[path].pid == os.getpid():
                raise _refusal(study_name, held_here[path])
            del held_here[path]  # remembered by the process that this one was forked from
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(
                f"The lock file {str(path)!r} cannot be opened ({error.strerror}): it must be "
                "writable beside the database. Change its permissions, or name another database."
            ) from error
        if not _lock(path, descriptor):
            owner = read_owner(path)
            os.close(descriptor)
            raise _refusal(study_name, owner)
        if _is_same_file(path, descriptor):
            owner = Owner(os.getpid(), socket.gethostname(), _now())
            content = {"study": study_name, **vars(owner), "since": str(owner.since)}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(content) + "\n").encode(), 0)
            held_here[path] = owner
            return _FileOwnership(path, descriptor)
        os.close(descriptor)  # its owner released and removed it between our open and our lock
    raise StorageError(f"The lock file {str(path)!r} keeps being replaced: try again.")


def _lock(path: Path, descriptor: int) -> bool:
    """Take the lock without waiting; False if another process has it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        os.close(descriptor)
        raise StorageError(
            f"The file {str(path)!r} cannot be locked ({error.strerror}): this file system has no "
            "locks. Put the database on a local disk."
        ) from error
    return True


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def read_owner(path: Path) -> Owner:
    """Read who holds the lock; right after it was taken, wait a little until that is written."""
    owner = Owner(None, None, None)
    for _ in range(_TRIES):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            owner = Owner(
                int(content["pid"]), content["host"], datetime.fromisoformat(content["since"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not written yet: an empty file, or one that has just gone
        else:
            if owner.host != socket.gethostname() or _is_alive(owner.pid):
                return owner
        time.sleep(_PAUSE_S)
    return owner


def _is_alive(pid: int | None) -> bool:
    return (
        pid is not None and Path(f"/proc/{pid}").exists() if Path("/proc/self").exists() else True
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


# ------------------------------------------------------------------------------------ PostgreSQL

_NAME = "hpo owner"
_HOST_CHARACTERS = 63 - len(f"{_NAME} 4194304 ")  # the server cuts application_name at 63 bytes

# pg_locks splits a 64-bit key into two unsigned halves; objsubid 1 marks a key given as one number.
HOLDER = """
    SELECT a.application_name, a.backend_start FROM pg_locks l
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.classid = CAST(:high AS oid) AND l.objid = CAST(:low AS oid)
"""


class _AdvisoryOwnership(Ownership):
    def __init__(self, connection: Connection, key: int) -> None:
        self._connection: Connection | None = connection
        self._key = key
        self._pid = os.getpid()
        _live.add(self)

    def check(self) -> bool:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        if self._connection is None or os.getpid() != self._pid:
            return False
        question = text(HOLDER + " AND l.pid = pg_backend_pid()")
        try:
            return bool(self._connection.execute(question, halves(self._key)).all())
        except SQLAlchemyError:
            self.release()  # the connection is gone, and with it the lock
            return False

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing the session frees its locks even where a statement could not be sent any more.
            connection.invalidate()
            connection.close()

    def forget(self) -> None:
        """In a forked child: let go of the socket without a word to the server, which would end
        the session, and the lock, of the parent."""
        if self._connection is not None and not self._connection.invalidated:
            driver: Any = self._connection.connection.dbapi_connection
            if driver is not None and not driver.closed:
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nothing, driver.fileno(), inheritable=False)
                os.close(nothing)


_live: weakref.WeakSet[_AdvisoryOwnership] = weakref.WeakSet()


def _forget_all() -> None:
    for ownership in list(_live):
        ownership.forget()


os.register_at_fork(after_in_child=_forget_all)


def lock_key(study_name: str) -> int:
    """Return the number that PostgreSQL knows the lock of a study by."""
    # An advisory lock belongs to its database, so the key needs no name of it: two URLs that lead
    # to one database agree, whatever host they name.
    digest = hashlib.sha256(f"hpo study\0{study_name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def halves(key: int) -> dict[str, str]:
    """Return the parameters of :data:`HOLDER` for a lock's number."""
    unsigned = key % 2**64
    return {"high": str(unsigned >> 32), "low": str(unsigned & 0xFFFFFFFF)}


def _own_advisory(address: PostgresAddress, study_name: str) -> Ownership:
    """Take the advisory lock of the study on a connection of its own."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    from storage.opening import connect_options

    name = f"{_NAME} {os.getpid()} {socket.gethostname()[:_HOST_CHARACTERS]}"
    options = connect_options(address, name) | {"application_name": name}
    engine = create_engine(
        address.url, connect_args=options, poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    key = lock_key(study_name)
    try:
        connection = engine.connect()
    except SQLAlchemyError as error:
        raise explain(address, error) from error
    try:
        # The server is to notice within half a minute that the owner's machine is gone, and must
        # not end the session for being idle (a setting that servers before 14 do not have).
        connection.execute(
            text(
                "SELECT set_config(name, value, false) FROM (VALUES ('tcp_keepalives_idle', '10'), "
                "('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '4'), "
                "('idle_session_timeout', '0')) AS wanted(name, value) "
                "WHERE name IN (SELECT name FROM pg_settings)"
            )
        )
        for _ in range(_TRIES):
            if connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
                return _AdvisoryOwnership(connection, key)
            holder = connection.execute(text(HOLDER), halves(key)).first()
            if holder is not None:
                raise _refusal(study_name, parse_owner(holder[0], holder[1]))
            time.sleep(_PAUSE_S)  # released between the two questions
    except SQLAlchemyError as error:
        connection.close()
        raise explain(address, error) from error
    except StorageError:
        connection.close()
        raise
    connection.close()
    raise StorageError(
        f"The lock of the study {study_name!r} in {shown_url(address)} keeps changing hands: "
        "try again."
    )


def parse_owner(application_name: str | None, since: datetime | None) -> Owner:
    """Read the owner from what its session is called; another role may not see that."""
    words = (application_name or "").removeprefix(_NAME).split(maxsplit=1)
    if not (application_name or "").startswith(_NAME) or len(words) != 2 or not words[0].isdigit():
        return Owner(None, None, since)
    return Owner(int(words[0]), words[1], since and since.astimezone(UTC).replace(microsecond=0))
