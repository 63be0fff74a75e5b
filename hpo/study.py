"""Running a study from beginning to end: everything around the coordinator's loop.

``run_study`` is what the command line calls; ``optimize`` is the same for Python code.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError

from hpo.coordinator import Coordinator
from hpo.errors import InputError, StudyStoppedError
from hpo.executors import Executor
from hpo.executors.inline import InlineExecutor
from hpo.executors.local import LocalExecutor
from hpo.objective import Objective, load_objective, spec_of, spec_of_reference
from hpo.plan import Plan
from hpo.protocol import Direction, ObjectiveSpec
from hpo.record import StudyRecord
from hpo.sampling import make_pruner, make_sampler
from hpo.settings import Settings, check
from hpo.status import Observer, Status
from hpo.summary import publish_best, summary
from storage import create_views, mask_url, open_storage, own_study

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
class Outcome:
    """How a run ended.

    Attributes:
        study: Optuna's study.
        status: Where it stands.
        reason: Why it ended before its target: ``interrupted``, ``the time is up``; else empty.
    """

    study: Study
    status: Status
    reason: str


def optimize(
    objective: Objective | str,
    *,
    trials: int = 64,
    study: str | None = None,
    storage: str = "sqlite:///hpo.db",
    executor: Literal["local", "inline"] = "local",
    workers: int | None = None,
    direction: str | Sequence[str] = (),
    timeout: float | str | None = None,
    seed: int = 0,
    sampler: str = "tpe",
    pruner: str = "median",
    out: str | Path = "runs",
    keep: int = 3,
    retries: int = 3,
    max_failures: int = 20,
    progress: bool = True,
) -> Study:
    """Run ``objective`` until its study has ``trials`` finished trials.

    Called again with the same study and storage it goes on where the last call stopped. In a
    script, call it under ``if __name__ == "__main__":``, since workers import the script.

    Args:
        objective: Any Optuna objective: a function that takes a trial and returns a float (or a
            float a direction), or such a function's ``package.module:name``. With the local
            executor another process must be able to import it.
        trials: The study's total of finished trials (completed or pruned), over all calls.
        study: The study's name; by default the objective's.
        storage: Database URL: ``sqlite:///file.db`` or ``postgresql://user:password@host/name``.
        executor: ``local`` for worker processes, ``inline`` for this process.
        workers: How many worker processes; by default one a GPU, or one a core as memory allows.
        direction: ``minimize`` or ``maximize``; several for several values. By default what the
            objective says, else ``minimize``, as in Optuna.
        timeout: Seconds (or ``"30m"``) after which no new trial starts.
        seed: Seed of the sampler and of every trial.
        sampler: ``tpe``, ``random``, ``qmc`` or ``nsgaii``.
        pruner: ``median``, ``percentile``, ``asha``, ``hyperband`` or ``none``.
        out: Directory for logs, checkpoints and models.
        keep: How many of the best trials keep their weights.
        retries: Further attempts for a trial whose worker was lost.
        max_failures: So many failed trials stop the study.
        progress: Whether to print what happens.

    Returns:
        The study.

    Raises:
        InputError: A setting or an objective that cannot be used (a ``ValueError``).
        storage.StorageError: A database that cannot be used (a ``ValueError``).
        StudyStoppedError: The objective failed too often.
    """
    given = {
        name: value for name, value in locals().items() if name not in ("objective", "progress")
    }
    settings = check(given)
    if isinstance(objective, str):
        spec: ObjectiveSpec | None = spec_of_reference(objective)
        assert spec is not None
        objective = load_objective(spec)
    else:
        spec = spec_of(objective)
    return run_study(objective, spec, settings, observers=_observers(progress)).study


def _observers(progress: bool) -> list[Observer]:
    if not progress:
        return []
    from hpo.progress import make_progress

    return [make_progress()]


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


def run_study(
    objective: Objective,
    spec: ObjectiveSpec | None,
    settings: Settings,
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run a study until its target is reached, its time is up or somebody stops it.

    Args:
        objective: The objective.
        spec: How another process finds it; ``None`` if only this one can.
        settings: What to do.
        observers: Who watches.
        say: Takes the header and the summary, line by line; not called without observers.

    Raises:
        InputError, storage.StorageError: Bad input; nothing new is left behind.
        StudyStoppedError: The objective failed too often.
    """
    _refuse_nested_run()
    name = name_of(settings, objective)
    directory = (settings.out / name).resolve()
    make_sampler(settings.sampler, settings.seed)
    make_pruner(settings.pruner)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as undo:
        stack.enter_context(_quiet_optuna())
        _undo_new_files(undo, settings, directory)
        storage = open_storage(settings.storage)
        stack.callback(storage.remove_session)
        stack.enter_context(own_study(settings.storage, name))
        record = StudyRecord.find(storage, name)
        seed = settings.seed if record is None else record.seed
        prepared, lines = _prepare(objective, directory, seed)
        if prepared is not objective:
            spec = spec_of(prepared)
        create_views(storage)
        study, notes = _open_study(storage, name, prepared, spec, settings, directory)
        executor = stack.enter_context(
            contextlib.closing(_make_executor(prepared, spec, settings, directory))
        )
        undo.pop_all()
        if observers:
            say(
                f"study {name} · {settings.trials} trials · {executor.description} · "
                f"{mask_url(settings.storage)}"
            )
            for line in [*lines, *notes]:
                say(line)
        data = directory / "data" if hasattr(prepared, "prepare") else None
        plan = _plan(settings, name, spec, directory, seed, data)
        coordinator = Coordinator(study, storage, prepared, executor, plan, observers)
        stopped = _run(coordinator, observers, settings)
        published = publish_best(study, directory)
        if observers:
            for line in summary(study, coordinator.status, settings, published):
                say(line)
        if stopped is not None:
            raise stopped
        return Outcome(study, coordinator.status, coordinator.ended_early)


def _plan(
    settings: Settings,
    name: str,
    spec: ObjectiveSpec | None,
    directory: Path,
    seed: int,
    data: Path | None,
) -> Plan:
    return Plan(
        study=name,
        trials=settings.trials,
        spec=spec or ObjectiveSpec(reference="this-process:objective"),
        directory=directory,
        seed=seed,
        timeout=settings.timeout,
        retries=settings.retries,
        max_failures=settings.max_failures,
        keep=settings.keep,
        data=data,
    )


def _run(
    coordinator: Coordinator, observers: Sequence[Observer], settings: Settings
) -> StudyStoppedError | None:
    """Run the loop; return what stopped it short, if there is still something to sum up."""
    try:
        with _signals(coordinator):
            coordinator.run()
    except StudyStoppedError as error:
        return error
    except StorageInternalError as error:
        raise StudyStoppedError(
            f"the database {mask_url(settings.storage)} failed: {error.__cause__ or error}; "
            "when it is back, the same command goes on where this one stopped."
        ) from error
    finally:
        for observer in observers:
            observer.close()
    return None


def _refuse_nested_run() -> None:
    """Refuse a run that a worker started by importing the script which starts the run.

    Raises:
        InputError: This process is a worker.
    """
    if multiprocessing.parent_process() is not None:
        raise InputError(
            "hpo.optimize was called while a worker imported your script; put the call under "
            '`if __name__ == "__main__":`.'
        )


def _undo_new_files(undo: contextlib.ExitStack, settings: Settings, directory: Path) -> None:
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


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Leave the terminal to our own progress while a study runs."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _prepare(objective: Objective, directory: Path, seed: int) -> tuple[Objective, list[str]]:
    prepare = getattr(objective, "prepare", None)
    if prepare is None:
        return objective, []
    try:
        prepared, lines = prepare(directory, seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    return prepared, list(lines)


def _open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    objective: Objective,
    spec: ObjectiveSpec | None,
    settings: Settings,
    directory: Path,
) -> tuple[Study, list[str]]:
    """Create the study, or load it and see that it is the same one; also return notes on it."""
    directions = list(directions_of(settings, objective))
    known = name in {each.study_name for each in storage.get_all_studies()}
    if known:
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
    record = StudyRecord(
        objective=spec.reference if spec is not None else None,
        # Through JSON, as it comes back from the storage: tuples are lists there.
        options=json.loads(json.dumps(spec.options)) if spec is not None else None,
        seed=settings.seed,
        directory=str(directory),
    )
    notes = record.settle(study)
    # A resumed sampler with the first run's seed would draw the first run's random numbers again.
    seed = StudyRecord.of(study).seed + len(study.get_trials(deepcopy=False))
    study.sampler = make_sampler(settings.sampler, seed)
    study.pruner = make_pruner(settings.pruner)
    return study, notes


def directions_of(settings: Settings, objective: Objective) -> tuple[Direction, ...]:
    """Return the directions given, else the objective's own, else Optuna's default."""
    own: Direction | Sequence[Direction] = getattr(objective, "direction", "minimize")
    return settings.direction or ((own,) if isinstance(own, str) else tuple(own))


def _make_executor(
    objective: Objective, spec: ObjectiveSpec | None, settings: Settings, directory: Path
) -> Executor:
    if settings.executor == "inline":
        return InlineExecutor(objective)
    if spec is None:
        raise InputError(
            f"the objective {getattr(objective, '__name__', objective)!r} has no name that a "
            "worker process could import (a lambda, a nested function, or one of an interactive "
            'session): move it to the top level of a module, or use executor="inline".'
        )
    preload = getattr(objective, "preload", None)
    if preload is None:
        preload = [module for module in FORK_SAFE_LIBRARIES if module in sys.modules]
    return LocalExecutor(directory / "logs", settings.workers, preload)


@contextlib.contextmanager
def _signals(coordinator: Coordinator) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the study well: once to finish what runs, twice to stop it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread, and so to whoever runs there
        return

    def on_signal(number: int, frame: object) -> None:
        if coordinator.ended_early:
            coordinator.interrupt()
        else:
            coordinator.drain("interrupted")

    before = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
