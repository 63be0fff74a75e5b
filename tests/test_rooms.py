"""The rooms keep to themselves: which folder may import what, and what a light start may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = {"torch", "sentence_transformers", "transformers", "datasets", "accelerate"}

FORBIDDEN = {
    "hpo": HEAVY | {"objectives"},
    "hpo/executors": HEAVY | {"objectives", "storage"},
    "storage": HEAVY | {"hpo", "objectives"},
}


def imports(path: Path) -> Iterator[str]:
    """Yield every module that ``path`` imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_nothing_that_it_must_not(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        packages = {name.partition(".")[0] for name in imports(path)}
        assert not packages & FORBIDDEN[room], path


def test_objectives_take_only_the_current_attempt_from_hpo() -> None:
    for path in (ROOT / "objectives").glob("*.py"):
        names = {name for name in imports(path) if name.partition(".")[0] in ("hpo", "storage")}
        assert names <= {"hpo.current_attempt", "hpo.CurrentAttempt"}, path


def loaded_by(code: str) -> set[str]:
    """Return the top-level packages that are loaded after ``code`` ran in a new process."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_is_light() -> None:
    assert not loaded_by("import hpo.cli") & (HEAVY | {"optuna", "sqlalchemy", "pydantic", "rich"})


def test_the_coordinators_side_has_no_torch() -> None:
    assert not loaded_by("import hpo.study, hpo.coordinator, objectives") & HEAVY
    assert not loaded_by("import storage") & (HEAVY | {"optuna", "sqlalchemy"})
