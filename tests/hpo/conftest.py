"""Fixtures of the tests of hpo/: databases of both kinds, and a Modal on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hpo.modal_support import OBJECTIVES, Modal
from tests.modal_loopback import ControlPlane, Faults, room_problem


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/hpo.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path}/hpo.db"


@pytest.fixture(scope="session")
def modal_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane for the session, as Modal's client keeps to the first that it finds."""
    if (problem := room_problem()) is not None:
        pytest.skip(problem)
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        plane.scaledown_cap = 20.0  # containers stay warm from test to test
        yield plane


@pytest.fixture
def on_modal(
    modal_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Modal]:
    """Somebody with a token for it, in an empty directory but for objectives."""
    for name, value in modal_plane.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / OBJECTIVES.name).write_bytes(OBJECTIVES.read_bytes())
    yield Modal(modal_plane, tmp_path)
    modal_plane.faults = Faults()
