"""Whether a trial meets the rules that it was run under."""

from __future__ import annotations

from optuna.trial import FrozenTrial


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether ``trial`` meets all requirements: no constraint value is above zero."""
    return all(value <= 0 for value in trial.constraints.values())
