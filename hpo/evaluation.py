"""The evaluation of a winner: on the test split, which it opens, and against cheaper models.

A worker does it; here is what it is asked, what is kept of its answer, and the record of how often
the test split was opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from optuna import Study
from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict, ValidationError

from hpo.attempts import Attempt, now
from hpo.extras import Extra
from hpo.finalists import Ranked
from hpo.frugality import cheapest, cost_of, front
from hpo.scores import read_scores, scores_path

EVALUATION_ATTEMPTS = "evaluation_attempts"
"""The study's user attribute that lists the attempts at evaluations."""

EVALUATION = "evaluation"
"""The study's user attribute with the winner's measures on the test split."""

COMPARISON = "comparison"
"""The study's user attribute that compares cheaper models with the winner."""

OPENINGS = "openings"
"""The study's user attribute with one entry for each time that the test split was opened."""

FINAL = "final"
"""The user attribute by which an evaluation's task says what to evaluate."""

ASSET = "hpo:winner"
"""The name of the winner's model among the assets of an evaluation's task; no base model has it."""


class AnswerError(ValueError):
    """What an objective's ``evaluate`` set is not what it should be."""


class _Estimate(BaseModel):
    """A number with its interval."""

    value: float
    low: float
    high: float


class _Candidate(BaseModel):
    """How a model compares with the winner on the validation pairs."""

    trial: int
    run: int | None
    difference: _Estimate
    as_good: bool


class _Comparison(BaseModel):
    """What ``evaluate`` says of the candidates."""

    pairs: int
    candidates: list[_Candidate]


class _Other(BaseModel):
    """A baseline beside the winner on the test pairs, or why it is not."""

    model_config = ConfigDict(extra="allow")

    params: dict[str, Any]
    error: str = ""
    measures: dict[str, _Estimate] = {}
    differences: dict[str, _Estimate] = {}


class _Measured(BaseModel):
    """What ``evaluate`` says of the winner on the test pairs."""

    model_config = ConfigDict(extra="allow")

    pairs: int
    measures: dict[str, _Estimate]
    baselines: list[_Other] = []
    caution: str | None = None


class _Answer(BaseModel):
    """All that ``evaluate`` says."""

    comparison: _Comparison | None = None
    evaluation: _Measured | None = None


def _answer(attrs: Mapping[str, Any]) -> _Answer:
    try:
        return _Answer.model_validate(attrs)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AnswerError(f"evaluate set {where}: {first['msg']}; see docs/finals.md") from None


@dataclass(eq=False)
class Evaluation(Extra):
    """The evaluation of one model.

    Attributes:
        question: What the worker is asked; see :func:`question`.
        model: Where the model is.
        opens: Whether it opens the test split.
        by: Who asked for it: a run, or ``hpo evaluate``.
    """

    attribute: ClassVar[str] = EVALUATION_ATTEMPTS

    question: dict[str, Any]
    model: str
    opens: bool
    by: Literal["run", "evaluate"] = "run"

    def begin(self, reserved: float = 0.0) -> Attempt:
        """Write down that the test split is opened, and a new attempt.

        An attempt that was lost and is made again opens nothing anew.
        """
        if self.opens and not self.attempts:
            entry = {"at": now(), **self._whose(), "by": self.by}
            self.study.set_user_attr(OPENINGS, [*openings_of(self.study), entry])
        return super().begin(reserved)

    def keep(self, answer: Mapping[str, Any], names: Sequence[str]) -> None:
        """Write down what the worker found; to do it again changes nothing.

        Args:
            answer: User attributes that it set.
            names: Metrics of which less is cheaper.

        Raises:
            AnswerError: They are not what is said of them in docs/finals.md.
        """
        found = _answer(answer)
        if found.comparison is not None:
            named = self._cheapest(found.comparison, names)
            compared = {**self._whose(), **found.comparison.model_dump(), "cheapest": named}
            self.study.set_user_attr(COMPARISON, compared)
        if found.evaluation is not None:
            measured = found.evaluation.model_dump(exclude_unset=True)
            record = {**self._whose(), "model": self.model, "at": now(), **measured}
            self.study.set_user_attr(EVALUATION, record)

    def _cheapest(self, compared: _Comparison, names: Sequence[str]) -> dict[str, Any] | None:
        own = cost_of(self.question["winner"]["costs"], names)
        if own is None:
            return None
        asked = {(each["trial"], each["run"]): each for each in self.question["candidates"]}
        known = []
        for each in compared.candidates:
            told = asked.get((each.trial, each.run))
            cost = cost_of(told["costs"], names) if told is not None else None
            if cost is not None:
                known.append((cost, each.model_dump()))
        return cheapest(known, names, own)

    def _whose(self) -> dict[str, Any]:
        return {name: self.identity[name] for name in ("trial", "run")}


def openings_of(study: Study) -> list[dict[str, Any]]:
    """Return when the test split was opened, and for whom."""
    openings: list[dict[str, Any]] = study.user_attrs.get(OPENINGS, [])
    return openings


def question(
    winner: Mapping[str, Any],
    metrics: Any,
    baselines: Iterable[Mapping[str, Any]],
    candidates: Iterable[tuple[int, int | None, Any]],
    names: Sequence[str],
    directory: Path,
) -> dict[str, Any]:
    """Return what the worker is asked.

    Args:
        winner: Its ``trial`` and ``run``.
        metrics: Its metrics on the validation pairs.
        baselines: The scores of untuned models that it is compared with on the test split.
        candidates: Trial, run and metrics of each model that it is compared with on validation.
        names: Metrics of which less is cheaper.
        directory: The study's directory, with the scores of models.
    """

    def told(trial: int, run: int | None, found: Any) -> dict[str, Any]:
        known = found if isinstance(found, Mapping) else {}
        return {
            "trial": trial,
            "run": run,
            "threshold": known.get("threshold"),
            "costs": {name: known.get(name) for name in names},
            "scores": read_scores(scores_path(directory, trial, run)),
        }

    asked = told(winner["trial"], winner["run"], metrics)
    others = [told(*each) for each in candidates] if asked["scores"] is not None else []
    return {
        "winner": asked,
        "baselines": [
            {"params": each["params"], "threshold": each.get("metrics", {}).get("threshold")}
            for each in baselines
        ],
        "candidates": [each for each in others if each["scores"] is not None],
    }


def candidates(
    others: Sequence[Ranked],
    trials: Iterable[FrozenTrial],
    names: Sequence[str],
    metrics: Any,
    maximize: bool,
) -> list[tuple[int, int | None, Any]]:
    """Return the trial, the run and the metrics of each model that may be as good and cheaper.

    Args:
        others: The finalists that did not win.
        trials: All trials.
        names: Metrics of which less is cheaper.
        metrics: The winner's.
        maximize: Whether larger values are better.
    """
    own = cost_of(metrics, names)
    if own is None:
        return []
    runs = [each.best(maximize) for each in others if not each.why]
    finalists = [(run["trial"], run["run"], run["metrics"]) for run in runs]
    ahead = front(trials, names, own, maximize)
    return [*finalists, *((each.number, None, each.user_attrs["metrics"]) for _, each in ahead)]
