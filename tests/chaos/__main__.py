"""The harness as a command."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tests.chaos.finals import run_finals
from tests.chaos.harness import run_chaos
from tests.chaos.modal import run_modal
from tests.chaos.outage import STEADY, run_outage
from tests.chaos.plan import KINDS, POSTGRES_KINDS, Plan


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Kill what a study is made of, and look whether anything is lost.",
        epilog="The exit code is 1 if there is any finding.",
    )
    add = parser.add_argument
    add(
        "what",
        nargs="?",
        choices=["kills", "outage", "modal", "finals"],
        default="kills",
        help="kills",
    )
    add("--database", choices=["sqlite", "postgresql"], help="default: one after the other")
    add("--kills", type=int, help="how many (200; on Modal and in finals 40)")
    add("--seed", type=int, default=7, help="of everything random (7)")
    add("--objective", help="module:function; it must be deterministic")
    add("--path", type=Path, action="append", default=[], help="a folder to look for it in")
    add("--trials", type=int, help="trials of the study (100; more while kills are due)")
    add("--workers", type=int, default=2, help="worker processes (2)")
    add("--seconds", type=float, default=30, help="how long an outage lasts (30)")
    kinds = [*KINDS, *POSTGRES_KINDS]
    add("--without", choices=kinds, action="append", default=[], help="a kind of kill to leave out")
    add("--patience", type=float, default=180, help="seconds without progress are a finding (180)")
    add("--keep", type=Path, help="a new folder that keeps everything")
    add("--run-args", default="", help="further arguments of hpo.run, as one word")
    return parser.parse_args()


def main() -> int:
    """Run what the command line says."""
    given = _arguments()
    outage, modal = given.what == "outage", given.what == "modal"
    databases = [given.database] if given.database else ["sqlite", "postgresql"]
    findings = 0
    for database in ["postgresql"] if outage else databases:
        plan = Plan(
            database=database,
            kills=given.kills or (40 if given.what in ("modal", "finals") else Plan.kills),
            seed=given.seed,
            objective=given.objective or (STEADY if outage else Plan.objective),
            path=tuple(each.resolve() for each in given.path),
            trials=given.trials or (12 if outage else Plan.trials),
            workers=given.workers,
            patience=given.patience,
            without=tuple(given.without),
            extra=tuple(shlex.split(given.run_args)),
            keep=given.keep and given.keep / database,
        )
        if modal:
            report = run_modal(plan)
        elif given.what == "finals":
            report = run_finals(plan)
        else:
            report = run_outage(plan, given.seconds) if outage else run_chaos(plan)
        print(report.table(), flush=True)
        findings += len(report.findings)
    return 1 if findings else 0


sys.exit(main())
