"""Objectives with levels, as a worker process imports them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import hpo

COMBINATIONS = 11


def branches(trial: Any) -> tuple[float, str]:
    """Draw one of 11: 3 x 3 where the kind is wide, else 2."""
    kind = trial.suggest_categorical("kind", ["wide", "narrow"])
    if kind == "narrow":
        return float(trial.suggest_int("depth", 1, 2)), kind
    rate = trial.suggest_categorical("rate", [0.1, 0.2, 0.3])
    return rate * trial.suggest_float("share", 0.0, 1.0, step=0.5), kind


def plain(trial: Any) -> float:
    return branches(trial)[0]


def slow(trial: Any) -> float:
    value, _ = branches(trial)
    time.sleep(0.3)
    return value


def out_of_memory(trial: Any) -> float:
    value, kind = branches(trial)
    if kind == "narrow":
        raise MemoryError("CUDA out of memory")
    return value


def dies_once(trial: Any) -> float:
    """Kills its process in the first attempt of every trial of one kind."""
    value, kind = branches(trial)
    mark = hpo.current_attempt().directory / "died"
    if kind == "narrow" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def two_values(trial: Any) -> tuple[float, float]:
    value, _ = branches(trial)
    return value, -value


def a_range(trial: Any) -> float:
    return float(trial.suggest_float("x", 0, 1))


class Offers:
    """The same combinations, offered with ``suggest``."""

    study_name = "offers"
    preload = ()

    def __init__(self, low: float | None = None) -> None:
        self.low = low

    def options(self) -> dict[str, float | None]:
        return {"low": self.low}

    def suggest(self, trial: Any) -> None:
        branches(trial)
        if self.low is not None:
            trial.suggest_float("temperature", self.low, 1)

    def __call__(self, trial: Any) -> float:
        return plain(trial)


class RunsOut(Offers):
    """Some of its combinations fail."""

    def __call__(self, trial: Any) -> float:
        return out_of_memory(trial)
