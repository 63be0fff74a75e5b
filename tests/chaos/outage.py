"""PostgreSQL stopped in the middle of a study and started again later: nothing is to be noticed."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.chaos.harness import Harness, under_test
from tests.chaos.journal import Execution, executions
from tests.chaos.plan import Plan
from tests.chaos.report import Report

STEADY = "tests.chaos.objectives:steady"

REPORTS_BEFORE = 3
"""The outage begins once every worker is in the middle of an execution that said so much."""


def run_outage(plan: Plan, seconds: float) -> Report:
    """Stop the database for ``seconds``, and return what was found.

    The coordinator process must live through it, executions must go on meanwhile, and afterwards
    the study must be as if nothing had been.
    """
    plan = replace(plan, database="postgresql")
    with under_test(plan, f"PostgreSQL stopped for {seconds:.0f} s, {plan.objective}") as harness:
        report = harness.report
        _stop_database(harness, seconds)
        harness.finish()
        if harness.starts != 1:
            report.find(f"the coordinator was started {harness.starts} times instead of once")
        runs = list(executions(harness.command.journal))
        if len(runs) != plan.trials:
            report.find(f"{plan.trials} trials took {len(runs)} executions")
    return report


def _stop_database(harness: Harness, seconds: float) -> None:
    server = harness.database.server
    assert server is not None
    while len(_in_the_middle(harness)) < harness.plan.workers:
        harness.pause(0.1)
    harness.coordinator.outages += 1
    harness.report.kills["PostgreSQL stopped"] += 1
    server.stop()
    away = time.monotonic()
    before = {run.id: len(run.times) for run in executions(harness.command.journal) if run.is_alive}
    time.sleep(seconds)
    after = list(executions(harness.command.journal))
    server.start()
    running = [run for run in after if run.id in before]
    said = [len(run.times) - before[run.id] for run in running]
    harness.report.figures |= {
        "while the database was away": "",
        "  running executions said": said,
        "  of them ended": sum(run.ended is not None for run in running),
        "  begun": sum(run.started > away for run in after),
    }
    if not all(said) or len(said) < harness.plan.workers:
        harness.report.find(f"while the database was away, the executions said {said} things")


def _in_the_middle(harness: Harness) -> list[Execution]:
    found = executions(harness.command.journal)
    return [run for run in found if run.is_alive and len(run.times) >= REPORTS_BEFORE]
