"""What the tests of the dashboard share: studies, a server in a thread, and questions to it."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.trial import create_trial

from hpo.dashboard import Dashboard, open_dashboard
from storage import open_storage

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "x": optuna.distributions.FloatDistribution(0, 1),
    "n": optuna.distributions.IntDistribution(1, 9),
    "kind": optuna.distributions.CategoricalDistribution(["a", "b", None]),
}
PARAMS = {"x": 0.5, "n": 3, "kind": None}


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        body = self.body
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        return json.loads(body)


def ask(
    dashboard: Dashboard | str, path: str, method: str = "GET", body: Any = None, **headers: str
) -> Reply:
    """Send a request; headers are written with ``_`` for ``-``."""
    place = urlsplit(dashboard if isinstance(dashboard, str) else dashboard.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection.request(method, path, body=data, headers=sent)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


@contextmanager
def serving(url: str, **options: Any) -> Iterator[Dashboard]:
    """Serve ``url`` on a free port in a thread."""
    dashboard = open_dashboard(url, port=0, **options)
    thread = threading.Thread(target=dashboard.serve_forever)
    thread.start()
    try:
        yield dashboard
    finally:
        dashboard.shutdown()
        thread.join()
        dashboard.close()


def make_study(url: str, name: str = "s", direction: str = "maximize") -> optuna.Study:
    return optuna.create_study(study_name=name, storage=open_storage(url), direction=direction)


def add(study: optuna.Study, *values: float, **violations: float) -> None:
    """Add a completed trial with the violations of its constraints."""
    study.add_trial(
        create_trial(
            params=PARAMS,
            distributions=SPACE,
            values=values,
            constraints={name.replace("_", ">="): value for name, value in violations.items()},
        )
    )


def login(password: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
