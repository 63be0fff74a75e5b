"""The processes of the local executor as the operating system sees them.

A process is named by its id and the time it began: an id alone may belong to another one by now.
"""

from __future__ import annotations

import contextlib
import os
import time
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
from pydantic import BaseModel, ValidationError

from hpo.errors import InputError
from hpo.executors import ExecutorError

KILL_SECONDS = 10.0
"""How long a killed process may take to end."""

_FORK_SERVER = "multiprocessing.forkserver"
_HELPERS = (_FORK_SERVER, "multiprocessing.resource_tracker")

MARK = "HPO_WORKERS_OF"
"""The environment variable that names the study's directory in its workers. It is there from their
first instant; the roll is not, if the coordinator is killed while it starts one."""


def created(pid: int | None) -> float | None:
    """Return when a process began; ``None`` if it is gone."""
    try:
        began: float = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
    return began


def state_of(pid: int | None) -> str:
    """Return what the system calls a process's state: running, sleeping, stopped, gone, …"""
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return "gone"


def kill(pid: int | None, began: float | None) -> None:
    """Kill the process that began then, if it is still there; returns when it is dead.

    Raises:
        ExecutorError: It does not end.
    """
    if began is None or created(pid) != began:
        return  # gone, as it should be, or another process by now
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()
    deadline = time.monotonic() + KILL_SECONDS
    # A zombie is dead; whether its parent takes note of that is not our business.
    while created(pid) == began and state_of(pid) not in (psutil.STATUS_ZOMBIE, "gone"):
        if time.monotonic() > deadline:
            raise ExecutorError(
                f"worker process {pid} does not end even when it is killed: it hangs in the "
                "kernel, as after a fault of a GPU or of a network file system. Mend that, and "
                "run again."
            )
        time.sleep(0.01)


def revive_fork_server() -> None:
    """Kill a fork server that is stopped: to ask it for a worker would wait for ever.

    multiprocessing starts a new one; workers of the old one count as dead and are replaced.
    """
    for child in psutil.Process().children():
        if _runs(child, _FORK_SERVER) and state_of(child.pid) == psutil.STATUS_STOPPED:
            kill(child.pid, created(child.pid))


def start_quiet_tracker() -> None:
    """Start multiprocessing's resource tracker, and keep its warnings to itself.

    It tidies up after a killed worker, as it should, and would warn people about that.
    """
    before = os.environ.get("PYTHONWARNINGS")
    added = "ignore:resource_tracker"
    os.environ["PYTHONWARNINGS"] = added if not before else f"{before},{added}"
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _runs(process: psutil.Process, *modules: str) -> bool:
    try:
        return any(module in part for part in process.cmdline() for module in modules)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False  # gone, or somebody else's


class _Processes(BaseModel):
    """What the roll says: processes by id and the time they began."""

    coordinator: tuple[int, float | None]
    workers: list[tuple[int, float]]


class Roll:
    """A file that lists the processes of this executor, for the executor after it.

    They end with their coordinator; one that was stopped (SIGSTOP) when the coordinator was killed
    cannot, and would wake up beside its successor.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[int, float] = {}

    def end_survivors(self) -> None:
        """Kill what an earlier executor left.

        Raises:
            InputError: Its coordinator still runs: a study of the same name in another database. Or
                the file is damaged.
        """
        try:
            found = _Processes.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except ValidationError:
            raise InputError(
                f"{self._path} is damaged: it lists the workers of the last run, which must not "
                "wake up beside new ones. See that none is left, and delete it."
            ) from None
        owner, began = found.coordinator
        if owner != os.getpid() and began is not None and created(owner) == began:
            raise InputError(
                f"{self._path.parent} is in use by another coordinator (process {owner}), which "
                "keeps a study of this name in another database; choose another --out, or another "
                "--study."
            )
        own = {each.pid for each in psutil.Process().children() if _runs(each, *_HELPERS)}
        for pid, began in found.workers:
            # An earlier executor of this process shared its helpers with this one.
            if pid not in own:
                kill(pid, began)
        self._end_marked()

    def _end_marked(self) -> None:
        """Kill what is marked as a worker of this directory and was not written down in time."""
        own = {child.pid for child in psutil.Process().children(recursive=True)}
        for process in psutil.process_iter():
            try:
                if process.pid in own or not _runs(process, *_HELPERS):
                    continue
                if process.environ().get(MARK) == str(self._path.parent):
                    kill(process.pid, process.create_time())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # gone, or somebody else's

    def claim(self) -> None:
        """Write down who uses the directory, and mark the workers that will be started."""
        os.environ[MARK] = str(self._path.parent)
        self.add(None)

    def add(self, pid: int | None) -> None:
        """Add a worker, and the helpers of multiprocessing that it came from."""
        children = psutil.Process().children()
        helpers = [child.pid for child in children if _runs(child, *_HELPERS)]
        for each in (pid, *helpers):
            began = created(each)
            if each is not None and began is not None:
                self._known[each] = began
        # Those that ended meanwhile leave the list.
        self._known = {pid: began for pid, began in self._known.items() if created(pid) == began}
        content = _Processes(
            coordinator=(os.getpid(), created(os.getpid())), workers=list(self._known.items())
        )
        incoming = self._path.with_suffix(".new")
        incoming.write_text(content.model_dump_json())
        incoming.rename(self._path)
