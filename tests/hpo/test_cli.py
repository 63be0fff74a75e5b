"""The command line as people use it: whole processes, what they print and how they exit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from storage import own_study, owner_of

DOCS = Path(__file__).parents[2] / "docs"

PRUNED_BY_HAND = """
import optuna

def objective(trial):
    size = trial.suggest_categorical("size", [(1, 2), (3, 4)])
    x = trial.suggest_float("x", 0, 1)
    for step in range(3):
        trial.report(x + step, step)
        if trial.should_prune() or trial.number == 3:
            raise optuna.TrialPruned()
    return x * size[0]

def raises(trial):
    trial.suggest_float("x", 0, 1)
    raise RuntimeError("deliberately broken")

def pair(trial):
    x = trial.suggest_float("x", 0, 1)
    return x, 1 - x

def waits(trial):
    import time
    x = trial.suggest_float("x", 0, 1)
    for step in range(100):
        time.sleep(0.04)
        trial.report(x, step)
    return x
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own directory: an objective nobody here wrote, and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PRUNED_BY_HAND)
    return tmp_path


def command(*arguments: str, module: str = "hpo.run") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, check=False, **more
    )


def hpo_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_is_quick() -> None:
    """Help costs at most 25 times what an empty Python costs, side by side."""

    def fastest(arguments: list[str]) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - began)
        return min(times)

    assert fastest(["-m", "hpo.run", "--help"]) < 25 * fastest(["-c", "pass"])


def test_an_objective_of_ones_own_runs_with_pruning(here: Path) -> None:
    done = run("--objective", "mine:objective", "--trials", "8", "--workers", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (
        lines[0]
        == "study mine · 8 trials · 2 workers on this machine (no Modal token) · sqlite:///hpo.db"
    )
    assert any(line.startswith("done  8 of 8 trials") for line in lines)
    assert "\x1b" not in done.stdout
    trials = optuna.load_study(study_name="mine", storage="sqlite:///hpo.db").trials
    assert len(trials) == 8
    assert "PRUNED" in {trial.state.name for trial in trials}
    assert all(trial.intermediate_values for trial in trials)


def test_the_example_of_the_docs_runs(here: Path) -> None:
    shutil.copy(DOCS / "quadratic.py", here)
    done = run("--objective", "quadratic:objective", "--trials", "6", "--executor", "inline")
    assert done.returncode == 0, done.stderr
    as_script = subprocess.run(
        [sys.executable, "quadratic.py"], capture_output=True, text=True, timeout=120, check=False
    )
    assert as_script.returncode == 0, as_script.stderr
    assert "method" in as_script.stdout.splitlines()[-1]


def test_several_directions(here: Path) -> None:
    done = run(
        *("--objective", "mine:pair", "--trials", "3", "--executor", "inline"),
        *("--direction", "minimize", "--direction", "maximize"),
    )
    assert done.returncode == 0, done.stderr
    assert "front" in done.stdout
    best = hpo_command("best", "--json")
    assert isinstance(json.loads(best.stdout), list)


def test_asking_for_the_best_and_for_all(here: Path) -> None:
    run("--objective", "mine:objective", "--trials", "4", "--executor", "inline", "--study", "a")
    study = optuna.load_study(study_name="a", storage="sqlite:///hpo.db")
    best = json.loads(hpo_command("best", "--json").stdout)
    assert best["number"] == study.best_trial.number
    assert best["values"] == [study.best_value]
    rows = [json.loads(line) for line in hpo_command("trials", "--json").stdout.splitlines()]
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert [row["state"] for row in rows][3] == "pruned"
    assert len(hpo_command("trials").stdout.splitlines()) == 4
    run("--objective", "mine:objective", "--trials", "1", "--executor", "inline", "--study", "b")
    asked = hpo_command("best")
    assert asked.returncode == 2
    assert "name one with --study (a, b)" in asked.stderr


def test_three_bugs_stop_with_the_traceback_once(here: Path) -> None:
    done = run("--objective", "mine:raises", "--trials", "9", "--workers", "1")
    assert done.returncode == 1
    assert done.stderr.count("deliberately broken") >= 1
    assert (done.stdout + done.stderr).count("Traceback (most recent call last)") == 1
    trials = optuna.load_study(study_name="raises", storage="sqlite:///hpo.db").trials
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3
    assert trials[0].user_attrs["attempts"][0]["cause"] == "bug"


def test_dry_run_says_the_plan_and_does_nothing(here: Path) -> None:
    before = sorted(here.iterdir())
    done = run("--objective", "mine:objective", "--trials", "9", "--timeout", "1h", "--dry-run")
    assert done.returncode == 0, done.stderr
    for words in ("mine in sqlite:///hpo.db", "9 finished", "3,600 s", "nothing was started"):
        assert words in done.stdout
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


def test_ctrl_c_once_finishes_twice_stops_and_the_same_command_goes_on(here: Path) -> None:
    arguments = ("--objective", "mine:waits", "--trials", "2", "--workers", "1", "--study", "w")
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "step" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # the running trial goes on
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "the same command goes on" in out
    (trial,) = optuna.load_study(study_name="w", storage="sqlite:///hpo.db").trials
    assert trial.state.name == "RUNNING"
    again = run(*arguments[:3], "1", *arguments[4:])
    assert again.returncode == 0, again.stderr
    (after,) = optuna.load_study(study_name="w", storage="sqlite:///hpo.db").trials
    assert after.state.name == "COMPLETE"
    assert after.params == trial.params


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials: Input should be greater than 0"),
        (["--trials", "many"], "--trials"),
        (["--objective", "nowhere:f"], "there is no module 'nowhere'"),
        (["--objective", "mine:nothing"], "it has objective, raises, pair, waits"),
        (["--objective", "mine"], "expected package.module:function"),
        (["--objective", "mine:optuna"], "cannot be called"),
        (["--objective", "mine:objective", "--sampler", "luck"], "choose one of tpe"),
        (["--objective", "mine:objective", "--pruner", "axe"], "choose one of none"),
        (["--objective", "mine:objective", "--storage", "hpo.db"], "hpo.db"),
        (["--config", "no.toml"], "no.toml: there is no such file"),
        (["--objective", "mine:objective", "--study", "a/b"], "directory's name"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    here: Path, arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == ["mine.py"]


def test_an_unreachable_database_is_one_message(here: Path) -> None:
    url = "postgresql://someone:secret@127.0.0.1:9/nothing"
    done = run("--objective", "mine:objective", env={**os.environ, "HPO_STORAGE": url})
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == ["mine.py"]


def test_a_wrong_space_names_its_file_and_key(here: Path) -> None:
    (here / "sweep.toml").write_text('[space]\nepochs = "many"\n')
    done = run("--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith("hpo: sweep.toml: space: epochs cannot be 'many'")
    done = run("--dry-run", "--space", "epochs=1", "--space", "loss=Guess")
    assert done.stderr.startswith("hpo: sweep.toml: space or --space: there is no loss 'Guess'")
    (here / "sweep.toml").unlink()
    assert run("--space", "epochs=0").stderr.startswith("hpo: --space: epochs cannot be '0'")


def test_rules_that_no_best_trial_can_meet_are_refused_by_their_flag(here: Path) -> None:
    pair = ("--objective", "mine:pair", "--direction", "minimize", "--direction", "maximize")
    for flag in ("--target", "--patience"):
        done = run(*pair, flag, "3")
        assert done.returncode == 2
        assert f"{flag} needs one best trial" in " ".join(done.stderr.split())
        left = [path.name for path in here.iterdir() if path.name != "__pycache__"]
        assert left == ["mine.py"]


@pytest.mark.slow
def test_a_metric_that_the_built_in_objective_lacks_is_refused_at_once(here: Path) -> None:
    pairs = [
        {"sentence1": f"question {n} a", "sentence2": f"question {n} b", "label": n % 2}
        for n in range(400)
    ]
    (here / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    done = run("--data", "pairs.jsonl", "--require", "recal>=0.5")
    assert done.returncode == 2, done.stderr
    assert "--require recal>=0.5: its trials have no metric 'recal'" in done.stderr
    assert "recall" in done.stderr
    left = {path.name for path in here.iterdir() if path.name != "__pycache__"}
    assert left == {"mine.py", "pairs.jsonl"}


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_second_coordinator_exits_at_once_and_names_the_first(
    here: Path, database: str, request: pytest.FixtureRequest
) -> None:
    url = "sqlite:///hpo.db"
    if database == "postgresql":
        url = request.getfixturevalue("postgres_url")
    with own_study(url, "s"):
        owner = owner_of(url, "s")
        done = run("--objective", "mine:waits", "--study", "s", "--storage", url)
    assert owner is not None
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert f"owned by another coordinator: process {os.getpid()} on host " in said
    assert socket.gethostname() in said
    assert f"since {owner.since}" in said
    assert "Traceback" not in said
    assert not (here / "runs").exists()
