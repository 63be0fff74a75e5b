"""Opening a study: its objective, its name, its directory and its place in the storage."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.trial import TrialState

from hpo.attempts import read_attempts
from hpo.errors import InputError
from hpo.executors import Executor
from hpo.executors.inline import InlineExecutor
from hpo.executors.local import LocalExecutor
from hpo.finalists import finalists_of
from hpo.importing import TrialImport
from hpo.known_space import KnownSpace
from hpo.objective import Objective, load_objective, source_hash, spec_of_reference
from hpo.protocol import Direction, ObjectiveSpec
from hpo.record import StudyRecord
from hpo.requirements import VALUE, parse_requirements
from hpo.sampling import make_pruner, make_sampler
from hpo.settings import Settings

BUILT_IN = "objectives:FineTune"
"""The objective of a run that names none."""

FORK_SAFE_LIBRARIES = (
    "numpy",
    "pandas",
    "sklearn",
    "torch",
    "transformers",
    "sentence_transformers",
)
"""Slow to import and safe to fork after it: preloaded for an objective that imports them."""


@dataclass(frozen=True)
class OpenStudy:
    """A study that is ready to run.

    Attributes:
        study: Optuna's study, with its sampler and its pruner.
        notes: What people should know about it, line by line.
        imports: Where some of its trials come from; ``None`` without ``--from``.
        known_space: What its parameters were drawn from, if the objective may have changed.
    """

    study: Study
    notes: list[str]
    imports: TrialImport | None
    known_space: KnownSpace | None


def objective_of(settings: Settings) -> tuple[Objective, ObjectiveSpec]:
    """Return the objective that ``settings`` name, and how a worker finds it.

    Raises:
        InputError: It cannot be imported or built.
    """
    if settings.objective is not None:
        spec = spec_of_reference(settings.objective)
    else:
        options: dict[str, Any] = {"data": settings.data, "space": settings.space}
        if settings.models is not None:
            options["models"] = settings.models
        spec = ObjectiveSpec(reference=BUILT_IN, options=options)
    try:
        return load_objective(spec), spec
    except InputError:
        raise
    except ValueError as error:  # the objective's own refusal of its options
        said = str(error)
        if said.startswith("space:"):
            said = settings.source_of("space") + said.removeprefix("space")
        raise InputError(said) from error


def name_of(settings: Settings, objective: Objective) -> str:
    """Return the study's name: the one given, else the data's or the objective's."""
    if settings.study is not None:
        return settings.study
    name = getattr(objective, "study_name", None) or getattr(objective, "__name__", None)
    if name == "objective":  # what most are called: the module says more
        name = objective.__module__.rpartition(".")[2].replace("__main__", "study")
    words = "".join(c if c.isalnum() or c in "._-" else "-" for c in str(name or "study"))
    return words.strip("-._") or "study"


def directions_of(settings: Settings, objective: Objective) -> tuple[Direction, ...]:
    """Return the directions given, else the objective's own, else Optuna's default."""
    own: Direction | Sequence[Direction] = getattr(objective, "direction", "minimize")
    return settings.direction or ((own,) if isinstance(own, str) else tuple(own))


def undo_new_files(undo: contextlib.ExitStack, settings: Settings, directory: Path) -> None:
    """Have ``undo`` remove what this run is going to create, should it fail before it begins."""
    new = [path for path in (directory, directory.parent) if not path.exists()]
    if settings.storage.startswith("sqlite:///"):
        database = Path(settings.storage.removeprefix("sqlite:///"))
        if not database.exists():
            new += [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]

    def remove() -> None:
        for path in new:
            if path.is_dir() and (path == directory or not any(path.iterdir())):
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()

    undo.callback(remove)


def prepare(objective: Objective, directory: Path, seed: int) -> tuple[Objective, list[str]]:
    """Let the objective prepare its data; return what to use from here on, and lines for people.

    Raises:
        InputError: The objective refused its data or its options.
    """
    prepare = getattr(objective, "prepare", None)
    if prepare is None:
        return objective, []
    try:
        prepared, lines = prepare(directory, seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    return prepared, list(lines)


def open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    objective: Objective,
    spec: ObjectiveSpec | None,
    settings: Settings,
    directory: Path,
) -> OpenStudy:
    """Create the study, or load it and see that it is the same one.

    Raises:
        InputError: The study was made for something else.
    """
    directions = list(directions_of(settings, objective))
    record = StudyRecord(
        objective=spec.reference if spec is not None else None,
        # Through JSON, as it comes back from the storage: tuples are lists there.
        options=json.loads(json.dumps(spec.options)) if spec is not None else None,
        seed=settings.seed,
        directory=str(directory),
        require=settings.require,
        sampler=settings.sampler,
        pruner=settings.pruner,
        source=source_hash(objective),
    )
    imports = _plan_import(storage, name, objective, record, directions, settings)
    if name in {each.study_name for each in storage.get_all_studies()}:
        study = optuna.load_study(study_name=name, storage=storage)
        recorded = [direction.name.lower() for direction in study.directions]
        if recorded != directions:
            raise InputError(
                f"study {name!r} was made with --direction {', '.join(recorded)}, not "
                f"{', '.join(directions)}; a study's directions cannot change: use --study NEW."
            )
    else:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    metric = getattr(objective, "metric_name", None)
    if metric is not None and len(directions) == 1 and study.metric_names is None:
        study.set_metric_names([metric])
    notes = record.settle(study)
    if imports is not None:
        imports.write(study, storage)
        notes += imports.describe()
    # A sampler with the seed of an earlier run would draw its random numbers again; so would that
    # of a study which is about to take over another one's trials.
    trials = study.get_trials(deepcopy=False)
    seed = StudyRecord.of(study).seed + len(trials)
    seed += sum(len(read_attempts(trial.user_attrs)) for trial in trials)
    seed += imports.found if imports is not None else 0
    study.sampler = make_sampler(settings.sampler, seed)
    study.pruner = make_pruner(settings.pruner)
    changed = record.source != StudyRecord.of(study).source
    finished = [each for each in trials if each.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return OpenStudy(study, notes, imports, KnownSpace(name, finished) if changed else None)


def check_requirements(settings: Settings, objective: Objective) -> None:
    """See that the rules can work, as far as the objective says what it measures.

    Raises:
        InputError: They cannot.
    """
    several = len(directions_of(settings, objective)) > 1
    finalists_of(settings, objective, several)
    for name in ("target", "patience"):
        if several and getattr(settings, name) is not None:
            raise InputError(
                f"{settings.source_of(name)} needs one best trial, and this study has several "
                "directions; leave it out."
            )
    known = getattr(objective, "metrics", None)
    if known is None:
        return
    names = {*known, VALUE, getattr(objective, "metric_name", VALUE)}
    for each in parse_requirements(settings.require):
        if each.metric not in names:
            raise InputError(
                f"{settings.source_of('require')} {each}: its trials have no metric "
                f"{each.metric!r}; they have {', '.join(sorted(names))}."
            )


def _plan_import(
    storage: optuna.storages.BaseStorage,
    name: str,
    objective: Objective,
    record: StudyRecord,
    directions: Sequence[str],
    settings: Settings,
) -> TrialImport | None:
    if settings.from_study is None:
        return None
    old = StudyRecord.find(storage, name)
    kept = record if old is None else record.model_copy(update={"seed": old.seed})
    requirements = parse_requirements(settings.require)
    return TrialImport.plan(
        storage, settings.from_study, name, kept, directions, objective, requirements
    )


def choose_executor(settings: Settings) -> tuple[Settings, str]:
    """Settle where trials run; return settings that say so, and why if nobody had said it.

    Raises:
        InputError: They are to run on Modal, and no token is configured.
    """
    if settings.coordinator == "modal" and settings.executor not in ("auto", "modal"):
        raise InputError(
            f"{settings.source_of('coordinator')} modal with --executor {settings.executor}: a "
            "coordinator on Modal runs its trials there, too; leave --executor out."
        )
    if settings.coordinator == "modal" or settings.executor == "modal":
        from hpo.on_modal.token import require_token

        name = "executor" if settings.executor == "modal" else "coordinator"
        require_token(settings.source_of(name))
        return settings.model_copy(update={"executor": "modal"}), ""
    if settings.executor != "auto":
        return settings, ""
    from hpo.on_modal.token import has_token

    if has_token():
        return settings.model_copy(update={"executor": "modal"}), "a Modal token is configured"
    return settings.model_copy(update={"executor": "local"}), "no Modal token"


def make_executor(
    objective: Objective,
    spec: ObjectiveSpec | None,
    settings: Settings,
    directory: Path,
    study: Study,
    say: Callable[[str], None],
) -> Executor:
    """Return the executor that ``settings`` name, ready to run.

    Args:
        objective: The prepared objective.
        spec: How another process finds it; ``None`` if only this one can.
        settings: What to run it on.
        directory: The study's directory.
        study: The study.
        say: Takes lines on what had to be done for it.

    Raises:
        InputError: It cannot run this objective.
    """
    if settings.executor == "inline":
        return InlineExecutor(objective)
    if spec is None:
        raise InputError(
            f"the objective {getattr(objective, '__name__', objective)!r} has no name that a "
            "worker process could import (a lambda, a nested function, or one of an interactive "
            'session): move it to the top level of a module, or use executor="inline".'
        )
    if settings.executor == "modal":
        from hpo.on_modal.setup import executor_on_modal

        data = directory / "data" if hasattr(objective, "prepare") else None
        return executor_on_modal(objective, spec, settings, data, study, say)
    preload = getattr(objective, "preload", None)
    if preload is None:
        preload = [module for module in FORK_SAFE_LIBRARIES if module in sys.modules]
    return LocalExecutor(directory, settings.workers, preload)
