"""Asking about studies, in whole processes, and enqueueing: what people type and what they read."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from typer.testing import CliRunner

from hpo.cli import app
from storage import create_views, open_storage, own_study
from tests.postgres import PostgresServer

DOCS = Path(__file__).parents[2] / "docs" / "queries.md"

DISTRIBUTIONS = {
    "base_model": CategoricalDistribution(("mini", "large, multilingual")),
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "dimension": CategoricalDistribution((64, 128, 256)),
    "epochs": IntDistribution(1, 4),
}


def trial(
    value: float | None, *, recall: float = 0.9, cause: str = "ok", **more: Any
) -> FrozenTrial:
    """Return a trial as the coordinator leaves it."""
    params = {"base_model": "mini", "learning_rate": 3e-5, "dimension": 128, "epochs": 2}
    params |= more.pop("params", {})
    return create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params=params,
        distributions={name: DISTRIBUTIONS[name] for name in params},
        user_attrs={
            "metrics": {"roc_auc": value, "recall": recall},
            "attempts": [{"cause": "lost"}, {"cause": cause}],
            "model": "runs/demo/trials/0/model",
        },
        system_attrs={"constraints:recall>=0.5": 0.5 - recall},
        intermediate_values={1: 0.5, 2: 0.75} if value is not None else {},
        **more,
    )


def make_study(url: str, trials: list[FrozenTrial], name: str = "demo") -> optuna.Study:
    storage = open_storage(url)
    create_views(storage)
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    study.set_user_attr(
        "hpo",
        {
            "objective": "mine:objective",
            "options": None,
            "seed": 0,
            "directory": "/not/here",
            "require": ["recall>=0.5"],
        },
    )
    for each in trials:
        study.add_trial(each)
    return study


DEMO = [
    trial(0.75),
    trial(0.95, recall=0.25),
    trial(0.875, params={"base_model": "large, multilingual", "learning_rate": 1.25e-4}),
    trial(None, cause="out-of-memory"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the study demo in hpo.db."""
    monkeypatch.chdir(tmp_path)
    make_study("sqlite:///hpo.db", DEMO)
    return tmp_path


def hpo(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_studies_say_who_runs_them(here: Path) -> None:
    optuna.create_study(
        storage="sqlite:///hpo.db", study_name="front", directions=["minimize", "maximize"]
    )
    with own_study("sqlite:///hpo.db", "demo"):
        demo, front = json.loads(hpo("studies", "--json").stdout)
        said = hpo("studies").stdout.splitlines()
    assert demo["trials"] == {"running": 0, "complete": 3, "pruned": 0, "fail": 1, "waiting": 0}
    assert demo["best"] == {"value": 0.875, "trial": 2}
    assert demo["owner"]["pid"] == os.getpid()
    assert (front["directions"], front["owner"]) == (["minimize", "maximize"], None)
    assert said[0].startswith(
        "demo · maximize · 3 complete, 1 fail · best 0.8750 (trial 2) · active"
    )
    assert f"run by process {os.getpid()} on host" in said[0]
    assert said[1] == "front · minimize, maximize · no trial yet"


def test_the_best_is_feasible_and_says_which_requirements_it_meets(here: Path) -> None:
    best = json.loads(hpo("best", "--json").stdout)
    assert (best["number"], best["feasible"]) == (2, True)
    assert best["violations"] == {"recall>=0.5": -0.4}
    assert "requires recall>=0.5: met" in hpo("best").stdout


def test_where_none_is_feasible_the_nearest_is_named(here: Path) -> None:
    make_study("sqlite:///hpo.db", [trial(0.9, recall=0.25), trial(0.8, recall=0.375)], "hard")
    done = hpo("best", "--study", "hard")
    assert done.returncode == 2
    assert "none of its 2 completed trials meets every requirement" in done.stderr
    assert "Trial 1 comes nearest: recall>=0.5 is missed by 0.125." in done.stderr


def test_infinite_numbers_are_valid_json(here: Path) -> None:
    make_study("sqlite:///hpo.db", [trial(math.inf)], "s")
    done = hpo("best", "--study", "s", "--json")
    best = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
    assert best["values"] == ["Infinity"]


@pytest.mark.slow
def test_csv_has_a_column_a_parameter_and_a_metric(here: Path) -> None:
    done = hpo("trials", "--csv")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["state"] for row in rows] == ["complete", "complete", "complete", "fail"]
    assert [row["feasible"] for row in rows] == ["True", "False", "True", "True"]
    assert float(rows[2]["param.learning_rate"]) == 1.25e-4
    assert rows[2]["param.base_model"] == "large, multilingual"
    assert (rows[2]["value"], rows[2]["metric.recall"], rows[3]["value"]) == ("0.875", "0.9", "")
    assert (rows[3]["cause"], rows[3]["attempts"]) == ("out-of-memory", "2")
    assert list(rows[0])[:3] == ["number", "state", "value"]
    front = optuna.create_study(
        storage="sqlite:///hpo.db", study_name="front", directions=["minimize", "maximize"]
    )
    front.add_trial(create_trial(values=[1.0, 2.0]))
    front.ask()
    lines = hpo("trials", "--csv", "--study", "front").stdout.splitlines()
    assert lines[0].startswith("number,state,value_0,value_1,feasible")
    assert [line.split(",")[2:4] for line in lines[1:]] == [["1.0", "2.0"], ["", ""]]


def test_formats_exclude_each_other(here: Path) -> None:
    done = hpo("trials", "--csv", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json and --csv" in done.stderr


def test_a_reader_that_stops_early_is_no_error(here: Path) -> None:
    long = {"text": "long " * 2000}  # more than a pipe takes before it is read
    ranges = {"text": CategoricalDistribution((long["text"],))}
    trials = [create_trial(value=1.0, params=long, distributions=ranges)] * 30
    make_study("sqlite:///hpo.db", trials, "long")
    code = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
    pipe = subprocess.Popen(
        [sys.executable, "-c", code, "trials", "--study", "long"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert pipe.stdout is not None
    assert pipe.stdout.readline().startswith("complete")
    pipe.stdout.close()
    assert pipe.stderr is not None
    assert pipe.stderr.read() == ""
    assert pipe.wait() != 0


# Enqueueing.


def waiting(study: optuna.Study) -> list[dict[str, Any]]:
    states = (TrialState.WAITING,)
    return [each.system_attrs["fixed_params"] for each in study.get_trials(states=states)]


@pytest.mark.slow
def test_enqueue_from_the_command_line(here: Path) -> None:
    done = hpo("enqueue", "--params", "learning_rate=3e-5", "--params", '{"dimension": 256}')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "trial 4 waits · learning_rate=3e-05 · dimension=256",
        "no coordinator runs the study: its next run takes the trial up first",
    ]
    study = optuna.load_study(study_name="demo", storage="sqlite:///hpo.db")
    assert waiting(study) == [{"learning_rate": 3e-5, "dimension": 256}]
    again = hpo("enqueue", "--params", '{"dimension": 256, "learning_rate": 0.00003}')
    assert again.returncode == 2
    assert "trial 4 waits with exactly these parameters already" in again.stderr
    with own_study("sqlite:///hpo.db", "demo"):
        said = hpo("enqueue", "--params", "epochs=1").stdout
    assert f"its coordinator takes it up next: process {os.getpid()}" in said
    asked = study.ask()  # as the coordinator does
    assert asked.number == 4
    assert asked.suggest_float("learning_rate", 1e-5, 1e-2, log=True) == 3e-5


SLOW = """
import time

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    time.sleep(0.2)
    return x
"""


@pytest.mark.slow
def test_a_trial_enqueued_while_a_coordinator_runs_is_its_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SLOW)
    coordinator = subprocess.Popen(
        [sys.executable, "-m", "hpo.run", "--objective", "mine:objective", "--trials", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert coordinator.stdout is not None
    while "x 0." not in coordinator.stdout.readline():  # the end of the first trial
        pass
    queued = []
    for value in (0.125, 0.25, 0.375):
        done = hpo("enqueue", "--params", f"x={value}")
        assert done.returncode == 0, done.stderr
        assert "its coordinator takes it up next" in done.stdout
        queued.append((int(done.stdout.split()[1]), value))
    out, _ = coordinator.communicate(timeout=60)
    assert coordinator.returncode == 0, out
    trials = optuna.load_study(study_name="mine", storage="sqlite:///hpo.db").trials
    assert [(number, trials[number].params["x"]) for number, _ in queued] == queued
    assert [each.state for each in trials] == [TrialState.COMPLETE] * 60


# The documented questions.


def documented(program: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith(("sqlite3 ", "psql ")) for line in lines)
    return [line for line in lines if line.startswith(program)]


def ask(line: str, programs: Path | None, **environment: str) -> str:
    path = os.pathsep.join([*([str(programs)] if programs else []), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), line
    return done.stdout


def check_answers(answers: dict[str, str]) -> None:
    """See that every question got the answer that the study demo gives."""
    for line, answer in answers.items():
        if "> from-" in line:
            file = Path(line.rpartition("> ")[2])
            rows = list(csv.DictReader(file.read_text().splitlines()))
            assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
            assert json.loads(rows[2]["params"])["learning_rate"] == 1.25e-4
        elif "'FAIL'" in line:
            assert "out-of-memory" in answer
        elif "intermediate_value" in line:
            assert "0.75" in answer
        elif "attempts > 1" in line:
            assert "lost" not in answer
            assert "out-of-memory" in answer
        else:
            assert "large, multilingual" in answer, line


def test_the_documented_questions_to_sqlite(here: Path) -> None:
    if shutil.which("sqlite3") is None:
        pytest.skip("needs the program sqlite3")
    answers = {line: ask(line, None) for line in documented("sqlite3")}
    assert len(answers) > 7
    check_answers(answers)


def test_the_documented_questions_to_postgresql(
    postgres_server: PostgresServer,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_study(postgres_url, DEMO)
    programs = postgres_server.programs
    answers = {line: ask(line, programs, HPO_STORAGE=postgres_url) for line in documented("psql")}
    assert len(answers) > 9
    check_answers(answers)


def test_the_documented_right_is_enough(postgres_server: PostgresServer, postgres_url: str) -> None:
    make_study(postgres_url, DEMO)
    database = postgres_url.rpartition("/")[2]
    role = f"analyst_{database}"
    (grant,) = re.findall(r"`(GRANT SELECT ON .*) TO analyst`", DOCS.read_text())
    postgres_server.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"{grant} TO {role}", database=database
    )
    url = postgres_server.url(database, role, "x")
    line = """psql "$HPO_STORAGE" -At -c "select number from hpo_best" """
    assert ask(line, postgres_server.programs, HPO_STORAGE=url) == "2\n"
    postgres_server.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)


def test_a_question_asked_from_python_leaves_signals_as_they_were(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGPIPE)
    CliRunner().invoke(app, ["studies", "--storage", f"sqlite:///{tmp_path}/none.db"])
    assert signal.getsignal(signal.SIGPIPE) is before
