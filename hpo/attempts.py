"""Attempts: the executions of a trial, or of what is none, as they are written down beside it.

A trial's user attribute ``attempts`` lists them, oldest first. An attempt is written before it
starts, again when it has a handle, and when it ends. The values of a finished one are part of its
record, so that a coordinator which died between hearing a result and telling it pays for it once.
"""

from __future__ import annotations

import datetime
import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import Trial
from pydantic import BaseModel, ConfigDict

from hpo.protocol import ATTEMPTS, Cause, Done, Failed, Param, Suggest, Suggested, Usage


class Attempt(BaseModel):
    """One execution of a trial or of a baseline.

    Attributes:
        id: Unique; every message of the attempt carries it.
        start: When it was dispatched, ISO 8601 in UTC.
        end: When the coordinator heard of its end; ``None`` while it runs.
        cause: Why it ended.
        message: What there is to say about a failure.
        values: What the objective returned; empty unless ``cause`` is ok.
        handle: What the executor needs to find it again.
        machine: Name of the machine it ran on.
        device: ``cpu`` or ``cuda``.
        reserved: Dollars that were set aside for it; what it is charged if its end does not say
            what it cost. ``None`` on a machine that is paid anyway.
        gpu: The GPU it was billed for.
        seconds: Container seconds that were billed.
        dollars: What they cost.
    """

    model_config = ConfigDict(extra="ignore")

    id: str
    start: str
    end: str | None = None
    cause: Cause | None = None
    message: str = ""
    values: tuple[float, ...] = ()
    handle: dict[str, Any] = {}
    machine: str | None = None
    device: str | None = None
    reserved: float | None = None
    gpu: str | None = None
    seconds: float | None = None
    dollars: float | None = None

    @classmethod
    def new(cls, number: int, count: int) -> Attempt:
        """Return attempt ``count`` (from 1) of trial ``number``, starting now."""
        return cls(id=f"{number}.{count}.{uuid.uuid4().hex[:8]}", start=now())

    def close(
        self,
        cause: Cause,
        message: str = "",
        values: tuple[float, ...] = (),
        usage: Usage | None = None,
    ) -> None:
        """Note the end of the attempt."""
        self.end, self.cause, self.message, self.values = now(), cause, message, values
        self.bill(usage)

    def bill(self, usage: Usage | None) -> None:
        """Note what it cost: what was billed, or all that was set aside if that is not known."""
        if usage is not None:
            self.gpu, self.seconds, self.dollars = usage.gpu, usage.seconds, usage.dollars
        elif self.dollars is None:
            self.dollars = self.reserved


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def read_attempts(user_attrs: dict[str, Any]) -> list[Attempt]:
    """Return the attempts noted in a trial's user attributes, oldest first."""
    return [Attempt.model_validate(record) for record in user_attrs.get(ATTEMPTS, [])]


def trial_seed(study_seed: int, number: int, run: int | None = None) -> int:
    """Return the seed of a trial: the same in every attempt, unrelated between trials.

    Args:
        study_seed: The study's seed.
        number: The trial's number.
        run: Which run of a finalist, each with a seed of its own; ``None`` for the trial itself.
    """
    text = f"{study_seed}:{number}" + ("" if run is None else f":{run}")
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def travelling(
    params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> dict[str, Param]:
    """Return parameters as they travel with a task."""
    return {
        name: Param(
            distribution=distribution_to_json(distribution),
            value=distribution.to_internal_repr(params[name]),
        )
        for name, distribution in distributions.items()
    }


class Attempted(ABC):
    """What attempts are made at, with those attempts; writes through to the storage.

    Attributes:
        number: The trial's number, or that of what is none.
        label: What it tries, for people.
        attempts: All attempts, oldest first; the last one may be running.
    """

    number: int
    label: str
    attempts: list[Attempt]

    @abstractmethod
    def save(self) -> None:
        """Write the attempts as they are."""

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    def begin(self, reserved: float = 0.0) -> Attempt:
        """Write down a new attempt, for which so many dollars are set aside."""
        attempt = Attempt.new(self.number, len(self.attempts) + 1)
        attempt.reserved = reserved or None
        self.attempts.append(attempt)
        try:
            self.save()
        except BaseException:
            self.attempts.pop()  # not written down, so it must not start
            raise
        return attempt

    def end(self, event: Done | Failed) -> Attempt:
        """Note the end of the running attempt; to do it again changes nothing."""
        attempt = self.attempts[-1]
        if attempt.end is not None:
            attempt.bill(event.usage)
        elif isinstance(event, Done):
            cause = Cause.OK if event.state == "complete" else Cause.PRUNED
            attempt.close(cause, values=event.values, usage=event.usage)
        else:
            attempt.close(event.cause, event.message, usage=event.usage)
        self.save()
        return attempt

    def records(self) -> list[dict[str, Any]]:
        """Return the attempts as they are written."""
        return [each.model_dump(mode="json", exclude_defaults=True) for each in self.attempts]


@dataclass
class LiveTrial(Attempted):
    """A trial that is not finished, with its attempts; writes through to the storage.

    Attributes:
        trial: Optuna's trial.
        number: The trial's number.
        label: What it tries, for people.
        attempts: All attempts, oldest first; the last one may be running.
        sampled: Whether this coordinator let the objective sample it, if the objective can.
        steps: Intermediate values that the storage has, by step.
    """

    trial: Trial
    number: int
    attempts: list[Attempt]
    label: str = ""
    sampled: bool = False
    steps: dict[int, float] = field(default_factory=dict)
    _written: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, trial: Trial, reported: dict[int, float] | None = None) -> LiveTrial:
        """Take up ``trial`` as the storage has it; ``reported`` are its intermediate values."""
        attrs = trial.user_attrs
        return cls(
            trial=trial,
            number=trial.number,
            attempts=read_attempts(attrs),
            steps=dict(reported or {}),
            _written=attrs,
        )

    def save(self) -> None:
        """Write the attempts as they are."""
        self.set_attr(ATTEMPTS, self.records())

    def set_attr(self, key: str, value: Any) -> None:
        """Set a user attribute; costs nothing if the storage has that value."""
        if key not in self._written or self._written[key] != value:
            self.trial.set_user_attr(key, value)
            self._written[key] = value

    def report(self, step: int, value: float) -> None:
        """Report an intermediate value unless that step is reported already."""
        if step not in self.steps:
            self.trial.report(value, step)
            self.steps[step] = value

    def params(self) -> dict[str, Param]:
        """Return the parameters sampled so far as they travel with a task."""
        return travelling(self.trial.params, self.trial.distributions)

    def suggest(self, event: Suggest) -> Suggested:
        """Let the study's sampler answer a worker's suggestion."""
        try:
            distribution = json_to_distribution(event.distribution)
            value = suggest(self.trial, event.name, distribution)
            return Suggested(name=event.name, value=distribution.to_internal_repr(value))
        except ValueError as error:
            # Optuna's refusal, such as another range for a known name: the objective's to see.
            return Suggested(name=event.name, error=str(error) or type(error).__name__)

    def absorb(self, event: Done) -> None:
        """Write what a finished attempt carries that did not arrive before."""
        for step, value in event.curve:
            self.report(step, value)
        for key, value in event.user_attrs.items():
            self.set_attr(key, value)
        self.constrain(event.constraints)

    def constrain(self, constraints: Mapping[str, float]) -> None:
        """Set constraint values; one that is set already stays."""
        known = self.trial.constraints if constraints else {}
        for key, value in constraints.items():
            if key not in known:
                self.trial.set_constraint(key, value)


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """Ask ``trial`` for a parameter through Optuna's public API."""
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )
        case IntDistribution():
            return trial.suggest_int(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case _:
            raise ValueError(
                f"the parameter {name!r} has the distribution {distribution!r}, which cannot be "
                "suggested; use suggest_float, suggest_int or suggest_categorical"
            )
