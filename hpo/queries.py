"""What people ask about studies from outside: how they stand, their trials as a table, the best.

Nothing here changes a database.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import optuna
from optuna import Study
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import InputError
from hpo.record import RECORD
from hpo.settings import Settings, load
from hpo.summary import trial_row
from hpo.text import score
from storage import mask_url, open_storage, owners_of, study_overviews
from storage.address import ModalAddress, SqliteAddress, parse_url


@dataclass(frozen=True)
class Found:
    """A study that somebody asks about.

    Attributes:
        study: The study.
        storage: Where it is.
        settings: What was given on the command line, in the environment and in sweep.toml.
    """

    study: Study
    storage: RDBStorage
    settings: Settings


def open_for_questions(
    study: str | None, storage: str | None, to_write: bool = False
) -> tuple[Settings, RDBStorage]:
    """Return the settings and the storage they name; no new SQLite file is made.

    Args:
        study: Name of a study.
        storage: URL of its database.
        to_write: Whether something is to be written, which a snapshot does not take.

    Raises:
        InputError, storage.StorageError: There is no such database, or it cannot be used.
    """
    flags = {"study": study, "storage": storage}
    settings = load({name: value for name, value in flags.items() if value is not None})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Such as those about choices that are tuples: news to whoever wrote the objective, not here.
    warnings.filterwarnings("ignore", module=r"optuna\.")
    if to_write:
        refuse_snapshot(settings.storage)
    return settings, open_storage(url_to_open(settings.storage))


def is_snapshot(url: str) -> bool:
    """Whether ``url`` names a snapshot on Modal, and no database.

    Raises:
        StorageError: ``url`` is neither.
    """
    return isinstance(parse_url(url), ModalAddress)


def refuse_snapshot(url: str) -> None:
    """Refuse to write to a snapshot on Modal.

    Raises:
        InputError: It is one.
    """
    if is_snapshot(url):
        raise InputError(
            f"{url} is a snapshot, and can only be read: the study belongs to its coordinator on "
            "Modal. A study that takes changes from outside while it runs there needs a "
            "PostgreSQL server: --coordinator modal --storage postgresql://…"
        )


def url_to_open(url: str) -> str:
    """Return what to open: ``url`` itself, or a copy of the snapshot on Modal that it names.

    Raises:
        InputError: There is no such SQLite file (opening it would make an empty one) or snapshot.
        StorageError: ``url`` is no address of a database.
    """
    address = parse_url(url)
    if isinstance(address, ModalAddress):
        from hpo.on_modal.snapshot import fetch_snapshot

        return f"sqlite:///{quote(str(fetch_snapshot(url)))}"
    if isinstance(address, SqliteAddress) and not address.path.exists():
        raise InputError(
            f"{url}: there is no such file; run a study first (python -m hpo.run), or name "
            "another database with --storage."
        )
    return url


def find_study(study: str | None, storage: str | None, to_write: bool = False) -> Found:
    """Return the study named, or the only one there is; arguments as for open_for_questions.

    Raises:
        InputError, storage.StorageError: There is no such database or study, or it has several and
            none is named.
    """
    settings, opened = open_for_questions(study, storage, to_write)
    names = sorted(each.study_name for each in opened.get_all_studies())
    where = mask_url(settings.storage)
    listed = ", ".join(names) or "none"
    if settings.study is None and len(names) != 1:
        raise InputError(f"{where} holds {len(names)} studies: name one with --study ({listed}).")
    name = settings.study or names[0]
    if name not in names:
        raise InputError(f"{where} holds no study {name!r}; it holds {listed}.")
    return Found(optuna.load_study(study_name=name, storage=opened), opened, settings)


def study_rows(settings: Settings, storage: RDBStorage) -> list[dict[str, Any]]:
    """Return every study of a database as a flat JSON object, for ``hpo studies --json``."""
    overviews = study_overviews(storage)
    there = is_snapshot(settings.storage)
    # Who runs it is not known from here: its coordinator on Modal, if it runs at all.
    owners = {} if there else owners_of(settings.storage, [each.name for each in overviews])
    rows = []
    for each in overviews:
        metrics = optuna.load_study(study_name=each.name, storage=storage).metric_names
        owner = owners.get(each.name)
        rows.append(
            {
                "study": each.name,
                "directions": list(each.directions),
                "metrics": metrics,
                "trials": {
                    state.name.lower(): each.states.get(state.name, 0) for state in TrialState
                },
                "best": each.best and {"value": each.best[0], "trial": each.best[1]},
                "coordinator": "modal" if there else "here",
                "active": each.active and each.active.isoformat(" ", "seconds"),
                "owner": owner
                and {
                    "host": owner.host,
                    "pid": owner.pid,
                    "since": owner.since and owner.since.isoformat(" "),
                },
            }
        )
    return rows


def describe_study(row: dict[str, Any]) -> str:
    """Return a row of :func:`study_rows` as a line for people."""
    goals = row["directions"]
    if row["metrics"]:
        goals = [f"{goal} {name}" for goal, name in zip(goals, row["metrics"], strict=True)]
    counts = [f"{count} {state}" for state, count in row["trials"].items() if count]
    parts = [row["study"], ", ".join(goals), ", ".join(counts) or "no trial yet"]
    if row["best"] is not None:
        parts.append(f"best {score(row['best']['value'])} (trial {row['best']['trial']})")
    if row["active"] is not None:
        parts.append(f"active {row['active']}")
    if row["coordinator"] == "modal":
        parts.append("coordinator on Modal")
    if row["owner"] is not None:
        host, pid, since = (row["owner"][name] or "unknown" for name in ("host", "pid", "since"))
        parts.append(f"run by process {pid} on host {host} since {since}")
    return " · ".join(parts)


def best_trials(found: Found) -> list[FrozenTrial]:
    """Return the best feasible trial, or those of the Pareto front of several directions.

    Raises:
        InputError: No trial has completed, or none of them is feasible: then the text says which
            one comes nearest, and what it misses.
    """
    study = found.study
    if len(study.directions) > 1:
        best = study.best_trials
    else:
        # One question, where study.best_trial may have to read all trials.
        (overview,) = (
            each for each in study_overviews(found.storage) if each.name == study.study_name
        )
        best = [] if overview.best is None else [_trial(found, overview.best[1])]
    if best:
        return best
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise InputError(f"study {study.study_name!r} has no completed trial yet.")
    raise InputError(_none_feasible(study.study_name, complete))


def _trial(found: Found, number: int) -> FrozenTrial:
    storage = found.storage
    study_id = storage.get_study_id_from_name(found.study.study_name)
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _none_feasible(name: str, complete: Sequence[FrozenTrial]) -> str:
    """Say that no trial is feasible, and what the nearest one misses by how much."""

    def missed(trial: FrozenTrial) -> dict[str, float]:
        return {rule: value for rule, value in trial.constraints.items() if value > 0}

    # The order in which Optuna's samplers rank infeasible trials.
    nearest = min(complete, key=lambda trial: sum(missed(trial).values()))
    misses = ", ".join(
        f"{rule} is missed by {value:.3g}" for rule, value in missed(nearest).items()
    )
    return (
        f"study {name!r} has no feasible trial: none of its {len(complete)} completed trials meets "
        f"every requirement. Trial {nearest.number} comes nearest: {misses}."
    )


def recorded_directory(study: Study) -> Path | None:
    """Return where a study's last run left its files, on whatever machine that was."""
    record = study.user_attrs.get(RECORD, {})
    directory = record.get("directory") if isinstance(record, dict) else None
    return Path(directory) if isinstance(directory, str) else None


def requirements_of(study: Study) -> list[str]:
    """Return what the study's trials must meet, as they were given with --require."""
    record = study.user_attrs.get(RECORD, {})
    return list(record.get("require", ())) if isinstance(record, dict) else []


def requirement_lines(study: Study, trial: FrozenTrial) -> list[str]:
    """Say of every requirement whether a trial meets it."""
    violations = trial.constraints
    lines = []
    for rule in dict.fromkeys([*requirements_of(study), *violations]):
        value = violations.get(rule)
        lines.append(f"requires {rule}: {_judged(value)}")
    return lines


def _judged(violation: float | None) -> str:
    if violation is None:
        return "not judged"
    return "met" if violation <= 0 else f"missed by {violation:.3g}"


def write_csv(trials: Iterable[FrozenTrial], directions: int, stream: TextIO) -> None:
    """Write trials as CSV: a line a trial, a column a parameter and a metric of any of them.

    The columns are number, state, value (value_0, value_1, … of several directions), feasible,
    cause, attempts, seconds, started, completed, model, ``param.NAME`` and ``metric.NAME``. Floats
    keep every digit; what a trial does not have is empty, and a parameter that is None reads None.
    """
    rows = []
    for trial in trials:
        row = trial_row(trial)
        values = row.pop("values") or [None] * directions
        names = ["value"] if directions == 1 else [f"value_{place}" for place in range(directions)]
        params = {f"param.{name}": str(value) for name, value in row.pop("params").items()}
        metrics = {f"metric.{name}": value for name, value in row.pop("metrics").items()}
        rows.append({**row, **dict(zip(names, values, strict=False)), **params, **metrics})
    first = ["number", "state", *(["value"] if directions == 1 else [])]
    first += [f"value_{place}" for place in range(directions) if directions > 1]
    first += ["feasible", "cause", "attempts", "seconds", "gpu", "dollars"]
    first += ["started", "completed", "model"]
    found = dict.fromkeys(name for row in rows for name in row if name not in first)
    more = [
        name for kind in ("param.", "metric.") for name in sorted(found) if name.startswith(kind)
    ]
    writer = csv.DictWriter(
        stream, first + more, restval="", extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
