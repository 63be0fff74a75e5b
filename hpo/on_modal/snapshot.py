"""What a coordinator on Modal keeps on a Volume, as files of this machine that are up to date.

A snapshot is fetched into a cache, and into the very file that is there already: whoever has the
database open, such as the dashboard, sees the new state as it would see any transaction.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from hpo.errors import InputError
from hpo.events import FILE
from hpo.on_modal.volumes import FileFacts, MissingError, VolumeFiles
from storage.address import ModalAddress, parse_url

REFRESH_SECONDS = 15.0
"""How often those who watch get what is new: less than a container is kept for (IDLE_SECONDS), so
that a fetch finds it warm."""

SETTLED_SECONDS = 2.0
"""A file that changed less than this before it was fetched may have changed once more within the
same tick of the Volume's clock: it is fetched again."""

LAST_FETCH_SECONDS = 10.0
"""How long the end waits for a fetch that is under way: Modal's client complains at length about a
call that it leaves behind when Python shuts down."""

BUSY_SECONDS = 30.0
"""How long an update waits for others who write to the local file, as other updates do."""


def fetch_snapshot(url: str) -> Path:
    """Return a local SQLite file that holds what the snapshot at ``modal://volume/file.db`` does.

    Raises:
        InputError: There is no such snapshot, it is damaged, or Modal refuses.
    """
    address = _address(url)
    try:
        return _fetch(address.volume, address.path, address.path, _update_database)
    except MissingError as error:
        raise InputError(
            f"{url}: there is no such snapshot ({error}); run a study there first (python -m "
            "hpo.run --coordinator modal), or name another database with --storage."
        ) from error


def fetch_log(url: str, study: str) -> Path:
    """Return a local copy of the log of a study whose snapshot is at ``url``.

    Raises:
        InputError: There is no such log, or Modal refuses.
    """
    address = _address(url)
    path = f"{study}/{FILE}"
    try:
        return _fetch(address.volume, path, path, _update_log)
    except MissingError as error:
        raise InputError(f"there is no log of study {study!r} yet: {error}.") from error


@contextlib.contextmanager
def kept_fresh(fetch: Callable[[], object]) -> Iterator[None]:
    """Fetch again every few seconds while the block runs; what goes wrong is said on stderr."""
    ended = threading.Event()
    thread = threading.Thread(target=_refresh, args=(fetch, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST_FETCH_SECONDS)


def _refresh(fetch: Callable[[], object], ended: threading.Event) -> None:
    failed = False
    while not ended.wait(REFRESH_SECONDS):
        try:
            fetch()
        except InputError as error:
            if not failed:
                print(f"hpo: not up to date: {error}", file=sys.stderr, flush=True)
            failed = True
        else:
            if failed:
                print("hpo: up to date again", file=sys.stderr, flush=True)
            failed = False


def _address(url: str) -> ModalAddress:
    address = parse_url(url)
    assert isinstance(address, ModalAddress)  # others are opened where they are
    return address


def _fetch(volume: str, path: str, name: str, update: Callable[[Path, Path], None]) -> Path:
    """Bring the local copy of a file up to date, unless it is.

    Args:
        volume: The Volume.
        path: The file in it.
        name: Its name in the cache.
        update: Turns the second of two files into the first, which is then gone.
    """
    local = _cache() / volume / name
    note, incoming = (local.with_name(local.name + suffix) for suffix in (".json", ".new"))
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with _locked(local.with_name(local.name + ".lock")):
            files = VolumeFiles(volume)
            known = _known(note) if local.exists() else None
            if known is None or files.listing(path).get("") != known:
                began = time.time()
                facts = files.download(path, incoming)[""]
                update(incoming, local)
                settled = facts.mtime + SETTLED_SECONDS < began
                note.write_text(json.dumps(asdict(facts) if settled else None))
    except OSError as error:
        raise InputError(
            f"cannot write to the cache {local.parent} ({error.strerror or error}); name another "
            "directory with XDG_CACHE_HOME."
        ) from error
    return local


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or "~/.cache").expanduser() / "hpo" / "snapshots"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time bring a file up to date."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _known(note: Path) -> FileFacts | None:
    """Return what the local copy is a copy of; ``None`` if that is not known for certain."""
    try:
        facts = json.loads(note.read_text())
        return None if facts is None else FileFacts(**facts)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _update_database(incoming: Path, local: Path) -> None:
    """Turn the database ``local`` into ``incoming``, for those who have it open, too.

    Raises:
        InputError: What came is no whole database, or the local one cannot be written.
    """
    uri = f"file:{quote(str(incoming))}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as source:
        try:
            (verdict,) = source.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            verdict = str(error)
        if verdict != "ok":
            raise InputError(
                f"the snapshot that came from Modal is not a whole SQLite database ({verdict}); "
                "the coordinator's next one may be: try again later."
            )
        if local.exists():
            _copy(source, local)
            incoming.unlink()
            return
    os.replace(incoming, local)


def _copy(source: sqlite3.Connection, local: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(local, timeout=BUSY_SECONDS)) as target:
            source.backup(target)
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"the local copy {local} cannot be brought up to date ({error}); delete it, and it is "
            "fetched anew."
        ) from error


def _update_log(incoming: Path, local: Path) -> None:
    """Turn the log ``local`` into ``incoming``; whoever follows it sees what was added."""
    new = incoming.read_bytes()
    old = local.read_bytes() if local.exists() else b""
    if local.exists() and new.startswith(old):
        with local.open("ab") as file:
            file.write(new[len(old) :])
        incoming.unlink()
    else:
        os.replace(incoming, local)
