"""Notes in optuna-dashboard: where the study stands, and what came of each trial.

They are stored as optuna-dashboard 0.21 stores them, through Optuna's storage. Its ``save_note`` is
not used: to import it takes 1.2 s, and it reads all notes of the study twice for each it writes.

A note of a trial is written once; the study's is renewed while it changes. What people write stays:
in the study's note below the line that says so, and in a trial's note if they were there first.
"""

from __future__ import annotations

import datetime
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.final_text import final_lines
from hpo.note_text import study_note, trial_note
from hpo.plan import Plan
from hpo.protocol import ATTEMPTS
from hpo.status import Moment, Status

PAUSE_SECONDS = 10.0
"""How long what has changed waits to be written, so that many changes are one."""

SLICE_SECONDS = 0.25
"""How long notes of trials may be written at a time; the rest has to wait for a second."""

NOTED_TRIALS = 1000
"""So many trials of a study have a note, and besides them those that were the best when they ended.
A plain optuna-dashboard looks through all notes for each trial: 1,000 trials with a note each take
it 0.8 s, 5,000 take 20 s (measured, against 0.4 s without notes)."""

NOTED = "hpo:noted"
"""The study's system attribute that holds the numbers of trials with a note, as ranges."""

BELOW = "*hpo keeps the text above current. What you write below this line stays.*"

_PIECE = 2045
"""Characters in an attribute of a note, as optuna-dashboard splits it."""

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Notes:
    """An observer that keeps the notes of a study and of its trials.

    It writes in :meth:`tick` and :meth:`close`, raises what the storage raises there, and does what
    is missing with the next call.

    Args:
        study: Optuna's study.
        storage: The storage that holds it.
        plan: What the study is to do.
        clock: Tells the seconds, from any beginning.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        plan: Plan,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._storage = storage
        self._plan = plan
        self._clock = clock
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._status: Status | None = None
        self._ended = ""
        self._taken_up = False
        self._due = -math.inf
        self._text = ""
        self._noted: set[int] = set()
        self._pending: dict[int, bool] = {}  # whether the trial was the best when it ended
        self._causes: dict[int, list[str]] = {}
        self._best: FrozenTrial | None = None
        self._finals: list[str] | None = None
        """What is known of the finals; ``None`` if the storage knows more."""

    def on(self, moment: Moment, status: Status) -> None:
        """Take note of ``moment``; nothing is written, as the database may be away just now."""
        if moment.kind in ("complete", "pruned", "failed") and moment.trial is not None:
            best = status.best is not None and status.best[1] == moment.trial
            self._pending.setdefault(moment.trial, best)
        if moment.kind == "end":
            self._ended = moment.text
        if moment.kind in ("winner", "evaluation"):
            self._finals = None
        self._status = status

    def tick(self, status: Status) -> None:
        """Write if it is time."""
        self._status = status
        if self._clock() >= self._due:
            self._write(SLICE_SECONDS)

    def close(self) -> None:
        """Write all that is left; nothing while the database is away, as the next run does it."""
        if self._status is not None:
            self._write(math.inf)

    # What to write.

    def _write(self, seconds: float) -> None:
        assert self._status is not None
        if self._status.away:
            return
        if self._pending or not self._taken_up or self._study_text() != self._text:
            attrs = self._storage.get_study_system_attrs(self._study_id)
            if not self._taken_up:
                self._take_up(attrs)
            self._write_trials(attrs, self._clock() + seconds)
            self._write_study(attrs)
        self._due = self._clock() + (1.0 if self._pending else PAUSE_SECONDS)

    def _take_up(self, attrs: dict[str, Any]) -> None:
        """See what earlier runs left without a note."""
        self._noted = _numbers(attrs.get(NOTED, []))
        for trial in self._study.get_trials(deepcopy=False, states=_FINISHED):
            self._causes[trial.number] = _causes_of(trial)
            if trial.number not in self._noted:
                self._pending.setdefault(trial.number, self._is_best(trial.number))
        self._taken_up = True

    def _is_best(self, number: int) -> bool:
        assert self._status is not None
        return self._status.best is not None and self._status.best[1] == number

    def _write_trials(self, attrs: dict[str, Any], deadline: float) -> None:
        assert self._status is not None
        for number, was_best in list(self._pending.items()):
            if self._clock() >= deadline:
                break
            if number in self._noted:
                del self._pending[number]
                continue
            noted = len(self._noted) < NOTED_TRIALS or was_best
            if noted or number not in self._causes:
                trial_id = self._trial_id(number)
                trial = self._storage.get_trial(trial_id)
                self._causes[number] = _causes_of(trial)
                if noted and _version_key(trial_id) not in attrs:
                    text = trial_note(trial, self._status.metric, self._plan.requirements)
                    self._save(trial_id, text, 1)
            if noted:
                self._noted.add(number)
            del self._pending[number]
        ranges = _ranges(self._noted)
        if ranges != attrs.get(NOTED, []):
            self._set(NOTED, ranges)

    def _study_text(self) -> str:
        assert self._status is not None
        causes = Counter(cause for causes in self._causes.values() for cause in causes)
        if self._finals is None:
            self._finals = final_lines(self._study)
        text = study_note(
            self._status, self._plan, self._best_trial(), causes, self._ended, self._finals
        )
        if self._status.complete + self._status.pruned + self._status.failed > NOTED_TRIALS:
            text += f"\n\nOnly {len(self._noted):,} trials have a note; hpo trials lists all."
        return text

    def _write_study(self, attrs: dict[str, Any]) -> None:
        text = self._study_text()
        if text == self._text:
            return
        now = datetime.datetime.now(datetime.UTC)
        before = _body(attrs)
        _, found, below = before.partition(BELOW)
        # A note without our line is somebody's own.
        theirs = below if found else f"\n\n{before}"
        body = f"{text}\n\nAs of {now:%Y-%m-%d %H:%M:%S} UTC\n\n---\n\n{BELOW}{theirs}".rstrip()
        self._save(None, body, attrs.get(_version_key(None), 0) + 1, before)
        self._text = text

    def _best_trial(self) -> FrozenTrial | None:
        assert self._status is not None
        if self._status.best is None:
            return None
        number = self._status.best[1]
        if self._best is None or self._best.number != number:
            self._best = self._storage.get_trial(self._trial_id(number))
        return self._best

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    # How optuna-dashboard stores a note.

    def _save(self, trial_id: int | None, body: str, version: int, before: str = "") -> None:
        pieces = max(1, math.ceil(max(len(body), len(before)) / _PIECE))
        for index in range(pieces):
            piece = body[index * _PIECE : (index + 1) * _PIECE]
            self._set(f"{_prefix(trial_id)}note_str:{index}", piece)
        # Last, as a text without a version counts for none: a note is there as a whole or not.
        self._set(_version_key(trial_id), version)

    def _set(self, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(self._study_id, key, value)


def _prefix(trial_id: int | None) -> str:
    return "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"


def _version_key(trial_id: int | None) -> str:
    return f"{_prefix(trial_id)}note_ver"


def _body(attrs: dict[str, Any]) -> str:
    """Return the study's note as it is stored."""
    pieces: list[str] = []
    while (piece := attrs.get(f"{_prefix(None)}note_str:{len(pieces)}")) is not None:
        pieces.append(piece)
    return "".join(pieces)


def _causes_of(trial: FrozenTrial) -> list[str]:
    causes = (record.get("cause") for record in trial.user_attrs.get(ATTEMPTS, []))
    return [cause for cause in causes if cause is not None]


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Return ``numbers`` as ranges [first, last], which are few: 1,000 numbers in some bytes."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _numbers(ranges: Iterable[list[int]]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}
