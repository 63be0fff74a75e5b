"""kill -9 at random instants, and always the same command again: nothing is lost or run twice."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest

OBJECTIVE = """
import math, os, time, uuid, optuna

def value(x, kind, n):
    return math.sin(x) + (n if kind == "integer" else 0)

def objective(trial):
    x = trial.suggest_float("x", -5, 5)
    kind = trial.suggest_categorical("kind", ["plain", "integer"])
    n = trial.suggest_int("n", 1, 9) if kind == "integer" else 0
    for step in range(4):
        time.sleep(0.03)
        trial.report(x + step, step)
        if trial.number % 5 == 4 and step == 2:
            raise optuna.TrialPruned
    return value(x, kind, n)
"""

TRIALS = 40


def value_of(params: dict[str, float]) -> float:
    return math.sin(params["x"]) + params.get("n", 0)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        return "sqlite:///hpo.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


def start(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "hpo.run", "--objective", "mine:objective"),
            *("--trials", str(TRIALS), "--workers", "2", "--storage", url, "--study", "chaos"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_killed_coordinators_and_workers_lose_nothing(url: str, seed: int) -> None:
    chance = random.Random(seed)
    kills = 0
    while True:
        process = start(url)
        time.sleep(chance.uniform(0.3, 3.5))
        if kills >= 6:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0, out
            break
        if chance.random() < 0.3:
            workers = psutil.Process(process.pid).children(recursive=True)
            for worker in workers[-1:]:
                worker.kill()
            time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    optuna_url = url.replace("postgresql://", "postgresql+psycopg2://")
    trials = optuna.load_study(study_name="chaos", storage=optuna_url).trials
    states = [trial.state.name for trial in trials]
    assert len(trials) == TRIALS, states
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert [trial.number for trial in trials] == list(range(TRIALS))
    for trial in trials:
        steps = range(3) if trial.state.name == "PRUNED" else range(4)
        for step in set(steps) & trial.intermediate_values.keys():
            assert trial.intermediate_values[step] == pytest.approx(trial.params["x"] + step)
        if trial.state.name == "COMPLETE":
            assert trial.value == pytest.approx(value_of(trial.params))
            assert set(trial.intermediate_values) == set(steps)
        finished = [each for each in trial.user_attrs["attempts"] if each["cause"] != "lost"]
        assert len(finished) == 1, "a finished trial was run again"
