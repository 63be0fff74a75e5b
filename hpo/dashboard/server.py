"""The server: where the dashboard listens, and what it says about itself."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from hpo.dashboard.guards import Rules, guarded, is_loopback
from hpo.errors import InputError
from storage import mask_url

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD_VARIABLE = "HPO_DASHBOARD_PASSWORD"
"""The environment variable with the dashboard's password: flags show in the list of processes."""

CLIENT_TIMEOUT_S = 60.0
"""How long a client may keep the server waiting for its request, in seconds."""


class Dashboard:
    """A dashboard that listens and does not yet answer; see :func:`open_dashboard`.

    Attributes:
        url: Where it is, with the port it really has; the page of the study if one was named.
    """

    def __init__(self, server: _Server, url: str, close: Callable[[], None]) -> None:
        self.url = url
        self._server = server
        self._close = close

    def serve_forever(self) -> None:
        """Answer requests until :meth:`shutdown` is called from another thread."""
        self._server.serve_forever(poll_interval=0.1)

    def shutdown(self) -> None:
        """Have :meth:`serve_forever` return."""
        self._server.shutdown()

    def close(self) -> None:
        """Stop listening and leave the database."""
        self._server.server_close()
        self._close()


def serve(
    url: str,
    *,
    study: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    allow_writes: bool = False,
    password: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve optuna-dashboard on a storage until Ctrl-C or SIGTERM.

    Args:
        url: The storage, as for :func:`storage.open_storage`.
        study: The study whose page to name; by default the only one there is, else the list.
        host: Name or address to listen at.
        port: Port to listen at; 0 takes any free one.
        allow_writes: Let the pages change the database: notes, states of trials, even deletion.
        password: What to ask for, with any user name; needed where others can reach the server.
        say: Prints a line.

    Raises:
        InputError: There is no such file or study, the address cannot be listened at, or others
            could reach it without a password.
        StorageError: The database cannot be opened.
    """
    dashboard = open_dashboard(
        url, study=study, host=host, port=port, allow_writes=allow_writes, password=password
    )
    with _ended_by_sigterm():
        try:
            say(f"dashboard  {dashboard.url}")
            say(f"storage    {mask_url(url)}")
            say(f"mode       {_mode(allow_writes)}")
            if password is not None:
                say("password   needed; it travels unencrypted, so use TLS or SSH between machines")
            say("Ctrl-C ends it")
            dashboard.serve_forever()
        except KeyboardInterrupt:  # how a server that was only watched ends
            return
        finally:
            dashboard.close()


def open_dashboard(
    url: str,
    *,
    study: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    allow_writes: bool = False,
    password: str | None = None,
) -> Dashboard:
    """Open the storage and listen; arguments and errors are those of :func:`serve`."""
    from hpo.dashboard.answers import Answers
    from hpo.dashboard.database import Database
    from hpo.queries import refuse_snapshot, url_to_open

    family, address = _address(host, port)
    if password is None and not is_loopback(address[0]):
        raise InputError(
            f"--host {host}: others can reach this address, and optuna-dashboard lets everybody "
            f"read: set {PASSWORD_VARIABLE} in the environment, or serve 127.0.0.1."
        )
    if allow_writes:
        refuse_snapshot(url)
    opened = url_to_open(url)
    database = Database(opened, read_only=not allow_writes)
    stack = ExitStack()
    stack.callback(database.close)
    try:
        if opened != url:
            from hpo.on_modal.snapshot import fetch_snapshot, kept_fresh

            stack.enter_context(kept_fresh(lambda: fetch_snapshot(url)))
        answers = Answers(database, allow_writes=allow_writes)
        page = _page(answers, study, url)
        rules = Rules(password=password, allow_writes=allow_writes, host=host.lower())
        server = _listen(family, address, host)
    except BaseException:
        stack.close()
        raise
    server.set_app(guarded(answers, rules))
    return Dashboard(server, f"{_base_url(host, server.server_port)}{page}", stack.close)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: a slow one must not hold up the others."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks its name up in DNS, which may take seconds; nothing reads it.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that left or fell silent is no error of ours.
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    """Requests, without a line on the terminal for each."""

    timeout = CLIENT_TIMEOUT_S
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def address_string(self) -> str:
        return str(self.client_address[0])


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return what to listen at.

    Raises:
        InputError: The host is not known, or the port cannot be.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be between 0 and 65535, but got {port}.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host!r} is not a name or address of this machine.") from error
    # localhost is often ::1 as well, which tunnels and containers know less often than 127.0.0.1.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, (str(address[0]), int(address[1]))


def _listen(family: socket.AddressFamily, address: tuple[str, int], host: str) -> _Server:
    """Return a server that listens.

    Raises:
        InputError: The address is in use, not this machine's, or not allowed.
    """
    try:
        return _Server(family, address)
    except OSError as error:
        where = f"{host}:{address[1]}"
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port {address[1]}: something listens at {where} already; choose another port, "
                "or 0 for any that is free."
            ) from error
        raise InputError(
            f"cannot listen at {where}: {os.strerror(error.errno or 0)}; choose another --host or "
            "--port."
        ) from error


def _page(answers: Any, study: str | None, url: str) -> str:
    """Return the path of a study's page.

    Raises:
        InputError: There is no such study.
    """
    names = answers.study_names()
    if study is not None and study not in names:
        listed = ", ".join(sorted(names)) or "none"
        raise InputError(f"{mask_url(url)} holds no study {study!r}; it holds {listed}.")
    chosen = study or (names[0] if len(names) == 1 else None)
    return f"/dashboard/studies/{answers.study_id(chosen)}" if chosen else "/dashboard"


def _base_url(host: str, port: int) -> str:
    """Return how a browser on this machine reaches the server."""
    if host in ("0.0.0.0", "::", ""):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _mode(allow_writes: bool) -> str:
    if allow_writes:
        return "writable: whoever can open it can edit notes, end trials and delete studies"
    return "read-only: nothing is written to the database (--allow-writes lets the pages edit)"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does; as a container's first process it would do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
