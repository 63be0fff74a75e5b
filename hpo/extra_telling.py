"""What becomes of what the attempts at extras say: answers are kept, losses are made good.

Nothing prunes an extra, and none is drawn: it is there to run to its end, with what it was given.
"""

from __future__ import annotations

from collections import Counter

from hpo.announcer import Announcer
from hpo.baselines import Baseline, Baselines
from hpo.evaluation import AnswerError, Evaluation
from hpo.executors import Executor
from hpo.extras import Extra
from hpo.finalists import FinalistRun
from hpo.finals import Finals
from hpo.protocol import AnyEvent, Cause, Done, Failed, Report, Started, Suggest, Suggested, Verdict
from hpo.requirements import MissingMetricError
from hpo.roster import Running
from hpo.telling import refused
from hpo.text import score


class ExtraTeller:
    """Hears what attempts at extras say.

    Args:
        baselines: Keeps the scores of untuned models.
        finals: Keeps what finalists and evaluations find.
        executor: Where attempts run.
        announcer: Takes the news.
        retries: Further attempts for an extra that the infrastructure lost.
    """

    def __init__(
        self,
        baselines: Baselines,
        finals: Finals,
        executor: Executor,
        announcer: Announcer,
        retries: int,
    ) -> None:
        self._baselines = baselines
        self._finals = finals
        self._executor = executor
        self._announcer = announcer
        self._retries = retries
        self._lost: Counter[str] = Counter()
        """Attempts lost to the infrastructure in this run, by label."""

    def hear(self, running: Running, extra: Extra, event: AnyEvent) -> bool:
        """Take an event; to take it again changes nothing in the storage.

        Returns:
            Whether the extra needs another attempt.
        """
        match event:
            case Started():
                attempt = extra.attempts[-1]
                attempt.machine, attempt.device = event.machine, event.device
            case Report():
                running.view.step, running.view.value = event.step, event.value
                self._executor.reply(event.attempt, Verdict(step=event.step, prune=False))
            case Suggest():
                error = f"{extra.label} has no parameter {event.name!r}: the objective has changed"
                self._executor.reply(event.attempt, Suggested(name=event.name, error=error))
            case Done(state="complete"):
                try:
                    self._keep(extra, event)
                except (AnswerError, MissingMetricError) as error:
                    return self._failed(extra, refused(event, str(error)))
                extra.end(event)
            case Done() | Failed():
                return self._failed(extra, event)
        return False

    def _keep(self, extra: Extra, event: Done) -> None:
        match extra:
            case Baseline():
                self._baselines.scored(extra, event)
                value = event.values[0]
                self._announcer.note(
                    "baseline",
                    f"{extra.label}, untuned: {score(value)}",
                    extra,
                    params=extra.params,
                    value=value,
                )
            case FinalistRun():
                self._finals.ran(extra, event)
            case Evaluation():
                self._finals.evaluated(extra, event)

    def _failed(self, extra: Extra, event: Done | Failed) -> bool:
        attempt = extra.end(event)
        if attempt.cause is Cause.STOPPED:
            return False  # it is left to the next run
        assert attempt.cause is not None
        if attempt.cause.is_infrastructure:
            if self._lost[extra.label] < self._retries:
                self._lost[extra.label] += 1
                return True
            self._finals.skip(extra)
        said = ", untuned, could not be scored" if isinstance(extra, Baseline) else " failed"
        self._announcer.note(
            "failed",
            f"{extra.label}{said} ({attempt.cause}): {attempt.message or 'it pruned itself'}",
            extra,
            event.log_tail if isinstance(event, Failed) else "",
            cause=str(attempt.cause),
            traceback=event.traceback if isinstance(event, Failed) else "",
        )
        return False
