"""A study's log of decisions: ``events.jsonl``, one JSON object for each moment.

The file is only ever added to, a whole line with one write. So a kill at any instant leaves every
line but the last one whole, and whoever reads while the coordinator writes sees no half of one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpo.errors import InputError, StudyStoppedError
from hpo.status import Moment, Status
from hpo.strict_json import to_json

FILE = "events.jsonl"
"""Name of the log in a study's directory."""

POLL_SECONDS = 0.3
"""How long :func:`follow_events` waits before it looks for more."""


class EventLog:
    """An observer that writes every moment down.

    Args:
        path: The file; it is made, with its directory, by the first moment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def on(self, moment: Moment, status: Status) -> None:
        """Append ``moment``; it is with the operating system when this returns.

        Raises:
            StudyStoppedError: The file cannot be written.
        """
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "kind": moment.kind,
            "trial": moment.trial,
            "attempt": moment.attempt,
            "text": moment.text,
            "detail": moment.detail,
            "data": moment.data,
        }
        line = to_json({key: value for key, value in record.items() if value not in (None, "", {})})
        # A lone half of a surrogate pair has no UTF-8; its escape means the same in JSON.
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            if self._descriptor is None:
                self._descriptor = _open(self._path)
            # Only a full disk takes less than all of it, and says so to the next write.
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise StudyStoppedError(
                f"cannot write the log {self._path} ({error.strerror}); make it writable, then the "
                "same command goes on."
            ) from error

    def tick(self, status: Status) -> None:
        """Write nothing: time alone decides nothing."""

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path) -> int:
    """Open a log to append; what a kill left of a line gets an end, so that the next is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


@dataclass(frozen=True)
class Event:
    """A line of the log: a :class:`hpo.status.Moment`, and when it was.

    Attributes:
        time: When it was written, with a time zone.
        kind: What happened.
        text: The same for people.
        detail: More lines for people.
        trial: The trial's number; ``None`` if it happened to none.
        attempt: The attempt's id; ``None`` if it happened to none.
        data: The facts behind ``text``.
    """

    time: datetime
    kind: str
    text: str
    detail: str = ""
    trial: int | None = None
    attempt: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Damaged:
    """A line of the log that a kill or a full disk cut short.

    Attributes:
        number: Which line of the file, from 1.
        start: How it begins.
    """

    number: int
    start: str


def read_events(path: Path) -> Iterator[Event | Damaged]:
    """Yield what a log holds, oldest first.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _parse(number, line)
    except OSError as error:
        raise InputError(f"cannot read the log {path}: {error.strerror}.") from error


def follow_events(path: Path, after: int) -> Iterator[Event | Damaged]:
    """Yield, for ever, what a log holds after its first ``after`` lines and what is added to it.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number, line = 1, b""
            while True:
                line += file.readline()
                if not line.endswith(b"\n"):
                    time.sleep(POLL_SECONDS)
                    continue
                if number > after:
                    yield _parse(number, line)
                number, line = number + 1, b""
    except OSError as error:
        raise InputError(f"cannot read the log {path}: {error.strerror}.") from error


def _parse(number: int, line: bytes) -> Event | Damaged:
    try:
        record = json.loads(line)
        moment = datetime.fromisoformat(record.pop("time"))
        known = {key: value for key, value in record.items() if key in Event.__dataclass_fields__}
        return Event(time=moment, **known)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Damaged(number, line[:40].decode("utf-8", "replace").rstrip("\n"))
