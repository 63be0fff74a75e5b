"""PostgreSQL goes away for longer than a study waits for it: whole processes, a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from tests.postgres import PostgresServer

OBJECTIVE = """
import time
from pathlib import Path

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    with open("journal", "a") as file:
        print(trial.number, file=file)
    for step in range(3):
        trial.report(x, step)
        if trial.number == 1:
            Path("now").touch()
            while not Path("gone").exists():
                time.sleep(0.01)
    return x
"""


@pytest.mark.slow
def test_results_that_postgresql_was_away_for_are_written_by_the_same_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres_server: PostgresServer,
    postgres_url: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPO_STORAGE", postgres_url)
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    command = [
        *(sys.executable, "-m", "hpo.run", "--objective", "mine:objective", "--study", "s"),
        *("--trials", "3", "--workers", "1", "--db-grace", "1s"),
    ]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "now").exists():
        assert run.poll() is None, run.communicate()
    postgres_server.stop()
    try:
        (tmp_path / "gone").touch()
        out, err = run.communicate(timeout=60)
    finally:
        postgres_server.start()
    assert run.returncode == 1, out + err
    unwritten = Path("runs/s/unwritten.jsonl")
    said = " ".join(err.split())
    assert "--db-grace" in said
    assert str(unwritten.resolve()) in said
    assert "the same command writes them and goes on" in said
    assert "Traceback" not in said
    kinds = [json.loads(line)["kind"] for line in unwritten.read_text().splitlines()]
    assert kinds[-1] == "done"
    ends = [json.loads(line) for line in Path("runs/s/events.jsonl").read_text().splitlines()]
    assert ends[-1]["kind"] == "end"

    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not unwritten.exists()
    assert (tmp_path / "journal").read_text().split() == ["0", "1", "2"]
    url = postgres_url.replace("postgresql://", "postgresql+psycopg2://")
    trials = optuna.load_study(study_name="s", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    for trial in trials:
        assert trial.value == trial.params["x"]
        assert trial.intermediate_values == dict.fromkeys(range(3), trial.value)
        assert [each["cause"] for each in trial.user_attrs["attempts"]] == ["ok"]
