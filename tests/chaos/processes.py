"""The processes under test: a coordinator, its workers, and what may be left of them.

Every process that the harness starts, and so every one that those start, carries the harness's own
mark in its environment: nothing else is ever looked at or killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.database import STUDY

MARK = "CHAOS_RUN"
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """How a coordinator is started; the same each time but for a larger number of trials.

    Attributes:
        folder: Its current directory.
        url: The storage.
        objective: ``module:function``, wrapped by :mod:`tests.chaos.recorder`.
        path: Folders in which to look for it.
        workers: How many workers.
        extra: Further arguments.
        mark: The value of the mark in the environment.
    """

    folder: Path
    url: str
    objective: str
    path: tuple[Path, ...] = ()
    workers: int = 2
    extra: tuple[str, ...] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def journal(self) -> Path:
        """Where the recorder writes."""
        return self.folder / "journal"

    def arguments(self, trials: int) -> list[str]:
        """Return the command line."""
        return [
            *(sys.executable, "-m", "hpo.run", "--objective", "tests.chaos.recorder:objective"),
            *("--trials", str(trials), "--workers", str(self.workers), "--storage", self.url),
            *("--study", STUDY, *self.extra),
        ]

    def environment(self) -> dict[str, str]:
        """Return this process's environment less what would change the settings."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("HPO_")}
        python_path = os.pathsep.join(map(str, (REPOSITORY, *self.path)))
        return kept | {
            "PYTHONPATH": python_path,
            "PYTHONUNBUFFERED": "1",
            "CHAOS_OBJECTIVE": self.objective,
            "CHAOS_JOURNAL": str(self.journal),
            MARK: self.mark,
        }


class Coordinator:
    """A coordinator process.

    Args:
        command: How to start it.
        trials: Its ``--trials``.
        log: Takes what it prints.
    """

    def __init__(self, command: Command, trials: int, log: Path) -> None:
        self.log = log
        self.trials = trials
        self.signalled = False
        """Whether it was sent SIGTERM."""
        self.killed = False
        """Whether it was sent SIGKILL."""
        self.terminated_early = False
        """Whether SIGTERM met it before it had said a word, and so before it could handle any."""
        self.outages = 0
        """How often the database was away while it ran; it is to survive that by itself."""
        self.without_database = False
        """Whether the database was away before it had said a word; then it may refuse to start."""
        self.began = time.monotonic()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command.arguments(trials),
                cwd=command.folder,
                env=command.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code; ``None`` while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    @property
    def works(self) -> bool:
        """Whether it runs and has printed something: it owns the study by then."""
        return self.exit_code is None and self.log.stat().st_size > 0

    def workers(self) -> list[psutil.Process]:
        """Return its workers, oldest first: the children of its fork server."""
        return [
            worker
            for server in self.fork_servers()
            for worker in _children(server)
            if _runs(worker)
        ]

    def fork_servers(self) -> list[psutil.Process]:
        """Return the process that its workers are forked from, if it has started one."""
        if self.exit_code is not None:
            return []
        return [each for each in _children(psutil.Process(self.pid)) if _is_fork_server(each)]

    def kill(self) -> None:
        """Send SIGKILL and wait for its end."""
        self.killed = True
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.terminated_early = self.terminated_early or not self.works
        self.signalled = True
        self._process.terminate()

    def wait(self, timeout: float) -> bool:
        """Return whether it ended within ``timeout`` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def seconds_to_end(self, timeout: float) -> float | None:
        """Wait for its end and return how long it lived, less what it waited for a processor.

        A machine with too few cores for everything that runs on it is not the process's fault.
        ``None`` if it did not end within ``timeout`` seconds.
        """
        while not is_gone(psutil.Process(self.pid)):
            if time.monotonic() - self.began > timeout:
                return None
            time.sleep(0.01)
        lived = time.monotonic() - self.began
        # Its zombie still has the kernel's account: nanoseconds run, nanoseconds waited, slices.
        queued = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        self._process.wait()
        return lived - queued


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return sorted(process.children(), key=lambda child: child.pid)
    except psutil.NoSuchProcess:
        return []


def _is_fork_server(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.forkserver" in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _runs(process: psutil.Process) -> bool:
    """Whether ``process`` is neither stopped nor dead."""
    try:
        return process.status() not in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_ZOMBIE,
            psutil.STATUS_DEAD,
        )
    except psutil.NoSuchProcess:
        return False


def is_gone(process: psutil.Process) -> bool:
    """Whether ``process`` has ended; one that nobody has waited for yet has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield the living processes that carry ``mark``."""
    for process in psutil.process_iter():
        # Those of other users do not show their environment, and are not ours.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(MARK) == mark and not is_gone(process):
                yield process


def leftovers(mark: str, patience: float) -> list[psutil.Process]:
    """Return the processes with ``mark`` that do not end by themselves in ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while (left := list(marked(mark))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
