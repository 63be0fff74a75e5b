"""A coordinator on Modal: the client may go, its container may die, and nothing is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.modal_loopback import ControlPlane, room_problem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(room_problem() is not None, reason=str(room_problem())),
]

OBJECTIVE = """
import time

def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    for step in range(3):
        time.sleep(0.2)
        trial.report(x * x + step, step)
    return x * x
"""


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path / "plane") as found:
        yield found


RUN = ("-m", "hpo.run")


def start(
    plane: ControlPlane, directory: Path, *arguments: str, program: Sequence[str] = RUN
) -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    (directory / "parabola.py").write_text(OBJECTIVE)
    command = [sys.executable, *program, "--objective", "parabola:objective"]
    command += ["--coordinator", "modal", "--max-cost", "20", "--workers", "2", *arguments]
    return subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, **plane.environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def snapshot(plane: ControlPlane, name: str) -> list[tuple[int, str, float | None]]:
    """Return number, state and value of the trials that the committed snapshot holds."""
    try:
        path = plane.volume("hpo-studies") / f"{name}.db"
    except KeyError:  # the app is not deployed yet
        return []
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        return database.execute(
            "SELECT number, state, value FROM trials LEFT JOIN trial_values USING (trial_id)"
            " ORDER BY number"
        ).fetchall()


def finished(plane: ControlPlane, name: str) -> dict[int, float | None]:
    return {number: value for number, state, value in snapshot(plane, name) if state == "COMPLETE"}


def test_the_study_finishes_without_its_client_and_survives_its_container(
    plane: ControlPlane, tmp_path: Path
) -> None:
    client = start(plane, tmp_path / "laptop", "--trials", "8")
    plane.wait_for(lambda: len(finished(plane, "parabola")) >= 2, timeout=60)
    client.kill()
    client.wait()
    before = finished(plane, "parabola")
    call = next(each for each in plane.calls() if each.function == "coordinate")
    assert plane.crash(call.id)
    plane.wait_for(lambda: len(finished(plane, "parabola")) >= 8, timeout=60)

    after = finished(plane, "parabola")
    assert before.items() <= after.items()
    assert len(after) == 8
    trials = [each for each in plane.calls() if each.function == "run_trial"]
    assert len(trials) == 8  # nothing was spawned twice


def test_the_same_command_follows_a_coordinator_that_runs(
    plane: ControlPlane, tmp_path: Path
) -> None:
    first = start(plane, tmp_path / "laptop", "--trials", "16")
    plane.wait_for(lambda: len(finished(plane, "parabola")) >= 1, timeout=60)
    first.kill()
    first.wait()
    second = start(plane, tmp_path / "laptop", "--trials", "16")
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert "its coordinator runs already" in said
    assert "done  16 of 16 trials" in said
    assert "modal://hpo-studies/parabola.db" in said
    assert len([each for each in plane.calls() if each.function == "coordinate"]) == 1


SHORT = """
from hpo.on_modal import orders

orders.Order.model_fields["seconds"].default = 4.0
orders.Order.model_rebuild(force=True)

from hpo.cli import run_alone

run_alone()
"""
"""A client whose coordinators hand over after four seconds."""


def test_a_coordinator_whose_time_is_up_goes_on_in_its_next_call(
    plane: ControlPlane, tmp_path: Path
) -> None:
    done = start(plane, tmp_path / "laptop", "--trials", "12", program=("-c", SHORT))
    said, _ = done.communicate(timeout=100)
    assert done.returncode == 0, said
    assert "done  12 of 12 trials" in said
    assert len(finished(plane, "parabola")) == 12
    coordinators = [each for each in plane.calls() if each.function == "coordinate"]
    assert len(coordinators) >= 2
    assert {each.status for each in coordinators} == {"done"}
    assert len([each for each in plane.calls() if each.function == "run_trial"]) == 12
