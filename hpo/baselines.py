"""Untuned models, scored once a study as the line to beat.

They are extras of the study (``hpo.extras``): no score is paid for twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from optuna import Study

from hpo.extras import Extra, attempted, attempts_of
from hpo.objective import Objective
from hpo.protocol import Done
from hpo.status import Status

BASELINES = "baselines"
"""The study's user attribute that holds scores of untuned models."""


HERE = "local"
"""The source of a score that a worker computed; those of other sources are paid for."""

BASELINE_ATTEMPTS = "baseline_attempts"
"""The study's user attribute that lists, for the parameters of each model, its attempts."""


@dataclass(eq=False)
class Baseline(Extra):
    """An untuned model that is being scored; its identity is what makes the model."""

    attribute: ClassVar[str] = BASELINE_ATTEMPTS

    @property
    def params(self) -> dict[str, Any]:
        """What makes the model."""
        params: dict[str, Any] = self.identity["params"]
        return params


def is_scored_here(record: Mapping[str, Any]) -> bool:
    """Whether a worker can score a study's baseline, rather than an API that wants to be paid."""
    return bool(record.get("source", HERE) == HERE)


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
        written = attempted(self._study, BASELINE_ATTEMPTS)
        identities = [{"params": each} for each in offered if each not in known]
        return [
            Baseline(self._study, each, self._label(each["params"]), attempts_of(written, each))
            for each in identities
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
