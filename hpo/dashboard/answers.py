"""Answers from a cache that is never older than the database.

Every question first asks the database for its version, which takes a millisecond. As long as that
stays the same, an answer is given again as it is, and not at all to a browser that has it already;
when it has changed, optuna-dashboard is asked again, on a new snapshot.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from hpo.dashboard.database import Database, UnavailableError, unavailable
from hpo.dashboard.snapshot import Snapshot
from hpo.dashboard.study_answer import StudyAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_STUDY = re.compile(r"/api/studies/(\d+)/?")
_KEPT = 16
"""So many answers are kept for a version: pages that poll ask from different trials on, and an
answer with thousands of trials has megabytes."""


@dataclass(frozen=True)
class Answer:
    """A whole answer: status line, media type, body."""

    status: str
    media_type: str
    body: bytes

    @cached_property
    def compressed(self) -> bytes:
        """The body in gzip's format; on a fast level, since it is mostly sent a few metres."""
        return gzip.compress(self.body, compresslevel=1, mtime=0)

    @cached_property
    def tag(self) -> str:
        """What tells this body from another."""
        return f'W/"{hashlib.blake2b(self.body, digest_size=12).hexdigest()}"'


class Answers:
    """A WSGI application in front of optuna-dashboard that answers from its cache.

    Args:
        database: The studies' database.
        allow_writes: Hand requests that write to optuna-dashboard.
    """

    def __init__(self, database: Database, *, allow_writes: bool) -> None:
        from optuna.storages import get_storage
        from optuna_dashboard import wsgi

        self._database = database
        self._make: Callable[[Snapshot], WSGIApplication] = wsgi
        self._lock = threading.Lock()
        self._version: Hashable = None
        self._snapshot = Snapshot(database)
        self._pages: WSGIApplication = self._make(self._snapshot)
        # Writing is optuna-dashboard's own business, on the storage itself.
        self._writer: WSGIApplication | None = (
            wsgi(get_storage(database.storage)) if allow_writes else None
        )
        self._answers: dict[tuple[str, str], Answer] = {}
        self._studies: dict[int, tuple[object, StudyAnswer]] = {}
        self._renewed: set[int] = set()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        # optuna-dashboard takes it for granted that a client says what encodings it takes.
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        path = environ["PATH_INFO"]
        reads = environ["REQUEST_METHOD"] in ("GET", "HEAD")
        if not reads and self._writer is not None:
            written = _call(self._writer, environ)
            if written.status.startswith("204"):
                # The pages of optuna-dashboard 0.21 read JSON from every answer, and stumble over
                # its own that have none: the editor of a note would stay open as if it had failed.
                written = Answer("200 OK", "application/json", b"{}")
            return _send(written, environ, start)
        try:
            if reads and path.startswith("/api/"):
                return _send(self._answer(path, environ["QUERY_STRING"]), environ, start)
            if path.startswith("/csv/"):
                with self._reading():
                    self._renew()
        except UnavailableError as error:
            reason = f"The database does not answer: {error}. Reload the page when it is back."
            return _send(problem("503 Service Unavailable", reason), environ, start)
        return self._pages(environ, start)

    def study_id(self, name: str) -> int:
        """Return the id of a study.

        Raises:
            KeyError: There is none of this name.
        """
        with self._reading():
            self._renew()
            return self._snapshot.get_study_id_from_name(name)

    def study_names(self) -> list[str]:
        """Return the names of all studies."""
        with self._reading():
            self._renew()
            return [study.study_name for study in self._snapshot.get_all_studies()]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Let one thread at a time read, and call an error of the database by its name."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        with self._lock:
            try:
                yield
            except (SQLAlchemyError, StorageInternalError) as error:
                self._version = None
                raise unavailable(error) from error

    def _answer(self, path: str, query: str) -> Answer:
        with self._reading():
            self._renew()
            known = self._answers.get((path, query))
            if known is None:
                known = self._make_answer(path, query)
                if known.status.startswith("200"):
                    if len(self._answers) >= _KEPT:
                        self._answers.pop(next(iter(self._answers)))
                    self._answers[path, query] = known
            return known

    def _renew(self) -> None:
        """Take a new snapshot if the database has changed."""
        version = self._snapshot.refresh()
        if version != self._version:
            # optuna-dashboard keeps trials for up to ten seconds, so that an answer made now could
            # say what was true then, and be kept for good; a new application has nothing to keep.
            self._pages = self._make(self._snapshot)
            self._answers.clear()
            self._renewed.clear()
            self._version = version

    def _make_answer(self, path: str, query: str) -> Answer:
        found = _STUDY.fullmatch(path)
        after = parse_qs(query).get("after", ["0"])[-1]
        if found is None or not after.isdecimal():
            return self._ask(path, query)
        study_id = int(found[1])
        try:
            lineage = self._snapshot.lineage(study_id)
        except KeyError:
            return self._ask(path, query)
        known = self._studies.get(study_id)
        if known is None or known[0] is not lineage:
            known = self._studies[study_id] = (lineage, StudyAnswer(study_id))
        if study_id not in self._renewed:
            known[1].renew(
                lambda position: self._ask_json(path, f"after={position}"),
                self._snapshot,
                self._database,
            )
            self._renewed.add(study_id)
        return Answer("200 OK", "application/json", known[1].after(int(after)))

    def _ask_json(self, path: str, query: str) -> dict[str, Any]:
        answer = self._ask(path, query)
        if not answer.status.startswith("200"):
            raise UnavailableError(f"optuna-dashboard answered {answer.status} to {path}")
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def _ask(self, path: str, query: str) -> Answer:
        """Ask optuna-dashboard."""
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_ACCEPT_ENCODING": "identity",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "0",
            "SERVER_PROTOCOL": "HTTP/1.0",
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "wsgi.errors": sys.stderr,
        }
        return _call(self._pages, environ)


def _call(application: WSGIApplication, environ: WSGIEnvironment) -> Answer:
    """Return the whole answer of ``application``."""
    said: list[tuple[str, dict[str, str]]] = []

    def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
        said.append((status, dict(headers)))

    body = b"".join(application(environ, start))
    status, headers = said[-1]
    return Answer(status, headers.get("Content-Type", "application/json"), body)


def problem(status: str, reason: str) -> Answer:
    """Return an answer that says what is wrong, as optuna-dashboard's pages expect it."""
    body = json.dumps({"reason": reason}, ensure_ascii=False) + "\n"
    return Answer(status, "application/json; charset=utf-8", body.encode())


def _send(answer: Answer, environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    """Send ``answer``, compressed if the client likes, or only that it is what it has already."""
    headers = [("Content-Type", answer.media_type), ("Vary", "Accept-Encoding")]
    if answer.status.startswith("200") and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        # The browser may keep the answer, and must ask each time whether it is still right.
        headers += [("ETag", answer.tag), ("Cache-Control", "private, no-cache")]
        if environ.get("HTTP_IF_NONE_MATCH") == answer.tag:
            start("304 Not Modified", headers)
            return []
    body = answer.body
    if "gzip" in environ["HTTP_ACCEPT_ENCODING"] and len(body) > 1000:
        body = answer.compressed
        headers.append(("Content-Encoding", "gzip"))
    headers.append(("Content-Length", str(len(body))))
    start(answer.status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
