"""What the coordinator and its workers say to each other.

Every message is one JSON object, validated on arrival; nothing that a worker sent is unpickled.
Parameters travel as (distribution, internal value) in Optuna's own JSON, so that any choice of a
categorical, also one that JSON cannot carry, is picked out of the worker's own list. Numbers use
JSON as Python writes it, with ``NaN`` and ``Infinity``: both ends are Python, and a learning curve
may hold them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

PROTOCOL_VERSION: Final = 1
"""Raised by one when a message changes its meaning; a worker of another version is refused."""

NO_TRIAL = -1
"""The trial number of a task that belongs to no trial, such as one that scores a baseline."""

ATTEMPTS = "attempts"
"""The user attribute of a trial that lists its attempts; an objective may not set it."""

SCORES = "hpo:scores"
"""The user attribute by which an objective hands over a model's scores on the validation pairs, as
text. It is long, and goes to a file of the study instead of its database."""


Direction = Literal["minimize", "maximize"]


class ProtocolError(ValueError):
    """A message that is not one of ours, or of another version of the protocol."""


class Cause(StrEnum):
    """Why an attempt ended."""

    OK = "ok"
    PRUNED = "pruned"
    PREEMPTED = "preempted"
    LOST = "lost"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    DIVERGED = "diverged"
    BAD_INPUT = "bad-input"
    BUG = "bug"
    STOPPED = "stopped"

    @property
    def is_infrastructure(self) -> bool:
        """Whether the machine failed rather than the trial: such an attempt is tried again."""
        return self in (Cause.PREEMPTED, Cause.LOST, Cause.TIMEOUT)

    @property
    def is_error(self) -> bool:
        """Whether the objective itself is at fault: three in a row stop the study."""
        return self in (Cause.BAD_INPUT, Cause.BUG)


class Message(BaseModel):
    """A frozen message; unknown fields are refused, so that a mismatch shows at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class ObjectiveSpec(Message):
    """Where a worker finds the objective.

    Attributes:
        reference: ``package.module:qualified.name``.
        options: Keyword arguments if ``reference`` names a class to build; ``None`` if it is the
            objective itself.
        path: Entries to put at the front of ``sys.path`` before the import.
    """

    reference: str
    options: dict[str, Any] | None = None
    path: tuple[str, ...] = ()


class Param(Message):
    """A sampled parameter: Optuna's distribution as JSON, and the value in its internal form."""

    distribution: str
    value: float


class Task(Message):
    """One attempt, with everything that its worker needs to know.

    Attributes:
        attempt: Id of the attempt; every event carries it back.
        number: The trial's number, or :data:`NO_TRIAL`.
        method: What to call on the objective: ``__call__``, ``baseline`` or ``evaluate``.
        params: Parameters that are sampled already.
        user_attrs: User attributes that the trial has already.
        constraints: Constraint values that the trial has already.
        directions: One entry an objective value: ``minimize`` or ``maximize``.
        created: The trial's start as an ISO 8601 time.
        seed: The trial's own seed.
        directory: Where the trial keeps checkpoints and its model.
        place: The same from the study's directory on: ``trials/7``. An executor on another machine
            has a directory of its own for the study.
        resume: Whether an earlier attempt may have left a checkpoint there.
        data: What the objective's ``prepare`` wrote for trials.
        log: File that takes the attempt's stdout and stderr.
        assets: Where directories that the objective needs lie on the worker's machine, by name.
        test: The test split; only for the evaluation of a winner.
    """

    version: Literal[1] = PROTOCOL_VERSION
    attempt: str
    study: str
    number: int
    method: Literal["__call__", "baseline", "evaluate"] = "__call__"
    objective: ObjectiveSpec
    params: dict[str, Param] = {}
    user_attrs: dict[str, Any] = {}
    constraints: dict[str, float] = {}
    directions: tuple[Direction, ...] = ("maximize",)
    created: str
    seed: int
    directory: str
    place: str
    resume: bool = False
    data: str | None = None
    log: str
    assets: dict[str, str] = {}
    test: str | None = None


class Event(Message):
    """What a worker says. (attempt, sequence) makes repeats and latecomers recognisable."""

    attempt: str
    sequence: int = Field(ge=0)


class Started(Event):
    """The attempt runs: on this machine, in this process, on this device."""

    kind: Literal["started"] = "started"
    machine: str
    process: int
    device: str | None = None


class Report(Event):
    """An intermediate value. The answer is a :class:`Verdict`."""

    kind: Literal["report"] = "report"
    step: int
    value: float


class Suggest(Event):
    """A parameter is wanted. The answer is :class:`Suggested`."""

    kind: Literal["suggest"] = "suggest"
    name: str
    distribution: str


class SetAttr(Event):
    """A user attribute of the trial."""

    kind: Literal["set_attr"] = "set_attr"
    key: str
    value: Any


class Usage(Message):
    """What an attempt took of a machine that is paid for.

    Attributes:
        gpu: The GPU, as the platform names it; ``None`` if it had none or is not known.
        seconds: Container seconds that are billed to it, starting up and idling included.
        dollars: Their price.
    """

    gpu: str | None = None
    seconds: float = Field(ge=0)
    dollars: Annotated[float, Field(ge=0)] = 0.0


class Done(Event):
    """The objective returned or pruned itself; holds all that it ever reported.

    Attributes:
        state: ``complete`` or ``pruned``.
        values: One number an objective; empty if pruned.
        curve: All reports, as (step, value).
        user_attrs: All attributes set by this attempt.
        constraints: All constraint values set by this attempt.
        usage: What it cost, where that is paid for.
    """

    kind: Literal["done"] = "done"
    state: Literal["complete", "pruned"]
    values: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    user_attrs: dict[str, Any] = {}
    constraints: dict[str, float] = {}
    usage: Usage | None = None


class Failed(Event):
    """The attempt ended without a result.

    Attributes:
        message: One line for people.
        traceback: The objective's traceback, if it raised.
        log_tail: The end of the attempt's stdout and stderr.
        usage: What it cost, where that is paid for.
    """

    kind: Literal["failed"] = "failed"
    cause: Cause
    message: str
    traceback: str = ""
    log_tail: str = ""
    usage: Usage | None = None


class Suggested(Message):
    """The value (in internal form) of the parameter asked for, or why there is none."""

    kind: Literal["suggested"] = "suggested"
    name: str
    value: float | None = None
    error: str = ""


class Verdict(Message):
    """Whether to go on after the report at ``step``."""

    kind: Literal["verdict"] = "verdict"
    step: int
    prune: bool


class Stop(Message):
    """End the attempt at the next word it says; its trial stays as it is."""

    kind: Literal["stop"] = "stop"


AnyEvent = Annotated[
    Started | Report | Suggest | SetAttr | Done | Failed, Field(discriminator="kind")
]
AnyReply = Annotated[Suggested | Verdict | Stop, Field(discriminator="kind")]

_events: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
_replies: TypeAdapter[AnyReply] = TypeAdapter(AnyReply)


def encode(message: Message) -> bytes:
    """Return ``message`` as one JSON object in UTF-8."""
    return message.model_dump_json().encode()


def decode_task(data: bytes) -> Task:
    """Read a task. Raises :class:`ProtocolError` if ``data`` is not one of this version."""
    try:
        return Task.model_validate_json(data)
    except ValidationError as error:
        raise _refusal("task", error) from None


def decode_event(data: bytes) -> AnyEvent:
    """Read an event. Raises :class:`ProtocolError` if ``data`` is not one."""
    try:
        return _events.validate_json(data)
    except ValidationError as error:
        raise _refusal("event", error) from None


def decode_reply(data: bytes) -> AnyReply:
    """Read a reply. Raises :class:`ProtocolError` if ``data`` is not one."""
    try:
        return _replies.validate_json(data)
    except ValidationError as error:
        raise _refusal("reply", error) from None


def _refusal(what: str, error: ValidationError) -> ProtocolError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the message"
    return ProtocolError(
        f"no {what} of protocol {PROTOCOL_VERSION}: {where}: {first['msg']}, "
        f"got {str(first['input'])[:200]!r}; coordinator and worker must run the same hpo version."
    )
