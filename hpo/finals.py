"""The end of a study: finalists run with new seeds, one wins, and the winner is evaluated.

What is left to do is read from what is written down, so that a coordinator which takes a study up
goes on where the last one stopped. If the study goes on with more trials afterwards, the runs of
finalists that are finalists again are not repeated, and the test split is not opened again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from hpo.announcer import Announcer
from hpo.attempts import Attempted, trial_seed
from hpo.baselines import BASELINES, is_scored_here
from hpo.evaluation import (
    EVALUATION,
    EVALUATION_ATTEMPTS,
    OPENINGS,
    Evaluation,
    candidates,
    question,
)
from hpo.extras import Extra, attempts_of
from hpo.finalists import (
    FINALIST_ATTEMPTS,
    FINALISTS,
    WINNER,
    FinalistRun,
    Ranked,
    choose_finalists,
    place_of,
    rank,
    results_of,
    run_of,
    winner_record,
)
from hpo.objective import Objective
from hpo.plan import Plan
from hpo.protocol import SCORES, Cause, Done
from hpo.requirements import violations
from hpo.retention import ELSEWHERE, MODEL
from hpo.scores import keep_scores, scores_path
from hpo.status import Status
from hpo.text import score


class Finals:
    """Knows what is left to do once the search is over, and keeps what comes of it.

    Args:
        study: Optuna's study.
        objective: The objective: whether it can evaluate a winner, and what is cheap.
        plan: How many finalists and seeds; the rules; where things lie.
        label: Says what parameters mean, for people.
        status: Takes how far it is.
        announcer: Takes the news.
        discard: Removes a directory that was left on another machine.
    """

    def __init__(
        self,
        study: Study,
        objective: Objective,
        plan: Plan,
        label: Callable[[dict[str, Any]], str],
        status: Status,
        announcer: Announcer,
        discard: Callable[[str], None],
    ) -> None:
        self._study = study
        self._objective = objective
        self._plan = plan
        self._label = label
        self._status = status
        self._announcer = announcer
        self._discard = discard
        self._names: Sequence[str] = getattr(objective, "frugality", ())
        self._trials: list[FrozenTrial] | None = None
        """All trials once the search is over."""
        self._finalists: list[FrozenTrial] = []
        self._skipped: list[Extra] = []
        """What was lost too often in this run."""
        self._over = plan.finalists == 0

    @property
    def attempts_ahead(self) -> int:
        """How many attempts the finals of this study take, if none is lost."""
        if self._plan.finalists == 0:
            return 0
        return self._plan.finalists * self._plan.seeds + hasattr(self._objective, "evaluate")

    def forget(self) -> None:
        """Read everything from the storage again when it is needed next."""
        self._trials = None
        self._over = self._plan.finalists == 0

    def stop(self, reason: str) -> None:
        """Begin nothing more in this run."""
        if not self._over:
            self._over = True
            self._announcer.note("stop", f"the finals are not finished: {reason}")

    def skip(self, extra: Extra) -> None:
        """Leave what was lost too often to the next run."""
        self._skipped.append(extra)

    def unfinished(self) -> list[Extra]:
        """Return what has an attempt without an end: an earlier coordinator left it so."""
        attrs = self._study.user_attrs
        if self._plan.finalists == 0 or FINALIST_ATTEMPTS not in attrs:
            return []
        self._begin()
        found: list[Extra] = [*self._runs(attrs)]
        evaluation = self._evaluation(attrs, self._ranking(attrs))
        if evaluation is not None:
            found.append(evaluation)
        self.forget()  # the search may go on before the finals do
        return [each for each in found if each.last is not None and each.last.end is None]

    def next(self, busy: Sequence[Attempted]) -> Extra | None:
        """Return what to attempt next; ``None`` if that has to wait, or nothing is left.

        Args:
            busy: What runs.
        """
        if self._over:
            return None
        self._begin()
        attrs = self._study.user_attrs
        runs = [each for each in self._runs(attrs) if not _is_failed(each)]
        left = [each for each in runs if run_of(attrs, each.identity) is None]
        for each in left:
            if not _is_among(each, busy) and not _is_among(each, self._skipped):
                return each
        if left:
            if not busy:
                self.stop(f"{left[0].label} was lost too often; the same command tries again")
            return None
        if any(isinstance(each, Evaluation) for each in busy):
            return None
        ranking = self._ranking(attrs)
        self._crown(attrs, ranking)
        evaluation = self._evaluation(self._study.user_attrs, ranking)
        if evaluation is None or _is_failed(evaluation) or _is_among(evaluation, self._skipped):
            self._over = True
            return None
        return evaluation

    def ran(self, run: FinalistRun, event: Done) -> None:
        """Keep what a run of a finalist returned; to do it again changes nothing."""
        attrs = event.user_attrs
        metrics, value = attrs.get("metrics", {}), event.values[0]
        path = scores_path(self._plan.directory, run.trial.number, run.run)
        keep_scores(path, attrs.get(SCORES))
        record = {
            **run.identity,
            "seed": trial_seed(self._plan.seed, run.trial.number, run.run),
            "value": value,
            "metrics": metrics,
            "model": attrs.get(MODEL),
            "violations": violations(self._plan.requirements, metrics, value, self._status.metric),
        }
        known = results_of(self._study.user_attrs)
        others = [each for each in known if not run.identity.items() <= each.items()]
        self._study.set_user_attr(FINALISTS, [*others, record])
        self._announcer.note(
            "finalist", f"{run.label}: {score(value)}", run, **run.identity, value=value
        )

    def evaluated(self, evaluation: Evaluation, event: Done) -> None:
        """Keep what came of an evaluation; to do it again changes nothing."""
        evaluation.keep(event.user_attrs, self._names)
        what = "on the test split" if evaluation.opens else "on the validation split"
        self._announcer.note(
            "evaluation",
            f"trial {evaluation.identity['trial']} {what}: {score(event.values[0])}",
            evaluation,
            **evaluation.identity,
            value=event.values[0],
        )

    def _begin(self) -> None:
        """Choose the finalists, when the search is over."""
        if self._trials is None:
            self._trials = self._study.get_trials(deepcopy=False)
            self._finalists = choose_finalists(
                self._trials, self._plan.finalists, self._status.maximize
            )

    def _runs(self, attrs: Mapping[str, Any]) -> list[FinalistRun]:
        """Return all runs of the finalists: first one of each, so that all are seen early."""
        written = attrs.get(FINALIST_ATTEMPTS, [])
        runs = []
        for number in range(1, self._plan.seeds + 1):
            for trial in self._finalists:
                identity = {"trial": trial.number, "run": number}
                label = f"finalist {trial.number}, seed {number} of {self._plan.seeds}"
                known = attempts_of(written, identity)
                runs.append(FinalistRun(self._study, identity, label, known, trial, number))
        finished = sum(run_of(attrs, each.identity) is not None for each in runs)
        self._status.finals = (finished, len(runs))
        return runs

    def _ranking(self, attrs: Mapping[str, Any]) -> list[Ranked]:
        maximize = self._status.maximize
        return rank(self._finalists, results_of(attrs), self._plan.seeds, maximize)

    def _crown(self, attrs: Mapping[str, Any], ranking: Sequence[Ranked]) -> None:
        """Write down who won, and remove weights that nobody wants any more."""
        record = winner_record(ranking, self._status.maximize)
        if record is None:
            why = "; ".join(f"trial {each.trial.number} {each.why}" for each in ranking)
            self._announcer.note("winner", f"no finalist can win: {why or 'there is none'}")
        if record == attrs.get(WINNER):
            return
        self._study.set_user_attr(WINNER, record)
        # The best run of each finalist stays: it may win when the study goes on.
        kept = [each.best(self._status.maximize) for each in ranking if each.runs]
        for run in results_of(attrs):
            if run not in kept:
                self._remove(run)
        if record is None:
            return
        first = ranking[0]
        self._announcer.note(
            "winner",
            f"trial {first.trial.number} wins with {score(first.mean)} over {len(first.runs)} "
            f"seeds · {self._label(first.trial.params)}",
            **{name: record[name] for name in ("trial", "run", "mean", "std", "search")},
        )

    def _remove(self, run: dict[str, Any]) -> None:
        place = place_of(run)
        if str(run["model"]).startswith(ELSEWHERE):
            self._discard(place)
        shutil.rmtree(self._plan.directory / place, ignore_errors=True)

    def _evaluation(self, attrs: Mapping[str, Any], ranking: Sequence[Ranked]) -> Evaluation | None:
        """Return what is left to evaluate; ``None`` if nothing is."""
        winner = attrs.get(WINNER)
        if winner is None or winner["model"] is None or not hasattr(self._objective, "evaluate"):
            return None
        whose = {"trial": winner["trial"], "run": winner["run"]}
        if whose.items() <= attrs.get(EVALUATION, {}).items():
            return None
        written = attrs.get(EVALUATION_ATTEMPTS, [])
        begun = bool(attempts_of(written, {**whose, "opens": True}))
        opens = begun or (not attrs.get(OPENINGS) and self._plan.test.is_file())
        attempts = attempts_of(written, {**whose, "opens": opens})
        if attempts and attempts[-1].cause is Cause.OK:
            return None
        run = run_of(attrs, whose)
        metrics = run["metrics"] if run is not None else {}
        assert self._trials is not None  # chosen when the finals began
        others = candidates(ranking[1:], self._trials, self._names, metrics, self._status.maximize)
        baselines = filter(is_scored_here, attrs.get(BASELINES, []))
        return Evaluation(
            self._study,
            {**whose, "opens": opens},
            f"evaluation of trial {winner['trial']}",
            attempts,
            question(winner, metrics, baselines, others, self._names, self._plan.directory),
            winner["model"],
            opens,
        )


def _is_among(extra: Extra, others: Sequence[object]) -> bool:
    return any(extra.is_same(other) for other in others)


def _is_failed(extra: Extra) -> bool:
    """Whether it ended in a way that another attempt would not mend."""
    cause = extra.last.cause if extra.last is not None else None
    return cause not in (None, Cause.OK, Cause.STOPPED) and not cause.is_infrastructure
