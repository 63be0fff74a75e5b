"""What tests of Modal share: runs in this process and in others, and what they left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from hpo.executors import Executor
from hpo.objective import load_objective, spec_of_reference
from hpo.opening import make_executor
from hpo.settings import check
from hpo.study import Host, Outcome, run_study
from tests.hpo.support import Watcher
from tests.modal_loopback import ControlPlane
from tests.modal_loopback.ledger import CallRecord, total

OBJECTIVES = Path(__file__).parent / "modal_objectives.py"

STUDY = "there"
"""The usual study's name, and so that of its app: runs with the same settings find it deployed."""

KILLED = """
import os, runpy, signal, sys
from hpo.executors.modal import ModalExecutor

spawn, spawned = ModalExecutor.submit, []

def submit(self, task):
    handle = spawn(self, task)
    spawned.append(task)
    if len(spawned) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return handle

ModalExecutor.submit = submit
runpy.run_module("hpo.run", run_name="__main__")
"""
"""``hpo.run``, killed after it has spawned a call and before it has written that down."""


@dataclass
class Modal:
    """Somebody who uses Modal.

    Attributes:
        plane: Their Modal.
        directory: Their directory, which is the current one.
    """

    plane: ControlPlane
    directory: Path

    def run(
        self,
        objective: str,
        trials: int,
        watcher: Watcher | None = None,
        ready: Callable[[], None] = lambda: None,
        **more: Any,
    ) -> Ran:
        """Run a study in this process; call ``ready`` when all is set up."""

        def executor(*arguments: Any) -> Executor:
            made = make_executor(*arguments)
            ready()
            return made

        before = len(self.plane.calls())
        given = {
            "study": STUDY,
            "executor": "modal",
            "workers": 2,
            "max_cost": 50.0,
            "pruner": "none",
            "storage": f"sqlite:///{self.directory}/hpo.db",
            "out": self.directory / "runs",
        }
        settings = check({**given, "trials": trials, **more})
        spec = spec_of_reference(f"{OBJECTIVES.stem}:{objective}")
        said: list[str] = []
        watcher = watcher or Watcher()
        function = load_objective(spec)
        host = Host(executor)
        outcome = run_study(function, spec, settings, [watcher], said.append, host)
        return Ran(self.plane, outcome, watcher, said, before)

    def start(
        self, objective: str, trials: int, *more: str, killed_after: int | None = None
    ) -> subprocess.Popen[str]:
        """Start the command in another process."""
        arguments = ["--executor", "modal", "--study", STUDY, "--trials", str(trials)]
        arguments += ["--objective", f"{OBJECTIVES.stem}:{objective}", "--max-cost", "50"]
        arguments += ["--workers", "2", "--pruner", "none", *more]
        program = ["-m", "hpo.run"]
        if killed_after is not None:
            program = ["-c", KILLED.format(count=killed_after)]
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], code: int = 0, timeout: float = 60) -> str:
        """Wait for a command to end with ``code``; return what it printed."""
        text, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, text
        return text

    def study(self) -> optuna.Study:
        """Return the study as anybody sees it."""
        return optuna.load_study(study_name=STUDY, storage=f"sqlite:///{self.directory}/hpo.db")

    def bill(self, study: str = STUDY) -> float:
        """Return what the containers of a study's app have cost so far."""
        return total(each for each in self.plane.containers() if each.app == f"hpo-{study}")

    def trial_calls(self, since: int = 0) -> list[CallRecord]:
        """Return the calls of trials, but for the first ``since`` calls of any kind."""
        return [call for call in self.plane.calls()[since:] if call.function == "run_trial"]


@dataclass(frozen=True)
class Ran:
    """What a run came to.

    Attributes:
        plane: Modal.
        outcome: Its outcome.
        watcher: An observer of it.
        said: What it printed.
        before: How many calls there were before it.
    """

    plane: ControlPlane
    outcome: Outcome
    watcher: Watcher
    said: list[str]
    before: int

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Its trials."""
        return self.outcome.study.trials

    @property
    def calls(self) -> list[CallRecord]:
        """The calls of its trials."""
        calls = self.plane.calls()[self.before :]
        return [call for call in calls if call.function == "run_trial"]


def states(trials: Sequence[optuna.trial.FrozenTrial]) -> Counter[str]:
    """Count trials by state."""
    return Counter(trial.state.name for trial in trials)


def attempts(trial: optuna.trial.FrozenTrial) -> list[dict[str, Any]]:
    """Return the records of a trial's attempts."""
    found: list[dict[str, Any]] = trial.user_attrs["attempts"]
    return found


def causes(trial: optuna.trial.FrozenTrial) -> list[str]:
    """Return why the attempts of a trial ended."""
    return [attempt.get("cause", "none yet") for attempt in attempts(trial)]


def no_call_twice(trials: Sequence[optuna.trial.FrozenTrial], calls: Sequence[CallRecord]) -> None:
    """See that each attempt has one call, and each call is some attempt's."""
    known = [each["handle"]["call"] for trial in trials for each in attempts(trial)]
    assert sorted(known) == sorted(call.id for call in calls)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Send Ctrl-C."""
    os.kill(process.pid, signal.SIGINT)
