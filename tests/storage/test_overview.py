"""An overview says of a study what Optuna says of it."""

from __future__ import annotations

from datetime import datetime, timedelta

import optuna
from optuna.trial import TrialState

from storage import open_storage, study_overviews


def test_counts_best_and_times(url: str) -> None:
    storage = open_storage(url)
    assert study_overviews(storage) == []
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    study.set_user_attr("mine", [1])
    for value, violation in [(1.0, -1.0), (3.0, 0.5), (2.0, 0.0), (2.0, 0.0)]:
        trial = study.ask()
        trial.set_constraint("c", violation)
        study.tell(trial, value)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.ask()
    study.enqueue_trial({"x": 1})
    optuna.create_study(storage=storage, study_name="empty")
    front = optuna.create_study(
        storage=storage, study_name="front", directions=["minimize", "maximize"]
    )
    front.tell(front.ask(), [1.0, 2.0])
    found, empty, several = study_overviews(storage)
    assert (found.name, found.directions, found.user_attrs) == ("s", ("maximize",), {"mine": [1]})
    assert found.states == {"COMPLETE": 4, "FAIL": 1, "RUNNING": 1, "WAITING": 1}
    assert found.best == (study.best_value, 2)
    assert found.active is not None
    assert timedelta(0) <= datetime.now() - found.active < timedelta(minutes=1)
    assert (empty.states, empty.best, empty.active) == ({}, None, None)
    assert (several.directions, several.best) == (("minimize", "maximize"), None)
