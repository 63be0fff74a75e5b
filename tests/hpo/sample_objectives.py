"""Objectives for tests: ordinary Optuna code, importable by worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import optuna

import hpo


def quadratic(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["square", "absolute"])
    offset = trial.suggest_int("offset", 1, 8, log=True) if kind == "square" else 0
    trial.set_user_attr("squared", kind == "square")
    return (x * x if kind == "square" else abs(x)) + offset


def pruning(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    for step in range(5):
        trial.report(x, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x


def two_values(trial: optuna.Trial) -> tuple[float, float]:
    x = trial.suggest_float("x", 0, 1)
    return x, 1 - x


def dies_once(trial: optuna.Trial) -> float:
    """Kills its own process in the first attempt of trial 1."""
    x = trial.suggest_float("x", 0, 1)
    mark = hpo.current_attempt().directory / "died"
    if trial.number == 1 and not mark.exists():
        mark.touch()
        print("about to die")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def always_dies(trial: optuna.Trial) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def slow(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    for step in range(200):
        trial.report(x, step)
        time.sleep(0.05)
    return x


def prints_and_raises(trial: optuna.Trial) -> float:
    print("on stdout")
    print("on stderr", file=sys.stderr)
    raise RuntimeError("this objective is broken")


class Offers:
    """An objective with everything that hpo looks for."""

    metric_name = "score"
    direction = "maximize"
    preload = ()
    study_name = "offers"

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def options(self) -> dict[str, float]:
        return {"bound": self.bound}

    def prepare(self, directory: Path, seed: int) -> tuple[Offers, list[str]]:
        (directory / "data").mkdir(parents=True, exist_ok=True)
        (directory / "data" / "factor").write_text("2")
        return self, [f"prepared with seed {seed}"]

    def suggest(self, trial: optuna.Trial) -> None:
        trial.suggest_float("x", 0, self.bound)

    def baselines(self) -> list[dict[str, str]]:
        return [{"model": "plain"}, {"model": "fancy"}]

    def baseline(self, trial: optuna.Trial) -> float:
        name = trial.suggest_categorical("model", ["plain", "fancy"])
        trial.set_user_attr("metrics", {"length": len(name)})
        return 0.25 if name == "plain" else 0.5

    def label(self, params: dict[str, float]) -> str:
        return f"offers {params}"

    def __call__(self, trial: optuna.Trial) -> float:
        attempt = hpo.current_attempt()
        assert attempt.data is not None
        x = trial.suggest_float("x", 0, self.bound)
        model = attempt.directory / "model"
        model.mkdir()
        (model / "weights").write_text(str(x))
        trial.set_user_attr("model", str(model))
        trial.set_user_attr("metrics", {"x": x})
        return x * float((attempt.data / "factor").read_text())
