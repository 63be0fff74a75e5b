"""What this side and containers on Modal say to each other, and where containers keep things.

Calls take and return one JSON text; Modal's own transport wraps it. Files travel as bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

from pydantic import Field, ValidationError

from hpo.protocol import AnyEvent, Message, ObjectiveSpec, ProtocolError, Task

CACHE_VOLUME: Final = "hpo-cache"
"""The Volume of what trials read: prepared data, uploaded models, the Hugging Face cache."""

RUNS_VOLUME: Final = "hpo-runs"
"""The Volume of what trials write: checkpoints and models."""

STUDIES_VOLUME: Final = "hpo-studies"
"""The Volume of what only coordinators on Modal read: snapshots of databases, test splits."""

CACHE: Final = PurePosixPath("/hpo-cache")
RUNS: Final = PurePosixPath("/hpo-runs")
STUDIES: Final = PurePosixPath("/hpo-studies")
"""Where containers see the Volumes."""

FINGERPRINT: Final = "HPO_FINGERPRINT"
"""The variable that tells a container which deployment it belongs to."""

EVENTS: Final = "events"
"""The partition of a study's Queue for what workers say; replies have one an attempt."""

NEWS: Final = "news"
"""The partition for what a coordinator on Modal tells whoever follows."""

M = TypeVar("M", bound=Message)

_RUNS_URL: Final = f"modal://{RUNS_VOLUME}/"

RESTART: Final = 1_000_000
"""A call that Modal has restarted counts its events on from the next multiple of this."""

LAST: Final = 1 << 62
"""The sequence number of an end that the objective did not tell: it comes after all it said."""


def findable(path: str) -> str:
    """Return how everybody finds what a container wrote to the Volume of runs."""
    return _RUNS_URL + str(PurePosixPath(path).relative_to(RUNS))


def there(found: str) -> str:
    """Return where containers see what :func:`findable` names; another path as it is."""
    return f"{RUNS}/{found.removeprefix(_RUNS_URL)}" if found.startswith(_RUNS_URL) else found


@dataclass(frozen=True)
class Place:
    """Where things of a study lie on Modal.

    Attributes:
        key: Name of its Queue and its Dict.
        runs: Directory of what its attempts write, as containers see it.
        data: Directory of prepared data; ``None`` if there is none.
        assets: Directories that the objective asks for, by its names.
    """

    key: str
    runs: str
    data: str | None
    assets: dict[str, str]


class Job(Message):
    """The argument of a trial's call.

    Attributes:
        task: The attempt, with paths as a container sees them.
        key: Name of the study's Queue and of its Dict of claims.
        timeout: Seconds that the attempt may run, over all restarts of the call.
        deployment: The deployment that is to run it; empty for any.
        discard: Directories that trials left on the Volume of runs and nobody wants any more.
        test: The test split, as the text of its file; only for the evaluation of a winner.
    """

    task: Task
    key: str
    timeout: float
    deployment: str = ""
    discard: tuple[str, ...] = ()
    test: str | None = None


class Start(Message):
    """A container took up a call, for the first time or after another one was taken away.

    Attributes:
        container: The container's id.
        billed_from: When the seconds that belong to this attempt began in it, as seconds since the
            epoch: as the container started, or ended its last attempt.
        began: When the attempt began in it.
        ended: When it was told to go; ``None`` if it was not, or could not say so.
    """

    container: str
    billed_from: float
    began: float
    ended: float | None = None


class Claim(Message):
    """Which call may run an attempt. The first to write it wins.

    Attributes:
        call: Id of the call; empty if none may any more.
        starts: The containers that have taken it up, oldest first.
    """

    call: str
    starts: tuple[Start, ...] = ()


class Said(Message):
    """An item of the Queue: something that a worker says.

    Attributes:
        event: What; the last event of an attempt is only announced, since the call returns it.
        ended: The attempt whose call is about to return.
    """

    event: AnyEvent | None = None
    ended: str | None = None


class Memory(Message):
    """What a trial has said up to a checkpoint, kept beside its directory.

    The attempt that goes on from there does not say it again, and the Queue may have lost it.

    Attributes:
        curve: Its reports, as (step, value).
        user_attrs: The attributes that it has set.
    """

    curve: tuple[tuple[int, float], ...] = ()
    user_attrs: dict[str, Any] = Field(default_factory=dict)


class Outcome(Message):
    """What a trial's call returns.

    Attributes:
        event: The last event of the attempt.
        claimed_by: The call that runs the attempt, if it is another one; empty if none may.
        redeployed: Whether the app is no longer the one that the attempt was meant for.
        seconds: Container seconds that are billed, where there is no event to say so.
    """

    event: AnyEvent | None = None
    claimed_by: str | None = None
    redeployed: bool = False
    seconds: float = 0.0


class CacheRequest(Message):
    """Asks the cache whether it holds everything that trials need.

    Attributes:
        assets: Names of directories below the cache, such as ``data/0f3a…``.
        objective: The objective to import, and to let fetch what it needs, once all is there;
            ``None`` to only look.
    """

    assets: tuple[str, ...] = ()
    objective: ObjectiveSpec | None = None


class CacheAnswer(Message):
    """The answer to a :class:`CacheRequest`.

    Attributes:
        fingerprint: Which deployment answered.
        missing: The assets that are not there.
        error: Why the objective cannot run there; empty if it can.
    """

    fingerprint: str
    missing: tuple[str, ...] = ()
    error: str = ""


def parse(kind: type[M], text: str) -> M:
    """Read a message. Raises :class:`ProtocolError` if ``text`` is not one of that kind."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the message"
        raise ProtocolError(
            f"no {kind.__name__} of this version: {where}: {first['msg']}; this side and the app "
            "on Modal must run the same hpo version."
        ) from None
