"""Objectives for tests of Modal: they are shipped alone, so they import nothing of the tests."""

from __future__ import annotations

import os
import signal
import sys
import time
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
