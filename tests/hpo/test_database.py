"""The database as its coordinator sees it: outages, their end, and a lock that was lost with it."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError

from hpo.database import (
    CHECK_SECONDS,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Database,
)
from hpo.errors import StudyStoppedError
from storage import OwnedError, Owner, Ownership, StorageError, own_study
from storage.ownership import lock_path
from tests.hpo.support import Free
from tests.postgres import PostgresServer


class Clock:
    """A time that passes when a test says so; stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("hpo.database.time", made)
    return made


class Lockable(Ownership):
    """An ownership that can be lost."""

    def __init__(self) -> None:
        self.held = True
        self.checks = 0

    def check(self) -> bool:
        self.checks += 1
        return self.held

    def release(self) -> None:
        self.held = False


class Owners:
    """What ``own`` answers: an ownership, or an error where the test put one."""

    def __init__(self) -> None:
        self.given: list[Lockable] = []
        self.error: Exception | None = None

    def __call__(self) -> Ownership:
        if self.error is not None:
            raise self.error
        self.given.append(Lockable())
        return self.given[-1]


def away() -> None:
    raise StorageInternalError("no answer") from sqlite3.OperationalError("database is locked")


def fail(database: Database) -> None:
    with database.riding_out():
        away()


def owned_by(owner: Owner) -> OwnedError:
    return OwnedError(f"The study 's' is owned by another coordinator: {owner}.", owner)


def test_it_is_away_from_the_first_failure_until_everything_is_written(clock: Clock) -> None:
    database = Database(Free)
    assert database.ready()
    fail(database)
    assert database.is_away
    assert database.failure == "database is locked"
    assert not database.ready()
    clock.now += FIRST_PAUSE_SECONDS
    assert database.ready()
    with database.riding_out():
        pass
    assert database.is_away  # one statement that works is not all that had to wait
    assert database.away_seconds() == FIRST_PAUSE_SECONDS
    database.back()
    assert not database.is_away
    assert database.away_seconds() == 0
    assert database.ready()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        StorageInternalError("no cause"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_no_outage_is_raised(error: BaseException) -> None:
    database = Database(Free)
    with pytest.raises(type(error)), database.riding_out():
        raise error
    assert not database.is_away


def test_pauses_double_up_to_a_longest_and_begin_anew_after_the_outage(clock: Clock) -> None:
    database = Database(Free, grace=1e9)
    fail(database)
    pauses = []
    for _ in range(8):
        began = clock.now
        while not database.ready():
            clock.now += 0.25
        pauses.append(clock.now - began)
        fail(database)
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]
    database.back()
    fail(database)
    clock.now += FIRST_PAUSE_SECONDS
    assert database.ready()


@given(grace=st.floats(1, 1e3), hold_ups=st.lists(st.floats(0, 30), max_size=30))
def test_it_gives_up_once_the_grace_is_over_and_never_before(
    grace: float, hold_ups: list[float]
) -> None:
    clock = Clock()
    failures: list[float] = []

    def until_it_gives_up(database: Database) -> None:
        for attempt in range(10_000):
            with database.riding_out():
                clock.now += hold_ups[attempt % len(hold_ups)] if hold_ups else 0
                failures.append(clock.now)
                away()
            while not database.ready():
                clock.now += LONGEST_PAUSE_SECONDS / 5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpo.database.time", clock)
        with pytest.raises(StudyStoppedError, match=r"--db-grace.*database is locked"):
            until_it_gives_up(Database(Free, grace))
    # An outage begins with its first failure, however long that took.
    *ridden_out, last = (failure - failures[0] for failure in failures)
    assert all(seconds < grace for seconds in ridden_out)
    assert last >= grace


def test_the_lock_is_looked_at_now_and_then_while_all_is_well(clock: Clock) -> None:
    owners = Owners()
    database = Database(owners)
    for _ in range(1000):
        assert database.ready()
        clock.now += CHECK_SECONDS / 100
    assert 9 <= owners.given[0].checks <= 11


def test_a_lock_that_was_lost_is_taken_again_and_counts_as_an_outage(clock: Clock) -> None:
    owners = Owners()
    database = Database(owners)
    owners.given[0].held = False
    clock.now += CHECK_SECONDS
    assert database.ready()
    assert len(owners.given) == 2
    # Another coordinator may have come and gone: what this one knows is to be compared anew.
    assert database.is_away
    assert "lock was lost" in database.failure
    database.back()
    clock.now += CHECK_SECONDS
    assert database.ready()
    assert not database.is_away
    database.release()
    assert not owners.given[1].held


def test_a_study_that_another_took_meanwhile_is_given_up_at_once(clock: Clock) -> None:
    owners = Owners()
    database = Database(owners)
    owners.given[0].held = False
    since = datetime(2026, 3, 1, 9, 12, 44, tzinfo=UTC)
    owners.error = owned_by(Owner(os.getpid(), "lab-3", since))  # our pid, on another machine
    clock.now += CHECK_SECONDS
    with pytest.raises(StudyStoppedError) as caught:
        database.ready()
    for words in ("lock", "lost", f"process {os.getpid()}", "host lab-3", "2026-03-01 09:12:44"):
        assert words in str(caught.value)


def test_our_own_broken_session_is_waited_for(clock: Clock) -> None:
    owners = Owners()
    database = Database(owners, grace=60)
    owners.given[0].held = False
    owners.error = owned_by(Owner(os.getpid(), socket.gethostname(), None))
    clock.now += CHECK_SECONDS
    assert not database.ready()
    assert database.is_away
    clock.now += 30
    assert not database.ready()
    owners.error = None
    clock.now += LONGEST_PAUSE_SECONDS
    assert database.ready()
    assert len(owners.given) == 2


def test_it_is_waited_for_no_longer_than_the_grace(clock: Clock) -> None:
    owners = Owners()
    database = Database(owners, grace=60)
    owners.given[0].held = False
    owners.error = StorageError("The server does not answer.")

    def until_it_gives_up() -> None:
        for _ in range(1000):
            clock.now += 1
            database.ready()

    with pytest.raises(StudyStoppedError, match=r"--db-grace.*does not answer"):
        until_it_gives_up()
    assert 1061 <= clock.now <= 1062 + LONGEST_PAUSE_SECONDS


def test_a_study_of_somebody_else_is_not_begun() -> None:
    owners = Owners()
    owners.error = owned_by(Owner(1, "lab-3", None))
    with pytest.raises(OwnedError, match="lab-3"):
        Database(owners)


# With real locks.


def lose_sqlite_lock(url: str) -> None:
    lock_path(Path(url.removeprefix("sqlite:///")), "s").unlink()


@pytest.fixture
def lose(url: str, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Take the lock of study ``s`` away from whoever holds it, as a restart of the server does."""
    if url.startswith("sqlite"):
        return lambda: lose_sqlite_lock(url)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = url.rpartition("/")[2]
    return lambda: server.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )


def until_ready(database: Database, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not database.ready():
        assert time.monotonic() < deadline, database.failure
        time.sleep(0.02)


def test_a_real_lock_is_taken_again(url: str, lose: Callable[[], None]) -> None:
    database = Database(lambda: own_study(url, "s"))
    try:
        assert database.ready()
        lose()
        deadline = time.monotonic() + 5
        while not database.is_away:
            assert time.monotonic() < deadline
            database.ready()
            time.sleep(0.05)
        until_ready(database)
        assert "lock" in database.failure
        database.back()
        time.sleep(CHECK_SECONDS)
        assert database.ready()
        assert not database.is_away
    finally:
        database.release()


@contextmanager
def another_owner(url: str) -> Iterator[int]:
    """Let another process own study ``s`` as soon as it can; gives its process id."""
    code = (
        "import sys, time, storage\n"
        "while True:\n"
        "    try: lock = storage.own_study(sys.argv[1], 's'); break\n"
        "    except storage.OwnedError: time.sleep(0.01)\n"
        "print('owned', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        yield process.pid
    finally:
        process.communicate()


def test_a_real_lock_that_another_took_stops_the_study(url: str, lose: Callable[[], None]) -> None:
    database = Database(lambda: own_study(url, "s"))
    try:
        lose()
        with another_owner(url) as pid:
            time.sleep(CHECK_SECONDS)
            with pytest.raises(StudyStoppedError) as caught:
                until_ready(database)
            assert f"process {pid}" in str(caught.value)
            assert socket.gethostname() in str(caught.value)
    finally:
        database.release()
