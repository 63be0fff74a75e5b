"""A worker's line to the coordinator through a Queue, which may lose and repeat what it carries."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import modal

from hpo.on_modal.calls import UNREACHABLE, text_of
from hpo.on_modal.messages import EVENTS, Job, Memory, Said, findable
from hpo.on_modal.post import note
from hpo.protocol import (
    AnyEvent,
    AnyReply,
    Done,
    Failed,
    ProtocolError,
    Report,
    SetAttr,
    Suggest,
    Suggested,
    decode_reply,
)
from hpo.retention import MODEL

RESEND_SECONDS = 1.0
"""After so long without an answer, a parameter is asked for again."""

RESEND_GROWTH = 1.25
"""How much longer each pause is than the one before: a coordinator may be away for hours."""

RESEND_MOST_SECONDS = 30.0
"""The longest such pause."""

FLUSH_SECONDS = 5.0
"""How long the end of an attempt waits for what it said to be on its way."""


class QueueChannel:
    """A worker's line to the coordinator, for one attempt.

    Args:
        job: The attempt.
        first: The first sequence number.
        before: What the trial had said up to the checkpoint that it goes on from.

    Attributes:
        final: The last event of the attempt. It is not sent: the call returns it.
    """

    def __init__(self, job: Job, first: int, before: Memory) -> None:
        self.final: Done | Failed | None = None
        self._curve = dict(before.curve)
        self._user_attrs = dict(before.user_attrs)
        self._job = job
        self._sequence = first
        self._queue = modal.Queue.from_name(job.key, create_if_missing=True)
        self._outbox: queue.SimpleQueue[Said | None] = queue.SimpleQueue()
        self._unanswered: Suggest | None = None
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def send(self, make: Callable[[int], AnyEvent]) -> None:
        """Send an event; keep the last one, and announce it."""
        event = make(self._sequence)
        self._sequence += 1
        if isinstance(event, SetAttr):
            known = self._findable({event.key: event.value})
            event = event.model_copy(update={"value": known[event.key]})
            self._user_attrs |= known
        if isinstance(event, Report):
            self._curve.setdefault(event.step, event.value)
        if isinstance(event, Done):
            said = {"curve": tuple(self._curve.items()), "user_attrs": self._user_attrs}
            event = event.model_copy(update=said)
        if isinstance(event, Done | Failed):
            self.final = event
            self._outbox.put(Said(ended=event.attempt))
            return
        if isinstance(event, Suggest):
            self._unanswered = event
        self._outbox.put(Said(event=event))

    def memory(self) -> Memory:
        """Return what the trial has said so far."""
        return Memory(curve=tuple(self._curve.items()), user_attrs=self._user_attrs)

    def receive(self, timeout: float | None) -> AnyReply | None:
        """Return the next reply, or ``None`` after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = RESEND_SECONDS
        while True:
            left = pause if deadline is None else max(0.0, deadline - time.monotonic())
            reply = self._next(min(pause, left))
            if reply is not None:
                return reply
            if deadline is not None and time.monotonic() >= deadline:
                return None
            if self._unanswered is not None:
                self._outbox.put(Said(event=self._unanswered))
            pause = min(RESEND_GROWTH * pause, RESEND_MOST_SECONDS)

    def close(self) -> None:
        """Wait a moment for what was said to be on its way."""
        self._outbox.put(None)
        self._sender.join(FLUSH_SECONDS)

    def _findable(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Name the model as everybody finds it, not as this container sees it."""
        model = attrs.get(MODEL)
        if not isinstance(model, str) or not model.startswith(self._job.task.directory):
            return attrs
        return {**attrs, MODEL: findable(model)}

    def _next(self, seconds: float) -> AnyReply | None:
        try:
            text = self._queue.get(partition=self._job.task.attempt, timeout=seconds)
            reply = decode_reply(text.encode()) if text is not None else None
        except queue.Empty:
            return None
        except (modal.exception.Error, ProtocolError, *UNREACHABLE) as error:
            note(f"cannot hear the coordinator: {text_of(error)}")
            time.sleep(min(1.0, seconds))
            return None
        asked = self._unanswered
        # Not by an answer that comes a second time, to the question before.
        if isinstance(reply, Suggested) and asked is not None and reply.name == asked.name:
            self._unanswered = None
        return reply

    def _send_all(self) -> None:
        while (said := self._outbox.get()) is not None:
            try:
                self._queue.put(said.model_dump_json(), partition=EVENTS, timeout=FLUSH_SECONDS)
            except (queue.Full, modal.exception.Error, *UNREACHABLE) as error:
                # Nothing is lost: the call returns all that was said.
                note(f"a message did not reach the coordinator: {text_of(error)}")
