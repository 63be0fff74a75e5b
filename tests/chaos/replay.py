"""What a trial must look like: its objective, run again here with the trial's parameters."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from optuna import TrialPruned
from optuna.trial import FixedTrial

from hpo.attempts import trial_seed
from hpo.current import CurrentAttempt, attempt_context
from tests.chaos.database import Row

SEED = 0
"""The seed of the study: what ``hpo.run`` takes if none is given."""


@dataclass(frozen=True)
class Replayed:
    """How the objective ended: ``complete``, ``pruned`` or an exception, and what it said."""

    outcome: str
    values: list[float]
    steps: dict[int, float]
    attrs: dict[str, Any]


class _Trial(FixedTrial):
    """A trial with given parameters that remembers reports, and prunes from a step on if told."""

    def __init__(self, row: Row, prune_from: int | None) -> None:
        super().__init__(row.params, row.number)
        self.steps: dict[int, float] = {}
        self._stored = row.stored
        self._chosen: dict[str, Any] = {}
        self._prune_from = prune_from

    # The database knows the place of a choice; only the objective has choices JSON cannot carry.
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self._chosen[name] = choices[int(self._stored[name][1])]
        return self._chosen[name]

    @property
    def params(self) -> dict[str, Any]:
        return {**super().params, **self._chosen}

    def report(self, value: float, step: int) -> None:
        self.steps.setdefault(int(step), float(value))

    def should_prune(self) -> bool:
        return self._prune_from is not None and max(self.steps, default=-1) >= self._prune_from


def replay(objective: Callable[[Any], Any], row: Row, prune_from: int | None = None) -> Replayed:
    """Run ``objective`` with the parameters of ``row``, without its pauses.

    Args:
        objective: The objective.
        row: The trial.
        prune_from: Its ``should_prune`` says yes from this step on.
    """
    trial = _Trial(row, prune_from)
    seed = trial_seed(SEED, row.number)
    values: Sequence[float] = ()
    with tempfile.TemporaryDirectory() as folder:
        attempt = CurrentAttempt(row.number, seed, Path(folder), False, None, "cpu")
        random.seed(seed)
        with attempt_context(attempt), mock.patch("time.sleep"):
            try:
                returned = objective(trial)
            except TrialPruned:
                outcome = "pruned"
            except Exception as error:
                outcome = type(error).__name__
            else:
                outcome = "complete"
                values = returned if isinstance(returned, Sequence) else (returned,)
    return Replayed(outcome, [float(value) for value in values], trial.steps, trial.user_attrs)
