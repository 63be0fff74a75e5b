"""The coordinator: one loop that owns a study.

It asks Optuna for trials, hands attempts to an executor, answers what they say and tells Optuna how
they ended. It is the storage's only writer and has no threads; everything it needs to go on after a
crash is in the storage.

The storage may go away at any statement. So whatever writes to it here can be done again from its
start: first everything is written, then what this process knows is changed.

The module is long because its transitions share one state and are best read together. What can
stand alone does: the roster of attempts, telling and counting, baselines, the finals, what extras
say, money, the journal, the database's health.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from hpo.announcer import Announcer
from hpo.attempts import Attempt, LiveTrial, read_attempts
from hpo.baselines import Baseline, Baselines
from hpo.budget import Ledger
from hpo.database import Database
from hpo.errors import InputError, StudyStoppedError
from hpo.evaluation import Evaluation
from hpo.executors import Executor
from hpo.extra_telling import ExtraTeller
from hpo.extras import Extra
from hpo.finalists import FinalistRun
from hpo.finals import Finals
from hpo.grid import has_more
from hpo.importing import TrialImport
from hpo.journal import Journal
from hpo.known_space import KnownSpace
from hpo.objective import Objective
from hpo.plan import Plan
from hpo.protocol import (
    SCORES,
    AnyEvent,
    Cause,
    Direction,
    Done,
    Failed,
    Report,
    SetAttr,
    Started,
    Suggest,
    Task,
    Verdict,
)
from hpo.roster import Roster, Running
from hpo.scores import keep_scores, scores_path
from hpo.status import Observer, RunningTrial, Status
from hpo.telling import Teller
from hpo.text import duration, parameter, score
from storage import is_outage

TICK_SECONDS = 0.5
"""How long the loop waits for an event before it looks at clocks and signals."""

INTERRUPTED = "interrupted"
"""Why no further trials start after Ctrl-C or SIGTERM."""

STOPPED = "stopped"
"""Why no further trials start after something that going on would not mend."""

TIME_IS_UP = "the time is up"
"""Why no further trials start after ``--timeout``."""

HANDED_OVER = "handed over"
"""Why no further trials start in a coordinator whose work another one is to take up at once."""

BILL_SECONDS = 10.0
"""How long attempts that are stopped may take to say what they cost; then it is the worst case."""


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
        known_space: What parameters must be drawn from; ``None`` to leave that to the objective.
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
        known_space: KnownSpace | None = None,
    ) -> None:
        self.study = study
        self._storage = storage
        self._database = database
        self._objective = objective
        self._executor = executor
        self._plan = plan
        self._known_space = known_space
        self._directions: tuple[Direction, ...] = tuple(
            "maximize" if each.name == "MAXIMIZE" else "minimize" for each in study.directions
        )
        self._waiting: deque[LiveTrial | Extra] = deque()
        self._lost: Counter[int] = Counter()
        """Attempts lost to the infrastructure, by trial number."""
        self._journal = Journal(plan.journal)
        self._taken_up = False
        """Whether this process knows what the storage held when it started."""
        self._stale = True
        """Whether the storage may hold what this process does not know."""
        self._deadline = None if plan.timeout is None else time.monotonic() + plan.timeout
        self.ended_early = ""
        """Why no further trials start before the target; empty while they do."""
        self._said_why = False
        self._interrupted = False
        self._handed_over = ""
        self._fatal = ""
        self.status = Status(
            study=plan.study,
            metric=getattr(objective, "metric_name", None),
            maximize=self._directions[0] == "maximize",
            trials=plan.trials,
        )
        self._running = Roster(executor, self.status)
        self._announcer = Announcer(observers, self.status)
        self._teller = Teller(study, plan, self.status, self._announcer, imports, executor.discard)
        self._baselines = Baselines(study, objective, self._label, self.status)
        self._ledger = Ledger(study, self.status, plan.max_cost, executor.worst_case)
        self._finals = Finals(
            study, objective, plan, self._label, self.status, self._announcer, executor.discard
        )
        self._extra_teller = ExtraTeller(
            self._baselines, self._finals, executor, self._announcer, plan.retries
        )

    # Requests from outside the loop, such as a signal handler: they set a flag and return.

    def drain(self, reason: str) -> None:
        """Start no further trials; the running ones finish."""
        self.ended_early = self.ended_early or reason

    def interrupt(self) -> None:
        """Stop what runs; the trials stay as they are, and the same command takes them up."""
        self.ended_early = INTERRUPTED
        self._interrupted = True

    def hand_over(self, reason: str = HANDED_OVER) -> None:
        """Leave everything as it is; what runs goes on, and the next coordinator takes it up."""
        self.ended_early = HANDED_OVER
        self._handed_over = reason

    def run(self) -> None:
        """Run until the target is reached or something ends the study.

        Raises:
            StudyStoppedError: The objective failed too often, or the database was away for too
                long; what it lacks is in the plan's journal then.
            InputError: The objective samples from another space than the study's.
        """
        refusal: InputError | None = None
        self._announcer.note("begin", f"a run for {self._plan.trials} trials in all begins")
        try:
            self._loop()
        except StudyStoppedError as error:
            self._stop(str(error))
        except InputError as error:
            refusal = error
            self._stop(str(error))
        if self._interrupted:
            self._stop_what_runs()
        if not self._database.is_away:
            with self._database.riding_out():
                self._note_other_costs()
        if self._journal:
            self._fatal = self._fatal or f"the database is away: {self._database.failure}"
            self._fatal += (
                f"\n{len(self._journal)} events that it lacks are kept in {self._journal.path}; "
                "when it is back, the same command writes them and goes on."
            )
        reason = self._fatal or self._handed_over or self.ended_early
        self._announcer.note("end", reason or "all trials are finished")
        if refusal is not None:
            raise refusal
        if self._fatal:
            raise StudyStoppedError(self._fatal)

    def _loop(self) -> None:
        while not self._interrupted:
            if self._database.ready():
                with self._database.riding_out():
                    self._catch_up()
                    self._note_other_costs()
                    self._dispatch()
            if self._handed_over and not self._database.is_away:
                return  # everything that was heard is written
            if not self._running and not self._journal and self._nothing_to_do():
                return
            for event in self._executor.events(TICK_SECONDS):
                self._receive(event)
            self._heed_the_teller()
            self._look_at_the_clocks()
            self._say_why_it_ends()
            self._say_what_is_away()
            with self._database.riding_out():
                self._announcer.tick()

    def _note_other_costs(self) -> None:
        self._ledger.add(self._executor.other_costs())
        self._ledger.save()

    def _heed_the_teller(self) -> None:
        if self._teller.enough:
            self.drain(self._teller.enough)
        if self._teller.fatal:
            self._stop(self._teller.fatal)

    def _stop(self, reason: str) -> None:
        self._fatal = self._fatal or reason
        self.drain(STOPPED)
        self._interrupted = True

    def _say_why_it_ends(self) -> None:
        if self.ended_early and not self._said_why and not self._interrupted:
            self._said_why = True
            left = len(self._running) + len(self._waiting)
            again = "; Ctrl-C again stops them" if self.ended_early == INTERRUPTED else ""
            finish = f"; {left} running trials finish{again}" if left else ""
            self._announcer.note("stop", f"{self.ended_early}: no further trials start{finish}")

    def _say_what_is_away(self) -> None:
        if self._database.is_away and not self.status.away:
            self.status.away = True
            why = self._database.failure
            self._announcer.note(
                "database", f"the database is away ({why}); trials go on", reason=why
            )

    def _nothing_to_do(self) -> bool:
        # A database that is away may hold something to do, unless nothing is to start any more.
        return bool(self.ended_early) or not (self._database.is_away or self._stale)

    def _look_at_the_clocks(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.drain(TIME_IS_UP)
        if self._plan.trial_timeout is not None:
            self._running.stop_overdue(self._plan.trial_timeout)

    def _stop_what_runs(self) -> None:
        """End the running attempts, and say so in the storage if it is there."""
        for attempt, running in self._running.items():
            self._executor.stop(attempt)
            live = running.subject
            ended = running.abandoned or self._journal.has_end(attempt)
            if isinstance(live, LiveTrial) and not ended:
                self._announcer.note("stop", f"trial {live.number} is stopped", live)
        if self.status.worst_case > 0:
            self._hear_bills()
        for attempt, running in self._running.items():
            subject = running.subject
            ended = running.abandoned or self._journal.has_end(attempt)
            if not ended and not self._database.is_away:
                with self._database.riding_out(), self._unless_ended(subject):
                    subject.attempts[-1].close(Cause.STOPPED, "stopped by the coordinator")
                    subject.save()
            self._ledger.settle(attempt, None)
            self._running.forget(attempt)

    def _hear_bills(self) -> None:
        """Wait for a moment for what was stopped to say what it cost."""
        deadline = time.monotonic() + BILL_SECONDS
        try:
            while time.monotonic() < deadline:
                if all(self._journal.has_end(attempt) for attempt, _ in self._running.items()):
                    return
                for event in self._executor.events(TICK_SECONDS):
                    if isinstance(event, Done | Failed):
                        self._receive(event)
        except StudyStoppedError as error:  # such as the one that brought us here
            self._fatal = self._fatal or str(error)

    # What the storage holds and this process does not know: after a start, and after an outage.

    def _catch_up(self) -> None:
        """Bring this process and the storage to the same state; may be done again at any time."""
        away = self._database.is_away
        if away or self._stale:
            self._survey()
            for subject in self._running.subjects():
                with self._unless_ended(subject):
                    subject.save()
        kept = len(self._journal)
        while self._journal:
            self._handle(self._journal.first)
            self._journal.drop_first()
        if away:
            seconds = duration(self._database.away_seconds())
            self._database.back()
            self.status.away = False
            self._announcer.note(
                "database",
                f"the database is back after {seconds}; {kept} events written",
                kept=kept,
            )

    def _survey(self) -> None:
        """Count what is finished, drop what another coordinator took over, line up what is left."""
        trials = self.study.get_trials(deepcopy=False)
        self._teller.recount(trials)
        self._ledger.recount(trials)
        self._finals.forget()
        self._drop_superseded(trials)
        if not self._taken_up:
            self.status.finished_before = self.status.finished
        known = {live.number for live in self._running.trials()}
        running = self._running.subjects()
        # Not one whose start was cut short by an outage after it had begun.
        self._waiting = deque(
            each for each in self._waiting if isinstance(each, Extra) and each not in running
        )
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.number not in known:
                self._resume(trial)
        if not self._taken_up:
            self._resume_baselines()
            self._resume_finals()
            self.status.spent_before = self.status.spent
        self._taken_up, self._stale = True, False

    def _resume_baselines(self) -> None:
        """Line up what has no score yet, before the trials, and find what still runs."""
        known = [
            each.params
            for each in [*self._running.subjects(), *self._waiting]
            if isinstance(each, Baseline)
        ]
        for baseline in reversed(self._baselines.missing()):
            if baseline.params in known:
                continue  # an outage cut short an earlier try
            last = baseline.last
            if last is not None and last.end is None:
                self._resume_open(baseline, last)
            else:
                self._line_up(baseline)

    def _resume_finals(self) -> None:
        """Find what still runs of the finals; what does not begins again in its turn."""
        for extra in self._finals.unfinished():
            last = extra.last
            if last is not None and not any(map(extra.is_same, self._running.subjects())):
                self._resume_open(extra, last)

    def _drop_superseded(self, trials: list[FrozenTrial]) -> None:
        """Stop attempts whose trial was ended, or tried again, while the study was not ours."""
        found = {trial.number: trial for trial in trials}
        for attempt, running in self._running.items():
            live = running.subject
            if isinstance(live, Extra) or running.abandoned:
                continue
            trial = found.get(live.number)
            noted = read_attempts(trial.user_attrs) if trial is not None else []
            if trial is None or not noted or noted[-1].id != attempt:
                self._announcer.note("stop", f"trial {live.number} was taken over", live)
                self._running.abandon(attempt)
            elif trial.state.is_finished() and not self._journal.has_end(attempt):
                # Else it may have been told by ourselves, and only the answer was lost.
                self._ended_outside(live)

    @contextmanager
    def _unless_ended(self, live: LiveTrial | Extra) -> Iterator[None]:
        """Write to a trial, unless it was told by somebody else, such as a person at the dashboard.

        What runs of it is in vain then, and is stopped.
        """
        try:
            yield
        except UpdateFinishedTrialError:
            self._ended_outside(live)

    def _ended_outside(self, live: LiveTrial | Extra) -> None:
        self._announcer.note("stop", f"trial {live.number} was ended from outside", live)
        self._stale = True
        for attempt, running in self._running.items():
            if running.subject is live:
                self._running.abandon(attempt)

    def _resume(self, frozen: FrozenTrial) -> None:
        """Go on with a trial that an earlier coordinator, or an outage, left unfinished."""
        live = LiveTrial.of(
            Trial(self.study, self._trial_id(frozen.number)), frozen.intermediate_values
        )
        live.label = self._label(frozen.params)
        last = live.last
        if last is not None and last.end is None:
            self._resume_open(live, last)
        elif last is not None and last.cause in (Cause.OK, Cause.PRUNED):
            # Its result was heard; only telling it was cut short.
            self._teller.tell(live, last)
        elif last is None or last.cause is Cause.STOPPED or self._may_retry(live, last):
            self._line_up(live)
        else:
            self._teller.failed(live, last)

    def _resume_open(self, subject: LiveTrial | Extra, last: Attempt) -> None:
        """Go on with a trial or an extra whose last attempt has no end yet."""
        running = self._run_of(subject)
        running.view.started = last.machine is not None
        for event in self._journal.of(last.id):
            self._handle_of(running, event)
        if last.cause is Cause.STOPPED:
            self._line_up(subject)
        if last.end is not None:
            return
        if self._executor.attach(self._task(subject, last), last.handle):
            self._ledger.reserve(last)
            self._running.add(last.id, running)
            name = f"trial {subject.number}" if isinstance(subject, LiveTrial) else subject.label
            self._announcer.note("retry", f"{name} is taken up while it runs", subject)
            return
        last.close(Cause.LOST, "the coordinator ended")
        subject.save()
        self._line_up(subject)

    def _line_up(self, subject: LiveTrial | Extra) -> None:
        if isinstance(subject, LiveTrial):
            self._announcer.note(
                "retry", f"trial {subject.number} goes on where the last run left it", subject
            )
            self._waiting.append(subject)
        elif isinstance(subject, Baseline) and self._plan.trials > self.status.finished:
            self._waiting.appendleft(subject)

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    # Dispatch.

    def _dispatch(self) -> None:
        """Fill the executor: first what waits, then new trials, and at last the finals."""
        while len(self._running) < self._executor.capacity:
            self._heed_the_teller()
            if self._interrupted or self._handed_over:
                return
            if self._waiting:
                # Also while draining: a trial that waits for another attempt is a running one.
                if not self._is_affordable():
                    return
                self._submit(self._waiting[0])
                self._waiting.popleft()
                continue
            if self._is_searched():
                if not self._submit_final():
                    return
                continue
            if not self._is_affordable(self._ledger.expected(self._finals.attempts_ahead)):
                if not self.ended_early:
                    return
                continue  # with the finals, for which money was kept
            live = LiveTrial.of(self.study.ask())
            if self._sample(live):
                sampler = type(self.study.sampler).__name__
                what = live.label or "parameters as the objective asks for them"
                self._announcer.note("ask", f"trial {live.number}: {what}", live, sampler=sampler)
                self._submit(live)

    def _is_searched(self) -> bool:
        """Whether no further trials start."""
        started = self.status.finished + len(self._running.trials())
        if self.ended_early or started >= self._plan.trials:
            return True
        return not has_more(self.study)  # until a running trial shows more, perhaps

    def _submit_final(self) -> bool:
        """Start what comes next of the finals; False if nothing can start now."""
        if self.ended_early in (INTERRUPTED, STOPPED) or self._running.trials():
            return False
        extra = self._finals.next(self._running.subjects())
        if extra is None:
            return False
        if not self._ledger.budget.fits():
            if not self._running:
                self._finals.stop(self._ledger.budget.refusal())
            return False
        self._submit(extra)
        return True

    def _is_affordable(self, held: float = 0.0) -> bool:
        """Whether another attempt may start; what runs may yet cost less than is set aside.

        Args:
            held: Dollars that are kept for what comes later.
        """
        budget = self._ledger.budget
        if budget.fits(held):
            return True
        if not self._running:
            self.drain(budget.refusal(held))
        return False

    def _sample(self, live: LiveTrial) -> bool:
        """Sample the trial's parameters where the objective offers it; False if that failed."""
        suggest = getattr(self._objective, "suggest", None)
        if suggest is not None:
            try:
                suggest(live.trial)
            except (StorageInternalError, UpdateFinishedTrialError):
                raise  # the database's word, not the objective's
            except Exception as error:
                if is_outage(error):
                    raise
                attempt = live.begin()
                attempt.close(Cause.BUG, f"{type(error).__name__}: {error}")
                live.save()
                self._teller.failed(live, attempt, traceback.format_exc())
                return False
            for name, distribution in live.trial.distributions.items():
                self._refuse_other_space(live, name, distribution)
        live.label, live.sampled = self._label(live.trial.params), True
        return True

    def _refuse_other_space(self, live: LiveTrial, name: str, asked: BaseDistribution) -> None:
        """See that a parameter is drawn as in the study's other trials.

        Raises:
            InputError: It is not. The trial is in the queue again then, for the right objective.
        """
        difference = self._known_space.difference(name, asked) if self._known_space else ""
        if not difference:
            return
        if live.attempts and live.attempts[-1].end is None:
            live.attempts[-1].close(Cause.STOPPED, "the objective's space differs")
            live.save()
        self._storage.set_trial_state_values(self._trial_id(live.number), TrialState.WAITING)
        raise InputError(difference)

    def _submit(self, subject: LiveTrial | Extra) -> None:
        with self._unless_ended(subject):
            # A half-asked trial of an earlier coordinator still lacks parameters.
            if isinstance(subject, LiveTrial) and not subject.sampled and not self._sample(subject):
                return
            attempt = subject.begin(self._executor.worst_case)
            task = self._task(subject, attempt)
            self._ledger.reserve(attempt)
            attempt.handle = self._executor.submit(task)
            # Known as running before its handle is written: an outage must not lose sight of it.
            self._running.add(attempt.id, self._run_of(subject))
            if isinstance(subject, LiveTrial):
                what = f" · {subject.label}" if subject.label else ""
                self._announcer.note(
                    "start",
                    f"trial {subject.number} starts{what}",
                    subject,
                    params=subject.trial.params,
                    resume=task.resume,
                    handle=attempt.handle,
                )
            subject.save()

    def _task(self, subject: LiveTrial | Extra, attempt: Attempt) -> Task:
        match subject:
            case Baseline():
                return self._plan.baseline_task(subject.params, attempt)
            case FinalistRun():
                return self._plan.finalist_task(subject, attempt, self._directions)
            case Evaluation():
                return self._plan.evaluation_task(subject, attempt)
            case LiveTrial():
                return self._plan.trial_task(subject, attempt, self._directions)
        raise AssertionError(f"no task for {subject!r}")

    def _run_of(self, subject: LiveTrial | Extra) -> Running:
        view = RunningTrial(subject.number, subject.label, len(subject.attempts))
        if isinstance(subject, Extra):
            view.name = "base" if isinstance(subject, Baseline) else "final"
        return Running(subject, view)

    # Events.

    def _receive(self, event: AnyEvent) -> None:
        """Handle an event, or keep it if the database is away."""
        running = self._running.get(event.attempt)
        if running is None or event.sequence <= running.sequence:
            return  # of a superseded attempt, or a repeat
        running.sequence = event.sequence
        if isinstance(event, Started) or not running.view.started:
            running.view.start()  # its first word may have been lost
        if running.abandoned:
            self._handle(event)  # which writes nothing
            return
        if not self._journal and not self._database.is_away:
            with self._database.riding_out():
                self._handle(event)
            if not self._database.is_away:
                return
        self._journal.append(event)
        if isinstance(event, Report):
            running.view.step, running.view.value = event.step, event.value
            # Kept on disk, so it may be acknowledged; if it is to be pruned, it hears so later.
            self._executor.reply(event.attempt, Verdict(step=event.step, prune=False))

    def _handle(self, event: AnyEvent) -> None:
        running = self._running.get(event.attempt)
        if running is None:
            return  # it ended meanwhile
        if running.abandoned:
            self._forget_ended(event)
            return
        if running.overdue and isinstance(event, Failed) and event.cause is Cause.STOPPED:
            limit = duration(self._plan.trial_timeout or 0)
            told = {"cause": Cause.TIMEOUT, "message": f"it ran longer than {limit}"}
            event = event.model_copy(update=told)
        self._handle_of(running, event)

    def _handle_of(self, running: Running, event: AnyEvent) -> None:
        if isinstance(running.subject, Extra):
            if self._extra_teller.hear(running, running.subject, event):
                self._waiting.appendleft(running.subject)
        else:
            self._handle_trial(running, running.subject, event)
        self._forget_ended(event)

    def _forget_ended(self, event: AnyEvent) -> None:
        if isinstance(event, Done | Failed):
            full = isinstance(event, Done) and event.state == "complete"
            self._ledger.settle(event.attempt, event.usage, full)
            self._running.forget(event.attempt)

    def _handle_trial(self, running: Running, live: LiveTrial, event: AnyEvent) -> None:
        with self._unless_ended(live):
            match event:
                case Started():
                    attempt = live.attempts[-1]
                    attempt.machine, attempt.device = event.machine, event.device
                case Suggest():
                    asked = json_to_distribution(event.distribution)
                    self._refuse_other_space(live, event.name, asked)
                    self._executor.reply(event.attempt, live.suggest(event))
                    running.view.label = live.label = self._label(live.trial.params)
                case Report():
                    self._report(running, live, event)
                case SetAttr():
                    live.set_attr(event.key, event.value)
                case Done():
                    self._teller.done(live, self._without_scores(live, event))
                case Failed():
                    self._attempt_failed(live, event)

    def _without_scores(self, live: LiveTrial, event: Done) -> Done:
        """Put a trial's scores where they are kept; return the event without them."""
        attrs = dict(event.user_attrs)
        text = attrs.pop(SCORES, None)
        if event.state == "complete":
            keep_scores(scores_path(self._plan.directory, live.number), text)
        return event.model_copy(update={"user_attrs": attrs})

    def _report(self, running: Running, live: LiveTrial, event: Report) -> None:
        live.report(event.step, event.value)
        prune = live.trial.should_prune()
        self._executor.reply(event.attempt, Verdict(step=event.step, prune=prune))
        running.view.step, running.view.value = event.step, event.value
        facts: dict[str, Any] = {"step": event.step, "value": event.value}
        self._announcer.note(
            "report",
            f"trial {live.number} step {event.step}: {score(event.value)}",
            live,
            **facts,
        )
        pruner = type(self.study.pruner).__name__
        verdict = f"to be pruned ({pruner})" if prune else "goes on"
        self._announcer.note(
            "verdict",
            f"trial {live.number} step {event.step}: {verdict}",
            live,
            prune=prune,
            pruner=pruner,
            **facts,
        )

    def _attempt_failed(self, live: LiveTrial, event: Failed) -> None:
        attempt = live.end(event)
        if event.cause is Cause.STOPPED:
            return  # its trial stays as it is for the next run
        if self._may_retry(live, attempt):
            self._lost[live.number] += 1
            self._waiting.append(live)
            self._announcer.note(
                "retry",
                f"trial {live.number}, {event.cause}: {event.message}; attempt "
                f"{len(live.attempts) + 1} follows",
                live,
                cause=str(event.cause),
            )
            return
        self._teller.failed(live, attempt, event.traceback, event.log_tail)

    def _may_retry(self, live: LiveTrial, attempt: Attempt) -> bool:
        """Whether a trial whose attempt ended so gets another one."""
        assert attempt.cause is not None
        return attempt.cause.is_infrastructure and self._lost[live.number] < self._plan.retries

    # Bookkeeping.

    def _label(self, params: dict[str, Any]) -> str:
        label = getattr(self._objective, "label", None)
        return label(params) if label is not None and params else default_label(params)


def default_label(params: dict[str, Any]) -> str:
    """Describe ``params`` in one short line."""
    return " · ".join(f"{name} {parameter(value)}" for name, value in params.items())
