"""The answer to ``GET /api/studies/<id>``, put together from pieces that are made once.

optuna-dashboard writes every trial into every answer anew and searches all notes of the study for
each of them: 19 seconds for 5,000 trials with a note each (benchmarks/LOG.md). Its pages, however,
ask only for trials after the last finished one that they have (``?after=N``). So does this module:
it asks optuna-dashboard for what it does not have yet, and keeps the JSON of the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.dashboard.database import Database
    from hpo.dashboard.snapshot import Snapshot

Ask = Callable[[int], dict[str, Any]]
"""Asks optuna-dashboard for a study with its trials from a position on."""

_UNFINISHED = ("Running", "Waiting")
_NO_NOTE: dict[str, Any] = {"version": 0, "body": ""}


class StudyAnswer:
    """The answer for one study, renewed piece by piece.

    Args:
        study_id: The study.
    """

    def __init__(self, study_id: int) -> None:
        self._study_id = study_id
        self._ids: list[int] = []
        self._numbers: list[int] = []
        self._trials: list[bytes] = []
        self._complete: list[bytes] = []
        self._best: list[bytes] = []
        self._finished = 0
        self._frame = b""

    def renew(self, ask: Ask, snapshot: Snapshot, database: Database) -> None:
        """Bring the pieces up to date with the snapshot."""
        answer = ask(self._finished)
        fresh = answer.pop("trials")
        for pieces in (self._ids, self._numbers, self._trials):
            del pieces[self._finished :]
        for trial in fresh:
            trial.pop("note")
            self._ids.append(trial["trial_id"])
            self._numbers.append(trial["number"])
            self._trials.append(_json(trial))
        unfinished = (i for i, trial in enumerate(fresh) if trial["state"] in _UNFINISHED)
        self._finished += next(unfinished, len(fresh))
        notes = database.notes(self._study_id)
        self._complete = [
            trial[:-1] + b',"note":' + _json(notes.get(trial_id, _NO_NOTE)) + b"}"
            for trial_id, trial in zip(self._ids, self._trials, strict=True)
        ]
        places = {number: place for place, number in enumerate(self._numbers)}
        best = answer.pop("best_trials")
        if answer["is_preferential"]:  # people's choices, which Optuna does not rank
            numbers = [trial["number"] for trial in best]
        else:
            numbers = best_numbers(snapshot, self._study_id)
        self._best = [self._complete[places[number]] for number in numbers]
        self._frame = _json(answer)

    def after(self, position: int) -> bytes:
        """Return the JSON of the study with its trials from ``position`` on."""
        return b"".join(
            (
                self._frame[:-1],
                b',"best_trials":[',
                b",".join(self._best),
                b'],"trials":[',
                b",".join(self._complete[position:]),
                b"]}",
            )
        )


def best_numbers(snapshot: Snapshot, study_id: int) -> list[int]:
    """Return the numbers of the trials that Optuna calls the best: feasible ones, or none."""
    import optuna

    name = snapshot.get_study_name_from_id(study_id)
    study = optuna.load_study(study_name=name, storage=snapshot)
    if len(study.directions) > 1:
        return [trial.number for trial in study.best_trials]
    try:
        return [study.best_trial.number]
    except ValueError:  # Optuna's way to say that no trial has completed, or that none is feasible
        return []


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
