"""Running a study from beginning to end: everything around the coordinator's loop.

``run_study`` is what the command line calls; ``optimize`` is the same for Python code.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError

from hpo.coordinator import Coordinator
from hpo.database import Database
from hpo.design import count_trials, settle
from hpo.errors import InputError, StudyStoppedError
from hpo.events import FILE, EventLog
from hpo.executors import Executor
from hpo.exporting import write_card
from hpo.finalists import finalists_of
from hpo.notes import Notes
from hpo.objective import Objective, load_objective, spec_of, spec_of_reference
from hpo.opening import (
    check_requirements,
    choose_executor,
    make_executor,
    name_of,
    open_study,
    prepare,
    undo_new_files,
)
from hpo.plan import Plan
from hpo.protocol import ObjectiveSpec
from hpo.publishing import publish_best
from hpo.queries import Found
from hpo.record import StudyRecord
from hpo.requirements import parse_requirements
from hpo.sampling import make_pruner, make_sampler
from hpo.settings import Settings, check
from hpo.signals import signals
from hpo.status import Observer, Status
from hpo.summary import summary
from hpo.winners import winner_of
from storage import create_views, is_outage, mask_url, open_storage, own_study, reason


@dataclass(frozen=True)
class Host:
    """What differs between machines on which a coordinator may live.

    Attributes:
        make_executor: Makes the executor; see ``hpo.opening.make_executor``.
        attend: Surrounds the coordinator while it runs, to tell it of what happens around it.
        keeps_model: Whether the best model is to lie on this machine at the end.
        url: How people reach the storage, if not by the URL that the coordinator uses.
    """

    make_executor: Callable[..., Executor] = make_executor
    attend: Callable[[Coordinator], AbstractContextManager[None]] = signals
    keeps_model: bool = True
    url: str | None = None


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
    trials: int | None = None,
    study: str | None = None,
    storage: str = "sqlite:///hpo.db",
    executor: Literal["auto", "modal", "local", "inline"] = "auto",
    workers: int | None = None,
    gpu: str | Sequence[str] = ("L4",),
    max_cost: float | None = None,
    include: Sequence[str] = (),
    pip: Sequence[str] = (),
    secret: Sequence[str] = (),
    direction: str | Sequence[str] = (),
    timeout: float | str | None = None,
    target: float | None = None,
    patience: int | None = None,
    trial_timeout: float | str | None = None,
    require: Sequence[str] = (),
    design: Literal["search", "grid"] = "search",
    finalists: int | None = None,
    seeds: int = 3,
    from_study: str | None = None,
    seed: int = 0,
    sampler: str | None = None,
    pruner: str | None = None,
    out: str | Path = "runs",
    keep: int = 3,
    retries: int = 3,
    max_failures: int = 20,
    db_grace: float | str = 600.0,
    progress: bool = True,
) -> Study:
    """Run ``objective`` until its study has ``trials`` finished trials, or all of a grid.

    Called again with the same study and storage it goes on where the last call stopped. In a
    script, call it under ``if __name__ == "__main__":``, since workers import the script.

    Args:
        objective: Any Optuna objective: a function that takes a trial and returns a float (or a
            float a direction), or such a function's ``package.module:name``. With the local
            executor another process must be able to import it.
        trials: The study's total of finished trials (completed or pruned), over all calls; by
            default 64, or all combinations of a grid.
        study: The study's name; by default the objective's.
        storage: Database URL: ``sqlite:///file.db`` or ``postgresql://user:password@host/name``.
        executor: ``modal`` for GPU functions on Modal, ``local`` for worker processes, ``inline``
            for this process; ``auto`` for Modal where a token is configured, else local.
        workers: How many trials at once; by default one a GPU, or one a core as memory allows, and
            ten on Modal.
        gpu: GPUs on Modal, the first that is free in this order.
        max_cost: Dollars that trials on Modal may cost; on Modal it must be given.
        include: Further local modules, packages or files that trials on Modal need.
        pip: Further packages that trials on Modal need.
        secret: Names of Modal Secrets whose variables trials on Modal get.
        direction: ``minimize`` or ``maximize``; several for several values. By default what the
            objective says, else ``minimize``, as in Optuna.
        timeout: Seconds (or ``"30m"``) after which no new trial starts.
        target: An objective value that ends the search once a feasible trial reaches it.
        patience: So many finished trials without a better one end the search.
        trial_timeout: Seconds (or ``"30m"``) that one attempt of a trial may run.
        require: What a trial's metrics must meet to win: ``["recall>=0.5"]``.
        design: ``search``, or ``grid`` for every combination of the levels that parameters have.
        finalists: So many of the best configurations run again with new seeds before one wins; by
            default 3 where the objective can evaluate a winner, else none.
        seeds: With so many new seeds each.
        from_study: A study of the same storage whose compatible trials a new study begins with.
        seed: Seed of the sampler and of every trial.
        sampler: ``tpe`` (the default), ``random``, ``qmc`` or ``nsgaii``; not for a grid.
        pruner: ``median``, ``percentile``, ``asha``, ``hyperband`` or ``none``; by default
            ``median``, or ``none`` in a grid.
        out: Directory for logs, checkpoints and models.
        keep: How many of the best trials keep their weights.
        retries: Further attempts for a trial whose worker was lost.
        max_failures: So many failed trials stop the study.
        db_grace: Seconds (or ``"10m"``) that the database may be away.
        progress: Whether to print what happens.

    Returns:
        The study.

    Raises:
        InputError: A setting or an objective that cannot be used (a ``ValueError``).
        storage.StorageError: A database that cannot be used (a ``ValueError``).
        StudyStoppedError: The objective failed too often, or the database was away for too long.
    """
    given = {
        name: value
        for name, value in locals().items()
        if value is not None and name not in ("objective", "progress")
    }
    _refuse_nested_run(container=True)
    settings, why = choose_executor(check(given))
    if settings.executor == "modal" and settings.max_cost is None:
        raise InputError("max_cost must be given for trials on Modal, in dollars")
    if isinstance(objective, str):
        spec: ObjectiveSpec | None = spec_of_reference(objective)
        assert spec is not None
        objective = load_objective(spec)
    else:
        spec = spec_of(objective)
    return run_study(objective, spec, settings, _observers(progress), why=why).study


def is_container() -> bool:
    """Whether this process runs in a container on Modal."""
    return os.environ.get("MODAL_IS_REMOTE") == "1"


def _observers(progress: bool) -> list[Observer]:
    if not progress:
        return []
    from hpo.progress import make_progress

    return [make_progress()]


def run_study(
    objective: Objective,
    spec: ObjectiveSpec | None,
    settings: Settings,
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = print,
    host: Host | None = None,
    why: str = "",
) -> Outcome:
    """Run a study until its target is reached, its time is up or somebody stops it.

    Args:
        objective: The objective.
        spec: How another process finds it; ``None`` if only this one can.
        settings: What to do.
        observers: Who watches.
        say: Takes the header and the summary, line by line; not called without observers.
        host: What the machine of the coordinator asks for; by default this one.
        why: Why its trials run where they do, if the settings left that open.

    Raises:
        InputError, storage.StorageError: Bad input; nothing new is left behind.
        StudyStoppedError: The objective failed too often, or the database was away for too long.
    """
    _refuse_nested_run()
    with _database_failures(settings):
        return _run_study(objective, spec, settings, observers, say, host or Host(), why)


def _run_study(
    objective: Objective,
    spec: ObjectiveSpec | None,
    settings: Settings,
    observers: Sequence[Observer],
    say: Callable[[str], None],
    host: Host,
    why: str,
) -> Outcome:
    name = name_of(settings, objective)
    directory = (settings.out / name).resolve()
    check_requirements(settings, objective)
    make_sampler(settings.sampler, settings.seed)
    make_pruner(settings.pruner)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as undo:
        stack.enter_context(_quiet_optuna())
        undo_new_files(undo, settings, directory)
        # Owned before anything else is asked, so that a second coordinator hears at once.
        database = Database(lambda: own_study(settings.storage, name), settings.db_grace)
        stack.callback(database.release)
        storage = open_storage(settings.storage)
        stack.callback(storage.remove_session)
        record = StudyRecord.find(storage, name)
        seed = settings.seed if record is None else record.seed
        prepared, lines = prepare(objective, directory, seed)
        if prepared is not objective:
            spec = spec_of(prepared)
        settings, design = settle(settings, prepared)
        create_views(storage)
        opened = open_study(storage, name, prepared, spec, settings, directory)
        study = opened.study
        settings = count_trials(settings, study)
        said: list[str] = []
        executor = stack.enter_context(
            contextlib.closing(
                host.make_executor(prepared, spec, settings, directory, study, said.append)
            )
        )
        undo.pop_all()
        if observers:
            because = f" ({why})" if why else ""
            shown = settings.model_copy(update={"storage": host.url or settings.storage})
            say(
                f"study {name} · {settings.trials} trials · {executor.description}{because} · "
                f"{mask_url(shown.storage)}"
            )
            for line in [*design, *lines, *opened.notes, *said]:
                say(line)
        data = directory / "data" if hasattr(prepared, "prepare") else None
        several = len(study.directions) > 1
        finalists = finalists_of(settings, prepared, several)
        plan = _plan(settings, name, spec, directory, seed, data, finalists)
        watching = [EventLog(directory / FILE), *observers, Notes(study, storage, plan)]
        coordinator = Coordinator(
            study,
            storage,
            database,
            prepared,
            executor,
            plan,
            watching,
            opened.imports,
            opened.known_space,
        )
        stack.enter_context(host.attend(coordinator))
        stopped = _run(coordinator, watching, database)
        if database.is_away:  # there is nothing to sum up from
            if stopped is not None:
                raise stopped
            if observers:
                say("the database is away; when it is back, the same command goes on")
            return Outcome(study, coordinator.status, coordinator.ended_early)
        published = publish_best(study, directory) if host.keeps_model else None
        if published is not None and published.path is not None:
            write_card(Found(study, storage, settings), published.path)
        report = _report(study, directory) if host.keeps_model and winner_of(study) else None
        if observers:
            status, early = coordinator.status, coordinator.ended_early
            for line in summary(study, status, early, shown, published, report):
                say(line)
        if stopped is not None:
            raise stopped
        return Outcome(study, coordinator.status, coordinator.ended_early)


def _report(study: Study, directory: Path) -> Path:
    """Write down the evidence of a study that has a winner."""
    from hpo.report import show_in_dashboard, write_report

    show_in_dashboard(study)
    return write_report(study, directory)


def _plan(
    settings: Settings,
    name: str,
    spec: ObjectiveSpec | None,
    directory: Path,
    seed: int,
    data: Path | None,
    finalists: int,
) -> Plan:
    return Plan(
        study=name,
        trials=settings.trials,
        spec=spec or ObjectiveSpec(reference="this-process:objective"),
        directory=directory,
        seed=seed,
        timeout=settings.timeout,
        target=settings.target,
        patience=settings.patience,
        trial_timeout=settings.trial_timeout,
        requirements=parse_requirements(settings.require),
        retries=settings.retries,
        max_failures=settings.max_failures,
        keep=settings.keep,
        data=data,
        max_cost=settings.max_cost,
        finalists=finalists,
        seeds=settings.seeds,
    )


def _run(
    coordinator: Coordinator, observers: Sequence[Observer], database: Database
) -> StudyStoppedError | None:
    """Run the loop; return what stopped it short, as there may still be something to sum up."""
    try:
        coordinator.run()
    except StudyStoppedError as error:
        return error
    finally:
        for observer in observers:
            with database.riding_out():
                observer.close()
    return None


@contextlib.contextmanager
def _database_failures(settings: Settings) -> Iterator[None]:
    """Turn a failure of the database that nobody rode out into one message."""
    try:
        yield
    except Exception as error:
        if not (is_outage(error) or isinstance(error, StorageInternalError)):
            raise
        raise StudyStoppedError(
            f"the database {mask_url(settings.storage)} failed: {reason(error)}; "
            "when it is back, the same command goes on where this one stopped."
        ) from error


def _refuse_nested_run(container: bool = False) -> None:
    """Refuse a run that a worker started by importing the script which starts the run.

    Args:
        container: Whether a container on Modal is a worker; a coordinator may live in one.

    Raises:
        InputError: This process is a worker.
    """
    if multiprocessing.parent_process() is not None or (container and is_container()):
        raise InputError(
            "hpo.optimize was called while a worker imported your script; put the call under "
            '`if __name__ == "__main__":`.'
        )


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
