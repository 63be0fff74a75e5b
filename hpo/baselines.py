"""Untuned models, scored once a study as the line to beat.

A baseline is no trial, and what it takes to score it is written down all the same: a coordinator
that comes back finds what runs, and pays for no score twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna import Study

from hpo.attempts import Attempt, Attempted
from hpo.objective import Objective
from hpo.protocol import ATTEMPTS, BASELINE_TRIAL, Done
from hpo.status import Status

BASELINES = "baselines"
"""The study's user attribute that holds scores of untuned models."""


BASELINE_ATTEMPTS = "baseline_attempts"
"""The study's user attribute that lists, for the parameters of each model, its attempts."""


@dataclass(eq=False)
class Baseline(Attempted):
    """An untuned model that is being scored: attempted like a trial, but no trial of the study.

    Attributes:
        study: Optuna's study, whose user attribute lists the attempts.
        params: What makes the model.
        label: The same for people.
        attempts: All attempts, oldest first; the last one may be running.
    """

    study: Study
    params: dict[str, Any]
    label: str
    attempts: list[Attempt]
    number = BASELINE_TRIAL

    def save(self) -> None:
        """Write the attempts as they are; costs no writing if the storage has them so."""
        written = attempted(self.study)
        own = {"params": self.params, ATTEMPTS: self.records()}
        if own not in written:
            others = [each for each in written if each["params"] != self.params]
            self.study.set_user_attr(BASELINE_ATTEMPTS, [*others, own])


def attempted(study: Study) -> list[dict[str, Any]]:
    """Return what is written down of attempts: ``params`` and ``attempts`` of each baseline."""
    written: list[dict[str, Any]] = study.user_attrs.get(BASELINE_ATTEMPTS, [])
    return written


class Baselines:
    """The untuned models of a study and their scores.

    Args:
        study: Optuna's study, whose user attribute keeps the scores.
        objective: The objective, for the models that it offers.
        label: Says what parameters mean, for people.
        status: Takes the best score.
    """

    def __init__(
        self,
        study: Study,
        objective: Objective,
        label: Callable[[dict[str, Any]], str],
        status: Status,
    ) -> None:
        self._study = study
        self._objective = objective
        self._label = label
        self._status = status

    def missing(self) -> list[Baseline]:
        """Return the models that have no score yet, and compare those that have one."""
        scored = self._records()
        for record in scored:
            self._compare(record["value"], self._label(record["params"]))
        known = [record["params"] for record in scored]
        offered: list[dict[str, Any]] = getattr(self._objective, "baselines", list)()
        written = attempted(self._study)
        return [
            Baseline(self._study, each, self._label(each), _attempts(written, each))
            for each in offered
            if each not in known
        ]

    def scored(self, baseline: Baseline, event: Done) -> None:
        """Write down a score; to do it again changes nothing."""
        value = event.values[0]
        others = [each for each in self._records() if each["params"] != baseline.params]
        metrics = event.user_attrs.get("metrics", {})
        record = {"params": baseline.params, "value": value, "metrics": metrics}
        self._study.set_user_attr(BASELINES, [*others, record])
        self._compare(value, baseline.label)

    def _records(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = self._study.user_attrs.get(BASELINES, [])
        return records

    def _compare(self, value: float, label: str) -> None:
        best = self._status.baseline
        if best is None or self._status.better(value, best[0]):
            self._status.baseline = (value, label)


def _attempts(written: list[dict[str, Any]], params: dict[str, Any]) -> list[Attempt]:
    records = (record for each in written if each["params"] == params for record in each[ATTEMPTS])
    return [Attempt.model_validate(record) for record in records]
