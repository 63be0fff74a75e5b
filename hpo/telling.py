"""Telling Optuna how trials ended, and what follows from that for the study.

Like everything that writes to the storage, this can be done again from its start after an outage:
first it is written, then counted and announced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.announcer import Announcer
from hpo.attempts import Attempt, LiveTrial
from hpo.feasible import is_feasible
from hpo.importing import TrialImport
from hpo.plan import Plan
from hpo.protocol import Cause, Done, Failed
from hpo.requirements import MissingMetricError, violations
from hpo.retention import Retention
from hpo.status import Status
from hpo.tally import Tally
from hpo.text import score

ERRORS_IN_A_ROW = 3
"""So many trials in a row that fail by the objective's own fault stop the study."""


def refused(event: Done, why: str) -> Failed:
    """Return the end of an attempt whose answer cannot be used."""
    return Failed(
        attempt=event.attempt,
        sequence=event.sequence,
        cause=Cause.BAD_INPUT,
        message=why,
        usage=event.usage,
    )


class Teller:
    """Ends trials in the storage, and knows when there have been enough of them.

    Args:
        study: Optuna's study.
        plan: The requirements and the limits.
        status: Takes the counts.
        announcer: Takes the news.
        imports: Old trials that join once a new one has shown where they fit.
        discard: Removes a directory that was left on another machine.

    Attributes:
        enough: Why no further trials need to start; empty while they do.
        fatal: Why the study must stop; empty while it need not.
    """

    def __init__(
        self,
        study: Study,
        plan: Plan,
        status: Status,
        announcer: Announcer,
        imports: TrialImport | None = None,
        discard: Callable[[str], None] = lambda place: None,
    ) -> None:
        self._study = study
        self._plan = plan
        self._status = status
        self._announcer = announcer
        self._imports = imports
        self._tally = Tally(status, plan, single=len(study.directions) == 1)
        self._retention = Retention(study, plan.trials_directory, plan.keep, discard)
        self._errors_in_a_row = 0
        self.enough = ""
        self.fatal = ""

    def recount(self, trials: Iterable[FrozenTrial]) -> None:
        """Count the trials that the storage holds."""
        known = list(trials)
        self._tally.recount(known)
        self._retention.recount(known)
        self.enough = self._tally.enough()

    def done(self, live: LiveTrial, event: Done) -> None:
        """End a trial whose objective returned, or pruned itself."""
        live.absorb(event)
        if event.state == "complete":
            value = event.values[0] if len(event.values) == 1 else None
            metrics = live.trial.user_attrs.get("metrics", {})
            try:
                live.constrain(
                    violations(self._plan.requirements, metrics, value, self._status.metric)
                )
            except MissingMetricError as error:
                self._lacks_metric(live, event, str(error))
                return
        self.tell(live, live.end(event))

    def _lacks_metric(self, live: LiveTrial, event: Done, said: str) -> None:
        self.failed(live, live.end(refused(event, said)))
        # Every further trial would lack it, too.
        self.fatal = self.fatal or f"trial {live.number} cannot be judged by --require: {said}"

    def tell(self, live: LiveTrial, attempt: Attempt) -> None:
        """Tell Optuna of a trial that completed or was pruned."""
        # Finished already means: told before, and only the database's answer was lost.
        if attempt.cause is Cause.OK:
            frozen = self._study.tell(live.trial, list(attempt.values), skip_if_finished=True)
        else:
            frozen = self._study.tell(live.trial, state=TrialState.PRUNED, skip_if_finished=True)
        imported = self._imports.learn(frozen) if self._imports is not None else []
        self._retention.after(frozen)
        best = self._tally.count(frozen)
        for trial in imported:
            self._tally.count(trial)
        self.enough = self._tally.enough()
        self._errors_in_a_row = 0
        self._announce(live, attempt, frozen, best)
        for trial in imported:
            self._announcer.note("baseline", f"trial {trial.number} is an old one that fits")

    def _announce(self, live: LiveTrial, attempt: Attempt, frozen: FrozenTrial, best: bool) -> None:
        facts: dict[str, Any] = {
            "cause": str(attempt.cause),
            "values": frozen.values,
            "params": frozen.params,
        }
        if attempt.cause is Cause.OK:
            text = f"trial {live.number} {', '.join(score(value) for value in attempt.values)}"
            text += " · best so far" if best else "" if is_feasible(frozen) else " · infeasible"
            facts["constraints"] = frozen.constraints
            self._announcer.note("complete", f"{text} · {live.label}", live, **facts)
        else:
            value = f" at {score(frozen.value)}" if frozen.value is not None else ""
            text = f"trial {live.number} pruned{value} · {live.label}"
            self._announcer.note("pruned", text, live, **facts)

    def failed(
        self, live: LiveTrial, attempt: Attempt, trace: str = "", log_tail: str = ""
    ) -> None:
        """Tell Optuna of a trial that failed, and see whether that is no accident."""
        assert attempt.cause is not None
        frozen = self._study.tell(live.trial, state=TrialState.FAIL, skip_if_finished=True)
        self._retention.after(frozen)
        self._tally.count(frozen)
        self._announcer.note(
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
            self.fatal = self.fatal or (
                f"the objective failed {ERRORS_IN_A_ROW} times in a row, last in trial "
                f"{live.number}: {attempt.message}\n{trace}".rstrip()
            )
        elif self._status.failed >= self._plan.max_failures:
            self.fatal = self.fatal or (
                f"{self._status.failed} trials have failed, which is the limit (--max-failures "
                f"{self._plan.max_failures}); the last: {attempt.cause}: {attempt.message}"
            )
