"""Untuned models, scored once a study as the line to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna import Study

from hpo.objective import Objective
from hpo.protocol import Done
from hpo.status import Status

BASELINES = "baselines"
"""The study's user attribute that holds scores of untuned models."""


@dataclass
class Baseline:
    """An untuned model that is being scored: an attempt, but no trial of the study."""

    params: dict[str, Any]
    label: str
    attempts: int = 0


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
        return [Baseline(each, self._label(each)) for each in offered if each not in known]

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
