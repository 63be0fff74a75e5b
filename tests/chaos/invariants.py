"""What must be true of a study, whatever was killed: asked after each kill and whenever it is done.

The database is held against three things: what it said before, the objective itself, and what the
executions said in their journal.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.database import Look, Row
from tests.chaos.journal import Execution, executions
from tests.chaos.replay import Replayed, replay
from tests.chaos.report import Report

RAN_TO_ITS_END = {"COMPLETE": "complete", "PRUNED": "pruned"}
"""How an execution ends that gives a trial this state."""


class Invariants:
    """Remembers what the study said, and adds what must not be to a report.

    Args:
        report: Takes findings and figures.
        objective: The objective, as the harness's own process imports it.
        journal: The folder of the executions' journal.
    """

    def __init__(self, report: Report, objective: Callable[[Any], Any], journal: Path) -> None:
        self._report = report
        self._objective = objective
        self._journal = journal
        self._seen: dict[int, Row] = {}
        self._finished_at: dict[int, float] = {}
        self._replayed: dict[int, Replayed] = {}

    def check(self, look: Look) -> None:
        """Check what is true at any moment."""
        numbers = sorted(row.number for row in look.rows.values())
        if numbers != list(range(len(numbers))):
            self._report.find(f"the numbers of the trials are not 0, 1, …: {numbers}")
        for key, before in self._seen.items():
            if key in look.rows:
                self._check_unchanged(before, look.rows[key])
            else:
                self._report.find(f"trial {before.number} is gone; it was {before.state}")
        for row in look.rows.values():
            if row.is_finished and row.number not in self._finished_at:
                self._finished_at[row.number] = look.taken
                self._check_result(row)
        self._seen = look.rows

    def check_done(self, look: Look, trials: int) -> None:
        """Check also what is true once a coordinator has said that the study is done."""
        self.check(look)
        if look.finished != trials:
            self._report.find(f"{look.finished} trials are finished instead of {trials}")
        found: dict[int, list[Execution]] = defaultdict(list)
        for execution in executions(self._journal):
            found[execution.trial].append(execution)
        rows = {row.number: row for row in look.rows.values()}
        for number in found.keys() - rows.keys():
            self._report.find(f"trial {number} was run, and is not in the database")
        for number, row in rows.items():
            if row.state not in ("COMPLETE", "PRUNED", "FAIL"):
                self._report.find(f"trial {number} is {row.state} in a study that is done")
            if row.state == "FAIL":
                self._check_failed(row, found[number])
            else:
                self._check_executions(row, found[number])
        self._count(rows, found)

    def _check_unchanged(self, before: Row, now: Row) -> None:
        """Parameters and intermediate values stay; a finished trial stays altogether."""
        number = now.number
        if before.is_finished and before != now:
            self._report.find(f"trial {number} was finished, and changed from {before} to {now}")
        if not before.stored.items() <= now.stored.items():
            self._report.find(
                f"trial {number}: parameters changed from {before.params} to {now.params}"
            )
        if lost := _differing(before.steps, now.steps):
            self._report.find(f"trial {number}: intermediate values changed or went: {lost}")

    def _check_result(self, row: Row) -> None:
        """A finished trial has the values that its parameters imply."""
        expected = replay(self._objective, row)
        if row.state == "PRUNED" and expected.outcome != "pruned" and row.steps:
            expected = replay(self._objective, row, prune_from=max(row.steps))
        self._replayed[row.number] = expected
        said = f"trial {row.number} ({row.state}, {row.params})"
        if expected.outcome != RAN_TO_ITS_END[row.state]:
            self._report.find(f"{said}: the objective ends as {expected.outcome!r} instead")
        if row.state == "COMPLETE" and not _all_same(row.values, expected.values):
            self._report.find(f"{said}: has {row.values} instead of {expected.values}")
        if row.state == "PRUNED" and row.steps:
            last = row.steps[max(row.steps)]
            if not math.isnan(last) and not _all_same(row.values, [last]):
                self._report.find(f"{said}: has {row.values} instead of its last report, {last}")
        if wrong := _differing(row.steps, expected.steps):
            self._report.find(f"{said}: intermediate values {wrong} instead of {expected.steps}")
        attrs = json.loads(json.dumps(expected.attrs))
        if row.state == "COMPLETE" and (missing := _differing(attrs, row.attrs)):
            self._report.find(f"{said}: user attributes are not {missing}")

    def _check_executions(self, row: Row, runs: list[Execution]) -> None:
        """What the executions of a finished trial saw is what the database has."""
        said = f"trial {row.number} ({row.state})"
        finished_at = self._finished_at.get(row.number, math.inf)
        params = json.loads(json.dumps(row.params, default=repr))
        for run in runs:
            name = f"{said}, execution {run.id} in process {run.pid}"
            if run.beside:
                self._report.find(f"{name}: began while {run.beside} of the same trial was alive")
            if run.started > finished_at:
                late = run.started - finished_at
                self._report.find(f"{name}: began {late:.1f} s after the trial was seen finished")
            if wrong := _differing(run.params, params):
                self._report.find(f"{name}: ran with {wrong} instead of {params}")
            if lost := set(run.acknowledged) - row.steps.keys():
                self._report.find(f"{name}: steps {sorted(lost)} were acknowledged and are lost")
        ends = [run for run in runs if run.outcome == RAN_TO_ITS_END.get(row.state)]
        if row.is_finished and not any(run.reported.keys() <= row.steps.keys() for run in ends):
            self._report.find(
                f"{said}: no execution ended so and reported what the database has: "
                f"{row.steps}; executions: {runs}"
            )
        causes = [attempt.get("cause") for attempt in row.attrs.get("attempts", [])]
        heard = [cause for cause in causes if cause in ("ok", "pruned")]
        if row.is_finished and (len(heard) != 1 or causes[-1] != heard[0]):
            self._report.find(f"{said}: its attempts ended as {causes}: one result was to be heard")

    def _check_failed(self, row: Row, runs: list[Execution]) -> None:
        """A trial fails by its objective, or with a cause before anything was run for it."""
        attempts = row.attrs.get("attempts", [])
        if not runs and attempts and attempts[-1].get("cause"):
            return
        outcome = replay(self._objective, row).outcome
        if outcome in RAN_TO_ITS_END.values():
            self._report.find(
                f"trial {row.number} failed ({attempts}), though its objective ends as {outcome!r}"
            )

    def _count(self, rows: Mapping[int, Row], found: Mapping[int, list[Execution]]) -> None:
        runs = [run for each in found.values() for run in each]
        ended = [run for run in runs if run.outcome in RAN_TO_ITS_END.values()]
        states = Counter(row.state.lower() for row in rows.values())
        self._report.figures |= {
            "trials": ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
            "executions": len(runs),
            "  cut short": len(runs) - len(ended),
            # Killed between the objective's last line and the coordinator's commit.
            "  ended, but had to be repeated": len(ended) - len({run.trial for run in ended}),
            "reports acknowledged": sum(len(run.acknowledged) for run in runs),
        }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-12) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _all_same(some: list[float], others: list[float]) -> bool:
    return len(some) == len(others) and all(map(_same, some, others))


def _differing(some: Mapping[Any, Any], whole: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return what of ``some`` is not the same in ``whole``."""
    return {
        key: value
        for key, value in some.items()
        if key not in whole or not _same(value, whole[key])
    }
