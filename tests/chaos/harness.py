"""Killing what a study is made of, at random instants, and always giving the same command again."""

from __future__ import annotations

import importlib
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.database import Database, PostgresDatabase, SqliteDatabase
from tests.chaos.invariants import Invariants
from tests.chaos.plan import KINDS, POSTGRES_KINDS, Plan
from tests.chaos.processes import Command, Coordinator, is_gone, leftovers, marked
from tests.chaos.report import Report

OUTAGE_SECONDS = 3.0
"""A killed PostgreSQL is started again within this time."""

REFUSED_SECONDS = 2.0
"""A second coordinator is refused within this time from the start of its process, not counting
what it waits for a processor."""

VISITS = 0.3
"""So often, of all kills, somebody else has just opened the database, looked and closed it."""

END_SECONDS = 10.0
"""Processes may take so long to end once the last coordinator has."""

TRACEBACK = "Traceback (most recent call last)"

FAILED_STARTS = 5
"""A coordinator that ends so often in a row by itself, and not well, will not do better."""


class GivenUpError(Exception):
    """The study gets no further; why is a finding already."""


@dataclass
class _Stopped:
    """A worker that was sent SIGSTOP, and the coordinator it had then."""

    process: psutil.Process
    coordinator: int
    since: float


class Harness:
    """A study under test: its processes, its database, and what is known of it.

    Args:
        plan: What to do.
        database: Where the study is.
        folder: The coordinator's current directory.
        report: Takes findings and figures.
    """

    def __init__(self, plan: Plan, database: Database, folder: Path, report: Report) -> None:
        self.plan = plan
        self.database = database
        self.folder = folder
        self.report = report
        self.target = plan.trials
        self.done = False
        self.command = Command(
            folder, database.url, plan.objective, plan.path, plan.workers, plan.extra
        )
        self.command.journal.mkdir()
        self.invariants = Invariants(report, _load(plan), self.command.journal)
        self.starts = 0
        self.began = time.monotonic()
        self.coordinator = self._start()
        self._chance = random.Random(plan.seed)
        self._finishing = False
        self._bad_ends = 0
        self._stopped: list[_Stopped] = []
        self._progress = (0, time.monotonic())
        self._seconds = 0

    # The loop.

    def kill_all(self) -> None:
        """Do all kills of the plan, then let the study end."""
        kinds = KINDS | (POSTGRES_KINDS if self.database.server is not None else {})
        kinds = {kind: often for kind, often in kinds.items() if kind not in self.plan.without}
        for count in range(1, self.plan.kills + 1):
            self.pause(self._chance.triangular(*self.plan.gap))
            if count % self.plan.second_every == self.plan.second_every // 2:
                self._start_second()
            if self._chance.random() < VISITS:
                self.database.visit()
            (kind,) = self._chance.choices(list(kinds), list(kinds.values()))
            kind, pid = self._strike(kind)
            self.report.kills[kind] += 1
            look = self.database.look()
            self.report.say(
                f"{time.monotonic() - self.began:7.1f} s  #{count:<4} {kind:<29} pid {pid:<8} "
                f"{look.finished}/{self.target} finished"
            )
            self.invariants.check(look)
        self.finish()

    def pause(self, seconds: float) -> None:
        """Let the study run for some time, starting its coordinator again when it ends."""
        deadline = time.monotonic() + seconds
        while True:
            self.tend()
            if time.monotonic() >= deadline:
                return
            time.sleep(0.05)

    def finish(self) -> None:
        """Wait until the study is done, and see that nothing of it is left running."""
        self._finishing = True
        while not self.done:
            self.pause(0.2)
        for process in leftovers(self.command.mark, END_SECONDS):
            self.report.find(
                f"process {process.pid} ({process.status()}) outlives the study: "
                f"{' '.join(process.cmdline())[:120]}"
            )

    def tend(self) -> None:
        """Look after the coordinator once: judge how it ended, start it again."""
        self._watch_stopped()
        if not self.done and self.coordinator.exit_code is not None:
            self._ended(self.coordinator, self.coordinator.exit_code)
            if not self.done:
                self.coordinator = self._start()
        self._watch_progress()

    # The coordinator.

    def _start(self) -> Coordinator:
        self.starts += 1
        log = self.folder / f"coordinator-{self.starts:03}.log"
        return Coordinator(self.command, self.target, log)

    def _ended(self, ended: Coordinator, code: int) -> None:
        """Judge the end of a coordinator, and the study if it says that it is done."""
        self.report.exit_codes[code] += 1
        # A study that is stopped for its objective's errors shows the traceback of the last one.
        if TRACEBACK in ended.output and "times in a row" not in ended.output:
            raised = ended.output.rpartition(TRACEBACK)[2].splitlines()
            errors = [line for line in raised if re.match(r"[\w.]+(:|$)", line)]
            said = errors[0][:160] if errors else "cut short"
            self.report.find(f"a coordinator printed a traceback: {said}", ended.log)
        expected = (
            code in (0, 1)
            or (code == 130 and ended.signalled)
            or (code == -signal.SIGKILL and ended.killed)
            or (code == -signal.SIGTERM and ended.terminated_early)
            or (code == 2 and ended.without_database)
        )
        if not expected:
            self.report.find(f"a coordinator ended with exit code {code}", ended.log)
        elif code == 1 and ended.outages:
            self.report.find("a coordinator did not survive PostgreSQL's restart", ended.log)
        by_itself = code != 0 and not (ended.killed or ended.signalled or ended.without_database)
        self._bad_ends = self._bad_ends + 1 if by_itself else 0
        if self._bad_ends >= FAILED_STARTS:
            self._give_up(f"the coordinator ended by itself {FAILED_STARTS} times in a row")
        if code == 0:
            self.invariants.check_done(self.database.look(), ended.trials)
            if self._finishing and ended.trials == self.target:
                self.done = True
            else:
                self.target = ended.trials + self.plan.trials

    def _watch_progress(self) -> None:
        """Give up if the executions have had nothing to say for too long."""
        size = sum(path.stat().st_size for path in self.command.journal.iterdir())
        before, since = self._progress
        if size != before or self.done:
            self._progress = (size, time.monotonic())
        elif time.monotonic() - since > self.plan.patience:
            self._give_up(f"no execution got further for {self.plan.patience:.0f} s")

    def _give_up(self, why: str) -> None:
        self.report.find(why, self.coordinator.log)
        raise GivenUpError(why)

    def _watch_stopped(self) -> None:
        """Note how long it takes until a stopped worker is gone."""
        for stopped in list(self._stopped):
            same = stopped.coordinator == self.coordinator.pid
            age = time.monotonic() - stopped.since
            if is_gone(stopped.process):
                if same and self.coordinator.exit_code is None:
                    self.report.replaced_after.append(age)
            elif same and age > self.plan.patience:
                self.report.find(
                    f"worker {stopped.process.pid} was stopped and is not replaced after "
                    f"{age:.0f} s",
                    self.coordinator.log,
                )
            elif same:
                continue
            # One whose coordinator is gone is looked for at the end.
            self._stopped.remove(stopped)

    # Kills.

    def _strike(self, kind: str) -> tuple[str, int]:
        """Do one kill; return what it was in the end, and to which process."""
        victim = self._victim(kind)
        if victim is None and ("worker" in kind or "fork server" in kind):
            kind = "coordinator"  # it has none yet
        pid = self.coordinator.pid
        if "PostgreSQL" in kind:
            pid = self._kill_server(with_coordinator="coordinator" in kind)
        elif "SIGTERM" in kind:
            self.coordinator.terminate()
            if "twice" in kind:
                time.sleep(self._chance.uniform(0, 0.2))
                self.coordinator.terminate()
        elif victim is not None:
            pid = victim.pid
            self._hit(victim, stop="stopped" in kind)
            if "stopped worker" in kind:
                self._stopped.append(_Stopped(victim, self.coordinator.pid, time.monotonic()))
        if "coordinator" in kind and "PostgreSQL" not in kind:
            self.coordinator.kill()
        return kind, pid

    def _victim(self, kind: str) -> psutil.Process | None:
        """Return the process other than the coordinator that ``kind`` is about, if there is one."""
        servers = self.coordinator.fork_servers() if "fork server" in kind else []
        found = self.coordinator.workers() if "worker" in kind else servers
        return self._chance.choice(found) if found else None

    def _hit(self, victim: psutil.Process, stop: bool) -> None:
        if is_gone(victim):
            return
        if stop:
            victim.suspend()
        else:
            victim.kill()

    def _kill_server(self, with_coordinator: bool) -> int:
        """Kill PostgreSQL, and perhaps the coordinator while it is away; start it again."""
        server = self.database.server
        assert server is not None
        self.coordinator.outages += self.coordinator.works
        self.coordinator.without_database |= not self.coordinator.works
        pid = server.kill()
        away = self._chance.uniform(0, OUTAGE_SECONDS)
        before = self._chance.uniform(0, away)
        time.sleep(before)
        if with_coordinator:
            self.coordinator.kill()
        time.sleep(away - before)
        server.start()
        return pid

    # One owner.

    def _start_second(self) -> None:
        """Start a second coordinator beside the first: it is to be refused at once."""
        first = self._at_work()
        if first is None:
            return
        self._seconds += 1
        second = Coordinator(self.command, self.target, self.folder / f"second-{self._seconds}.log")
        after = second.seconds_to_end(REFUSED_SECONDS * 10)
        second.kill()
        if first.exit_code is not None:
            return  # it reached its target just now; then the second one was none
        if after is None or second.exit_code != 2:
            self.report.find(f"a second coordinator ended with {second.exit_code}", second.log)
            return
        self.report.refused_after.append(after)
        if after > REFUSED_SECONDS:
            self.report.find(f"a second coordinator was refused after {after:.2f} s", second.log)
        needed = (rf"\b{first.pid}\b", re.escape(socket.gethostname()), r"\d{4}-\d\d-\d\d")
        if not all(re.search(each, second.output) for each in needed):
            self.report.find("a refusal lacks the owner's host, process or start", second.log)

    def _at_work(self) -> Coordinator | None:
        """Wait until a coordinator has begun a new trial, and so owns the study; return it."""
        deadline = time.monotonic() + self.plan.patience
        coordinator, begun = None, 0
        while time.monotonic() < deadline:
            trials = len(list(self.command.journal.iterdir()))
            if self.coordinator is not coordinator:
                coordinator, begun = self.coordinator, trials
            elif coordinator.works and not coordinator.signalled and trials > begun:
                return coordinator
            self.pause(0.1)
        return None


def _load(plan: Plan) -> Callable[[Any], Any]:
    for entry in plan.path:
        sys.path.insert(0, str(entry))
    module, _, name = plan.objective.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


@contextmanager
def under_test(plan: Plan, title: str) -> Iterator[Harness]:
    """Make a study as ``plan`` says; whatever happens, no process of it is left in the end.

    Its folder stays if it was asked for or if there are findings.
    """
    folder = (plan.keep or Path(tempfile.mkdtemp(prefix="hpo-chaos-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(title, folder, plan.quiet)
    database: Database = SqliteDatabase(folder) if plan.database == "sqlite" else PostgresDatabase()
    harness = None
    done = False
    try:
        harness = Harness(plan, database, folder, report)
        yield harness
        done = True
    except GivenUpError:
        done = True  # the report says why
    finally:
        for process in list(marked(harness.command.mark)) if harness is not None else []:
            process.kill()
        keep = plan.keep is not None or not done or bool(report.findings)
        database.close(keep)
        if not keep:
            shutil.rmtree(folder)
        if harness is not None:
            report.figures["coordinators started"] = harness.starts
            report.figures["seconds"] = f"{time.monotonic() - harness.began:.0f}"
        kept = [folder, *([database.server.socket_directory] if database.server else [])]
        report.figures["kept in"] = ", ".join(map(str, kept)) if keep else "nothing kept"


def run_chaos(plan: Plan) -> Report:
    """Kill as ``plan`` says, and return what was found."""
    title = f"{plan.kills} kills on {plan.database}, seed {plan.seed}, {plan.objective}"
    with under_test(plan, title) as harness:
        report = harness.report
        harness.kill_all()
    return report
