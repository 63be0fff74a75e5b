"""Keeping the weights of the best trials, and nothing else.

Every trial has a directory for its checkpoints and its model. When it has ended, the directory
stays only while the trial is among the best.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.feasible import is_feasible

MODEL = "model"
"""The user attribute of a trial that says where its weights were written."""


ELSEWHERE = "modal://"
"""Begins the name of a model that lies on a Modal Volume."""


def is_elsewhere(trial: FrozenTrial) -> bool:
    """Whether a completed trial left its model on another machine."""
    model = trial.user_attrs.get(MODEL)
    complete = trial.state is TrialState.COMPLETE
    return complete and isinstance(model, str) and model.startswith(ELSEWHERE)


class Retention:
    """Decides which trials' directories stay.

    Args:
        study: Optuna's study.
        trials: The directory that holds the trials' directories.
        keep: How many trials' directories to keep; with several directions it is the Pareto front
            that is kept.
        discard: Removes a directory of the study on another machine, by its place in it.
    """

    def __init__(
        self, study: Study, trials: Path, keep: int, discard: Callable[[str], None]
    ) -> None:
        self._study = study
        self._trials = trials
        self._keep = keep
        self._discard = discard
        self._elsewhere: set[int] = set()
        """Trials whose directory is on another machine."""
        self._several = len(study.directions) > 1
        self._sign = -1.0 if study.directions[0] is StudyDirection.MAXIMIZE else 1.0
        self._kept: list[tuple[bool, float, int]] = []

    def recount(self, trials: Iterable[FrozenTrial]) -> None:
        """Learn which of ``trials`` have a directory."""
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        away = [trial for trial in complete if is_elsewhere(trial)]
        self._kept = [
            self._rank(trial) for trial in complete if self._directory_of(trial.number).is_dir()
        ]
        # Which of them were removed is not known; that the best were not, is.
        ranks = sorted(self._rank(trial) for trial in away)
        self._kept += ranks if self._several else ranks[: self._keep]
        self._elsewhere = {number for _, _, number in self._kept} & {each.number for each in away}

    def after(self, trial: FrozenTrial) -> None:
        """Drop what is not worth keeping, now that ``trial`` has ended."""
        directory = self._directory_of(trial.number)
        if is_elsewhere(trial):
            self._elsewhere.add(trial.number)
        elif not directory.is_dir():
            return
        elif trial.state is not TrialState.COMPLETE or not any(directory.iterdir()):
            shutil.rmtree(directory)
            return
        kept = sorted({*self._kept, self._rank(trial)})
        keep = self._keep
        if self._several:
            front = {best.number for best in self._study.best_trials}
            kept.sort(key=lambda rank: rank[2] not in front)
            keep = len(front)
        for _, _, number in kept[keep:]:
            if number in self._elsewhere:
                self._elsewhere.discard(number)
                self._discard(f"{self._trials.name}/{number}")
            shutil.rmtree(self._directory_of(number), ignore_errors=True)
        self._kept = kept[:keep]

    def _directory_of(self, number: int) -> Path:
        return self._trials / str(number)

    def _rank(self, trial: FrozenTrial) -> tuple[bool, float, int]:
        """Return a key that sorts the best first: feasible ones, then better, then older ones."""
        value = trial.values[0] if trial.values else float("inf")
        return not is_feasible(trial), self._sign * value, trial.number
