"""What runs in a worker process of the local executor.

The main thread runs attempts. A second thread reads what the coordinator sends and ends the process
when the line closes: a worker without a coordinator would go on writing to a checkpoint that the
next coordinator's attempt writes to as well.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from hpo.protocol import AnyEvent, AnyReply, decode_reply, decode_task, encode
from hpo.worker import output_to, run_attempt

READY = b"ready"
TASK = b"T"
REPLY = b"R"
QUIT = b"Q"
"""A message to a worker begins with one of these: a late reply is never taken for a task."""

BEAT = b"beat"
"""What a worker says every :data:`BEAT_SECONDS` to show that it lives."""

BEAT_SECONDS = 1.0


def worker_main(
    connection: Connection, index: int, threads: int, gpu: str | None, log: str, outcome: str
) -> None:
    """Run the tasks that arrive until the coordinator says QUIT or closes the line.

    Args:
        connection: The line to the coordinator.
        index: Which worker this is.
        threads: How many threads the libraries may use.
        gpu: The only GPU that this worker may see; ``None`` for none.
        log: File for output outside of attempts.
        outcome: File for the final event of the newest attempt, written before it is sent: if the
            coordinator dies first, the next one finds it there and need not run the attempt again.
    """
    # They reach the whole process group; what happens then is the coordinator's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not SIG_IGN: what an objective starts must still be its own to terminate.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    # The terminal belongs to the coordinator: a worker that reads it would hang.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _share_machine(threads, gpu)
    with output_to(Path(log)):
        inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
        line = _Line(connection)
        line.send(READY)
        threading.Thread(target=_beat, args=(line,), daemon=True).start()
        while True:
            data = inbox.get()
            if data == QUIT:
                return
            if not data.startswith(TASK):
                continue  # a reply to an attempt that has ended
            task = decode_task(data[len(TASK) :])
            channel = _PipeChannel(line, inbox, Path(outcome))
            with output_to(Path(task.log)):
                run_attempt(task, channel, "cpu" if gpu is None else "cuda")
            if Path(task.log).stat().st_size == 0:
                Path(task.log).unlink()
            release_memory()


def _share_machine(threads: int, gpu: str | None) -> None:
    """Keep to this worker's share of the machine, in libraries loaded already and later ones."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu if gpu is not None else ""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def release_memory() -> None:
    """Give back what the last attempt held, before the next one asks for as much."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _listen(connection: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    while True:
        try:
            inbox.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _beat(line: _Line) -> None:
    while True:
        line.send(BEAT)
        time.sleep(BEAT_SECONDS)


class _Line:
    """The sending side of a connection, for several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._connection.send_bytes(data)
        except OSError:
            os._exit(0)  # the coordinator is gone, see the top of this module


class _PipeChannel:
    """A worker's line to a coordinator in another process of this machine, for one attempt."""

    def __init__(self, line: _Line, inbox: queue.SimpleQueue[bytes], outcome: Path) -> None:
        self._line = line
        self._inbox = inbox
        self._outcome = outcome
        self._sequence = 0

    def send(self, make: Callable[[int], AnyEvent]) -> None:
        event = make(self._sequence)
        self._sequence += 1
        data = encode(event)
        if event.kind in ("done", "failed"):
            incoming = self._outcome.with_suffix(".new")
            incoming.write_bytes(data)
            incoming.rename(self._outcome)
        self._line.send(data)

    def receive(self, timeout: float | None) -> AnyReply | None:
        try:
            data = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        return decode_reply(data[len(REPLY) :])
