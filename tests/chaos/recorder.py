"""The objective that the coordinator under test is given: another one, with a journal around it.

What to wrap and where to write comes from the environment, which workers inherit:
``CHAOS_OBJECTIVE`` (``module:function``) and ``CHAOS_JOURNAL`` (a folder).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from optuna import TrialPruned

from hpo.objective import Objective, load_objective
from hpo.protocol import ObjectiveSpec
from tests.chaos.journal import Entry

ACKNOWLEDGED_SECONDS = 4.0
"""A verdict sooner than this came from the coordinator: ``should_prune`` gives up after five."""


class Recorded:
    """``objective`` with a journal of its executions; offers the coordinator what it offers.

    Args:
        objective: Any Optuna objective.
        folder: The journal.
    """

    def __init__(self, objective: Objective, folder: Path) -> None:
        self._objective = objective
        self._folder = folder

    def __call__(self, trial: Any) -> Any:
        """Run the objective and note what it says and how it ends."""
        entry = Entry(self._folder, trial.number)
        _listen(trial, entry)
        try:
            returned = self._objective(trial)
        except TrialPruned:
            entry.end("pruned", trial.params)
            raise
        except BaseException as error:
            entry.end(type(error).__name__, trial.params)
            raise
        entry.end("complete", trial.params)
        return returned

    def __getattr__(self, name: str) -> Any:
        if name in ("prepare", "options"):
            raise AttributeError(name)  # they would put another object in this one's place
        return getattr(self._objective, name)


def _listen(trial: Any, entry: Entry) -> None:
    """Note each report of ``trial``, and whether it was answered.

    The methods are replaced on this one trial, so that it stays what an objective may check for:
    a ``BaseTrial``.
    """
    report, should_prune = trial.report, trial.should_prune
    unanswered: list[int] = []

    def noted_report(value: float, step: int) -> None:
        entry.report(int(step), float(value))
        report(value, step)
        unanswered.append(int(step))

    def noted_should_prune() -> bool:
        asked = time.monotonic()
        prune: bool = should_prune()
        if time.monotonic() - asked < ACKNOWLEDGED_SECONDS:
            # Reports are answered in order: the verdict on the last one is one on all before it.
            while unanswered:
                entry.acknowledge(unanswered.pop())
        return prune

    trial.report, trial.should_prune = noted_report, noted_should_prune


objective = Recorded(
    load_objective(ObjectiveSpec(reference=os.environ["CHAOS_OBJECTIVE"])),
    Path(os.environ["CHAOS_JOURNAL"]),
)
