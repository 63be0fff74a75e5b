"""Runs attempts in functions on Modal, each in a container with a GPU.

An attempt is a call that is spawned and goes on whether or not anybody listens. What its worker
says comes through a Queue; how it ended is asked of the call itself, so that a lost message costs
nothing. Threads listen, look and answer; the coordinator sees one list of events.

The module is long because what is known of a call is changed from several sides and is best read
together; asking a call, the Queue, prices and messages are in ``hpo.on_modal``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import modal
from modal.exception import AuthError

from hpo.executors import ExecutorError, Handle
from hpo.on_modal.calls import UNREACHABLE as UNREACHABLE  # for those who talk to Modal, too
from hpo.on_modal.calls import Call, NoResult, ask, text_of
from hpo.on_modal.messages import LAST, Claim, Job, Outcome, Said, parse, there
from hpo.on_modal.messages import Place as Place
from hpo.on_modal.post import Post, note
from hpo.on_modal.pricing import GRACE_SECONDS, Prices, seconds_at_most
from hpo.protocol import (
    AnyEvent,
    AnyReply,
    Cause,
    Done,
    Failed,
    ProtocolError,
    Started,
    Stop,
    Suggest,
    Suggested,
    Task,
)

LOOK_SECONDS = 3.0
"""How often each call is asked whether it has ended; at once if it has announced its end."""

LOOKS_A_SECOND = 20.0
"""At most so many calls are asked in a second."""

STOP_SECONDS = 3.0
"""How long a trial that was told to stop has before its call is cancelled."""

KILL_SECONDS = 10.0
"""How long a cancelled call may go on before its container is ended, too."""

GONE_SECONDS = 40.0
"""After so long a cancelled call counts as ended, whatever Modal says of it."""

DOUBT_SECONDS = 60.0
"""The longest time to find out whether a call was spawned when Modal's answer did not come."""

UPKEEP_SECONDS = 60.0
"""What the coordinator's own machine costs is charged for so long at once."""

DISCARDS = 100
"""How many directories one container removes at most: they travel with its call."""

ATTACH_TRIES = 5
"""How often Modal is asked about a call that an earlier coordinator left, a second apart."""


class ModalExecutor:
    """Runs attempts on Modal.

    Args:
        function: The deployed function that runs a trial.
        place: Where things lie.
        capacity: Attempts at once.
        timeout: Seconds that an attempt may run.
        worst_case: What one may cost at most, in dollars.
        prices: What seconds cost.
        description: What it is, for people.
        deployment: The fingerprint of what is deployed; empty if any will do.
        spent: Dollars that setting up has cost.
        upkeep: Dollars a second that the coordinator's own machine costs.
        before_spawn: Called when an attempt is written down and about to be spawned.
    """

    def __init__(
        self,
        function: modal.Function[Any, Any, Any],
        place: Place,
        capacity: int,
        timeout: float,
        worst_case: float,
        prices: Prices,
        description: str,
        deployment: str = "",
        spent: float = 0.0,
        upkeep: float = 0.0,
        before_spawn: Callable[[], None] = lambda: None,
    ) -> None:
        self.worst_case = worst_case
        self.description = description
        self._function = function
        self._place = place
        self._capacity = capacity
        self._timeout = timeout
        self._prices = prices
        self._deployment = deployment
        self._other = spent
        self._upkeep = upkeep
        self._paid_until = time.monotonic()
        self._before_spawn = before_spawn
        self._claims = modal.Dict.from_name(place.key, create_if_missing=True)
        self._calls: dict[str, Call] = {}
        self._lock = threading.Lock()
        self._found: queue.SimpleQueue[AnyEvent | ExecutorError] = queue.SimpleQueue()
        self._announced: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failed_spawns = 0
        self._discarded: list[str] = []
        """Directories on the Volume that the next container is to remove."""
        self._closed = threading.Event()
        self._post = Post(place.key, self._take, self._guarded)
        self._looking = threading.Thread(target=self._guarded, args=(self._look,), daemon=True)
        self._looking.start()

    @property
    def capacity(self) -> int:
        """Attempts at once; while Modal cannot be reached, and just after, one more at most.

        Never none: whoever has nothing running could not tell that from an end.
        """
        known = len(self._calls)
        if self._post.away:
            return max(1, min(self._capacity, known))
        return min(self._capacity, known + 1) if self._failed_spawns else self._capacity

    def submit(self, task: Task) -> Handle:
        """Spawn a call for ``task``.

        Raises:
            ExecutorError: Modal refuses, for a reason that waiting does not mend.
        """
        self._before_spawn()
        job = Job(
            task=self._there(task),
            key=self._place.key,
            timeout=self._timeout,
            deployment=self._deployment,
            discard=tuple(self._discarded[:DISCARDS]),
            # With this one job: no Volume ever holds the test split where trials could read it.
            test=Path(task.test).read_text("utf-8") if task.test is not None else None,
        )
        try:
            call = self._function.spawn(job.model_dump_json())
        except UNREACHABLE:
            # It may have been spawned all the same, and only the answer was lost.
            self._post.away = True
            self._failed_spawns += 1
            doubt = time.monotonic() + min(2.0**self._failed_spawns, DOUBT_SECONDS)
            self._add(Call(task, None, doubt=doubt))
            return {}
        except modal.exception.Error as error:
            raise ExecutorError(f"Modal does not run the trial: {text_of(error)}") from error
        self._failed_spawns = 0
        with self._lock:
            del self._discarded[: len(job.discard)]
        added = self._add(Call(task, call))
        return {"call": call.object_id, "spawned": added.spawned}

    def attach(self, task: Task, handle: Handle) -> bool:
        """Take up a call that still runs, or whose result can be had.

        An attempt whose coordinator died before it noted the call is found by its claim; if it has
        none, the claim is taken, so that a call which starts later finds that it is not wanted.

        Raises:
            ExecutorError: Modal cannot be reached.
        """
        for left in reversed(range(ATTACH_TRIES)):
            try:
                return self._attach(task, handle)
            except UNREACHABLE as error:
                if left == 0:
                    raise ExecutorError(
                        f"Modal cannot be reached ({text_of(error)}), so it is not known what "
                        "still runs there; the same command goes on when it can."
                    ) from error
                time.sleep(1.0)
        raise AssertionError("unreachable: the last try returns or raises")

    def _attach(self, task: Task, handle: Handle) -> bool:
        found = handle.get("call") or self._claimed(task.attempt)
        if not found:
            return False
        call: modal.FunctionCall[str] = modal.FunctionCall.from_id(found)
        result = ask(call, 0)
        if isinstance(result, NoResult) and result.forgotten:
            with suppress(modal.exception.Error):  # what is not known cannot be cancelled
                call.cancel(terminate_containers=True)
            return False
        spawned = handle.get("spawned", time.time())
        self._add(Call(task, call, spawned=spawned, own=False))
        return True

    def _add(self, call: Call) -> Call:
        with self._lock:
            self._calls[call.task.attempt] = call
        return call

    def _claimed(self, attempt: str) -> str:
        """Return the call that has claimed an attempt, or see that none ever does."""
        nobody = Claim(call="").model_dump_json()
        if self._claims.put(attempt, nobody, skip_if_exists=True):
            return ""
        return parse(Claim, self._claims.get(attempt)).call

    def events(self, timeout: float) -> list[AnyEvent]:
        """Return what the workers said, and how calls ended.

        Raises:
            ExecutorError: Modal refuses, for a reason that waiting does not mend.
        """
        found: list[AnyEvent] = []
        try:
            while True:
                event = self._found.get(timeout=0 if found else timeout)
                if isinstance(event, ExecutorError):
                    raise event
                if not (isinstance(event, Suggest) and self._heard_before(event)):
                    found.append(event)
        except queue.Empty:
            return found

    def _heard_before(self, question: Suggest) -> bool:
        """Answer again what a worker asks again, since the Queue lost the question or the answer.

        Returns:
            Whether the coordinator need not hear it.
        """
        call = self._calls.get(question.attempt)
        if call is None or question.sequence > call.asked:
            if call is not None:
                call.asked, call.answer = question.sequence, None
            return False
        if question.sequence == call.asked and call.answer is not None:
            self._post.answer(question.attempt, call.answer)
        return True

    def reply(self, attempt: str, reply: AnyReply) -> None:
        """Put ``reply`` into the Queue."""
        call = self._calls.get(attempt)
        if call is not None:
            if isinstance(reply, Suggested):
                call.answer = reply
            self._post.answer(attempt, reply)

    def stop(self, attempt: str) -> None:
        """Tell the worker to stop; its call is cancelled if it does not."""
        call = self._calls.get(attempt)
        if call is not None:
            self._stop(call, Cause.STOPPED, "stopped by the coordinator")

    def _stop(self, call: Call, cause: Cause, message: str) -> None:
        if call.stop is None:
            call.why = cause, message
            call.stop = time.monotonic()
            self._post.answer(call.task.attempt, Stop())

    def other_costs(self) -> float:
        """Return what was spent outside attempts: on filling the cache, on calls nobody wanted."""
        with self._lock:
            spent, self._other = self._other, 0.0
        now = time.monotonic()
        if now >= self._paid_until:  # ahead, a minute at a time: each is a write
            spent += self._upkeep * UPKEEP_SECONDS
            self._paid_until = now + UPKEEP_SECONDS
        return spent

    def discard(self, place: str) -> None:
        """Have the next container remove a directory of the study."""
        with self._lock:
            self._discarded.append(f"{self._place.runs}/{place}")

    def close(self) -> None:
        """Cancel what was told to stop; what else runs goes on, for the next coordinator."""
        self._closed.set()
        for call in list(self._calls.values()):
            if call.stop is None or call.cancelled is not None or call.call is None:
                continue
            try:
                call.call.cancel()
            except (modal.exception.Error, *UNREACHABLE) as error:
                note(
                    f"the call {call.call.object_id} of trial {call.task.number} could not be "
                    f"cancelled ({text_of(error)}); it ends by itself, at the latest by its timeout"
                )
        self._post.close()
        self._looking.join(2 * LOOK_SECONDS)

    def _there(self, task: Task) -> Task:
        """Return ``task`` with paths as its container sees them."""
        place = self._place
        return task.model_copy(
            update={
                "directory": f"{place.runs}/{task.place}",
                "data": place.data,
                "assets": place.assets | {name: there(path) for name, path in task.assets.items()},
                "test": None,
                "objective": task.objective.model_copy(update={"path": ()}),
                "log": "",
            }
        )

    # What happens in threads of their own.

    def _guarded(self, loop: Callable[[], None]) -> None:
        """Run a loop; whatever ends it early is told to the coordinator."""
        try:
            loop()
        except AuthError as error:
            self._found.put(ExecutorError(f"Modal refuses the token: {text_of(error)}"))
        except modal.exception.Error as error:
            self._found.put(ExecutorError(f"Modal does not answer: {text_of(error)}"))
        except Exception as error:
            self._found.put(ExecutorError(f"{type(error).__name__}: {error}"))
            raise

    def _take(self, said: Said) -> None:
        """Take what a worker says."""
        event = said.event
        if event is not None:
            call = self._calls.get(event.attempt)
            if call is not None and isinstance(event, Started):
                call.began = call.began or time.monotonic()
            self._found.put(event)
        if said.ended is not None:
            self._announced.put(said.ended)

    def _look(self) -> None:
        """Ask calls whether they have ended."""
        while not self._closed.is_set():
            call, wait = self._due()
            if call is None:
                continue
            try:
                self._look_at(call, wait)
            except UNREACHABLE:
                self._post.away = True
                self._closed.wait(1.0)
            call.look = time.monotonic()

    def _due(self) -> tuple[Call | None, float]:
        """Return the next call to ask, and how long to wait for its answer."""
        try:
            attempt = self._announced.get(timeout=1 / LOOKS_A_SECOND)
            return self._calls.get(attempt), 2.0
        except queue.Empty:
            pass
        with self._lock:
            calls = list(self._calls.values())
        if not calls:
            return None, 0.0
        first = min(calls, key=lambda each: each.look)
        pause = LOOK_SECONDS if first.stop is None and first.call is not None else 1.0
        return (first, 0.0) if time.monotonic() - first.look >= pause else (None, 0.0)

    def _look_at(self, call: Call, wait: float) -> None:
        if call.call is None:
            self._resolve(call)
            return
        result = ask(call.call, wait)
        if result is None:
            self._insist(call, call.call)
        elif isinstance(result, NoResult):
            self._end(call, result.cause, result.why)
        else:
            self._hear(call, result)

    def _resolve(self, call: Call) -> None:
        """Find out whether a call was spawned whose spawning Modal did not confirm."""
        if self._post.away or time.monotonic() < call.doubt:
            return
        claimed = self._claimed(call.task.attempt)
        if claimed:
            call.call = modal.FunctionCall.from_id(claimed)
        else:
            self._end(call, Cause.LOST, "Modal could not be reached when it was to start")

    def _hear(self, call: Call, text: str) -> None:
        """Take what a call returned."""
        try:
            outcome = parse(Outcome, text)
        except ProtocolError as error:
            self._end(call, Cause.BAD_INPUT, str(error))
            return
        event = outcome.event
        if isinstance(event, Failed) and event.cause is Cause.STOPPED and call.why is not None:
            cause, message = call.why
            event = event.model_copy(update={"cause": cause, "message": message})
        if isinstance(event, Done | Failed) and event.usage is not None:
            usage = self._prices.usage(event.usage.seconds, event.usage.gpu)
            self._found.put(event.model_copy(update={"usage": usage}))
            self._forget(call)
            return
        with self._lock:
            self._other += self._prices.usage(outcome.seconds).dollars
        if outcome.claimed_by:
            call.call = modal.FunctionCall.from_id(outcome.claimed_by)
            return
        if outcome.redeployed and call.own:
            self._found.put(
                ExecutorError(
                    "the app on Modal was deployed anew by somebody else, with other settings or "
                    "other source; the same command deploys its own again. Two runs at once need "
                    "studies of different names."
                )
            )
        self._end(call, Cause.LOST, "its call was no longer wanted")

    def _insist(self, call: Call, running: modal.FunctionCall[str]) -> None:
        """Cancel a call that does not stop, or runs on past its time; give it up in the end."""
        now = time.monotonic()
        if call.stop is None:
            overdue = self._timeout + GRACE_SECONDS
            if call.began is None or now - call.began < overdue:
                return
            self._stop(call, Cause.TIMEOUT, f"it ran longer than {self._timeout:,.0f} s")
        elif call.cancelled is None:
            if now - call.stop > STOP_SECONDS:
                running.cancel()
                call.cancelled = now
        elif now - call.cancelled > GONE_SECONDS:
            self._end(call, Cause.STOPPED, "cancelled")
        elif now - call.cancelled > KILL_SECONDS and not call.killed:
            running.cancel(terminate_containers=True)
            call.killed = True

    def _end(self, call: Call, cause: Cause, message: str) -> None:
        """Tell of an end that no worker tells of."""
        if call.why is not None:
            cause, message = call.why
        text = self._claims.get(call.task.attempt)
        starts = parse(Claim, text).starts if text is not None else ()
        seconds = seconds_at_most(starts, call.spawned, time.time(), self._timeout)
        self._found.put(
            Failed(
                attempt=call.task.attempt,
                sequence=LAST,
                cause=cause,
                message=message,
                usage=self._prices.usage(seconds),
            )
        )
        self._forget(call)

    def _forget(self, call: Call) -> None:
        with self._lock:
            self._calls.pop(call.task.attempt, None)
