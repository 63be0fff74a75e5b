"""An executor that takes money: attempts run in this process, and a test says what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpo.executors import Handle
from hpo.executors.inline import InlineExecutor
from hpo.protocol import AnyEvent, AnyReply, Cause, Done, Failed, Started, Task, Usage


@dataclass(frozen=True)
class Fate:
    """What comes of an attempt.

    Attributes:
        dollars: What it is billed.
        cause: What it is lost to on its way; ``None`` for the objective's own word.
        told: Whether its end says what it cost.
    """

    dollars: float = 0.5
    cause: Cause | None = None
    told: bool = True


class Paying:
    """Runs attempts in threads of this process and bills them when they start.

    It outlives coordinators, as a platform does: what runs can be attached to by the next one.

    Args:
        objective: The objective to call.
        fate: What comes of an attempt, by its task.
        worst_case: What one attempt may cost at most.
        capacity: How many attempts it takes.
        silent: Whether the first word of an attempt, that it started, is lost.
    """

    description = "paid"

    def __init__(
        self,
        objective: Callable[[Any], Any],
        fate: Callable[[Task], Fate] = lambda task: Fate(),
        worst_case: float = 1.0,
        capacity: int = 1,
        silent: bool = False,
    ) -> None:
        self.objective = objective
        self._fate = fate
        self.worst_case = worst_case
        self.capacity = capacity
        self._silent = silent
        self._slots: dict[str, InlineExecutor] = {}
        self._fates: dict[str, Fate] = {}
        self.submitted: list[Task] = []
        self.attached: list[str] = []
        self.stopped: list[str] = []
        self.forgets: set[str] = set()
        self.other = 0.0
        self.other_billed = 0.0
        self.killed: Callable[[], bool] = lambda: False

    @property
    def bill(self) -> float:
        """Everything that was billed, whether or not anybody heard of it."""
        return sum(fate.dollars for fate in self._fates.values()) + self.other_billed

    def submit(self, task: Task) -> Handle:
        assert len(self._slots) < self.capacity
        self.submitted.append(task)
        self._fates[task.attempt] = self._fate(task)
        slot = self._slots[task.attempt] = InlineExecutor(self.objective)
        slot.submit(task)
        return {"call": task.attempt}

    def attach(self, task: Task, handle: Handle) -> bool:
        call = handle.get("call", "")
        if call in self.forgets:
            self._slots.pop(call, None)
        if call not in self._slots:
            return False
        self.attached.append(call)
        return True

    def events(self, timeout: float) -> list[AnyEvent]:
        deadline = time.monotonic() + timeout
        while True:
            if self.killed():
                raise SystemExit("kill -9 of the coordinator")
            found = [
                self._final(event) if isinstance(event, Done | Failed) else event
                for slot in list(self._slots.values())
                for event in slot.events(0)
                if not (self._silent and isinstance(event, Started))
            ]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.0005)

    def _final(self, event: Done | Failed) -> AnyEvent:
        fate = self._fates[event.attempt]
        del self._slots[event.attempt]
        usage = Usage(gpu="L4", seconds=36.0, dollars=fate.dollars) if fate.told else None
        if fate.cause is None:
            return event.model_copy(update={"usage": usage})
        return Failed(
            attempt=event.attempt,
            sequence=event.sequence,
            cause=fate.cause,
            message="as fate will have it",
            usage=usage,
        )

    def reply(self, attempt: str, reply: AnyReply) -> None:
        if attempt in self._slots:
            self._slots[attempt].reply(attempt, reply)

    def stop(self, attempt: str) -> None:
        self.stopped.append(attempt)
        if attempt in self._slots:
            self._slots[attempt].stop(attempt)

    def other_costs(self) -> float:
        spent, self.other = self.other, 0.0
        self.other_billed += spent
        return spent

    def discard(self, place: str) -> None:
        pass

    def close(self) -> None:
        for attempt in list(self._slots):
            self.stop(attempt)
