"""What a report says, read out of a study: plain numbers, without a trace of the database.

Anything may be missing, and an objective of somebody else's may have left anything under the names
that ours uses. What has not the shape that it should have is taken for missing here, so that nobody
else has to ask.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.baselines import BASELINE_ATTEMPTS, BASELINES
from hpo.budget import COSTS
from hpo.evaluation import COMPARISON, EVALUATION, EVALUATION_ATTEMPTS, OPENINGS
from hpo.feasible import is_feasible
from hpo.finalists import FINALIST_ATTEMPTS, FINALISTS, WINNER
from hpo.importing import IMPORTED
from hpo.protocol import ATTEMPTS
from hpo.record import RECORD
from hpo.summary import trial_row

HEAD = "head"
"""The tuning that leaves the encoder alone; its sample sizes are other ones."""


@dataclass(frozen=True)
class Measures:
    """What was measured of a model on the pairs of one split.

    Attributes:
        accuracy: At the threshold that the validation pairs chose, as is ``balanced_accuracy``.
        roc_auc: Area under the ROC curve; needs no threshold.
        balanced_accuracy: Mean of the accuracies on pairs of either label.
        dimension: Length of the embeddings.
        pairs: Number of pairs.
    """

    accuracy: float | None = None
    roc_auc: float | None = None
    balanced_accuracy: float | None = None
    dimension: int | None = None
    pairs: int | None = None

    @classmethod
    def of(cls, found: object) -> Measures:
        """Read metrics; what is no finite number is missing."""
        metrics = found if isinstance(found, Mapping) else {}
        return cls(
            accuracy=share(metrics.get("accuracy")),
            roc_auc=share(metrics.get("roc_auc")),
            balanced_accuracy=share(metrics.get("balanced_accuracy")),
            dimension=whole(metrics.get("dimension")),
            pairs=whole(metrics.get("pairs")),
        )

    @property
    def error(self) -> float | None:
        """The error rate."""
        return None if self.accuracy is None else 1 - self.accuracy


@dataclass(frozen=True)
class Run:
    """A trial that completed or was pruned.

    Attributes:
        number: The trial's number.
        complete: Whether it completed; the rest is known of completed ones only.
        model: The base model; empty if trials have none.
        tuning: How the base model was tuned; empty if that is no parameter.
        size: Number of training pairs.
        value: The objective's value; ``None`` if it is not finite, or there are several.
        feasible: Whether it meets the study's requirements.
        measures: On the validation split.
        seconds: How long its attempts took, or the trial where that is not known.
        dollars: What its attempts cost.
    """

    number: int
    complete: bool
    model: str = ""
    tuning: str = ""
    size: int | None = None
    value: float | None = None
    feasible: bool = True
    measures: Measures = field(default_factory=Measures)
    seconds: float | None = None
    dollars: float | None = None


@dataclass(frozen=True)
class Baseline:
    """A model that the study did not train, scored on the validation split."""

    model: str
    params: Mapping[str, Any]
    value: float | None
    measures: Measures
    source: str = ""
    dollars: float | None = None


@dataclass(frozen=True)
class Finalist:
    """A run of a finalist with a seed of its own, scored on the validation split."""

    trial: int
    run: int | None
    value: float | None
    measures: Measures


@dataclass(frozen=True)
class Facts:
    """What is known of a study.

    Attributes:
        name: Its name.
        metric: What its value is called.
        directions: ``maximize`` or ``minimize``, one a value.
        states: How many trials are in which state.
        runs: Trials that completed or were pruned, by number.
        baselines: Models that were scored beside it.
        finalists: Finalists' runs.
        winner: The winner as the coordinator chose it; empty before that.
        comparison: What was compared with it on the validation split; empty before that.
        evaluation: The winner on the test split; empty before that.
        openings: When the test split was opened, for what.
        manifest: What is known of the data.
        require: What trials have to meet.
        after: Attempts after the search.
        spent: Dollars that the study cost; ``None`` if nothing was paid.
    """

    name: str
    metric: str
    directions: tuple[str, ...]
    states: Mapping[str, int]
    runs: tuple[Run, ...]
    baselines: tuple[Baseline, ...]
    finalists: tuple[Finalist, ...]
    winner: Mapping[str, Any]
    comparison: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    openings: tuple[Mapping[str, Any], ...]
    manifest: Mapping[str, Any]
    require: tuple[str, ...]
    after: tuple[Mapping[str, Any], ...]
    spent: float | None

    @property
    def single(self) -> bool:
        """Whether trials have one value."""
        return len(self.directions) == 1

    @property
    def complete(self) -> list[Run]:
        """The completed trials."""
        return [run for run in self.runs if run.complete]

    @property
    def models(self) -> list[str]:
        """The base models of all trials, in the order of their names."""
        return sorted({run.model for run in self.runs if run.complete})

    def run(self, number: object) -> Run | None:
        """Return a completed trial."""
        return next((run for run in self.complete if run.number == number), None)

    def baseline(self, params: object) -> Baseline:
        """Return the baseline of these parameters, or one of which nothing else is known."""
        known = (each for each in self.baselines if each.params == params)
        return next(known, next(_baselines([{"params": params}])))

    def rank(self, run: Run) -> tuple[bool, float, int]:
        """Return a key by which the study's best completed trial comes first.

        That is the value that the search went after; with several of them the error rate.
        """
        goal = run.value if self.single else run.measures.error
        if goal is None:
            goal = math.inf
        elif self.single and self.directions[0] == "maximize":
            goal = -goal
        return not run.feasible, goal, run.number

    def best(self, runs: Iterable[Run]) -> Run | None:
        """Return the best of ``runs`` that may win; ``None`` if there is none."""
        ranked = sorted((self.rank(run), run) for run in runs if run.complete and run.feasible)
        return ranked[0][1] if ranked and math.isfinite(ranked[0][0][1]) else None


def read_facts(study: Study, directory: Path | None = None) -> Facts:
    """Read a study.

    Args:
        study: The study.
        directory: Where its run left files; need not exist.
    """
    trials = study.get_trials(deepcopy=False)
    attrs = study.user_attrs
    names = study.metric_names
    record = mapping(attrs.get(RECORD))
    after = (*mappings(attrs.get(FINALIST_ATTEMPTS)), *mappings(attrs.get(EVALUATION_ATTEMPTS)))
    rest = [*mappings(attrs.get(BASELINE_ATTEMPTS)), *after]
    paid = [*(trial.user_attrs for trial in trials if IMPORTED not in trial.user_attrs), *rest]
    other = [{ATTEMPTS: [{"dollars": cost}]} for cost in mapping(attrs.get(COSTS)).values()]
    return Facts(
        name=study.study_name,
        metric=", ".join(names) if names else "value",
        directions=tuple(
            "maximize" if each is StudyDirection.MAXIMIZE else "minimize"
            for each in study.directions
        ),
        states=Counter(trial.state.name.lower() for trial in trials),
        runs=tuple(_runs(trials)),
        baselines=tuple(_baselines(attrs.get(BASELINES))),
        finalists=tuple(_finalists(attrs.get(FINALISTS))),
        winner=mapping(attrs.get(WINNER)),
        comparison=mapping(attrs.get(COMPARISON)),
        evaluation=mapping(attrs.get(EVALUATION)),
        openings=mappings(attrs.get(OPENINGS)),
        manifest=_manifest(directory) if directory is not None else {},
        require=tuple(map(str, record.get("require") or ())),
        after=after,
        spent=dollars_of([*paid, *other]),
    )


def number(value: object) -> float | None:
    """Return ``value`` if it is a finite number."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None  # type: ignore[arg-type]


def amount(value: object) -> float | None:
    """Return ``value`` if it is a number from 0, such as dollars or seconds."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def share(value: object) -> float | None:
    """Return ``value`` if it is a number from 0 to 1."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def whole(value: object) -> int | None:
    """Return ``value`` if it is a whole number from 1."""
    found = number(value)
    return int(found) if found is not None and found >= 1 and found.is_integer() else None


def dollars_of(attempted: Iterable[Mapping[str, Any]]) -> float | None:
    """Return what the attempts cost that are listed under ``attempts``; ``None`` if nothing."""
    records = (each for item in attempted for each in mappings(item.get(ATTEMPTS)))
    found = [amount(each.get("dollars")) for each in records]
    paid = [cost for cost in found if cost is not None]
    return math.fsum(paid) if paid else None


def short(model: str) -> str:
    """Return a model's name for people: of a path its end, as a report may be passed on."""
    if not model:
        return "all trials"
    is_path = model[:1] in ("/", ".", "~") or model.count("/") > 1 or "\\" in model
    return Path(model.replace("\\", "/")).name if is_path else model


def name_of(baseline: Baseline, models: Iterable[str]) -> str:
    """Return what a baseline is called: an untuned base model of the study, or another model."""
    untuned = ", untuned" if baseline.model in models else ""
    asked = baseline.params.get("dimension")
    length = f", {asked} dimensions" if whole(asked) else ""
    return f"{short(baseline.model)}{untuned}{length}"


def _runs(trials: Sequence[FrozenTrial]) -> Iterator[Run]:
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        params = trial.params
        tuning = params.get("tuning")
        metrics = mapping(trial.user_attrs.get("metrics"))
        of_head = params.get("head_num_samples") if tuning == HEAD else None
        size = whole(metrics.get("num_samples")) or whole(of_head or params.get("num_samples"))
        run = Run(
            number=trial.number,
            complete=trial.state is TrialState.COMPLETE,
            model=str(params.get("base_model", "")),
            tuning=str(tuning or ""),
            size=size,
        )
        yield _completed(trial, run) if run.complete else run


def _completed(trial: FrozenTrial, run: Run) -> Run:
    row = trial_row(trial)
    # One that is not drawn under this very name is that of the embeddings themselves.
    measures = Measures.of({"dimension": row["params"].get("dimension"), **row["metrics"]})
    seconds = [amount(each.get("seconds")) for each in mappings(trial.user_attrs.get(ATTEMPTS))]
    billed = [each for each in seconds if each is not None]
    return Run(
        run.number,
        complete=True,
        model=run.model,
        tuning=run.tuning,
        size=run.size,
        value=number(trial.values[0]) if trial.values and len(trial.values) == 1 else None,
        feasible=is_feasible(trial),
        measures=measures,
        seconds=math.fsum(billed) if billed else amount(row["seconds"]),
        dollars=amount(row["dollars"]),
    )


def _baselines(found: object) -> Iterator[Baseline]:
    for each in mappings(found):
        params = mapping(each.get("params"))
        yield Baseline(
            model=str(params.get("base_model", "?")),
            params=params,
            value=number(each.get("value")),
            measures=Measures.of({**params, **mapping(each.get("metrics"))}),
            source=str(each.get("source", "")),
            dollars=amount(mapping(each.get("cost")).get("dollars")),
        )


def _finalists(found: object) -> Iterator[Finalist]:
    for each in mappings(found):
        trial, run = each.get("trial"), each.get("run")
        if isinstance(trial, int):
            measures = Measures.of(each.get("metrics"))
            place = run if isinstance(run, int) else None
            yield Finalist(trial, place, number(each.get("value")), measures)


def _manifest(directory: Path) -> Mapping[str, Any]:
    """Return what is known of the data; nothing if the study was run on another machine."""
    try:
        return mapping(json.loads((directory / "data" / "manifest.json").read_bytes()))
    except (OSError, ValueError):
        return {}


def mapping(found: object) -> Mapping[str, Any]:
    """Return ``found`` if it is a mapping, else an empty one."""
    return found if isinstance(found, Mapping) else {}


def mappings(found: object) -> tuple[Mapping[str, Any], ...]:
    """Return the mappings in the list ``found``; nothing if it is none."""
    listed = found if isinstance(found, list | tuple) else ()
    return tuple(each for each in listed if isinstance(each, Mapping))
