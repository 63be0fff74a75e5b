"""The end of a run: what to tell people about it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.baselines import BASELINES
from hpo.budget import dollars, recorded_attempts
from hpo.coordinator import HANDED_OVER, INTERRUPTED, STOPPED, TIME_IS_UP
from hpo.feasible import is_feasible
from hpo.final_text import final_lines
from hpo.grid import has_more
from hpo.retention import MODEL
from hpo.settings import Settings
from hpo.status import Status
from hpo.text import duration, parameters, score, short_path
from storage import mask_url

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.publishing import Published


def summary(
    study: Study,
    status: Status,
    ended_early: str,
    settings: Settings,
    published: Published | None,
    report: Path | None = None,
) -> list[str]:
    """Return what to say at the end, line by line.

    Args:
        study: The study.
        status: Where it stands.
        ended_early: Why it ended before its number of trials; empty if it did not.
        settings: The settings of the run.
        published: Where the best model is, if there is one.
        report: Where the report is, if one was written.
    """
    counts = f"{status.complete} complete · {status.pruned} pruned · {status.failed} failed"
    lines = ["", f"done  {status.finished} of {status.trials} trials · {counts}"]
    if ended_early:
        lines += [f"end   {ended_early}"]
    lines += _goals(status, settings)
    if status.is_paid:
        lines += [_cost(study, status)]
    if settings.require:
        feasible = status.complete - status.infeasible
        rules = ", ".join(settings.require)
        lines += [f"rules {feasible} of {status.complete} complete trials meet {rules}"]
    if len(study.directions) > 1:
        lines += [f"front {len(study.best_trials)} trials that none beats in every direction"]
        lines += [f"      {describe(trial)}" for trial in study.best_trials]
    elif status.best is not None:
        trial = study.best_trial
        lines += [f"best  {describe(trial)}"]
        lines += _against_baseline(trial, status)
        lines += final_lines(study)
    elif status.complete:
        lines += ["best  none: no completed trial meets the requirements"]
    else:
        lines += ["best  none yet: no trial has completed"]
    url = mask_url(settings.storage)
    chosen = "" if settings.storage == "sqlite:///hpo.db" else f" --storage {url}"
    if published is not None:
        lines += published.lines(study.study_name, chosen)
    if report is not None:
        lines += [f"report {short_path(report)}"]
    elif status.complete:
        lines += [f"report hpo report --study {study.study_name}{chosen} writes one"]
    lines += [
        f"watch hpo dashboard --study {study.study_name}{chosen}",
        f"ask   hpo best --study {study.study_name}{chosen}",
    ]
    waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
    if waiting:
        lines += [f"queue {waiting} enqueued trials wait for a larger --trials"]
    if ended_early not in ("", HANDED_OVER, INTERRUPTED, STOPPED, TIME_IS_UP):
        lines += ["more  the same command goes on once that limit is raised or left out"]
    elif settings.design == "grid" and not has_more(study):
        lines += ["more  every combination of the grid was tried"]
    elif status.finished < status.trials:
        lines += ["resume  the same command goes on where this one stopped"]
    else:
        lines += ["more  the same command with a larger --trials goes on from here"]
    return lines


def describe(trial: FrozenTrial) -> str:
    """Say which trial with which parameters."""
    values = ", ".join(score(value) for value in trial.values or ())
    parts = [f"trial {trial.number}", values, parameters(trial.params)]
    return " · ".join(part for part in parts if part)


def _cost(study: Study, status: Status) -> str:
    limit = f" of {dollars(status.max_cost)}" if status.max_cost is not None else ""
    parts = [f"{dollars(status.spent)}{limit}"]
    a_trial = status.dollars_per_trial()
    if a_trial is not None:
        parts.append(f"{dollars(a_trial)} a finished trial")
    trials = study.get_trials(deepcopy=False)
    hours = sum(map(_gpu_seconds, recorded_attempts(study, trials))) / 3600
    if hours > 0:
        parts.append(f"{hours:.1f} GPU hours" if hours >= 0.05 else f"{hours:.2g} GPU hours")
    return f"cost  {' · '.join(parts)}"


def _goals(status: Status, settings: Settings) -> list[str]:
    """Say of every goal and limit that was set what came of it; of money the cost says so."""
    said = []
    if settings.target is not None:
        best = status.best
        name = f"--target {settings.target:g}"
        if best is None:
            said.append(f"{name} not reached: no trial counts")
        elif best[0] == settings.target or status.better(best[0], settings.target):
            said.append(f"{name} reached by trial {best[1]} ({score(best[0])})")
        else:
            said.append(f"{name} not reached: best {score(best[0])}")
    if settings.require:
        who = "by no trial" if status.best is None else f"by trial {status.best[1]}, the best"
        said.append(f"--require met {who}")
    if settings.timeout is not None:
        took = time.monotonic() - status.began
        said.append(f"--timeout {duration(settings.timeout)}: this run took {duration(took)}")
    return [f"goals {' · '.join(said)}"] if said else []


def _gpu_seconds(attempt: Mapping[str, Any]) -> float:
    """Return how long an attempt used GPUs: two of them for a second, ``A100:2``, are two."""
    gpu, seconds = attempt.get("gpu"), attempt.get("seconds")
    if gpu is None or seconds is None:
        return 0.0
    count = gpu.partition(":")[2]
    return float(seconds) * (int(count) if count.isdigit() else 1)


def _against_baseline(trial: FrozenTrial, status: Status) -> list[str]:
    metric = status.metric or "value"
    assert trial.value is not None  # a completed trial of one direction has one
    said = f"      {metric} {score(trial.value)}"
    if status.baseline is not None:
        value, name = status.baseline
        said += f" ({name} untuned {score(value)}, {status.gain():+.4f})"
    return [said]


def trial_row(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as one flat JSON object, for ``hpo best --json`` and ``hpo trials --json``.

    Times are those of the coordinator's clock, without a zone, as Optuna keeps them. ``dollars`` is
    what all attempts cost together, ``gpu`` that of the last. An objective of somebody else's may
    have set ``metrics`` and ``attempts`` to anything: such are left out.
    """
    attempts = trial.user_attrs.get("attempts")
    records = attempts if isinstance(attempts, list) else []
    known = [each for each in records if isinstance(each, Mapping)]
    last = records[-1] if records and isinstance(records[-1], Mapping) else {}
    costs = [each["dollars"] for each in known if isinstance(each.get("dollars"), int | float)]
    metrics = trial.user_attrs.get("metrics")
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": trial.values,
        "params": trial.params,
        "metrics": dict(metrics) if isinstance(metrics, Mapping) else {},
        "feasible": is_feasible(trial),
        "violations": trial.constraints,
        "seconds": trial.duration.total_seconds() if trial.duration is not None else None,
        "started": _time(trial.datetime_start),
        "completed": _time(trial.datetime_complete),
        "attempts": len(records),
        "cause": last.get("cause"),
        "gpu": last.get("gpu"),
        "dollars": math.fsum(costs) if costs else None,
        "model": trial.user_attrs.get(MODEL) if trial.state is TrialState.COMPLETE else None,
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(" ", "milliseconds") if moment is not None else None


def baselines_of(study: Study) -> list[dict[str, Any]]:
    """Return the scores of untuned models that a study holds."""
    records: list[dict[str, Any]] = study.user_attrs.get(BASELINES, [])
    return records
