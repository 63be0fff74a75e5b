"""What the tests of storage/ share: the URL of a new database of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        # A name with everything that URLs and format strings could trip over.
        return f"sqlite:///{tmp_path}/with space {{x}} 50%.db"
    found: str = request.getfixturevalue("postgres_url")
    return found
