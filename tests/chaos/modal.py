"""A study on Modal whose coordinator, containers and messages are done away with at random.

Modal is the control plane of ``tests.modal_loopback``: its containers are preempted and crash, its
Queue loses and repeats, and from time to time it cannot be reached at all. It also sends the bill.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.database import STUDY, Database, Look, PostgresDatabase, SqliteDatabase
from tests.chaos.plan import Plan
from tests.chaos.report import Report
from tests.modal_loopback import ControlPlane, Faults

OBJECTIVE = '''
import time
import hpo

def objective(trial):
    """Take a second and a half in five steps, each with a checkpoint; the value is x."""
    x = trial.suggest_float("x", -1, 1)
    attempt = hpo.current_attempt()
    file = attempt.directory / "step"
    first = int(file.read_text()) + 1 if file.exists() else 0
    for step in range(first, 5):
        time.sleep(0.3)
        trial.report(x + step, step)
        file.write_text(str(step))
        attempt.commit()
    return x

def suggest(trial):
    trial.suggest_float("x", -1, 1)

objective.suggest = suggest
'''

MOST_DOLLARS = 20.0

OUTAGE_SECONDS = 2.0

KINDS = {"coordinator": 12, "Ctrl-C twice": 2, "Modal is away": 2}
"""What can be done, and how often among all."""

TRIED_AGAIN = 1000
"""``--retries``: what is lost here is lost on purpose."""


@dataclass
class _Run:
    """A study on Modal under test.

    Attributes:
        plan: What to do.
        plane: Modal.
        database: Where the study is.
        folder: The coordinator's current directory.
        report: Takes findings and figures.
        seen: Parameters and value of each finished trial, when it was first seen so.
        starts: How many coordinators were started.
    """

    plan: Plan
    plane: ControlPlane
    database: Database
    folder: Path
    report: Report
    seen: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    starts: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command."""
        self.starts += 1
        arguments = ["--executor", "modal", "--objective", "there:objective", "--study", STUDY]
        arguments += ["--trials", str(self.plan.trials), "--workers", str(self.plan.workers)]
        arguments += ["--storage", self.database.url, "--max-cost", str(MOST_DOLLARS)]
        arguments += ["--pruner", "none", "--retries", str(TRIED_AGAIN), *self.plan.extra]
        with (self.folder / f"coordinator-{self.starts}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "hpo.run", *arguments],
                cwd=self.folder,
                env={**os.environ, **self.plane.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def strike(self, kind: str, coordinator: subprocess.Popen[bytes]) -> None:
        """Do what ``kind`` says; only Modal's absence leaves the coordinator alive."""
        if kind == "Modal is away":
            kept = {name for name in self.plane.counts if name.startswith("Container")}
            away = dict.fromkeys(set(self.plane.counts) - kept, 1.0)
            self.plane.faults.rpc_errors = away
            time.sleep(OUTAGE_SECONDS)
            self.plane.faults.rpc_errors = {}
            return
        if kind == "coordinator":
            coordinator.kill()
        else:
            coordinator.send_signal(signal.SIGINT)
            time.sleep(0.3)
            coordinator.send_signal(signal.SIGINT)
        coordinator.wait(60)

    def check(self, look: Look) -> None:
        """See that what was finished stays what it was."""
        for row in look.rows.values():
            if row.is_finished:
                now = (row.params, row.values, row.steps)
                if self.seen.setdefault(row.number, now) != now:
                    self.report.find(f"trial {row.number} was {self.seen[row.number]}, is {now}")

    def check_done(self, look: Look) -> None:
        """See that every trial was finished once, and paid for once."""
        self.check(look)
        rows = sorted(look.rows.values(), key=lambda row: row.number)
        if [row.number for row in rows] != list(range(self.plan.trials)):
            self.report.find(f"the trials are {[row.number for row in rows]}")
        handles: Counter[str] = Counter()
        attempts = [each for row in rows for each in row.attrs.get("attempts", [])]
        for row in rows:
            x = row.params["x"]
            causes = [each.get("cause") for each in row.attrs.get("attempts", [])]
            if row.state != "COMPLETE" or row.values != [x]:
                self.report.find(f"trial {row.number} is {row.state} with {row.values}, x {x}")
            if row.steps != {step: x + step for step in range(5)}:
                self.report.find(f"trial {row.number} has the curve {row.steps}")
            if causes.count("ok") != 1 or causes[-1] != "ok":
                self.report.find(f"the attempts of trial {row.number} ended as {causes}")
        for each in attempts:
            handles.update([each["handle"]["call"]] if each.get("handle") else [])
        if any(count > 1 for count in handles.values()):
            self.report.find(f"a call belongs to several attempts: {handles.most_common(3)}")
        calls = [call for call in self.plane.calls() if call.function == "run_trial"]
        if len(calls) > len(attempts):
            self.report.find(f"{len(attempts)} attempts had {len(calls)} calls")
        self._check_bill(attempts)
        self.report.figures |= {
            "attempts": len(attempts),
            "  ended": ", ".join(
                f"{cause} {count}"
                for cause, count in sorted(
                    Counter(str(each.get("cause")) for each in attempts).items()
                )
            ),
            "calls": len(calls),
            "  started again by Modal": sum(call.starts - 1 for call in calls if call.starts),
            "containers": len(self.plane.containers()),
            "coordinators started": self.starts,
        }

    def _check_bill(self, attempts: list[dict[str, Any]]) -> None:
        spent = sum(each.get("dollars") or 0.0 for each in attempts)
        billed = self.plane.bill()
        if billed > spent or spent > MOST_DOLLARS:
            self.report.find(f"billed {billed:.4f}, recorded {spent:.4f} of {MOST_DOLLARS}")
        self.report.figures |= {
            "dollars billed": f"{billed:.4f}",
            "dollars recorded": f"{spent:.4f} ({spent / billed:.1f} times)",
        }


def run_modal(plan: Plan) -> Report:
    """Kill as ``plan`` says, and return what was found."""
    folder = (plan.keep or Path(tempfile.mkdtemp(prefix="hpo-chaos-"))).resolve()
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "there.py").write_text(OBJECTIVE)
    report = Report(
        f"{plan.kills} kills on Modal and {plan.database}, seed {plan.seed}", folder, plan.quiet
    )
    home = folder / "home"
    database: Database = SqliteDatabase(home) if plan.database == "sqlite" else PostgresDatabase()
    coordinator = None
    done = False
    try:
        with ControlPlane(folder / "plane") as plane:
            plane.scaledown_cap = 20.0
            plane.faults = Faults(
                lose_queue_puts=0.1,
                repeat_queue_gets=0.2,
                preempt_after=0.8,
                preempt_share=0.25,
                crash_share=0.1,
                seed=plan.seed,
            )
            run = _Run(plan, plane, database, home, report)
            began = time.monotonic()
            coordinator = run.start()
            chance = random.Random(plan.seed)
            for count in range(1, plan.kills + 1):
                time.sleep(chance.triangular(0.0, 9.0, 4.0))
                (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
                if coordinator.poll() is None:
                    run.strike(kind, coordinator)
                    report.kills[kind] += 1
                if coordinator.poll() is not None:
                    coordinator = run.start()
                look = database.look()
                run.check(look)
                report.say(
                    f"{time.monotonic() - began:7.1f} s  #{count:<4} {kind:<16} "
                    f"{look.finished}/{plan.trials} finished"
                )
            finished = database.look().finished
            while (code := _wait(coordinator, plan.patience)) != 0:
                found = database.look().finished
                if code is None or found == finished:
                    report.find(f"no progress: exit code {code}, {found} trials finished")
                    break
                finished, coordinator = found, run.start()
            run.check_done(database.look())
            report.figures["seconds"] = f"{time.monotonic() - began:.0f}"
        done = True
    finally:
        if coordinator is not None and coordinator.poll() is None:
            coordinator.kill()
            coordinator.wait()
        keep = plan.keep is not None or not done or bool(report.findings)
        database.close(keep)
        if not keep:
            shutil.rmtree(folder)
        report.figures["kept in"] = str(folder) if keep else "nothing kept"
    return report


def _wait(coordinator: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return coordinator.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
