"""Objectives to kill: fast and deterministic, with everything that may go wrong in them."""

from __future__ import annotations

import math
import time
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
