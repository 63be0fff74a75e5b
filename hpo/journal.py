"""Events that were heard and could not be written yet, kept in a file until they are.

While the database is away the coordinator goes on listening. What it hears goes to this file at
once, so that even a coordinator killed during an outage loses nothing: the next one reads the file
before it takes up a trial.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from hpo.errors import StudyStoppedError
from hpo.protocol import AnyEvent, ProtocolError, decode_event, encode

UNWRITTEN = "unwritten.jsonl"
"""Its name in the study's directory."""


class Journal:
    """A queue of events, oldest first, that survives the process.

    Args:
        path: The file; it exists only while there is something in it.

    Raises:
        StudyStoppedError: The file is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: deque[AnyEvent] = deque()
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failure("read", error) from error
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break  # torn: its writer was killed before it said that it had heard this
            try:
                self._events.append(decode_event(line))
            except ProtocolError as error:
                raise StudyStoppedError(
                    f"{path}, line {number} is damaged. The file holds results that the database "
                    "lacks: mend the line, or move the file away to do without them."
                ) from error
        if lines and not lines[-1].endswith(b"\n"):
            self._write(b"".join(lines[:-1]), "wb")

    def __len__(self) -> int:
        return len(self._events)

    @property
    def first(self) -> AnyEvent:
        """The oldest event."""
        return self._events[0]

    def of(self, attempt: str) -> list[AnyEvent]:
        """Return the events of one attempt, oldest first."""
        return [event for event in self._events if event.attempt == attempt]

    def has_end(self, attempt: str) -> bool:
        """Whether the end of an attempt was heard and waits to be written."""
        return any(event.kind in ("done", "failed") for event in self.of(attempt))

    def append(self, event: AnyEvent) -> None:
        """Keep ``event``; it is in the file when this returns.

        Raises:
            StudyStoppedError: The file cannot be written.
        """
        self._write(encode(event) + b"\n", "ab")
        self._events.append(event)

    def drop_first(self) -> None:
        """Forget the oldest event, now that the database has it; the last one takes the file along.

        The file is not rewritten for each: to apply an event twice does no harm.
        """
        self._events.popleft()
        if not self._events:
            self.path.unlink(missing_ok=True)

    def _write(self, data: bytes, mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode) as file:
                file.write(data)
        except OSError as error:
            raise self._failure("write", error) from error

    def _failure(self, verb: str, error: OSError) -> StudyStoppedError:
        return StudyStoppedError(
            f"cannot {verb} {self.path} ({error.strerror}), which holds results while the database "
            "is away; make it writable, then the same command goes on."
        )
