"""The coordinator: one loop that owns a study.

It asks Optuna for trials, hands attempts to an executor, answers what they say and tells Optuna how
they ended. It is the storage's only writer and has no threads; everything it needs to go on after a
crash is in the storage.

The storage may go away at any statement. So whatever writes to it here can be done again from its
start: first everything is written, then what this process knows is changed.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from hpo.attempts import Attempt, LiveTrial, read_attempts
from hpo.baselines import Baseline, Baselines
from hpo.database import Database
from hpo.errors import StudyStoppedError
from hpo.executors import Executor
from hpo.importing import TrialImport
from hpo.journal import Journal
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
from hpo.requirements import MissingMetricError, violations
from hpo.retention import Retention
from hpo.status import Kind, Moment, Observer, RunningTrial, Status
from hpo.tally import Tally, is_feasible
from hpo.text import duration, parameter, score
from storage import is_outage

ERRORS_IN_A_ROW = 3
"""So many trials in a row that fail by the objective's own fault stop the study."""

TICK_SECONDS = 0.5
"""How long the loop waits for an event before it looks at clocks and signals."""

INTERRUPTED = "interrupted"
"""Why no further trials start after Ctrl-C or SIGTERM."""


@dataclass
class _Running:
    """An attempt that the executor runs."""

    subject: LiveTrial | Baseline
    view: RunningTrial
    sequence: int = -1
    overdue: bool = False


class Coordinator:
    """Runs a study to its target.

    Args:
        study: Optuna's study.
        storage: The storage that holds it.
        database: Whether the storage may be used now.
        objective: The objective, for what it offers the coordinator (suggest, baselines, label).
        executor: Where attempts run.
        plan: What is to be done.
        observers: Who watches.
        imports: Old trials that join once a new one has shown where they fit.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        database: Database,
        objective: Objective,
        executor: Executor,
        plan: Plan,
        observers: Iterable[Observer] = (),
        imports: TrialImport | None = None,
    ) -> None:
        self.study = study
        self._storage = storage
        self._database = database
        self._objective = objective
        self._executor = executor
        self._plan = plan
        self._observers = list(observers)
        self._imports = imports
        self._directions: tuple[Direction, ...] = tuple(
            "maximize" if each.name == "MAXIMIZE" else "minimize" for each in study.directions
        )
        self._running: dict[str, _Running] = {}
        self._waiting: deque[LiveTrial | Baseline] = deque()
        self._lost: Counter[int | str] = Counter()
        """Attempts lost to the infrastructure, by trial number or baseline."""
        self._journal = Journal(plan.journal)
        self._taken_up = False
        """Whether this process knows what the storage held when it started."""
        self._stale = True
        """Whether the storage may hold what this process does not know."""
        self._errors_in_a_row = 0
        self._deadline = None if plan.timeout is None else time.monotonic() + plan.timeout
        self.ended_early = ""
        """Why no further trials start before the target; empty while they do."""
        self._said_why = False
        self._interrupted = False
        self._fatal = ""
        self._retention = Retention(study, plan.trials_directory, plan.keep)
        self.status = Status(
            study=plan.study,
            metric=getattr(objective, "metric_name", None),
            maximize=self._directions[0] == "maximize",
            trials=plan.trials,
        )
        self._tally = Tally(self.status, plan, single=len(self._directions) == 1)
        self._baselines = Baselines(study, objective, self._label, self.status)

    # Requests from outside the loop, such as a signal handler: they set a flag and return.

    def drain(self, reason: str) -> None:
        """Start no further trials; the running ones finish."""
        self.ended_early = self.ended_early or reason

    def interrupt(self) -> None:
        """Stop what runs; the trials stay as they are, and the same command takes them up."""
        self.ended_early = INTERRUPTED
        self._interrupted = True

    def run(self) -> None:
        """Run until the target is reached or something ends the study.

        Raises:
            StudyStoppedError: The objective failed too often, or the database was away for too
                long; what it lacks is in the plan's journal then.
        """
        try:
            self._loop()
        except StudyStoppedError as error:
            self._stop(str(error))
        if self._interrupted:
            self._stop_what_runs()
        if self._journal:
            self._fatal = self._fatal or f"the database is away: {self._database.failure}"
            self._fatal += (
                f"\n{len(self._journal)} events that it lacks are kept in {self._journal.path}; "
                "when it is back, the same command writes them and goes on."
            )
        self._note("end", self._fatal or self.ended_early or "all trials are finished")
        if self._fatal:
            raise StudyStoppedError(self._fatal)

    def _loop(self) -> None:
        while not self._interrupted:
            if self._database.ready():
                with self._database.riding_out():
                    self._catch_up()
                    self._dispatch()
            if not self._running and not self._journal and self._nothing_to_do():
                return
            for event in self._executor.events(TICK_SECONDS):
                self._receive(event)
            self._look_at_the_clocks()
            self._say_why_it_ends()
            self.status.away = self._database.is_away
            with self._database.riding_out():
                for observer in self._observers:
                    observer.tick(self.status)

    def _say_why_it_ends(self) -> None:
        if self.ended_early and not self._said_why:
            self._said_why = True
            left = len(self._running) + len(self._waiting)
            again = "; Ctrl-C again stops them" if self.ended_early == INTERRUPTED else ""
            finish = f"; {left} running trials finish{again}" if left else ""
            self._note("stop", f"{self.ended_early}: no further trials start{finish}")

    def _nothing_to_do(self) -> bool:
        # A database that is away may hold something to do, unless nothing is to start any more.
        return bool(self.ended_early) or not (self._database.is_away or self._stale)

    def _look_at_the_clocks(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.drain("the time is up")
        limit = self._plan.trial_timeout
        if limit is None:
            return
        for attempt, running in self._running.items():
            if not running.overdue and time.monotonic() - running.view.since > limit:
                running.overdue = True
                self._executor.stop(attempt)

    def _stop_what_runs(self) -> None:
        """End the running attempts, and say so in the storage if it is there."""
        for attempt, running in list(self._running.items()):
            self._executor.stop(attempt)
            if isinstance(running.subject, LiveTrial):
                self._note("stop", f"trial {running.subject.number} is stopped", running)
                if not self._database.is_away:
                    with self._database.riding_out():
                        attempts = running.subject.attempts
                        attempts[-1].close(Cause.STOPPED, "stopped by the coordinator")
                        running.subject.save()
            self._forget(attempt)

    # What the storage holds and this process does not know: after a start, and after an outage.

    def _catch_up(self) -> None:
        """Bring this process and the storage to the same state; may be done again at any time."""
        away = self._database.is_away
        if away or self._stale:
            self._survey()
            for running in self._running.values():
                if isinstance(running.subject, LiveTrial):
                    running.subject.save()
        kept = len(self._journal)
        while self._journal:
            self._handle(self._journal.first)
            self._journal.drop_first()
        if away:
            seconds = duration(self._database.away_seconds())
            self._database.back()
            self._note(
                "database",
                f"the database is back after {seconds}; {kept} events written",
                kept=kept,
            )

    def _survey(self) -> None:
        """Count what is finished, drop what another coordinator took over, line up what is left."""
        trials = self.study.get_trials(deepcopy=False)
        self._tally.recount(trials)
        self._retention.recount(trials)
        self._drop_superseded(trials)
        if not self._taken_up:
            self.status.finished_before = self.status.finished
        known = {
            each.subject.number
            for each in self._running.values()
            if isinstance(each.subject, LiveTrial)
        }
        self._waiting = deque(each for each in self._waiting if isinstance(each, Baseline))
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.number not in known:
                self._resume(trial)
        if not self._taken_up:
            missing = self._baselines.missing()
            if self._plan.trials > self.status.finished:
                self._waiting.extendleft(reversed(missing))
        self._taken_up, self._stale = True, False
        reason = self._tally.enough()
        if reason:
            self.drain(reason)

    def _drop_superseded(self, trials: list[FrozenTrial]) -> None:
        """Stop attempts whose trial got another attempt while the study was not ours."""
        attrs = {trial.number: trial.user_attrs for trial in trials}
        for attempt, running in list(self._running.items()):
            if isinstance(running.subject, Baseline):
                continue
            noted = read_attempts(attrs.get(running.subject.number, {}))
            if not noted or noted[-1].id != attempt:
                self._note("stop", f"trial {running.subject.number} was taken over", running)
                self._executor.stop(attempt)
                self._forget(attempt)

    def _resume(self, frozen: FrozenTrial) -> None:
        """Go on with a trial that an earlier coordinator, or an outage, left unfinished."""
        live = LiveTrial.of(self._trial(frozen.number), frozen.intermediate_values)
        live.label = self._label(frozen.params)
        last = live.attempts[-1] if live.attempts else None
        if last is not None and last.end is None:
            self._resume_open(live, last)
        elif last is not None and last.cause in (Cause.OK, Cause.PRUNED):
            # Its result was heard; only telling it was cut short.
            self._tell(live, last)
        elif last is None or last.cause is Cause.STOPPED or self._may_retry(live, last):
            self._note("retry", f"trial {live.number} goes on where the last run left it", live)
            self._waiting.append(live)
        else:
            self._failed(live, last)

    def _resume_open(self, live: LiveTrial, last: Attempt) -> None:
        """Go on with a trial whose last attempt has no end yet."""
        view = RunningTrial(live.number, live.label, len(live.attempts))
        running = _Running(live, view)
        for event in self._journal.of(last.id):
            self._handle_trial(running, live, event)
        if last.end is not None:
            return
        task = self._plan.trial_task(live, last, self._directions)
        if self._executor.attach(task, last.handle):
            self._register(last, running)
            self._note("retry", f"trial {live.number} is taken up while it runs", running)
            return
        last.close(Cause.LOST, "the coordinator ended")
        live.save()
        self._note("retry", f"trial {live.number} goes on where the last run left it", live)
        self._waiting.append(live)

    def _trial(self, number: int) -> Trial:
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return Trial(
            self.study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        )

    # Dispatch.

    def _dispatch(self) -> None:
        """Fill the executor: first what waits, then new trials."""
        while len(self._running) < self._executor.capacity and not self._interrupted:
            if self._waiting:
                # Also while draining: a trial that waits for another attempt is a running one.
                self._submit(self._waiting[0])
                self._waiting.popleft()
                continue
            if self.ended_early:
                return
            under_way = sum(isinstance(each.subject, LiveTrial) for each in self._running.values())
            if self.status.finished + under_way >= self._plan.trials:
                return
            live = LiveTrial.of(self.study.ask())
            if self._sample(live):
                sampler = type(self.study.sampler).__name__
                what = live.label or "parameters as the objective asks for them"
                self._note("ask", f"trial {live.number}: {what}", live, sampler=sampler)
                self._submit(live)

    def _sample(self, live: LiveTrial) -> bool:
        """Sample the trial's parameters where the objective offers it; False if that failed."""
        suggest = getattr(self._objective, "suggest", None)
        if suggest is not None:
            try:
                suggest(live.trial)
            except Exception as error:
                if is_outage(error) or isinstance(error, StorageInternalError):
                    raise  # the database's fault, not the objective's
                attempt = live.begin()
                attempt.close(Cause.BUG, f"{type(error).__name__}: {error}")
                live.save()
                self._failed(live, attempt, traceback.format_exc())
                return False
        live.label, live.sampled = self._label(live.trial.params), True
        return True

    def _submit(self, subject: LiveTrial | Baseline) -> None:
        if isinstance(subject, Baseline):
            subject.attempts += 1
            attempt = Attempt.new(BASELINE_TRIAL, subject.attempts)
            self._executor.submit(self._plan.baseline_task(subject.params, attempt))
            view = RunningTrial(BASELINE_TRIAL, subject.label, subject.attempts)
            self._register(attempt, _Running(subject, view))
            return
        # A half-asked trial of an earlier coordinator still lacks parameters.
        if not subject.sampled and not self._sample(subject):
            return
        attempt = subject.begin()
        task = self._plan.trial_task(subject, attempt, self._directions)
        attempt.handle = self._executor.submit(task)
        view = RunningTrial(subject.number, subject.label, len(subject.attempts))
        running = _Running(subject, view)
        # Known as running before its handle is written: an outage must not lose sight of it.
        self._register(attempt, running)
        what = f" · {subject.label}" if subject.label else ""
        self._note(
            "start",
            f"trial {subject.number} starts{what}",
            running,
            params=subject.trial.params,
            resume=task.resume,
            handle=attempt.handle,
        )
        subject.save()

    # Events.

    def _receive(self, event: AnyEvent) -> None:
        """Handle an event, or keep it if the database is away."""
        running = self._running.get(event.attempt)
        if running is None or event.sequence <= running.sequence:
            return  # of a superseded attempt, or a repeat
        running.sequence = event.sequence
        if not self._journal and not self._database.is_away:
            with self._database.riding_out():
                self._handle(event)
            if not self._database.is_away:
                return
            reason = self._database.failure
            self._note("database", f"the database is away ({reason}); trials go on", reason=reason)
        self._journal.append(event)
        if isinstance(event, Report):
            running.view.step, running.view.value = event.step, event.value
            # Kept on disk, so it may be acknowledged; if it is to be pruned, it hears so later.
            self._executor.reply(event.attempt, Verdict(step=event.step, prune=False))

    def _handle(self, event: AnyEvent) -> None:
        running = self._running.get(event.attempt)
        if running is None:
            return  # it ended meanwhile
        if isinstance(running.subject, Baseline):
            self._handle_baseline(running, running.subject, event)
        else:
            self._handle_trial(running, running.subject, event)

    def _handle_trial(self, running: _Running, live: LiveTrial, event: AnyEvent) -> None:
        try:
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
                    self._done(live, event)
                    self._forget(event.attempt)
                case Failed():
                    self._attempt_failed(running, live, event)
                    self._forget(event.attempt)
        except UpdateFinishedTrialError:
            # Told by somebody else, such as a person at the dashboard: what runs is in vain.
            self._note("stop", f"trial {live.number} was ended from outside", running)
            self._executor.stop(event.attempt)
            self._forget(event.attempt)
            self._stale = True

    def _report(self, running: _Running, live: LiveTrial, event: Report) -> None:
        live.report(event.step, event.value)
        prune = live.trial.should_prune()
        self._executor.reply(event.attempt, Verdict(step=event.step, prune=prune))
        running.view.step, running.view.value = event.step, event.value
        facts: dict[str, Any] = {"step": event.step, "value": event.value}
        self._note(
            "report",
            f"trial {live.number} step {event.step}: {score(event.value)}",
            running,
            **facts,
        )
        pruner = type(self.study.pruner).__name__
        verdict = f"to be pruned ({pruner})" if prune else "goes on"
        self._note(
            "verdict",
            f"trial {live.number} step {event.step}: {verdict}",
            running,
            prune=prune,
            pruner=pruner,
            **facts,
        )

    def _done(self, live: LiveTrial, event: Done) -> None:
        live.absorb(event)
        if event.state == "complete":
            try:
                live.constrain(self._violations(event, live))
            except MissingMetricError as error:
                failure = Failed(
                    attempt=event.attempt,
                    sequence=event.sequence,
                    cause=Cause.BAD_INPUT,
                    message=str(error),
                )
                self._failed(live, live.end(failure))
                self._stop(f"trial {live.number}: {error}")
                return
        self._tell(live, live.end(event))

    def _violations(self, event: Done, live: LiveTrial) -> dict[str, float]:
        metrics = live.trial.user_attrs.get("metrics", {})
        value = event.values[0] if len(event.values) == 1 else None
        return violations(self._plan.requirements, metrics, value, self.status.metric)

    def _attempt_failed(self, running: _Running, live: LiveTrial, event: Failed) -> None:
        if running.overdue and event.cause is Cause.STOPPED:
            limit = duration(self._plan.trial_timeout or 0)
            event = event.model_copy(
                update={"cause": Cause.TIMEOUT, "message": f"it ran longer than {limit}"}
            )
        attempt = live.end(event)
        if event.cause is Cause.STOPPED:
            return  # its trial stays as it is for the next run
        if self._may_retry(live, attempt):
            self._lost[live.number] += 1
            self._waiting.append(live)
            self._note(
                "retry",
                f"trial {live.number} lost its worker ({event.message}); attempt "
                f"{len(live.attempts) + 1} follows",
                running,
                cause=str(event.cause),
            )
            return
        self._failed(live, attempt, event.traceback, event.log_tail)

    def _may_retry(self, live: LiveTrial, attempt: Attempt) -> bool:
        """Whether a trial whose attempt ended so gets another one."""
        assert attempt.cause is not None
        return attempt.cause.is_infrastructure and self._lost[live.number] < self._plan.retries

    def _tell(self, live: LiveTrial, attempt: Attempt) -> None:
        """Tell Optuna of a trial that completed or was pruned."""
        # Finished already means: told before, and only the database's answer was lost.
        if attempt.cause is Cause.OK:
            frozen = self.study.tell(live.trial, list(attempt.values), skip_if_finished=True)
        else:
            frozen = self.study.tell(live.trial, state=TrialState.PRUNED, skip_if_finished=True)
        imported = self._imports.learn(frozen) if self._imports is not None else []
        self._retention.after(frozen)
        best = self._tally.count(frozen)
        for trial in imported:
            self._tally.count(trial)
        self._errors_in_a_row = 0
        facts: dict[str, Any] = {
            "cause": str(attempt.cause),
            "values": frozen.values,
            "params": frozen.params,
        }
        if attempt.cause is Cause.OK:
            text = f"trial {live.number} {', '.join(score(value) for value in attempt.values)}"
            text += " · best so far" if best else "" if is_feasible(frozen) else " · infeasible"
            facts["constraints"] = frozen.constraints
            self._note("complete", f"{text} · {live.label}", live, **facts)
        else:
            value = f" at {score(frozen.value)}" if frozen.value is not None else ""
            self._note("pruned", f"trial {live.number} pruned{value} · {live.label}", live, **facts)
        reason = self._tally.enough()
        if reason:
            self.drain(reason)

    def _failed(
        self, live: LiveTrial, attempt: Attempt, trace: str = "", log_tail: str = ""
    ) -> None:
        """Tell Optuna of a trial that failed, and stop the study if that is no accident."""
        assert attempt.cause is not None
        frozen = self.study.tell(live.trial, state=TrialState.FAIL, skip_if_finished=True)
        self._retention.after(frozen)
        self._tally.count(frozen)
        self._note(
            "failed",
            f"trial {live.number} failed ({attempt.cause}): {attempt.message}",
            live,
            log_tail,
            cause=str(attempt.cause),
            params=frozen.params,
            traceback=trace,
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

    def _handle_baseline(self, running: _Running, baseline: Baseline, event: AnyEvent) -> None:
        match event:
            case Done():
                self._baselines.scored(baseline, event)
                value = event.values[0]
                self._note(
                    "baseline",
                    f"{baseline.label}, untuned: {score(value)}",
                    running,
                    params=baseline.params,
                    value=value,
                )
                self._forget(event.attempt)
            case Failed() if (
                event.cause.is_infrastructure and self._lost[baseline.label] < self._plan.retries
            ):
                self._lost[baseline.label] += 1
                self._waiting.appendleft(baseline)
                self._forget(event.attempt)
            case Failed():
                self._note(
                    "failed",
                    f"{baseline.label}, untuned, could not be scored ({event.cause}): "
                    f"{event.message}",
                    running,
                    event.log_tail,
                    cause=str(event.cause),
                )
                self._forget(event.attempt)

    # Bookkeeping.

    def _register(self, attempt: Attempt, running: _Running) -> None:
        self._running[attempt.id] = running
        self.status.running[attempt.id] = running.view

    def _forget(self, attempt: str) -> None:
        self._running.pop(attempt, None)
        self.status.running.pop(attempt, None)

    def _label(self, params: dict[str, Any]) -> str:
        label = getattr(self._objective, "label", None)
        return label(params) if label is not None and params else default_label(params)

    def _note(
        self,
        kind: Kind,
        text: str,
        of: _Running | LiveTrial | None = None,
        detail: str = "",
        **data: Any,
    ) -> None:
        """Tell the observers."""
        subject = of.subject if isinstance(of, _Running) else of
        number = attempt = None
        if isinstance(subject, LiveTrial):
            number = subject.number
            attempt = subject.attempts[-1].id if subject.attempts else None
            if len(subject.attempts) > 1 and kind in ("start", "report", "failed"):
                text += f" (attempt {len(subject.attempts)})"
        for observer in self._observers:
            observer.on(Moment(kind, text, detail, number, attempt, data), self.status)


def default_label(params: dict[str, Any]) -> str:
    """Describe ``params`` in one short line."""
    return " · ".join(f"{name} {parameter(value)}" for name, value in params.items())
