"""The coordinator: one loop that owns a study.

It asks Optuna for trials, hands attempts to an executor, answers what they say and tells Optuna how
they ended. It is the storage's only writer and has no threads; everything it needs to go on after a
crash is in the storage.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from hpo.attempts import Attempt, LiveTrial
from hpo.errors import StudyStoppedError
from hpo.executors import Executor
from hpo.objective import Objective
from hpo.plan import Plan
from hpo.protocol import (
    BASELINE_TRIAL,
    AnyEvent,
    Cause,
    Direction,
    Done,
    Failed,
    Report,
    SetAttr,
    Started,
    Suggest,
    Verdict,
)
from hpo.retention import Retention
from hpo.status import Kind, Moment, Observer, RunningTrial, Status
from hpo.text import parameter, score

BASELINES = "baselines"
"""The study's user attribute that holds scores of untuned models."""

ERRORS_IN_A_ROW = 3
"""So many trials in a row that fail by the objective's own fault stop the study."""

TICK_SECONDS = 0.5
"""How long the loop waits for an event before it looks at clocks and signals."""


@dataclass
class _Baseline:
    """An untuned model that is being scored: an attempt, but no trial of the study."""

    params: dict[str, Any]
    label: str
    attempts: int = 0
    retries: int = 0


@dataclass
class _Running:
    """An attempt that the executor runs."""

    subject: LiveTrial | _Baseline
    view: RunningTrial
    sequence: int = -1


class Coordinator:
    """Runs a study to its target.

    Args:
        study: Optuna's study.
        storage: The storage that holds it.
        objective: The objective, for what it offers the coordinator (suggest, baselines, label).
        executor: Where attempts run.
        plan: What is to be done.
        observers: Who watches.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        objective: Objective,
        executor: Executor,
        plan: Plan,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.study = study
        self._storage = storage
        self._objective = objective
        self._executor = executor
        self._plan = plan
        self._observers = list(observers)
        self._directions: tuple[Direction, ...] = tuple(
            "maximize" if each.name == "MAXIMIZE" else "minimize" for each in study.directions
        )
        self._running: dict[str, _Running] = {}
        self._waiting: deque[LiveTrial | _Baseline] = deque()
        self._errors_in_a_row = 0
        self._deadline = None if plan.timeout is None else time.monotonic() + plan.timeout
        self.ended_early = ""
        """Why no further trials start before the target; empty while they do."""
        self._interrupted = False
        self._fatal = ""
        self._retention = Retention(study, plan.trials_directory, plan.keep)
        self.status = Status(
            study=plan.study,
            metric=getattr(objective, "metric_name", None),
            maximize=self._directions[0] == "maximize",
            trials=plan.trials,
        )

    # Requests from outside the loop, such as a signal handler: they set a flag and return.

    def drain(self, reason: str) -> None:
        """Start no further trials; the running ones finish."""
        self.ended_early = self.ended_early or reason

    def interrupt(self) -> None:
        """Stop what runs; the trials stay as they are, and the same command takes them up."""
        self.drain("interrupted")
        self._interrupted = True

    def run(self) -> None:
        """Run until the target is reached or something ends the study.

        Raises:
            StudyStoppedError: The objective failed too often.
        """
        self._take_up()
        self._queue_baselines()
        while not self._interrupted:
            self._dispatch()
            if not self._running:
                break
            for event in self._executor.events(TICK_SECONDS):
                self._handle(event)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.drain("the time is up")
            for observer in self._observers:
                observer.tick(self.status)
        if self._fatal:
            raise StudyStoppedError(self._fatal)

    # What an earlier coordinator left behind.

    def _take_up(self) -> None:
        """Count what is finished and line up what is not."""
        unfinished: list[FrozenTrial] = []
        for trial in self.study.get_trials(deepcopy=False):
            match trial.state:
                case TrialState.COMPLETE:
                    self.status.complete += 1
                    self._compare(trial)
                case TrialState.PRUNED:
                    self.status.pruned += 1
                case TrialState.FAIL:
                    self.status.failed += 1
                case TrialState.RUNNING:
                    unfinished.append(trial)
        self.status.finished_before = self.status.finished
        for frozen in unfinished:
            self._resume(frozen)

    def _resume(self, frozen: FrozenTrial) -> None:
        live = LiveTrial.of(self._trial(frozen.number), frozen.intermediate_values)
        last = live.attempts[-1] if live.attempts else None
        if last is not None and last.cause in (Cause.OK, Cause.PRUNED):
            # Its result was heard; only telling it was cut short.
            self._tell(live, last)
            return
        if last is not None and last.end is None:
            last.close(Cause.LOST, "the coordinator ended")
            live.save()
        self._note("retry", f"trial {live.number} goes on where the last run left it")
        self._waiting.append(live)

    def _trial(self, number: int) -> Trial:
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return Trial(
            self.study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        )

    def _queue_baselines(self) -> None:
        """Line up the untuned models that have no score yet, in front of everything."""
        scored = self.study.user_attrs.get(BASELINES, [])
        for record in scored:
            self._compare_baseline(record["value"], self._label(record["params"]))
        known = [record["params"] for record in scored]
        offered: list[dict[str, Any]] = getattr(self._objective, "baselines", list)()
        missing = [_Baseline(each, self._label(each)) for each in offered if each not in known]
        if self._plan.trials > self.status.finished:
            self._waiting.extendleft(reversed(missing))

    # Dispatch.

    def _dispatch(self) -> None:
        """Fill the executor: first what waits, then new trials."""
        while len(self._running) < self._executor.capacity and not self._interrupted:
            if self._waiting:
                # Also while draining: a trial that waits for another attempt is a running one.
                self._submit(self._waiting.popleft())
                continue
            if self.ended_early:
                return
            under_way = sum(isinstance(each.subject, LiveTrial) for each in self._running.values())
            if self.status.finished + under_way >= self._plan.trials:
                return
            live = self._ask()
            if live is not None:
                self._submit(live)

    def _ask(self) -> LiveTrial | None:
        """Ask for a new trial, sampled here if the objective can; ``None`` if that failed."""
        trial = self.study.ask()
        live = LiveTrial.of(trial)
        return live if self._sample(live) else None

    def _sample(self, live: LiveTrial) -> bool:
        """Sample the trial's parameters where the objective offers it."""
        suggest = getattr(self._objective, "suggest", None)
        if suggest is not None:
            try:
                suggest(live.trial)
            except StorageInternalError:
                raise  # the database's fault, not the objective's
            except Exception as error:
                attempt = live.begin()
                attempt.close(Cause.BUG, f"{type(error).__name__}: {error}")
                live.save()
                self._failed(live, attempt, traceback.format_exc())
                return False
        live.label = self._label(live.trial.params)
        return True

    def _submit(self, subject: LiveTrial | _Baseline) -> None:
        if isinstance(subject, LiveTrial):
            # A half-asked trial of an earlier coordinator still lacks parameters.
            if not subject.label and not self._sample(subject):
                return
            attempt = subject.begin()
            task = self._plan.trial_task(subject, attempt, self._directions)
            attempt.handle = self._executor.submit(task)
            subject.save()
            view = RunningTrial(subject.number, subject.label, len(subject.attempts))
            what = f" · {subject.label}" if subject.label else ""
            self._note("start", f"trial {subject.number} starts{what}", view.attempt)
        else:
            subject.attempts += 1
            attempt = Attempt.new(BASELINE_TRIAL, subject.attempts)
            self._executor.submit(self._plan.baseline_task(subject.params, attempt))
            view = RunningTrial(BASELINE_TRIAL, subject.label, subject.attempts)
        self._running[attempt.id] = _Running(subject, view)
        self.status.running[attempt.id] = view

    # Events.

    def _handle(self, event: AnyEvent) -> None:
        running = self._running.get(event.attempt)
        if running is None or event.sequence <= running.sequence:
            return  # of a superseded attempt, or a repeat
        running.sequence = event.sequence
        if isinstance(running.subject, _Baseline):
            self._handle_baseline(running.subject, event)
        else:
            self._handle_trial(running, running.subject, event)

    def _handle_trial(self, running: _Running, live: LiveTrial, event: AnyEvent) -> None:
        match event:
            case Started():
                attempt = live.attempts[-1]
                attempt.machine, attempt.device = event.machine, event.device
            case Suggest():
                self._executor.reply(event.attempt, live.suggest(event))
                running.view.label = live.label = self._label(live.trial.params)
            case Report():
                self._report(running, live, event)
            case SetAttr():
                live.set_attr(event.key, event.value)
            case Done():
                self._forget(event.attempt)
                live.absorb(event)
                self._tell(live, live.end(event))
            case Failed():
                self._forget(event.attempt)
                self._attempt_failed(live, live.end(event), event)

    def _report(self, running: _Running, live: LiveTrial, event: Report) -> None:
        live.report(event.step, event.value)
        prune = live.trial.should_prune()
        self._executor.reply(event.attempt, Verdict(step=event.step, prune=prune))
        running.view.step, running.view.value = event.step, event.value
        self._note("report", f"trial {live.number} step {event.step}: {score(event.value)}")

    def _attempt_failed(self, live: LiveTrial, attempt: Attempt, event: Failed) -> None:
        if event.cause is Cause.STOPPED:
            return  # its trial stays as it is for the next run
        if event.cause.is_infrastructure and live.retries < self._plan.retries:
            live.retries += 1
            self._waiting.append(live)
            self._note(
                "retry",
                f"trial {live.number} lost its worker ({event.message}); attempt "
                f"{len(live.attempts) + 1} follows",
            )
            return
        self._failed(live, attempt, event.traceback, event.log_tail)

    def _tell(self, live: LiveTrial, attempt: Attempt) -> None:
        """Tell Optuna of a trial that completed or was pruned."""
        if attempt.cause is Cause.OK:
            frozen = self.study.tell(live.trial, list(attempt.values))
            self.status.complete += 1
            self._compare(frozen)
            values = ", ".join(score(value) for value in attempt.values)
            best = " · best so far" if self._is_best(live.number) else ""
            self._note("complete", f"trial {live.number} {values}{best} · {live.label}")
        else:
            frozen = self.study.tell(live.trial, state=TrialState.PRUNED)
            self.status.pruned += 1
            value = f" at {score(frozen.value)}" if frozen.value is not None else ""
            self._note("pruned", f"trial {live.number} pruned{value} · {live.label}")
        self._errors_in_a_row = 0
        self._retention.after(frozen)

    def _failed(
        self, live: LiveTrial, attempt: Attempt, trace: str = "", log_tail: str = ""
    ) -> None:
        """Tell Optuna of a trial that failed, and stop the study if that is no accident."""
        assert attempt.cause is not None
        frozen = self.study.tell(live.trial, state=TrialState.FAIL)
        self.status.failed += 1
        self._retention.after(frozen)
        self._note(
            "failed",
            f"trial {live.number} failed ({attempt.cause}): {attempt.message}",
            1,
            log_tail,
        )
        if attempt.cause.is_error:
            self._errors_in_a_row += 1
        if self._errors_in_a_row >= ERRORS_IN_A_ROW:
            self._stop(
                f"the objective failed {ERRORS_IN_A_ROW} times in a row, last in trial "
                f"{live.number}: {attempt.message}\n{trace}".rstrip()
            )
        elif self.status.failed >= self._plan.max_failures:
            self._stop(
                f"{self.status.failed} trials have failed, which is the limit (--max-failures "
                f"{self._plan.max_failures}); the last: {attempt.cause}: {attempt.message}"
            )

    def _stop(self, reason: str) -> None:
        self._fatal = self._fatal or reason
        self.interrupt()

    def _handle_baseline(self, baseline: _Baseline, event: AnyEvent) -> None:
        match event:
            case Done():
                self._forget(event.attempt)
                metrics = event.user_attrs.get("metrics", {})
                record = {
                    "params": baseline.params,
                    "value": event.values[0],
                    "metrics": metrics,
                }
                records = [*self.study.user_attrs.get(BASELINES, []), record]
                self.study.set_user_attr(BASELINES, records)
                self._compare_baseline(event.values[0], baseline.label)
                self._note("baseline", f"{baseline.label}, untuned: {score(event.values[0])}")
            case Failed():
                self._forget(event.attempt)
                if event.cause.is_infrastructure and baseline.retries < self._plan.retries:
                    baseline.retries += 1
                    self._waiting.appendleft(baseline)
                    return
                self._note(
                    "failed",
                    f"{baseline.label}, untuned, could not be scored ({event.cause}): "
                    f"{event.message}",
                    1,
                    event.log_tail,
                )

    # Bookkeeping.

    def _forget(self, attempt: str) -> None:
        del self._running[attempt]
        del self.status.running[attempt]

    def _compare(self, trial: FrozenTrial) -> None:
        if len(self._directions) > 1 or trial.value is None:
            return
        if self.status.best is None or self.status.better(trial.value, self.status.best[0]):
            self.status.best = (trial.value, trial.number)

    def _compare_baseline(self, value: float, label: str) -> None:
        if self.status.baseline is None or self.status.better(value, self.status.baseline[0]):
            self.status.baseline = (value, label)

    def _is_best(self, number: int) -> bool:
        return self.status.best is not None and self.status.best[1] == number

    def _label(self, params: dict[str, Any]) -> str:
        label = getattr(self._objective, "label", None)
        return label(params) if label is not None and params else default_label(params)

    def _note(self, kind: Kind, text: str, attempt: int = 1, detail: str = "") -> None:
        again = f" (attempt {attempt})" if attempt > 1 else ""
        for observer in self._observers:
            observer.on(Moment(kind, text + again, detail), self.status)


def default_label(params: dict[str, Any]) -> str:
    """Describe ``params`` in one short line."""
    return " · ".join(f"{name} {parameter(value)}" for name, value in params.items())
