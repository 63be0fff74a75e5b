"""What a coordinator on Modal keeps is read from here: databases, logs, the dashboard."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.errors import InputError
from hpo.on_modal import snapshot
from hpo.on_modal.snapshot import fetch_log, fetch_snapshot
from hpo.on_modal.volumes import FileFacts, MissingError
from tests.hpo.volume_support import VOLUMES, Client, make_snapshot
from tests.modal_loopback import ControlPlane, room_problem

URL = "modal://hpo-studies/demo.db"

needs_room = pytest.mark.skipif(room_problem() is not None, reason=str(room_problem()))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Modal with snapshots and a log of a study."""
    with ControlPlane(tmp_path_factory.mktemp("modal")) as plane:
        Client(plane, tmp_path_factory.mktemp("maker")).script(VOLUMES)
        kept = plane.volume("hpo-studies")
        make_snapshot(kept / "demo.db", 0.5, 0.75)
        shutil.copy(kept / "demo.db", kept / "growing.db")
        (kept / "demo").mkdir()
        line = {"time": "2026-01-01T00:00:00+00:00", "kind": "start", "text": "trial 0", "trial": 0}
        (kept / "demo" / "events.jsonl").write_text(json.dumps(line) + "\n")
        for path in kept.rglob("*.*"):
            os.utime(path, (1e9, 1e9))
        yield plane


@pytest.fixture
def client(plane: ControlPlane, tmp_path: Path) -> Client:
    return Client(plane, tmp_path)


@needs_room
def test_questions_are_answered_from_the_snapshot(plane: ControlPlane, client: Client) -> None:
    said = client.hpo("studies", "--storage", URL)
    assert said.stdout.startswith("demo · maximize · 2 complete · best 0.7500 (trial 1)")
    assert said.stdout.endswith("· coordinator on Modal\n")
    before = len(plane.calls())
    best = json.loads(client.hpo("best", "--json", HPO_STORAGE=URL).stdout)
    assert (best["number"], best["values"]) == (1, [0.75])
    assert len(plane.calls()) == before + 1  # it has not changed, and was not fetched again
    log = client.hpo("log", "--storage", URL, "--json").stdout
    assert json.loads(log)["text"] == "trial 0"


@needs_room
@pytest.mark.parametrize(
    ("command", "url", "changes", "words"),
    [
        ("best", "modal://hpo-studies/none.db", {}, "python -m hpo.run --coordinator modal"),
        ("best", "modal://nowhere/demo.db", {}, "there is no Volume 'nowhere'"),
        ("dashboard --port 0", "modal://nowhere/demo.db", {}, "there is no such snapshot"),
        ("best", URL, {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}, "modal token new"),
        ("best", URL, {"MODAL_TOKEN_SECRET": "wrong"}, "Modal refuses the token"),
        ("enqueue --params x=0.5", URL, {}, "can only be read"),
        ("dashboard --allow-writes", URL, {}, "can only be read"),
    ],
)
def test_what_cannot_be_is_said(
    client: Client, command: str, url: str, changes: dict[str, str], words: str
) -> None:
    said = client.hpo(*command.split(), "--storage", url, **changes)
    assert (said.returncode, said.stdout) == (2, "")
    assert words in said.stderr
    assert "Traceback" not in said.stderr


DASHBOARD = """
import sys, time
from pathlib import Path
from hpo.on_modal import snapshot
from hpo.on_modal.volumes import VolumeFiles
from tests.hpo.dashboard_support import ask, serving

def trials():
    return len(ask(dashboard, "/api/studies/1").json["trials"])

snapshot.REFRESH_SECONDS = 0.1
with serving("modal://hpo-studies/growing.db") as dashboard:
    print(trials())
    VolumeFiles("hpo-studies").upload("", {"growing.db": Path("new.db")})
    until = time.monotonic() + 20
    while trials() == 2 and time.monotonic() < until:
        time.sleep(0.05)
    print(trials())
"""


@needs_room
def test_the_dashboard_keeps_up(client: Client, tmp_path: Path) -> None:
    make_snapshot(tmp_path / "new.db", 0.5, 0.75, 0.875)
    client.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    assert client.script(DASHBOARD).split() == ["2", "3"]


class FolderFiles:
    """A Volume's files that lie in a directory of this machine."""

    root: Path
    downloads = 0

    def __init__(self, volume: str) -> None:
        assert volume == "kept"

    def listing(self, path: str = "") -> dict[str, FileFacts]:
        place = self.root / path
        if not place.exists():
            return {}
        return {"": FileFacts(place.stat().st_size, place.stat().st_mtime)}

    def download(self, path: str, target: Path) -> dict[str, FileFacts]:
        if not self.listing(path):
            raise MissingError(path)
        FolderFiles.downloads += 1
        shutil.copyfile(self.root / path, target)
        return self.listing(path)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a Volume called kept."""
    monkeypatch.setattr(snapshot, "VolumeFiles", FolderFiles)
    monkeypatch.setattr(FolderFiles, "downloads", 0)
    monkeypatch.setattr(FolderFiles, "root", tmp_path / "kept", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def write(path: Path, numbers: int, age: float = 100) -> None:
    """Write a database with so many rows, changed so many seconds ago."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE numbers (number)")
        database.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(numbers)])
    time = path.stat().st_mtime - age
    os.utime(path, (time, time))


COUNT = "SELECT count(*) FROM numbers"


def test_a_reader_keeps_what_it_reads_and_then_sees_what_is_new(kept: Path) -> None:
    write(kept / "s.db", 3)
    local = fetch_snapshot("modal://kept/s.db")
    with closing(sqlite3.connect(local, isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode=WAL")
        (version,) = reader.execute("PRAGMA data_version").fetchone()
        reader.execute("BEGIN")
        assert reader.execute(COUNT).fetchone() == (3,)
        write(kept / "s.db", 5000, age=50)
        assert fetch_snapshot("modal://kept/s.db") == local
        assert reader.execute(COUNT).fetchone() == (3,)
        reader.execute("COMMIT")
        assert reader.execute(COUNT).fetchone() == (5000,)
        assert reader.execute("PRAGMA data_version").fetchone() != (version,)


def test_what_has_just_changed_is_fetched_again(kept: Path) -> None:
    write(kept / "s.db", 3, age=0)
    fetch_snapshot("modal://kept/s.db")
    fetch_snapshot("modal://kept/s.db")
    assert FolderFiles.downloads == 2
    os.utime(kept / "s.db", (1e9, 1e9))
    fetch_snapshot("modal://kept/s.db")
    fetch_snapshot("modal://kept/s.db")
    assert FolderFiles.downloads == 3


def test_a_damaged_snapshot_leaves_the_last_good_one(kept: Path) -> None:
    write(kept / "s.db", 3)
    local = fetch_snapshot("modal://kept/s.db")
    (kept / "s.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="not a whole SQLite database"):
        fetch_snapshot("modal://kept/s.db")
    with closing(sqlite3.connect(local)) as reader:
        assert reader.execute(COUNT).fetchone() == (3,)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.booleans())
def test_whoever_follows_a_log_reads_what_is_added(
    kept: Path, pieces: list[bytes], anew: bool
) -> None:
    shutil.rmtree(kept.parent / "cache", ignore_errors=True)
    log = kept / "s" / "events.jsonl"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(b"")
    with fetch_log("modal://kept/s.db", "s").open("rb") as follower:
        for piece in pieces:
            with log.open("ab") as file:
                file.write(piece)
            fetch_log("modal://kept/s.db", "s")
        assert follower.read() == b"".join(pieces)
    if anew:
        log.write_bytes(b"of another study")
    assert fetch_log("modal://kept/s.db", "s").read_bytes() == log.read_bytes()


def test_there_may_be_no_log_yet(kept: Path) -> None:
    with pytest.raises(InputError, match="there is no log of study 's' yet"):
        fetch_log("modal://kept/s.db", "s")
