"""Opening real databases, and every way in which they refuse."""

from __future__ import annotations

import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from sqlalchemy import text

from storage import StorageError, open_storage

if TYPE_CHECKING:
    from tests.conftest import PostgresServer


def objective(trial: optuna.Trial) -> float:
    trial.report(0.5, 1)
    return trial.suggest_float("x", 0, 1) + trial.suggest_categorical("kind", [0, 1])


def test_plain_optuna_reads_what_was_written(url: str) -> None:
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name="s")
    study.optimize(objective, n_trials=3)
    plain = optuna.load_study(
        study_name="s", storage=storage.url.replace("{", "{{").replace("}", "}}")
    )
    assert [t.params for t in plain.trials] == [t.params for t in study.trials]
    assert [t.intermediate_values for t in plain.trials] == [{1: 0.5}] * 3
    again = optuna.load_study(study_name="s", storage=open_storage(url))
    assert again.best_value == study.best_value
    storage.engine.dispose()


def test_postgres_scheme_is_rewritten(postgres_url: str) -> None:
    short = postgres_url.replace("postgresql://", "postgres://")
    assert open_storage(short).url == postgres_url.replace("postgresql:", "postgresql+psycopg2:")


def test_sqlite_settings_hold_after_pickling(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/hpo.db")
    for each in (storage, pickle.loads(pickle.dumps(storage))):
        with each.engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 1
            assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000


def test_optuna_says_nothing(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.create_study(storage=open_storage(url), study_name="s")
    assert capfd.readouterr() == ("", "")


def test_many_open_a_new_database_at_once(url: str) -> None:
    code = "import sys, storage; storage.open_storage(sys.argv[1])"
    running = [
        subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("content", [b"first,second\n", b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pairs.db"
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"not a SQLite database|damaged"):
        open_storage(f"sqlite:///{file}")
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_folders_are_checked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, said in [
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "hpo.db", "there is no folder"),
        (tmp_path / "file" / "hpo.db", "not a folder"),
    ]:
        with pytest.raises(StorageError, match=said):
            open_storage(f"sqlite:///{path}")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "hpo.db").touch()
    assert open_storage(f"sqlite:///{tmp_path}/hpo.db").get_all_studies() == []


@pytest.mark.parametrize("read_only", ["folder", "file"])
def test_read_only_places(tmp_path: Path, read_only: str) -> None:
    open_storage(f"sqlite:///{tmp_path}/warm.db").engine.dispose()
    place = tmp_path / "place"
    place.mkdir()
    (place / "hpo.db").touch()
    (place / "hpo.db").chmod(0o444)
    place.chmod(0o555 if read_only == "folder" else 0o777)
    name = "new.db" if read_only == "folder" else "hpo.db"
    # Root may write anywhere, so a child gives that up after its imports.
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/") and parent.name != "tmp":
            parent.chmod(parent.stat().st_mode | 0o055)
    code = (
        "import os, sys, storage, optuna, sqlalchemy, alembic\n"
        "storage.mask_url('x')\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: storage.open_storage(sys.argv[1])\n"
        "except storage.StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{place}/{name}"], capture_output=True, text=True
    )
    assert "read-only" in done.stdout or "cannot be read and written" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE trials (id INTEGER, patient TEXT)", "not Optuna's"),
        ("CREATE TABLE alembic_version (version_num VARCHAR(32))", "another program's"),
    ],
)
def test_other_tables_of_the_same_names(url: str, statement: str, said: str) -> None:
    _execute(url, statement)
    with pytest.raises(StorageError, match=said):
        open_storage(url)
    if url.startswith("sqlite"):
        file = url.removeprefix("sqlite:///")
        assert not Path(file + "-wal").exists()
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


@pytest.mark.parametrize(
    ("version", "said"), [("v3.0.0.d", "optuna storage upgrade"), ("v9.9", "newer Optuna")]
)
def test_other_versions_of_the_schema(url: str, version: str, said: str) -> None:
    open_storage(url).engine.dispose()
    _execute(url, f"UPDATE alembic_version SET version_num = '{version}'")
    with pytest.raises(StorageError, match=said) as caught:
        open_storage(url)
    assert "s3cret" not in str(caught.value)


def test_unrelated_tables_may_be_there(url: str) -> None:
    _execute(url, "CREATE TABLE patients (id INTEGER)")
    assert open_storage(url).get_all_studies() == []


def _execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(statement)
        connection.close()
        return
    import psycopg2

    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()


def refused(url: str) -> str:
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert time.monotonic() - started < 10
    assert "s3cret" not in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    return str(caught.value)


def test_servers_that_do_not_let_us_in(postgres_server: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    port = str(postgres_server.port)
    assert "is wrong" in refused(postgres_server.url(database, password="wr0ng"))
    assert "no such role" in refused(postgres_server.url(database, user="nobody"))
    assert "needs a password" in refused(f"postgresql://postgres@127.0.0.1:{port}/{database}")
    local = f"postgresql://nobody@/{database}?host={postgres_server.socket_directory}&port={port}"
    assert "no role 'nobody'" in refused(local)
    assert "createdb missing" in refused(postgres_server.url("missing"))
    assert "nothing listens" in refused(postgres_url.replace(port, "1"))
    assert "not known" in refused(postgres_url.replace("127.0.0.1", "no-such-host.invalid"))
    assert "no socket" in refused("postgresql:///x?host=/no/such/folder")
    assert "option that libpq does not know" in refused(postgres_url + "?nonsense=1")
    assert "wrong value" in refused(postgres_url + "?sslmode=nonsense")


def test_a_silent_server_is_given_up(postgres_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:s3cret@127.0.0.1:{silent.getsockname()[1]}/db"
        assert "did not answer in time" in refused(url + "?connect_timeout=2")


def test_missing_rights(postgres_server: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    role = f"guest_{database}"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'guest-s3cret'")
    guest = postgres_server.url(database, role, "guest-s3cret")
    try:
        assert "GRANT CREATE ON SCHEMA" in refused(guest)
        open_storage(postgres_url).engine.dispose()
        assert "lacks the right" in refused(guest) or "lacks a right" in refused(guest)
        postgres_server.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
        assert "GRANT CONNECT" in refused(guest)
        postgres_server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        assert "read-only" in refused(postgres_url)
    finally:
        postgres_server.execute(f"DROP ROLE {role}")


def test_a_database_without_wal_says_that_it_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    from storage.sqlite import WalConnection

    WalConnection(":memory:").close()  # a database in memory is one that cannot have WAL
    assert "cannot use WAL here (journal mode memory)" in caplog.text


def test_a_half_made_database_is_made_whole(url: str) -> None:
    open_storage(url)
    engine = open_storage(url).engine
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))  # the last thing that is written
    engine.dispose()
    storage = open_storage(url)
    assert storage.get_current_version() == storage.get_head_version()
