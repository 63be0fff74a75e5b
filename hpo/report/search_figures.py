"""Figures of the search itself: its history, what mattered in it, and what quality costs."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import optuna
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.feasible import is_feasible
from hpo.report.drawing import (
    COLOURS,
    FAINT,
    INK,
    MOST_SERIES,
    Drawing,
    Trace,
    costs_axis,
    counts_axis,
    figure,
    level,
    lines_to_beat,
    markers,
    shown,
    text,
    thinned,
    titled,
)
from hpo.report.facts import Facts, Run, mapping, name_of, short
from hpo.report.words import ends, measured_on

FEWEST_TRIALS = 20
"""Below, importances compare one or two good trials with the rest."""

MOST_JUDGED = 3000
"""So many trials judge the importances, at even distances; more would only take longer."""

MOST_PARAMETERS = 16


def history(facts: Facts, most: int) -> Drawing | None:
    """Return every trial's value and the best so far; ``None`` if none has exactly one value."""
    runs = [run for run in facts.complete if run.value is not None]
    if not runs or not facts.single:
        return None
    traces = [
        _history_cloud([run for run in runs if run.feasible], "a completed trial", most, True)
    ]
    broken = [run for run in runs if not run.feasible]
    if broken:
        traces.append(_history_cloud(broken, "one that misses a requirement", most, False))
    steps = _best_so_far(facts, runs)
    if steps:
        last = (runs[-1].number, steps[-1][1])
        traces.append(_steps([*steps, last], "the best so far"))
    across = (float(runs[0].number), float(max(runs[-1].number, runs[0].number + 1)))
    for place, baseline in enumerate(lines_to_beat(facts)):
        if baseline.value is not None:
            traces.append(level(facts, baseline, baseline.value, across, place, ".4f"))
    # Few trials would have ticks at halves.
    x = {"title": titled("trial"), **({"dtick": 1} if across[1] - across[0] <= 10 else {})}
    drawing = figure(traces, x, {"title": titled(facts.metric)})
    basis = measured_on(run.measures for run in runs)
    caption = "The best of many looks better than it is: the same pairs chose it."
    if all(run.measures.pairs is None for run in runs):
        basis = "The value that each trial returned."
        caption = "The best of many looks better than it is where values vary by chance."
    caption += shown(runs, most)
    return Drawing("hpo-history", "Optimisation history", basis, caption, drawing)


def _history_cloud(runs: Sequence[Run], name: str, most: int, met: bool) -> Trace:
    drawn = thinned(runs, most)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [run.number for run in drawn],
        "y": [_digits(run.value) for run in drawn],
        "marker": markers(0, 6, opacity=0.65)
        if met
        else {"color": FAINT, "symbol": "x", "size": 6},
        "hovertemplate": "trial %{x}: %{y:.4f}<extra></extra>",
    }


def _best_so_far(facts: Facts, runs: Sequence[Run]) -> list[tuple[float, float]]:
    steps: list[tuple[float, float]] = []
    best: Run | None = None
    for run in runs:
        if run.feasible and (best is None or facts.rank(run) < facts.rank(best)):
            best = run
            steps.append((run.number, _digits(run.value)))
    return steps


def _steps(points: Sequence[tuple[float, float]], name: str, colour: str = COLOURS[1]) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"shape": "hv", "color": colour, "width": 2},
        "hovertemplate": "%{x}: %{y:.4f}<extra></extra>",
    }


def importances(study: Study, facts: Facts) -> Drawing | str:
    """Return how much each parameter mattered, or why that cannot be said."""
    if not facts.single:
        return "With several directions no single value says which trials were good."
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.value is not None and math.isfinite(trial.value) and is_feasible(trial)
    ]
    if len(trials) < FEWEST_TRIALS:
        return (
            f"{len(trials)} completed trials are too few to say which parameters mattered; it "
            f"takes {FEWEST_TRIALS}."
        )
    found = _importances(study, trials)
    if not found:
        return "No parameter had more than one value."
    names = list(found)[:MOST_PARAMETERS][::-1]
    bars: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [round(found[name], 4) for name in names],
        "y": [text(name) for name in names],
        "text": [f"{found[name]:.2f}" for name in names],
        "textposition": "auto",
        "marker": {"color": COLOURS[0]},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    x = {"title": titled("share of the importance"), "rangemode": "tozero"}
    drawing = figure([bars], x, {"type": "category"})
    drawing["layout"] |= {"showlegend": False, "height": 100 + 26 * len(names)}
    drawing["layout"]["margin"]["b"] = 60
    judged = min(len(trials), MOST_JUDGED)
    caption = (
        "How much a parameter's values among the best tenth of the trials differ from those among "
        "all, as shares of 1. It says what distinguished good trials in this search and these "
        "ranges, not what would help elsewhere; a sampler that has settled on a value makes its "
        "parameter look unimportant. Parameters that only some trials have are judged where they "
        "occur."
    )
    basis = f"PED-ANOVA over the {facts.metric} of {judged:,} completed trials."
    return Drawing("hpo-importances", "Parameter importances", basis, caption, drawing)


def _importances(study: Study, trials: list[FrozenTrial]) -> dict[str, float]:
    """Return shares, largest first, by a copy that has only trials which can be compared."""
    judged = trials
    if len(trials) > MOST_JUDGED:
        judged = [trials[int(i * len(trials) / MOST_JUDGED)] for i in range(MOST_JUDGED)]
    varied = {name for name, values in _values(judged).items() if len(values) > 1}
    if not varied:
        return {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a study in memory is no news
    try:
        copy = optuna.create_study(directions=study.directions)
    finally:
        optuna.logging.set_verbosity(verbosity)
    copy.add_trials(judged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is experimental in Optuna
        found = optuna.importance.get_param_importances(copy, params=sorted(varied))
    return {name: found[name] for name in sorted(found, key=lambda each: -found[each])}


def _values(trials: Sequence[FrozenTrial]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(repr(value))
    return values


def by_dimension(facts: Facts, most: int) -> Drawing | None:
    """Return ROC AUC against dimension; ``None`` if no trial has both."""

    def dimension(run: Run) -> float | None:
        return run.measures.dimension

    runs = [run for run in facts.complete if dimension(run) and run.measures.roc_auc is not None]
    if not runs:
        return None
    traces = []
    models = _models(runs)
    for place, model in enumerate(models):
        own = [run for run in runs if run.model == model]
        shift = 1 + 0.05 * (place - (len(models) - 1) / 2)
        traces += _cloud_of(own, dimension, model, place, max(1, most // len(models)), shift)
        best = [
            found
            for each in sorted({run.measures.dimension for run in own if run.measures.dimension})
            if (found := facts.best(run for run in own if run.measures.dimension == each))
        ]
        traces.append(_best_line(best, model, place, shift))
    traces += _untuned(facts, len(models))
    traces += _tested(facts)
    measured = [run.measures for run in runs] + [each.measures for each in lines_to_beat(facts)]
    lengths = [each.dimension for each in measured if each.dimension is not None]
    x = counts_axis("dimensions of the embeddings", lengths)
    x["range"] = [math.log10(min(lengths) / 1.2), math.log10(max(lengths) * 1.2)]
    drawing = figure(traces, x, {"title": titled("ROC AUC")})
    caption = (
        "Points: completed trials, set apart a little by base model. Lines: the best at each "
        "dimension, which the same pairs chose. Hollow diamonds: models that the study did not "
        "train."
    )
    caption += shown(runs, most)
    basis = measured_on(run.measures for run in runs)
    return Drawing("hpo-dimension", "ROC AUC by dimension", basis, caption, drawing)


def _models(runs: Sequence[Run]) -> list[str]:
    return [model for model, _ in Counter(run.model for run in runs).most_common(MOST_SERIES)]


def _cloud_of(
    runs: Sequence[Run],
    across: Callable[[Run], float | None],
    model: str,
    place: int,
    most: int,
    shift: float = 1.0,
) -> list[Trace]:
    drawn = thinned(runs, most)
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": text(short(model)),
            "legendgroup": f"{place}",
            "x": [float(f"{(across(run) or 0.0) * shift:.4g}") for run in drawn],
            "y": [_digits(run.measures.roc_auc) for run in drawn],
            "customdata": [run.number for run in drawn],
            "marker": markers(place, 6, opacity=0.5),
            "hovertemplate": "trial %{customdata}: %{y:.4f}<extra></extra>",
        }
    ]


def _best_line(best: Sequence[Run], model: str, place: int, shift: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{text(short(model))}, best",
        "legendgroup": f"{place}",
        "showlegend": False,
        "x": [float(f"{(run.measures.dimension or 1) * shift:.4g}") for run in best],
        "y": [_digits(run.measures.roc_auc) for run in best],
        "line": {"color": COLOURS[place % len(COLOURS)], "width": 2},
        "hoverinfo": "skip",
    }


def _untuned(facts: Facts, first: int) -> list[Trace]:
    traces = []
    for place, each in enumerate(lines_to_beat(facts)):
        if each.measures.dimension is None or each.measures.roc_auc is None:
            continue
        name = text(name_of(each, facts.models))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [each.measures.dimension],
                "y": [_digits(each.measures.roc_auc)],
                "marker": {
                    "color": COLOURS[(first + place) % len(COLOURS)],
                    "symbol": "diamond-open",
                    "size": 11,
                    "line": {"width": 2},
                },
                "hovertemplate": f"{name}: %{{y:.4f}}<extra></extra>",
            }
        )
    return traces


def _tested(facts: Facts) -> list[Trace]:
    """Return the winner's ROC AUC on the test split."""
    run = facts.run(facts.winner.get("trial"))
    measures = facts.evaluation.get("measures")
    value, low, high = ends(mapping(measures).get("roc_auc"))
    if run is None or value is None or run.measures.dimension is None:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "the winner on the test split",
            "x": [run.measures.dimension],
            "y": [_digits(value)],
            "error_y": {
                "type": "data",
                "array": [_digits((high if high is not None else value) - value)],
                "arrayminus": [_digits(value - (low if low is not None else value))],
            },
            "marker": {"color": INK, "symbol": "star", "size": 13},
            "hovertemplate": "winner, test split: %{y:.4f}<extra></extra>",
        }
    ]


def by_cost(facts: Facts, most: int) -> Drawing | None:
    """Return ROC AUC against dollars, or against seconds where nothing was paid."""
    paid = any(run.dollars for run in facts.complete)

    def cost(run: Run) -> float | None:
        return run.dollars if paid else run.seconds

    runs = [run for run in facts.complete if cost(run) and run.measures.roc_auc is not None]
    if not runs:
        return None
    traces = []
    models = _models(runs)
    for place, model in enumerate(models):
        own = [run for run in runs if run.model == model]
        traces += _cloud_of(own, cost, model, place, max(1, most // len(models)))
    traces.append(_front(runs, cost))
    spread = [cost(run) or 1.0 for run in runs]
    across = min(spread) / 1.1, max(spread) * 1.1
    for place, each in enumerate(lines_to_beat(facts)):
        if each.measures.roc_auc is not None:
            traces.append(level(facts, each, each.measures.roc_auc, across, place, ".4f"))
    unit = "dollars that the trial's attempts cost" if paid else "seconds that the trial took"
    x = costs_axis(unit, *across, "$" if paid else "")
    drawing = figure(traces, x, {"title": titled("ROC AUC")})
    why = "" if paid else "Nothing was paid for trials, so that their time stands for the cost. "
    caption = (
        f"{why}Stepped line: the best that was had for so much or less, chosen by these same "
        "pairs. Dashed: models that the study did not train, which cost no training; what they "
        "cost for each text later is not in this figure."
    )
    caption += shown(runs, most)
    basis = measured_on(run.measures for run in runs)
    return Drawing("hpo-cost", "ROC AUC by cost", basis, caption, drawing)


def _front(runs: Sequence[Run], cost: Callable[[Run], float | None]) -> Trace:
    points: list[tuple[float, float]] = []
    for run in sorted(runs, key=lambda each: (cost(each) or 0.0, -(each.measures.roc_auc or 0.0))):
        value = _digits(run.measures.roc_auc)
        if run.feasible and (not points or value > points[-1][1]):
            points.append((float(f"{cost(run) or 0.0:.4g}"), value))
    if points:
        points.append((float(f"{max(cost(run) or 0.0 for run in runs):.4g}"), points[-1][1]))
    return _steps(points, "the best for so much or less", INK)


def _digits(value: float | None) -> float:
    """Return what a figure needs of a number: digits are what its page weighs."""
    return float(f"{value or 0.0:.6g}")
