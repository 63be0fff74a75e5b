"""Runs attempts on this machine in warm worker processes, one a GPU or a slice of the cores.

A fork server imports the heavy libraries once; every worker is a fork of it, so a worker that died
is replaced within milliseconds; one that no longer answers is killed and replaced, too. Workers end
with the coordinator, whatever ends it; one that cannot, since it was stopped, is ended by the next
coordinator. So two attempts of one trial never write to the same checkpoint.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from hpo.executors import ExecutorError, Handle
from hpo.executors.local_processes import (
    Roll,
    created,
    kill,
    revive_fork_server,
    start_quiet_tracker,
    state_of,
)
from hpo.executors.local_worker import (
    BEAT,
    BEAT_SECONDS,
    QUIT,
    READY,
    REPLY,
    TASK,
    worker_main,
)
from hpo.protocol import (
    AnyEvent,
    AnyReply,
    Cause,
    Failed,
    ProtocolError,
    Task,
    decode_event,
    encode,
)
from hpo.worker import log_tail

WORKER_MEMORY_BYTES = 3 << 30
"""Memory to set aside for a worker: MiniLM in training was measured at 1.9 GB resident."""

START_ATTEMPTS = 3
"""How often in a row a worker may die before it is ready; then something is wrong for good."""

STOPPED_SECONDS = 5.0
"""After so long without a sign of life, a worker whose process is stopped (SIGSTOP) is replaced."""

SILENT_SECONDS = 60.0
"""After so long without a sign of life, any worker is replaced. It is long, because a library that
computes without letting go of Python's lock keeps a healthy worker silent, too."""

QUIT_SECONDS = 3.0
"""How long idle workers get to end by themselves, all together, before they are killed."""


@dataclass(frozen=True)
class Slot:
    """The share of this machine that one worker gets.

    Attributes:
        index: 0, 1, …
        threads: How many threads its libraries may use.
        gpu: The GPU's id as CUDA_VISIBLE_DEVICES takes it; ``None`` for a CPU worker.
    """

    index: int
    threads: int
    gpu: str | None = None


def machine_slots(workers: int | None = None) -> list[Slot]:
    """Divide this machine: a worker a GPU, or a worker a core where memory allows.

    One thread a worker is the fastest division of a CPU: two workers with one thread each trained
    105 pairs/s together where one worker with two threads trained 73 (2 cores, MiniLM).

    Args:
        workers: How many; ``None`` for as many as the machine has room for.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    gpus = visible_gpus()
    if workers is None:
        room = max(1, psutil.virtual_memory().available // WORKER_MEMORY_BYTES)
        workers = len(gpus) or min(cores, room)
    threads = max(1, cores // workers)
    return [
        Slot(index, threads, gpus[index % len(gpus)] if gpus else None) for index in range(workers)
    ]


def visible_gpus() -> list[str]:
    """Return the ids of the CUDA GPUs that this process may use, without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1")]
    return ask_gpus("index")


def ask_gpus(what: str) -> list[str]:
    """Return what NVIDIA's driver says of each GPU here; nothing without a GPU or its driver.

    Args:
        what: A property as ``nvidia-smi --query-gpu`` takes it.
    """
    try:
        listing = subprocess.run(
            ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return listing.stdout.splitlines() if listing.returncode == 0 else []


@dataclass
class _Worker:
    slot: Slot
    process: ForkServerProcess
    created: float | None
    connection: Connection
    ready: bool = False
    task: Task | None = None
    next_sequence: int = 0
    stopping: bool = False
    silent: float = 0.0

    @property
    def sources(self) -> tuple[Any, ...]:
        return self.connection, self.process.sentinel


class LocalExecutor:
    """Runs attempts in worker processes on this machine.

    Args:
        directory: Directory for what workers print outside of attempts (``logs``), and for the last
            words of each (``outcomes``).
        workers: How many workers; ``None`` for as many as the machine has room for.
        preload: Modules that the fork server imports once, for all workers.
        silent_seconds: How long a worker may give no sign of life.

    Raises:
        InputError: Another coordinator's workers use the directory.
    """

    worst_case = 0.0

    def __init__(
        self,
        directory: Path,
        workers: int | None = None,
        preload: Sequence[str] = (),
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._logs = directory / "logs"
        self._outcomes = directory / "outcomes"
        self._outcomes.mkdir(parents=True, exist_ok=True)
        self._roll = Roll(directory / "processes.json")
        self._roll.end_survivors()
        self._roll.claim()
        self._silent_seconds = silent_seconds
        self._found: list[AnyEvent] = []
        self._last_look = time.monotonic()
        start_quiet_tracker()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["hpo.executors.fork_server", *preload])
        self._failed_starts = 0
        self._workers = [self._start(slot) for slot in machine_slots(workers)]

    @property
    def capacity(self) -> int:
        """One attempt a worker."""
        return len(self._workers)

    @property
    def description(self) -> str:
        """How many workers on what."""
        count = self.capacity
        gpus = sum(worker.slot.gpu is not None for worker in self._workers)
        kind = "GPU worker" if gpus else "worker"
        return f"{count} {kind}{'s' if count > 1 else ''} on this machine"

    def submit(self, task: Task) -> Handle:
        """Give ``task`` to a free worker."""
        worker = next((each for each in self._workers if each.task is None), None)
        if worker is None:
            raise ExecutorError(f"all {self.capacity} workers are busy; wait for an event first")
        worker.task = task
        worker.next_sequence = 0
        worker.stopping = False
        # A worker that died just now takes no task; its death is an event like any other.
        self._send(worker, TASK + encode(task))
        return {"process": worker.process.pid, "process_created": worker.created}

    def attach(self, task: Task, handle: Handle) -> bool:
        """Return whether the attempt left its final event; that is among the next events then.

        A worker ends with its coordinator; one that could not, as it was stopped, is ended here.
        """
        pid = handle.get("process")
        if pid is not None:
            kill(pid, handle.get("process_created"))
        for path in self._outcomes.glob("*.json"):
            try:
                event = decode_event(path.read_bytes())
            except ProtocolError:
                continue  # torn by a power failure, or of another version: it is run again
            if event.attempt == task.attempt:
                self._found.append(event)
                return True
        return False

    def events(self, timeout: float) -> list[AnyEvent]:
        """Return what the workers said; a dead worker is replaced and its attempt is lost."""
        sources = [source for worker in self._workers for source in worker.sources]
        found, self._found = self._found, []
        ready = set(multiprocessing.connection.wait(sources, 0 if found else timeout))
        for worker in [each for each in self._workers if not ready.isdisjoint(each.sources)]:
            # Death is asked first: what a worker said before it died is then read to the end.
            dead = not worker.process.is_alive()
            ended = self._read(worker, found)
            if dead or ended:
                if not dead:
                    worker.process.join(1.0)  # it is about to end: let it say how
                how = f"worker process {worker.process.pid} {_how(worker.process.exitcode)}"
                self._bury(worker, how, found)
        self._find_silent(found)
        return found

    def _find_silent(self, found: list[AnyEvent]) -> None:
        """Replace workers that give no sign of life.

        Silence counts only while somebody listens: a coordinator that was away, in a database or as
        the lid was closed, finds everybody silent when it comes back.
        """
        now = time.monotonic()
        passed, self._last_look = min(now - self._last_look, BEAT_SECONDS), now
        for worker in list(self._workers):
            worker.silent += passed
            if worker.silent < min(STOPPED_SECONDS, self._silent_seconds):
                continue
            state = state_of(worker.process.pid)
            if state == psutil.STATUS_STOPPED or worker.silent >= self._silent_seconds:
                how = (
                    f"worker process {worker.process.pid} gave no sign of life for "
                    f"{worker.silent:.0f} s ({state})"
                )
                self._bury(worker, how, found)

    def _read(self, worker: _Worker, found: list[AnyEvent]) -> bool:
        """Append what ``worker`` said to ``found``; return whether the line is closed."""
        try:
            while worker.connection.poll():
                data = worker.connection.recv_bytes()
                worker.silent = 0.0
                if data == BEAT:
                    continue
                if data == READY:
                    worker.ready = True
                    self._failed_starts = 0
                    continue
                event = decode_event(data)
                worker.next_sequence = event.sequence + 1
                found.append(event)
                if event.kind in ("done", "failed"):
                    worker.task = None
        except (EOFError, OSError):
            return True
        return False

    def _bury(self, worker: _Worker, message: str, found: list[AnyEvent]) -> None:
        """Replace a dead worker, and report the attempt that died with it."""
        # Not by worker.process alone: if the fork server died, that takes a live worker for dead.
        kill(worker.process.pid, worker.created)
        revive_fork_server()
        worker.process.join()
        worker.connection.close()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                tail = log_tail(self._log(worker.slot))
                raise ExecutorError(f"workers do not start: {message}\n{tail}".rstrip())
        task = worker.task
        if task is not None:
            found.append(
                Failed(
                    attempt=task.attempt,
                    sequence=worker.next_sequence,
                    cause=Cause.STOPPED if worker.stopping else Cause.LOST,
                    message="stopped by the coordinator" if worker.stopping else message,
                    log_tail=log_tail(Path(task.log)),
                )
            )
        self._workers[self._workers.index(worker)] = self._start(worker.slot)

    def reply(self, attempt: str, reply: AnyReply) -> None:
        """Send ``reply`` to the worker of ``attempt``."""
        worker = self._worker_of(attempt)
        if worker is not None:
            self._send(worker, REPLY + encode(reply))

    def stop(self, attempt: str) -> None:
        """Kill the worker of ``attempt``: certain, and a replacement costs milliseconds."""
        worker = self._worker_of(attempt)
        if worker is not None:
            worker.stopping = True
            worker.process.kill()

    def other_costs(self) -> float:
        """Return 0: this machine is paid anyway."""
        return 0.0

    def discard(self, place: str) -> None:
        """Do nothing: what trials leave is on this machine, where the coordinator removes it."""

    def close(self) -> None:
        """End all workers: an idle one by itself, one that runs an attempt at once."""
        revive_fork_server()
        for worker in self._workers:
            if worker.task is None:
                self._send(worker, QUIT)
            else:
                worker.process.kill()
        deadline = time.monotonic() + QUIT_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def _worker_of(self, attempt: str) -> _Worker | None:
        for worker in self._workers:
            if worker.task is not None and worker.task.attempt == attempt:
                return worker
        return None

    def _send(self, worker: _Worker, data: bytes) -> None:
        # A worker that died does not listen; events() finds that out and says so.
        with contextlib.suppress(OSError):
            worker.connection.send_bytes(data)

    def _start(self, slot: Slot) -> _Worker:
        revive_fork_server()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker_main,
            args=(
                *(theirs, slot.index, slot.threads, slot.gpu),
                *(str(self._log(slot)), str(self._outcomes / f"worker-{slot.index}.json")),
            ),
            name=f"hpo-worker-{slot.index}",
            daemon=False,  # a daemonic process may not have children, and data loaders do
        )
        process.start()
        theirs.close()
        self._roll.add(process.pid)
        return _Worker(slot, process, created(process.pid), ours)

    def _log(self, slot: Slot) -> Path:
        return self._logs / f"worker-{slot.index}.log"


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"ended with exit code {exit_code}"
