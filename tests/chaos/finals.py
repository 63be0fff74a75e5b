"""The finals of studies, with everything in them killed: one winner, one opening, nothing twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import psutil

from hpo.attempts import trial_seed
from storage import open_storage
from tests.chaos.database import Database, PostgresDatabase, SqliteDatabase
from tests.chaos.objectives import STORY, luck
from tests.chaos.plan import Plan
from tests.chaos.processes import MARK, REPOSITORY, leftovers, marked
from tests.chaos.report import Report

OBJECTIVE = "tests.chaos.objectives:deciding"
TRIALS, FINALISTS, SEEDS = 4, 3, 3
END_SECONDS = 10.0


def run_finals(plan: Plan) -> Report:
    """Run studies one after the other until ``plan.kills`` kills are done; return what was found.

    Each is killed from its last trials on, again and again, always followed by the same command.
    """
    folder = (plan.keep or Path(tempfile.mkdtemp(prefix="hpo-chaos-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(f"finals on {plan.database}, seed {plan.seed}", folder, plan.quiet)
    database: Database = SqliteDatabase(folder) if plan.database == "sqlite" else PostgresDatabase()
    chance, studies = random.Random(plan.seed), 0
    try:
        while sum(report.kills.values()) < plan.kills:
            # Absolute, as what is asked here is asked from another directory.
            url = database.url.replace("sqlite:///hpo.db", f"sqlite:///{folder}/hpo.db")
            _one_study(plan, url, folder, f"finals-{studies}", chance, report)
            studies += 1
    finally:
        keep = plan.keep is not None or bool(report.findings)
        database.close(keep)
        if not keep:
            shutil.rmtree(folder)
        report.figures |= {"studies": studies, "kept in": folder if keep else "nothing kept"}
    return report


def _one_study(
    plan: Plan, url: str, folder: Path, name: str, chance: random.Random, report: Report
) -> None:
    mark = uuid.uuid4().hex
    story = folder / f"{name}.story"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), STORY: str(story), MARK: mark}
    arguments = [
        *(sys.executable, "-m", "hpo.run", "--objective", OBJECTIVE, "--study", name),
        *("--storage", url, "--trials", str(TRIALS), "--workers", str(plan.workers)),
        *("--finalists", str(FINALISTS), "--seeds", str(SEEDS), *plan.extra),
    ]
    deadline = time.monotonic() + plan.patience
    try:
        while True:
            with (folder / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    arguments, cwd=folder, env=environment, stdout=log, stderr=log
                )
                _kill_some(process, mark, chance, plan.kills, report)
                code = process.wait(plan.patience)
            report.exit_codes[code] += 1
            if code == 0:
                break
            if time.monotonic() > deadline:
                report.find(f"{name} does not come to its end", folder / f"{name}.log")
                return
        _judge(url, name, story, report)
        if left := leftovers(mark, END_SECONDS):
            report.find(f"{len(left)} processes of {name} are left")
    finally:
        for each in marked(mark):
            each.kill()


def _kill_some(
    process: subprocess.Popen[bytes], mark: str, chance: random.Random, most: int, report: Report
) -> None:
    """Kill workers, and in the end the coordinator, unless it ends before."""
    for _ in range(chance.randint(1, 3)):
        try:
            process.wait(chance.uniform(0.2, 3.0))
            return
        except subprocess.TimeoutExpired:
            if sum(report.kills.values()) >= most:
                return
        workers = [each for each in marked(mark) if each.pid != process.pid and _is_busy(each)]
        if workers and chance.random() < 0.5:
            chance.choice(workers).kill()
            report.kills["a worker or the fork server"] += 1
    process.send_signal(signal.SIGKILL)
    report.kills["the coordinator"] += 1


def _is_busy(process: psutil.Process) -> bool:
    try:
        return "forkserver" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _judge(url: str, name: str, story: Path, report: Report) -> None:
    """Hold what the study says against the objective, and against what the executions told."""
    study = optuna.load_study(study_name=name, storage=open_storage(url))
    attrs = study.user_attrs
    values = {trial.number: trial.params["x"] for trial in study.trials}
    best = sorted(values, key=lambda number: (-study.trials[number].value, number))[:FINALISTS]
    wanted = {
        (number, run): values[number] + luck(trial_seed(0, number, run))
        for number in best
        for run in range(1, SEEDS + 1)
    }
    found = {(each["trial"], each["run"]): each["value"] for each in attrs.get("finalists", [])}
    if found != wanted:
        report.find(f"{name}: finalists are {found} instead of {wanted}")
        return
    means = {number: sum(wanted[number, run] for run in range(1, SEEDS + 1)) for number in best}
    winner = max(best, key=lambda number: (means[number], -number))
    if attrs["winner"]["trial"] != winner:
        report.find(f"{name}: trial {attrs['winner']['trial']} won instead of {winner}")
    if len(attrs.get("openings", [])) != 1:
        report.find(f"{name}: the test split was opened {len(attrs.get('openings', []))} times")
    if attrs.get("evaluation", {}).get("trial") != winner:
        report.find(f"{name}: the evaluation is {attrs.get('evaluation')}")
    _judge_attempts(attrs, name, report)
    ended: Counter[str] = Counter()
    for line in story.read_text().splitlines():
        told: dict[str, Any] = json.loads(line)
        ended[told["place"]] += told["what"] == "end"
    # A worker that is killed between its last word and its outcome's file runs again, once a kill.
    twice = {place: count for place, count in ended.items() if count > 1}
    report.figures["ran to the end twice"] = report.figures.get("ran to the end twice", 0)
    if twice:
        report.figures["ran to the end twice"] = f"{twice} of {name}"
    missing = {f"{number}-{run}" for number, run in wanted} - ended.keys()
    if missing:
        report.find(f"{name}: nothing has run for {sorted(missing)}")


def _judge_attempts(attrs: dict[str, Any], name: str, report: Report) -> None:
    for kind in ("finalist_attempts", "evaluation_attempts"):
        for each in attrs.get(kind, []):
            causes = [attempt.get("cause") for attempt in each["attempts"]]
            if causes.count("ok") != 1 or causes[-1] != "ok":
                report.find(f"{name}: the attempts at {each} ended as {causes}")
