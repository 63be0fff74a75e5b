"""What a coordinator on Modal is told to do, and what it says at its end."""

from __future__ import annotations

from typing import Any

from pydantic import field_serializer

from hpo.executors.modal import Place
from hpo.on_modal.deployment import Deployment
from hpo.protocol import Message, ObjectiveSpec
from hpo.rates import Rates

HAND_OVER_SECONDS = 23.5 * 3600
"""When a coordinator hands over to its next call: before Modal ends it after 24 hours."""


class Order(Message):
    """The argument of a coordinator's call.

    Attributes:
        app: The app that it is part of.
        study: The study's name.
        key: Name of its Queue and its Dict.
        volume: The Volume that keeps it.
        file: The snapshot of its database in that Volume.
        url: How people reach the study's storage.
        settings: The settings of the run.
        objective: The prepared objective.
        deployment: What is deployed, for the prices of it.
        place: Where things lie.
        rates: What seconds cost.
        spent: Dollars that getting ready has cost.
        seconds: After so long the coordinator hands over to its next call.
    """

    app: str
    study: str
    key: str
    volume: str
    file: str
    url: str
    settings: dict[str, Any]
    objective: ObjectiveSpec
    deployment: Deployment
    place: Place
    rates: Rates
    spent: float
    seconds: float = HAND_OVER_SECONDS

    @field_serializer("rates")
    def _rates(self, rates: Rates) -> dict[str, Any]:
        # Its mapping is read-only, which pydantic does not take for a mapping.
        return {**vars(rates), "gpus": dict(rates.gpus)}


class Result(Message):
    """What a coordinator's call returns.

    Attributes:
        error: Why the study stopped short; empty if it did not.
        code: The exit code that says so.
        successor: The call that goes on, if the time of this one was up.
    """

    error: str = ""
    code: int = 0
    successor: str | None = None
