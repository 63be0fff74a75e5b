"""The end of a run: the best model in its place, and what to tell people about it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.baselines import BASELINES
from hpo.coordinator import INTERRUPTED, STOPPED, TIME_IS_UP
from hpo.retention import MODEL
from hpo.settings import Settings
from hpo.status import Status
from hpo.tally import is_feasible
from hpo.text import parameters, score
from storage import mask_url

BEST = "best"
"""Name of the best model's directory in the study's directory."""


def best_trial(study: Study) -> FrozenTrial | None:
    """Return the best completed trial; ``None`` if there is none, or several directions."""
    if len(study.directions) > 1:
        return None
    try:
        return study.best_trial
    except ValueError:  # Optuna's way to say that no trial has completed (or is feasible)
        return None


def publish_best(study: Study, directory: Path) -> Path | None:
    """Copy the best trial's model to ``directory``/best.

    The old one stays until the new one is whole.

    Returns:
        Where the model is; ``None`` if the best trial left none.
    """
    trial = best_trial(study)
    model = trial.user_attrs.get(MODEL) if trial is not None else None
    if not isinstance(model, str) or not Path(model).is_dir():
        return None
    best, incoming, outgoing = (directory / (BEST + suffix) for suffix in ("", ".new", ".old"))
    shutil.rmtree(incoming, ignore_errors=True)
    shutil.rmtree(outgoing, ignore_errors=True)
    shutil.copytree(model, incoming)
    if best.exists():
        best.rename(outgoing)
    incoming.rename(best)
    shutil.rmtree(outgoing, ignore_errors=True)
    return best


def summary(
    study: Study, status: Status, ended_early: str, settings: Settings, model: Path | None
) -> list[str]:
    """Return what to say at the end, line by line.

    Args:
        study: The study.
        status: Where it stands.
        ended_early: Why it ended before its number of trials; empty if it did not.
        settings: The settings of the run.
        model: Where the best model is, if there is one.
    """
    counts = f"{status.complete} complete · {status.pruned} pruned · {status.failed} failed"
    lines = ["", f"done  {status.finished} of {status.trials} trials · {counts}"]
    if ended_early:
        lines += [f"end   {ended_early}"]
    if settings.require:
        feasible = status.complete - status.infeasible
        rules = ", ".join(settings.require)
        lines += [f"rules {feasible} of {status.complete} complete trials meet {rules}"]
    if len(study.directions) > 1:
        lines += [f"front {len(study.best_trials)} trials that none beats in every direction"]
        lines += [f"      {describe(trial)}" for trial in study.best_trials]
    elif (trial := best_trial(study)) is not None:
        lines += [f"best  {describe(trial)}"]
        lines += _against_baseline(trial, status)
    elif status.complete:
        lines += ["best  none: no completed trial meets the requirements"]
    else:
        lines += ["best  none yet: no trial has completed"]
    if model is not None:
        lines += [
            f"model {_short(model)}",
            "      from sentence_transformers import SentenceTransformer",
            f'      model = SentenceTransformer("{_short(model)}")',
        ]
    url = mask_url(settings.storage)
    chosen = "" if settings.storage == "sqlite:///hpo.db" else f" --storage {url}"
    lines += [
        f"watch hpo dashboard --study {study.study_name}{chosen}",
        f"ask   hpo best --study {study.study_name}{chosen}",
    ]
    waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
    if waiting:
        lines += [f"queue {waiting} enqueued trials wait for a larger --trials"]
    if ended_early not in ("", INTERRUPTED, STOPPED, TIME_IS_UP):
        lines += ["more  the same command goes on once that limit is raised or left out"]
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


def _against_baseline(trial: FrozenTrial, status: Status) -> list[str]:
    metric = status.metric or "value"
    assert trial.value is not None  # a completed trial of one direction has one
    said = f"      {metric} {score(trial.value)}"
    if status.baseline is not None:
        value, name = status.baseline
        said += f" ({name} untuned {score(value)}, {status.gain():+.4f})"
    return [said]


def _short(path: Path) -> str:
    """Return ``path`` from the current directory if it lies in it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def trial_row(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as one flat JSON object, for ``hpo best --json`` and ``hpo trials --json``.

    Times are those of the coordinator's clock, without a zone, as Optuna keeps them. An objective
    of somebody else's may have set ``metrics`` and ``attempts`` to anything: such are left out.
    """
    attempts = trial.user_attrs.get("attempts")
    records = attempts if isinstance(attempts, list) else []
    last = records[-1] if records and isinstance(records[-1], Mapping) else {}
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
        "model": trial.user_attrs.get(MODEL) if trial.state is TrialState.COMPLETE else None,
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(" ", "milliseconds") if moment is not None else None


def baselines_of(study: Study) -> list[dict[str, Any]]:
    """Return the scores of untuned models that a study holds."""
    records: list[dict[str, Any]] = study.user_attrs.get(BASELINES, [])
    return records
