"""One owner a study: a second is refused at once, a dead one is forgotten at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage import OwnedError, own_study, owner_of, owners_of

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

OWNER = """
import os, sys, time, storage
ownership = storage.own_study(sys.argv[1], "s")
if sys.argv[2] == "fork" and os.fork() == 0:
    os.close(1)
    time.sleep(8)
    os._exit(0)
print("owned", flush=True)
time.sleep(60)
"""


@contextmanager
def another_owner(url: str, mode: str = "plain") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, url, mode],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        yield process
    finally:
        with suppress(ProcessLookupError):  # a test may have killed it
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def own_soon(url: str) -> float:
    """Own the study; return how long that took. A server needs a moment to see that a peer died."""
    started = time.monotonic()
    while True:
        try:
            own_study(url, "s").release()
        except OwnedError:
            assert time.monotonic() - started < 2
            time.sleep(0.01)
        else:
            return time.monotonic() - started


def test_the_refusal_names_the_owner(url: str) -> None:
    with another_owner(url) as process:
        started = time.monotonic()
        with pytest.raises(OwnedError) as caught:
            own_study(url, "s")
        assert time.monotonic() - started < 1
        owner = caught.value.owner
        assert owner.pid == process.pid
        assert owner.host == socket.gethostname()[:40]
        assert owner.since is not None
        assert abs(owner.since.timestamp() - time.time()) < 20
        assert f"process {process.pid} on host" in str(caught.value)
        own_study(url, "another study").release()


def test_anybody_may_ask_who_owns_a_study(url: str, tmp_path: Path) -> None:
    assert owner_of(url, "s") is None
    with another_owner(url) as process:
        for _ in range(3):
            owner = owner_of(url, "s")
            assert owner is not None
            assert (owner.pid, owner.host) == (process.pid, socket.gethostname()[:40])
            assert owner.since is not None
            assert abs(owner.since.timestamp() - time.time()) < 20
        assert set(owners_of(url, ["another study", "s"])) == {"s"}
        with pytest.raises(OwnedError):  # asking freed nothing
            own_study(url, "s")
        process.kill()
        process.wait()
        began = time.monotonic()
        while owner_of(url, "s") is not None:  # a server needs a moment to see that a peer died
            assert time.monotonic() - began < 2
    with own_study(url, "s") as ownership:
        owner = owner_of(url, "s")
        assert owner is not None
        assert owner.pid == os.getpid()
        assert ownership.check()
        code = "import sys, storage; storage.own_study(sys.argv[1], 's')"
        done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
        assert "OwnedError" in done.stderr
    assert owner_of(url, "s") is None
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("mode", ["plain", "fork"])
def test_a_killed_owner_is_free_at_once(url: str, mode: str) -> None:
    with another_owner(url, mode) as process:
        process.kill()
        process.wait()
        assert own_soon(url) < 1.5


def test_twice_in_one_process(url: str) -> None:
    with own_study(url, "s") as first:
        assert first.check()
        for _ in range(2):
            with pytest.raises(OwnedError, match=f"process {os.getpid()} "):
                own_study(url, "s")
        assert first.check()
    first.release()
    assert not first.check()
    own_soon(url)


def test_a_forked_child_cannot_spoil_the_lock(url: str) -> None:
    with own_study(url, "s") as ownership:
        child = os.fork()
        if child == 0:
            held = ownership.check()
            ownership.release()
            os._exit(1 if held else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert ownership.check()
        code = "import sys, storage; storage.own_study(sys.argv[1], 's')"
        done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
        assert "OwnedError" in done.stderr


def test_nothing_is_left_behind_and_a_left_file_is_harmless(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hpo.db"
    own_study(url, "s").release()
    assert list(tmp_path.iterdir()) == []
    with another_owner(url) as process:
        process.kill()
        process.wait()
    (left,) = tmp_path.glob("hpo.db.*.lock")
    assert str(process.pid) in left.read_text()
    own_study(url, "s").release()


def test_a_link_to_the_database_is_the_same_database(tmp_path: Path) -> None:
    (tmp_path / "hpo.db").touch()
    (tmp_path / "link.db").symlink_to("hpo.db")
    with own_study(f"sqlite:///{tmp_path}/hpo.db", "s"), pytest.raises(OwnedError):
        own_study(f"sqlite:///{tmp_path}/link.db", "s")


def test_a_deleted_lock_file_is_noticed(tmp_path: Path) -> None:
    with own_study(f"sqlite:///{tmp_path}/hpo.db", "s") as ownership:
        next(tmp_path.glob("*.lock")).unlink()
        assert not ownership.check()


def test_a_broken_connection_is_noticed(postgres_server: PostgresServer, postgres_url: str) -> None:
    ownership = own_study(postgres_url, "s")
    postgres_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'hpo owner%'"
    )
    assert not ownership.check()
    with own_study(postgres_url, "s") as again:
        assert again.check()
        assert not ownership.check()
