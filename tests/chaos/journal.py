"""What the executions of trials say of themselves, in files that no coordinator touches.

A file a trial, a JSON object a line, written by one append each: a killed process loses at most
what it had not said yet. Times are ``time.monotonic()``, one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Execution:
    """One run of the objective for a trial.

    Attributes:
        id: Unique.
        trial: The trial's number.
        pid: The process it ran in.
        born: When that process was created, since process ids are used again.
        started: When the objective was called.
        beside: Executions of the same trial whose process was alive and not done with them then.
        ended: When the objective returned or raised; ``None`` if it never did.
        outcome: ``complete``, ``pruned``, or the exception's name.
        params: The trial's parameters at the end.
        reported: What it reported, by step.
        acknowledged: Steps whose report was answered while the objective waited.
        times: When it reported or was answered.
    """

    id: str
    trial: int
    pid: int
    born: float
    started: float
    beside: list[str]
    ended: float | None = None
    outcome: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    reported: dict[int, float] = field(default_factory=dict)
    acknowledged: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        """Whether its process still runs it, or is stopped in the middle."""
        if self.ended is not None:
            return False
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.born and process.status() not in (
                psutil.STATUS_ZOMBIE,
                psutil.STATUS_DEAD,
            )
        except psutil.NoSuchProcess:
            return False


class Entry:
    """Writes the journal of one execution, which begins with it.

    Args:
        folder: The journal.
        trial: The trial's number.
    """

    def __init__(self, folder: Path, trial: int) -> None:
        beside = [each.id for each in executions_of(folder, trial) if each.is_alive]
        self._path = folder / f"{trial}.jsonl"
        self._id = uuid.uuid4().hex[:12]
        process = psutil.Process()
        self._write("start", pid=process.pid, born=process.create_time(), beside=beside)

    def report(self, step: int, value: float) -> None:
        """Note a report, before it is sent."""
        self._write("report", step=step, value=value)

    def acknowledge(self, step: int) -> None:
        """Note that the report of ``step`` was answered."""
        self._write("acknowledge", step=step)

    def end(self, outcome: str, params: dict[str, Any]) -> None:
        """Note the end of the execution, before the coordinator hears of it."""
        self._write("end", outcome=outcome, params=params)

    def _write(self, event: str, **facts: Any) -> None:
        line = {"execution": self._id, "event": event, "time": time.monotonic(), **facts}
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, (json.dumps(line, default=repr) + "\n").encode())
        finally:
            os.close(descriptor)


def executions(folder: Path) -> Iterator[Execution]:
    """Yield all executions in the journal, by trial and then by start."""
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem)):
        yield from executions_of(folder, int(path.stem))


def executions_of(folder: Path, trial: int) -> list[Execution]:
    """Return the executions of one trial, by start."""
    found: dict[str, Execution] = {}
    path = folder / f"{trial}.jsonl"
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith("\n"):
            break  # being written just now
        said = json.loads(line)
        name, at = said["execution"], said["time"]
        match said["event"]:
            case "start":
                found[name] = Execution(name, trial, said["pid"], said["born"], at, said["beside"])
            case "report":
                found[name].reported.setdefault(said["step"], said["value"])
                found[name].times.append(at)
            case "acknowledge":
                found[name].acknowledged.append(said["step"])
                found[name].times.append(at)
            case "end":
                found[name].ended = at
                found[name].outcome, found[name].params = said["outcome"], said["params"]
    return list(found.values())
