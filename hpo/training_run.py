"""``hpo train``: one fine-tuning run with no search, and the model that it makes.

It runs in a worker process like those of a study, on the same share of the machine, so that a
trial's parameters and seed give that trial's value again. What it needs meanwhile lies beside the
model's place; after Ctrl-C the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.attempts import Attempt, travelling
from hpo.errors import InputError, StudyStoppedError
from hpo.executors.local import LocalExecutor
from hpo.exporting import (
    check_place,
    made_by,
    manifest_of,
    origin_of,
    untuned_metrics,
    write_model,
)
from hpo.model_card import Card
from hpo.objective import Objective
from hpo.opening import prepare
from hpo.plan import Plan
from hpo.protocol import (
    NO_TRIAL,
    Cause,
    Done,
    Failed,
    Report,
    Suggest,
    Suggested,
    Task,
    Verdict,
)
from hpo.queries import Found
from hpo.retention import MODEL
from hpo.text import duration, parameters, score, short_path
from hpo.training_params import Point, Settled, Wanted, settle

TICK_SECONDS = 1.0

REQUEST = "request.json"
"""What the run in a directory is to do: another request does not go on with it."""

TRIAL = "trial"

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Run:
    """A training run whose data is there.

    Attributes:
        settled: What it is to do.
        objective: The prepared objective.
        point: Its parameters.
        plan: Where it runs and on what data.
        resume: Whether an earlier run of the same command left something.
    """

    settled: Settled
    objective: Objective
    point: Point
    plan: Plan
    resume: bool

    def task(self) -> Task:
        """Return the task that trains the model."""
        trial = self.settled.trial
        attempt = Attempt.new(trial.number if trial is not None else 0, 1)
        return Task(
            attempt=attempt.id,
            study=self.plan.study,
            number=trial.number if trial is not None else 0,
            objective=self.plan.spec,
            params=travelling(self.point.params, self.point.distributions),
            created=attempt.start,
            seed=self.settled.seed,
            directory=str(self.plan.directory / TRIAL),
            place=TRIAL,
            resume=self.resume,
            data=str(self.plan.data) if self.plan.data is not None else None,
            log=str(self.plan.directory / "logs" / "training.log"),
        )


def train(found: Found | None, wanted: Wanted, out: Path, workers: int | None, say: Say) -> Path:
    """Train one model and put it to ``out`` with its card; return where that is.

    Args:
        found: The study; ``None`` without one.
        wanted: What to train.
        out: Where the model goes.
        workers: Among how many this machine is divided; training takes the share of one.
        say: Takes what happens, line by line.

    Raises:
        InputError: Something that was given cannot be used.
        StudyStoppedError: Training failed.
    """
    place = check_place(out)
    settled = settle(found, wanted)
    work = place.with_name(place.name + ".training")
    is_new = not work.exists()
    try:
        work.mkdir(parents=True, exist_ok=True)
        preload = getattr(settled.objective, "preload", ())
        with contextlib.closing(LocalExecutor(work, workers, preload)) as executor:
            run = _prepare(found, settled, wanted, work, say)
            untuned = _untuned(executor, found, run)
            done = _train(executor, run, say)
        say(_result(run, done, untuned))
        write_model(_model(done), place, _card(found, run, done, untuned, place), say)
    except InputError:
        if is_new:
            shutil.rmtree(work, ignore_errors=True)
        raise
    except OSError as error:
        raise InputError(f"cannot write {work} ({error.strerror or error}); make room.") from error
    except KeyboardInterrupt:
        say(f"kept  {short_path(work)}: the same command goes on from there")
        raise
    shutil.rmtree(work)
    return place


def _prepare(found: Found | None, settled: Settled, wanted: Wanted, work: Path, say: Say) -> _Run:
    """Get the data, and see what an earlier run of the same command left."""
    resume = _take_up(work, settled, wanted)
    objective, directory = settled.objective, settled.directory
    lines: list[str] = []
    if directory is None:
        objective, lines = prepare(objective, work, settled.split_seed)
        directory = work
    elif (manifest := manifest_of(directory)) is not None:
        lines = [
            f"data  {short_path(directory / 'data')}: train {manifest['train']:,} · "
            f"validation {manifest['validation']:,}"
        ]
    point = settled.draw(objective)
    trial = settled.trial
    whose = f", as trial {trial.number} of study {_name(found)}" if trial is not None else ""
    say(f"train {parameters(point.params)}")
    say(f"      seed {settled.seed}{whose}")
    for line in lines:
        say(line)
    if resume:
        say(f"      goes on with what is in {short_path(work)}")
    plan = Plan(
        study=_name(found),
        trials=1,
        spec=settled.spec(objective),
        directory=work,
        seed=settled.seed,
        data=directory / "data" if hasattr(objective, "prepare") else None,
    )
    return _Run(settled, objective, point, plan, resume)


def _name(found: Found | None) -> str:
    return found.study.study_name if found is not None else "none"


def _take_up(work: Path, settled: Settled, wanted: Wanted) -> bool:
    """Write down what is to be done in ``work``; return whether that was begun there before."""
    trial = settled.trial
    request = {
        "objective": settled.spec(settled.objective).model_dump(mode="json", exclude={"path"}),
        "params": dict(trial.params) if trial is not None else None,
        "seed": settled.seed,
        "split_seed": settled.split_seed,
        "data": str(settled.directory) if settled.directory is not None else _state(wanted.data),
    }
    text = json.dumps(request, indent=2, default=str)
    path = work / REQUEST
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return True
    for name in ("data", TRIAL, "baselines"):
        shutil.rmtree(work / name, ignore_errors=True)
    path.write_text(text, encoding="utf-8")
    return False


def _state(data: str | None) -> list[Any]:
    """Return what tells whether a file is still the same one."""
    path = Path(data or "").expanduser()
    if not path.is_file():
        return [data]
    facts = path.stat()
    return [data, facts.st_size, facts.st_mtime_ns]


def _untuned(executor: LocalExecutor, found: Found | None, run: _Run) -> Mapping[str, Any] | None:
    """Return the metrics of the untuned base model, which the study has or a worker measures."""
    if found is not None and run.settled.directory is not None:
        known = untuned_metrics(found.study, run.point.params)
        if known is not None:
            return known
    offered: list[dict[str, Any]] = getattr(run.objective, "baselines", list)()
    for params in offered:
        if params.items() <= run.point.params.items():
            attempt = Attempt.new(NO_TRIAL, 1)
            done = _finish(executor, run.plan.baseline_task(params, attempt))
            metrics: Mapping[str, Any] = done.user_attrs.get("metrics", {})
            return metrics
    return None


def _train(executor: LocalExecutor, run: _Run, say: Say) -> Done:
    started = time.monotonic()

    def heard(report: Report) -> None:
        passed = duration(time.monotonic() - started)
        say(f"      step {report.step:>3}  {score(report.value)}  {passed}")

    return _finish(executor, run.task(), heard)


def _finish(
    executor: LocalExecutor, task: Task, heard: Callable[[Report], None] = lambda report: None
) -> Done:
    """Run a task to its end.

    Raises:
        StudyStoppedError: It failed.
    """
    executor.submit(task)
    while True:
        for event in executor.events(TICK_SECONDS):
            match event:
                case Report():
                    heard(event)
                    executor.reply(task.attempt, Verdict(step=event.step, prune=False))
                case Suggest(name=name):
                    error = f"the trial whose parameters these are has no {name!r}"
                    executor.reply(task.attempt, Suggested(name=name, error=error))
                case Done(state="complete"):
                    return event
                case Done():
                    raise StudyStoppedError("the objective pruned itself.")
                case Failed():
                    raise StudyStoppedError(_failure(event, task))


def _failure(event: Failed, task: Task) -> str:
    more = event.traceback if event.cause is Cause.BUG else event.log_tail
    again = "; the same command goes on from the last checkpoint"
    hint = again if event.cause.is_infrastructure else ""
    said = f"training failed ({event.cause}): {event.message}{hint}. Its log: {task.log}"
    return f"{said}\n{more}".rstrip()


def _model(done: Done) -> str:
    model = done.user_attrs.get(MODEL)
    if not isinstance(model, str):
        raise InputError(f"the objective left no model: it set no user attribute {MODEL!r}.")
    return model


def _card(
    found: Found | None,
    run: _Run,
    done: Done,
    untuned: Mapping[str, Any] | None,
    place: Path,
) -> Card:
    made: dict[str, Any] = {
        "made by": f"{made_by()}, one training run",
        "seed": run.settled.seed,
    }
    if run.settled.trial is not None:
        made["parameters of"] = f"trial {run.settled.trial.number} of study {_name(found)}"
    return Card(
        place=place.name,
        params=run.point.params,
        metrics=done.user_attrs.get("metrics", {}),
        made=made,
        origin=origin_of(run.objective, run.point.params),
        untuned=untuned,
        data=manifest_of(run.settled.directory or run.plan.directory),
    )


def _result(run: _Run, done: Done, untuned: Mapping[str, Any] | None) -> str:
    """Say what came out, beside what it can be compared with."""
    value = done.values[0]
    metric = getattr(run.objective, "metric_name", "value")
    said = [f"untuned {score(untuned['roc_auc'])}"] if untuned and "roc_auc" in untuned else []
    trial = run.settled.trial
    if trial is not None and trial.values and run.settled.directory is not None:
        said.append(f"trial {trial.number} {score(trial.values[0])}")
    beside = f" ({', '.join(said)})" if said else ""
    return f"value {metric} {score(value)}{beside}"
