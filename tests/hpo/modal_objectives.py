"""Objectives for tests of Modal: they are shipped alone, so they import nothing of the tests."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

import hpo


def quadratic(trial: optuna.Trial) -> float:
    """Ask, report and return; ``x`` decides everything."""
    x = trial.suggest_float("x", -1, 1)
    for step in range(3):
        trial.report(x * x + step, step)
    return x * x


def patient(trial: optuna.Trial) -> float:
    """Take two seconds in ten steps, each with a checkpoint."""
    return _train(trial, listens=False)


def attentive(trial: optuna.Trial) -> float:
    """Do the same, and listen after each step."""
    return _train(trial, listens=True)


def _train(trial: optuna.Trial, listens: bool) -> float:
    x = trial.suggest_float("x", -1, 1)
    attempt = hpo.current_attempt()
    file = attempt.directory / "step"
    first = int(file.read_text()) + 1 if file.exists() else 0
    if first:
        print(f"resumed from step {first}")
    trial.set_user_attr("resumed", first)
    for step in range(first, 10):
        time.sleep(0.2)
        trial.report(x + step, step)
        file.write_text(str(step))
        attempt.commit()
        if listens:
            trial.should_prune()
    return x


def mannered(trial: optuna.Trial) -> float:
    """Do something else that is not done, in each trial."""
    x = trial.suggest_float("x", -1, 1)
    manners: list[Any] = [_shout, _fork, _say_much, _exit, _leave_a_child]
    manners[trial.number % len(manners)](trial)
    return x


def _shout(trial: optuna.Trial) -> None:
    for _ in range(3000):
        print("x" * 1000)
    os.write(1, b"the last line\n")


def _fork(trial: optuna.Trial) -> None:
    if os.fork() == 0:
        trial.set_user_attr("who", "child")
        raise optuna.TrialPruned


def _say_much(trial: optuna.Trial) -> None:
    trial.set_user_attr("much", "é" * 32_000)
    for step in range(200):
        trial.report(step / 7, step)


def _exit(trial: optuna.Trial) -> None:
    sys.exit(3)


def _leave_a_child(trial: optuna.Trial) -> None:
    if os.fork() == 0:
        signal.alarm(20)
        time.sleep(60)


def hanging(trial: optuna.Trial) -> float:
    """Hang: in Python, in a system call, or against every interruption."""
    if trial.number == 0:
        while True:
            pass
    if trial.number == 1:
        time.sleep(60)
    while True:
        try:
            time.sleep(60)
        except BaseException as error:
            print("swallowed", type(error).__name__)
            if type(error).__name__ != "AttemptTimeout":
                raise


def asking(trial: optuna.Trial) -> float:
    """Ask for one parameter after the other, each depending on the last."""
    kind = trial.suggest_categorical("kind", ["a", "b"])
    first = trial.suggest_float(f"first_{kind}", 0, 1)
    second = trial.suggest_int("second", 1, 8)
    trial.report(first, 0)
    trial.report(second, 1)
    return first + second


def deaf(trial: optuna.Trial) -> float:
    """Train for ever, and never listen."""
    trial.suggest_float("x", -1, 1)
    while True:
        time.sleep(0.1)


def dying(trial: optuna.Trial) -> float:
    """Take the first container along, as memory that runs out would."""
    x = trial.suggest_float("x", -1, 1)
    attempt = hpo.current_attempt()
    mark = attempt.directory / "died"
    if trial.number == 0 and not mark.exists():
        mark.touch()
        attempt.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def _sample(trial: optuna.Trial) -> None:
    trial.suggest_float("x", -1, 1)


for each in (quadratic, patient, attentive):
    # The coordinator samples, so that they need nobody once they run.
    vars(each)["suggest"] = _sample


SEALED = "".join(reversed("yltneuqesbus denepo ton"))
"""What only the test split holds; written so that no shipped source does."""


class Sealed:
    """Trials that look for the test split wherever a container can look, and an evaluation."""

    metric_name = "points"
    direction = "maximize"
    frugality = ("size",)

    def __init__(self, prepared: bool = False) -> None:
        self.prepared = prepared

    def options(self) -> dict[str, Any]:
        """Return what builds it again."""
        return {"prepared": self.prepared}

    def prepare(self, directory: Path, seed: int) -> tuple[Sealed, list[str]]:
        """Write a split that trials may see and one that they may not, too long for a message."""
        (directory / "data").mkdir(parents=True, exist_ok=True)
        (directory / "data" / "train.txt").write_text("for all to see")
        (directory / "test.jsonl").write_text(SEALED * 200_000)
        return Sealed(prepared=True), []

    def __call__(self, trial: optuna.Trial) -> float:
        """Look around, and leave a model."""
        size = trial.suggest_int("size", 1, 5)
        current = hpo.current_attempt()
        seen = [str(path) for path in _files() if SEALED.encode() in path.read_bytes()]
        trial.set_user_attr("seen", seen + ([str(current.test)] if current.test else []))
        (current.directory / "model").mkdir(exist_ok=True)
        (current.directory / "model" / "weights").write_text(str(size))
        trial.set_user_attr("model", str(current.directory / "model"))
        trial.set_user_attr("metrics", {"size": size, "threshold": 0.5})
        trial.set_user_attr("hpo:scores", "AACAPw==")
        return float(size)

    def evaluate(self, trial: optuna.Trial) -> float:
        """Read the winner's weights and the test split."""
        current = hpo.current_attempt()
        assert current.test is not None
        length = len(current.test.read_text()) // len(SEALED)
        size = float((current.assets["hpo:winner"] / "weights").read_text())
        trial.set_user_attr("comparison", {"pairs": 1, "candidates": []})
        measures = {"roc_auc": {"value": size / 10, "low": 0.0, "high": 1.0}}
        found = {"pairs": length, "measures": measures, "baselines": []}
        trial.set_user_attr("evaluation", found)
        return size / 10


sealed = Sealed()


def _files() -> list[Path]:
    if not Path("/hpo-runs").is_dir():
        return []  # in no container
    found = [*Path("/hpo-runs").rglob("*"), *Path("/hpo-cache").rglob("*")]
    found += Path(tempfile.gettempdir()).rglob("test*")
    return [path for path in found if path.is_file()]
