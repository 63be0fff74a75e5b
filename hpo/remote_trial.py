"""The trial that an objective sees when the study lives in another process.

Every call of Optuna's trial API works as with Optuna's own Trial; suggestions, reports and
attributes travel over a channel to the coordinator, which holds the real one. Parameters that came
with the task cost no round trip.
"""

from __future__ import annotations

import datetime
import json
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import BaseTrial

from hpo.protocol import (
    ATTEMPTS,
    NO_TRIAL,
    SCORES,
    AnyEvent,
    AnyReply,
    Done,
    Report,
    SetAttr,
    Stop,
    Suggest,
    Suggested,
    Task,
    Verdict,
)

VERDICT_SECONDS = 5.0
"""How long ``should_prune`` waits for the coordinator before it answers that training goes on."""

ATTRIBUTE_BYTES = 1 << 20
"""What one user attribute may hold; larger things belong in a file."""


class AttemptStopped(BaseException):
    """The coordinator stopped this attempt. Not an Exception: an objective must not swallow it."""


class Channel(Protocol):
    """A worker's line to its coordinator, for one attempt."""

    def send(self, make: Callable[[int], AnyEvent]) -> None:
        """Send the event that ``make`` builds from the attempt's next sequence number."""

    def receive(self, timeout: float | None) -> AnyReply | None:
        """Return the next reply, or ``None`` after ``timeout`` seconds; ``None`` waits forever."""


class RemoteTrial(BaseTrial):
    """An ``optuna.trial.BaseTrial`` whose study is at the other end of a channel.

    Args:
        task: The attempt to run.
        channel: The line to the coordinator.
        verdict_seconds: How long :meth:`should_prune` waits for an answer, in seconds.
    """

    def __init__(
        self, task: Task, channel: Channel, verdict_seconds: float = VERDICT_SECONDS
    ) -> None:
        self._task = task
        self._channel = channel
        self._verdict_seconds = verdict_seconds
        self._distributions: dict[str, BaseDistribution] = {}
        self._params: dict[str, Any] = {}
        for name, param in task.params.items():
            distribution = json_to_distribution(param.distribution)
            self._distributions[name] = distribution
            self._params[name] = distribution.to_external_repr(param.value)
        self._user_attrs: dict[str, Any] = dict(task.user_attrs)
        self._constraints: dict[str, float] = dict(task.constraints)
        self._set_attrs: dict[str, Any] = {}
        self._set_constraints: dict[str, float] = {}
        self._curve: dict[int, float] = {}
        self._verdict: Verdict | None = None
        self._unanswered: int | None = None

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        """Suggest a floating point value, as ``optuna.Trial.suggest_float``."""
        value: float = self._suggest(name, FloatDistribution(low, high, log=log, step=step))
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Suggest an integer, as ``optuna.Trial.suggest_int``."""
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[CategoricalChoiceType]) -> Any:
        """Suggest one of ``choices``, as ``optuna.Trial.suggest_categorical``."""
        return self._suggest(name, CategoricalDistribution(choices=choices))

    # Deprecated in Optuna since 3.0, yet abstract in BaseTrial and found in older objectives.
    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Suggest a float; deprecated in Optuna in favour of :meth:`suggest_float`."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Suggest a float on a log scale; deprecated in favour of :meth:`suggest_float`."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Suggest a float in steps of ``q``; deprecated in favour of :meth:`suggest_float`."""
        return self.suggest_float(name, low, high, step=q)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        known = self._distributions.get(name)
        if known is not None and self._task.number == NO_TRIAL:
            return self._params[name]  # given, not sampled: as with optuna.trial.FixedTrial
        if known is not None:
            # As JSON, since tuples among the choices became lists on the way here.
            if distribution_to_json(known) != distribution_to_json(distribution):
                check_distribution_compatibility(known, distribution)
            value = self._params[name]
            if isinstance(distribution, CategoricalDistribution):
                # JSON turned tuples into lists on the way; hand back the objective's own choice.
                value = distribution.to_external_repr(known.to_internal_repr(value))
                self._params[name] = value
            return value
        text = distribution_to_json(distribution)
        self._channel.send(
            lambda n: Suggest(attempt=self._task.attempt, sequence=n, name=name, distribution=text)
        )
        answer = self._await_suggestion(name)
        if answer.value is None:
            raise ValueError(answer.error)
        value = distribution.to_external_repr(answer.value)
        self._distributions[name] = distribution
        self._params[name] = value
        return value

    def _await_suggestion(self, name: str) -> Suggested:
        while True:
            reply = self._channel.receive(None)
            if isinstance(reply, Suggested) and reply.name == name:
                return reply
            self._note(reply)

    def report(self, value: float, step: int) -> None:
        """Report an intermediate value, as ``optuna.Trial.report``; returns at once."""
        if len(self._task.directions) > 1:
            raise NotImplementedError(
                "Trial.report is not supported for multi-objective optimization."
            )
        value = _as_float(value)
        try:
            step = int(step)
        except (TypeError, ValueError):
            raise TypeError(
                f"The `step` argument is of type '{type(step)}' but supposed to be an int."
            ) from None
        if step < 0:
            raise ValueError(f"The `step` argument is {step} but cannot be negative.")
        if step in self._curve:
            warnings.warn(
                f"The reported value is ignored because this `step` {step} is already reported.",
                stacklevel=2,
            )
            return
        self._curve[step] = value
        self._unanswered = step
        self._channel.send(
            lambda n: Report(attempt=self._task.attempt, sequence=n, step=step, value=value)
        )

    def should_prune(self) -> bool:
        """Return the verdict on the last report.

        Waits a few seconds for it at most and then answers False: a slow or dead coordinator never
        stops training.
        """
        if len(self._task.directions) > 1:
            raise NotImplementedError(
                "Trial.should_prune is not supported for multi-objective optimization."
            )
        while self._unanswered is not None:
            reply = self._channel.receive(self._verdict_seconds)
            if reply is None:
                return False
            self._note(reply)
        return self._verdict is not None and self._verdict.prune

    def _note(self, reply: AnyReply | None) -> None:
        if isinstance(reply, Stop):
            raise AttemptStopped
        if isinstance(reply, Verdict) and (
            self._verdict is None or reply.step >= self._verdict.step
        ):
            self._verdict = reply
            if self._unanswered is not None and reply.step >= self._unanswered:
                self._unanswered = None

    def set_user_attr(self, key: str, value: Any) -> None:
        """Set a user attribute of the trial.

        Raises:
            TypeError: ``value`` is not JSON serializable.
            ValueError: It is larger than a database row should be, or the key is hpo's own.
        """
        if key == ATTEMPTS:
            raise ValueError(f"the user attribute {key!r} is reserved for hpo's own notes")
        text = json.dumps(value)
        if len(text) > ATTRIBUTE_BYTES:
            raise ValueError(
                f"The user attribute {key!r} has {len(text):,} bytes as JSON; at most "
                f"{ATTRIBUTE_BYTES:,} go into the database. Write it to a file in "
                "hpo.current_attempt().directory and store its path."
            )
        value = json.loads(text)
        self._user_attrs[key] = value
        self._set_attrs[key] = value
        if key == SCORES:
            return  # nobody watches them; they travel once, with the end
        self._channel.send(
            lambda n: SetAttr(attempt=self._task.attempt, sequence=n, key=key, value=value)
        )

    def set_constraint(self, key: str, value: float) -> None:
        """Set a constraint value; the trial is feasible when all are zero or less."""
        value = _as_float(value)
        if math.isnan(value):
            raise ValueError(f"Attempted to set a constraint for {key!r}, but NaN is not allowed.")
        self._constraints.setdefault(key, value)
        self._set_constraints.setdefault(key, value)

    def done(self, values: Sequence[float]) -> Callable[[int], Done]:
        """Return what makes the final event from its sequence number; no values means pruned."""
        return lambda n: Done(
            attempt=self._task.attempt,
            sequence=n,
            state="complete" if values else "pruned",
            values=tuple(values),
            curve=tuple(self._curve.items()),
            user_attrs=self._set_attrs,
            constraints=self._set_constraints,
        )

    @property
    def params(self) -> dict[str, Any]:
        """Parameters suggested so far, by name."""
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Distributions of the parameters suggested so far, by name."""
        return dict(self._distributions)

    @property
    def user_attrs(self) -> dict[str, Any]:
        """User attributes, also those set before this attempt."""
        return dict(self._user_attrs)

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """When the trial (not this attempt) started."""
        return datetime.datetime.fromisoformat(self._task.created)

    @property
    def number(self) -> int:
        """The trial's number in its study."""
        return self._task.number

    @property
    def constraints(self) -> dict[str, float]:
        """Constraint values, by key."""
        return dict(self._constraints)

    @property
    def study(self) -> optuna.Study:
        """Not available: the study lives with the coordinator.

        Raises:
            RuntimeError: Always; it names what to use instead.
        """
        raise RuntimeError(
            "trial.study is not available in a worker: the study lives with the coordinator. Use "
            "trial.number, params, user_attrs, report and should_prune, or run the objective with "
            "study.optimize."
        )


def _as_float(value: Any) -> float:
    """Return ``value`` as a float, or refuse it in Optuna's words."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"The `value` argument is of type '{type(value)}' but supposed to be a float."
        ) from None
