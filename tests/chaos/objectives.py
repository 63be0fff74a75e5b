"""Objectives to kill: fast and deterministic, with everything that may go wrong in them."""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

from optuna import TrialPruned

import hpo

STEP_SECONDS = 0.04
STEPS = 4

STEADY_STEP_SECONDS = 0.2
STEADY_STEPS = 20


def mixed(trial: Any) -> float:
    """Use what Optuna's define-by-run API offers: conditions, choices of all kinds, pruning.

    The kind ``"continued"`` keeps a checkpoint and goes on from it without reporting again what it
    reported before, so that a report which the coordinator acknowledged and lost stays lost.
    """
    x = trial.suggest_float("x", -5, 5)
    kind = trial.suggest_categorical("kind", ["plain", "integer", "continued", None, 2.5, True])
    offset = 0.0
    if kind == "integer":
        offset = trial.suggest_int("n", 1, 9)
    elif kind == "continued":
        offset = math.log10(trial.suggest_float("rate", 1e-5, 1e-1, log=True))
    checkpoint = hpo.current_attempt().directory / "step"
    first = int(checkpoint.read_text()) if kind == "continued" and checkpoint.exists() else 0
    for step in range(first, STEPS):
        time.sleep(STEP_SECONDS)
        trial.report(math.sin(x) * step + offset, step)
        if trial.should_prune():
            raise TrialPruned
        if kind == "continued":
            temporary = checkpoint.with_suffix(".new")
            temporary.write_text(str(step + 1))
            temporary.rename(checkpoint)
        if x > 4 and step == 2:
            raise TrialPruned
    trial.set_user_attr("metrics", {"offset": offset, "roc_auc": math.cos(x)})
    return math.sin(x) + offset


def steady(trial: Any) -> float:
    """Report for four seconds, so that an outage falls into running trials."""
    x: float = trial.suggest_float("x", 0, 1)
    for step in range(STEADY_STEPS):
        time.sleep(STEADY_STEP_SECONDS)
        trial.report(x + step, step)
        trial.should_prune()
    return x


STORY = "CHAOS_STORY"
"""The variable that names the file to which executions of :class:`Deciding` tell what they do."""


def luck(seed: int) -> float:
    """Return what a seed adds to the value of a trial."""
    return random.Random(seed).uniform(-0.1, 0.1)


class Deciding:
    """An objective with a test split: its value is a parameter and the luck of the seed."""

    metric_name = "points"
    direction = "maximize"
    frugality = ("size",)
    study_name = "deciding"

    def __init__(self, prepared: bool = False) -> None:
        self.prepared = prepared

    def options(self) -> dict[str, Any]:
        """Return what builds it again."""
        return {"prepared": self.prepared}

    def prepare(self, directory: Path, seed: int) -> tuple[Deciding, list[str]]:
        """Write a split that trials may see and one that they may not."""
        (directory / "data").mkdir(parents=True, exist_ok=True)
        (directory / "test.jsonl").write_text("sealed")
        return Deciding(prepared=True), []

    def __call__(self, trial: Any) -> float:
        """Take a while, report, and leave a model."""
        current = hpo.current_attempt()
        x: float = trial.suggest_float("x", 0, 1)
        _tell(current, "begin")
        if current.test is not None:
            raise AssertionError("a trial sees the test split")
        for step in range(STEPS):
            time.sleep(STEP_SECONDS)
            trial.report(x, step)
            trial.should_prune()
        (current.directory / "model").mkdir(exist_ok=True)
        trial.set_user_attr("model", str(current.directory / "model"))
        trial.set_user_attr("metrics", {"size": x, "threshold": 0.5})
        trial.set_user_attr("hpo:scores", "AACAPw==")
        _tell(current, "end")
        return x + luck(current.seed)

    def evaluate(self, trial: Any) -> float:
        """Look at the winner's model and at the test split."""
        current = hpo.current_attempt()
        _tell(current, "begin")
        time.sleep(STEPS * STEP_SECONDS)
        if not current.assets["hpo:winner"].is_dir() or current.test is None:
            raise AssertionError("the winner or the test split is not there")
        estimate = {"value": 0.9, "low": 0.8, "high": 1.0}
        measured = {"pairs": len(current.test.read_text()), "measures": {"roc_auc": estimate}}
        trial.set_user_attr("comparison", {"pairs": 1, "candidates": []})
        trial.set_user_attr("evaluation", measured)
        _tell(current, "end")
        return 0.9


deciding = Deciding()


def _tell(current: hpo.CurrentAttempt, what: str) -> None:
    line = json.dumps({"place": current.directory.name, "what": what, "pid": os.getpid()})
    with Path(os.environ[STORY]).open("a") as file:
        file.write(line + "\n")
