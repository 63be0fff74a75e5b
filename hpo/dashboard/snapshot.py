"""What optuna-dashboard reads: one state of the database, with Optuna's verdict on constraints.

optuna-dashboard 0.21 looks for a trial's constraints in the system attribute ``constraints``, a
list, where Optuna 5 writes an attribute for each of them, and so it would call an infeasible trial
the best. Here trials carry that list as well, made as they are read; the database stays as it is.

Finished trials never change in Optuna, so each is read once; unfinished and new ones are read when
the database has changed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NoReturn

from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study._frozen import FrozenStudy

    from hpo.dashboard.database import Database

_CONSTRAINTS = "constraints"


class Snapshot(BaseStorage):
    """A storage to read from, as of the last :meth:`refresh`; whatever writes is refused.

    Not safe for several threads while one of them refreshes it.

    Args:
        database: What is read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._version: Hashable = None
        self._openings = -1
        self._studies: dict[int, FrozenStudy] = {}
        self._current: dict[int, list[FrozenTrial]] = {}
        self._known: dict[int, _KnownTrials] = {}

    def refresh(self) -> Hashable:
        """Read what has changed in the database, and return the version of what is there now.

        Raises:
            UnavailableError: The database does not answer.
        """
        # The version is asked for before anything is read: what is read may be newer than it, and
        # is then read once more; it is never older.
        version = self._database.version()
        if version != self._version:
            studies = {study._study_id: study for study in self._database.studies()}
            if self._openings != self._database.openings:
                self._known.clear()
                self._openings = self._database.openings
            self._studies = studies
            self._current = {}
            self._version = version
        return version

    def lineage(self, study_id: int) -> object:
        """Return an object that is the same one as long as finished trials are still those.

        Raises:
            KeyError: There is no such study.
        """
        self.get_all_trials(study_id, deepcopy=False)
        return self._known[study_id]

    def get_all_studies(self) -> list[FrozenStudy]:
        return list(self._studies.values())

    def get_study_id_from_name(self, study_name: str) -> int:
        for study in self._studies.values():
            if study.study_name == study_name:
                return study._study_id
        raise KeyError(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._studies[study_id].study_name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._studies[study_id].directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._studies[study_id].user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._studies[study_id].system_attrs

    def get_trial(self, trial_id: int) -> FrozenTrial:
        for study_id in self._studies:
            for trial in self.get_all_trials(study_id, deepcopy=False):
                if trial._trial_id == trial_id:
                    return trial
        raise KeyError(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if study_id not in self._current:
            self._current[study_id] = self._read_trials(study_id)
        trials = self._current[study_id]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best feasible trial; the best infeasible one where none is feasible.

        Raises:
            ValueError: No trial has completed.
        """
        (direction,) = self.get_study_directions(study_id)
        sign = -1 if direction is StudyDirection.MAXIMIZE else 1
        complete = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))

        def rank(trial: FrozenTrial) -> tuple[bool, float]:
            assert trial.value is not None  # a completed trial of one direction has one
            violations = trial.system_attrs.get(_CONSTRAINTS, ())
            return any(each > 0 for each in violations), sign * trial.value

        return min(complete, key=rank)

    def _read_trials(self, study_id: int) -> list[FrozenTrial]:
        if study_id not in self._studies:
            raise KeyError(study_id)
        name = self._studies[study_id].study_name
        count, *first = self._database.first_trial(study_id)
        identity = (name, *first)
        known = self._known.get(study_id)
        # A deleted study's ids are given again, and a cache by id would show its trials.
        if known is None or known.identity != identity or known.count > count:
            known = self._known[study_id] = _KnownTrials(self._database, identity)
        return known.read(study_id)

    def _refuse(self) -> NoReturn:
        raise PermissionError("a snapshot of a database cannot be written")

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        self._refuse()

    def delete_study(self, study_id: int) -> None:
        self._refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._refuse()

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._refuse()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self._refuse()

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._refuse()


class _KnownTrials:
    """The trials of one study, the finished ones read once.

    Attributes:
        identity: What told the study from others with its id when they were read.
        count: How many trials it had at the last read.
    """

    def __init__(self, database: Database, identity: tuple[Any, ...]) -> None:
        self.identity = identity
        self.count = 0
        self._storage = get_storage(database.storage)  # Optuna's own cache of finished trials
        self._finished: dict[int, FrozenTrial] = {}

    def read(self, study_id: int) -> list[FrozenTrial]:
        trials = []
        for trial in self._storage.get_all_trials(study_id, deepcopy=False):
            shown = self._finished.get(trial._trial_id)
            if shown is None:
                shown = with_constraints(trial)
                if trial.state.is_finished():
                    self._finished[trial._trial_id] = shown
            trials.append(shown)
        self.count = len(trials)
        return trials


def with_constraints(trial: FrozenTrial) -> FrozenTrial:
    """Return ``trial`` with its constraints where optuna-dashboard looks for them."""
    if not trial.constraints:
        return trial
    violations = [violation for _, violation in sorted(trial.constraints.items())]
    shown = copy.copy(trial)
    shown.system_attrs = {**trial.system_attrs, _CONSTRAINTS: violations}
    return shown
