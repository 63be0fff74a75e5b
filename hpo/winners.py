"""Who won a study, and which model that is.

A study with finals has a winner, and the model is that of one of its runs with a new seed. Without
them it is the best trial and the model which that trial left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from hpo.finalists import WINNER, run_of
from hpo.retention import MODEL


@dataclass(frozen=True)
class Chosen:
    """A model that a study made.

    Attributes:
        trial: The trial whose parameters it has.
        run: The record of the finalist's run that made it; ``None`` if the trial itself did.
    """

    trial: FrozenTrial
    run: Mapping[str, Any] | None = None

    @property
    def model(self) -> str | None:
        """Where it was written to, if it was."""
        written = self.run["model"] if self.run else self.trial.user_attrs.get(MODEL)
        return written if isinstance(written, str) else None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Its metrics on the validation pairs."""
        found = self.run["metrics"] if self.run else self.trial.user_attrs.get("metrics")
        return found if isinstance(found, Mapping) else {}

    @property
    def number(self) -> int | None:
        """Which run of a finalist it is; ``None`` if the trial itself."""
        return int(self.run["run"]) if self.run else None

    @property
    def name(self) -> str:
        """What to call it."""
        seed = f", seed {self.number}" if self.run else ""
        return f"trial {self.trial.number}{seed}"


def winner_of(study: Study) -> Mapping[str, Any] | None:
    """Return the record of who won the finals; ``None`` if there were none, or nobody could."""
    record = study.user_attrs.get(WINNER)
    return record if isinstance(record, Mapping) and "ranking" in record else None


def choice_of(study: Study, trial: FrozenTrial) -> Chosen:
    """Return the model that ``trial`` won with, or the one that it left."""
    winner = winner_of(study)
    if winner is None or winner["trial"] != trial.number:
        return Chosen(trial)
    return Chosen(
        trial, run_of(study.user_attrs, {name: winner[name] for name in ("trial", "run")})
    )


def winning_trial(study: Study) -> FrozenTrial | None:
    """Return the trial that won; ``None`` if none has completed, or in several directions."""
    if len(study.directions) > 1:
        return None
    winner = winner_of(study)
    if winner is not None:
        trials = study.get_trials(deepcopy=False)
        return next((each for each in trials if each.number == winner["trial"]), None)
    try:
        return study.best_trial
    except ValueError:  # Optuna's way to say that no trial has completed (or is feasible)
        return None
