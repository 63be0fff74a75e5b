"""The coordinator's side of a study's Queue: what workers say comes in, answers go out."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import modal

from hpo.on_modal.calls import UNREACHABLE, text_of
from hpo.on_modal.messages import EVENTS, Said, parse
from hpo.protocol import AnyReply, ProtocolError, encode

LISTEN_SECONDS = 5.0
"""How long one request waits for something in the Queue."""

ANSWERERS = 4
"""How many threads put answers into the Queue: one that waits must not keep others waiting."""


class Post:
    """Carries messages between a study's workers and its coordinator, in threads of its own.

    Args:
        key: Name of the Queue.
        take: Is given what workers say.
        guarded: Runs a thread's loop; see to what ends it early.

    Attributes:
        away: Whether Modal could not be reached when it was last tried. Others may set it: it is
            then tried at once.
    """

    def __init__(
        self,
        key: str,
        take: Callable[[Said], None],
        guarded: Callable[[Callable[[], None]], None],
    ) -> None:
        self.away = False
        self._queue = modal.Queue.from_name(key, create_if_missing=True)
        self._take = take
        self._outbox: queue.SimpleQueue[tuple[str, AnyReply]] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=guarded, args=(loop,), daemon=True)
            for loop in [self._listen, *[self._answer] * ANSWERERS]
        ]
        for thread in self._threads:
            thread.start()

    def answer(self, attempt: str, reply: AnyReply) -> None:
        """Put ``reply`` on its way; it may be lost."""
        self._outbox.put((attempt, reply))

    def close(self) -> None:
        """Send what is on its way, and stop listening."""
        deadline = time.monotonic() + LISTEN_SECONDS
        while not self._outbox.empty() and not self.away and time.monotonic() < deadline:
            time.sleep(0.01)
        self._closed.set()
        # Who listens wakes up by this; or by themselves, a little later.
        with suppress(queue.Full, modal.exception.Error, *UNREACHABLE):
            self._queue.put(Said().model_dump_json(), partition=EVENTS, block=False)
        for thread in self._threads:
            thread.join(2 * LISTEN_SECONDS)

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                if self.away:
                    self._queue.len(partition=EVENTS)
                    self.away = False
                items = self._queue.get_many(100, partition=EVENTS, timeout=LISTEN_SECONDS)
            except queue.Empty:
                continue
            except UNREACHABLE:
                self.away = True
                self._closed.wait(1.0)
                continue
            for item in items:
                # What is of another version of hpo says so in what its call returns, too.
                with suppress(ProtocolError):
                    self._take(parse(Said, item))

    def _answer(self) -> None:
        while not self._closed.is_set():
            try:
                attempt, reply = self._outbox.get(timeout=0.2)
            except queue.Empty:
                continue
            # A full partition means that the worker does not read: it needs no further answers.
            # And what is lost is asked for again, or done without.
            try:
                self._queue.put(encode(reply).decode(), partition=attempt, timeout=LISTEN_SECONDS)
            except (queue.Full, modal.exception.Error, *UNREACHABLE) as error:
                note(f"trial {attempt.partition('.')[0]} does not hear an answer: {text_of(error)}")


def note(text: str) -> None:
    """Write a line for people to stderr."""
    print(f"hpo: {text}", file=sys.stderr, flush=True)
