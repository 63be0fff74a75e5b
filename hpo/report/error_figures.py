"""The article's figure, error against the number of labelled pairs, and the laws fitted to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hpo.report.drawing import (
    COLOURS,
    FAINT,
    INK,
    MOST_SERIES,
    Drawing,
    Trace,
    Z,
    counts_axis,
    figure,
    level,
    lines_to_beat,
    markers,
    shown,
    thinned,
    titled,
)
from hpo.report.facts import Facts, Run, mapping, whole
from hpo.report.laws import Curve, kinds
from hpo.report.scaling import ScalingLaw
from hpo.report.words import ends, measured_on, plural

MOST_PANELS = 12
"""Kinds of runs that have a figure of their own; those with fewest trials have none."""

_PERCENT = ".2%"


def error_panels(facts: Facts, most: int) -> list[Drawing]:
    """Return a panel for each base model; none if trials have no accuracy or number of pairs.

    Args:
        facts: The study.
        most: The most points for single trials in a panel.
    """
    runs = [run for run in facts.complete if run.size and run.measures.error is not None]
    panels = [
        _panel(facts, title, own, place, most)
        for place, (title, own) in enumerate(kinds(runs)[:MOST_PANELS])
    ]
    if panels:
        low, high = _range(panels)
        for panel in panels:
            panel.figure["layout"]["yaxis"]["range"] = [low, high]
    return panels


def _range(panels: Sequence[Drawing]) -> tuple[float, float]:
    """Return one range for all panels, so that their heights compare."""
    heights: list[float] = []
    for panel in panels:
        for trace in panel.figure["data"]:
            bars = trace.get("error_y", {})
            above = bars.get("array") or [0.0] * len(trace["y"])
            below = bars.get("arrayminus") or above
            heights += [y + up for y, up in zip(trace["y"], above, strict=True)]
            heights += [y - down for y, down in zip(trace["y"], below, strict=True)]
    room = 0.04 * (max(heights) - min(heights)) or 0.01
    return max(0.0, min(heights) - room), max(heights) + room


def _panel(facts: Facts, title: str, runs: list[Run], place: int, most: int) -> Drawing:
    counted = Counter(run.measures.dimension for run in runs)
    kept = {dimension for dimension, _ in counted.most_common(MOST_SERIES)}
    dimensions = sorted(kept, key=lambda each: each or 0)
    traces = [_cloud(runs, most)]
    for index, dimension in enumerate(dimensions):
        own = [run for run in runs if run.measures.dimension == dimension]
        traces.append(_line(facts, own, dimension, index, len(dimensions)))
    traces += _seeds(facts, runs, dimensions)
    traces += _tested(facts, runs)
    ends = _ends(runs)
    for index, baseline in enumerate(lines_to_beat(facts, runs[0].model)):
        error = baseline.measures.error
        if error is not None:
            traces.append(level(facts, baseline, error, ends, index, _PERCENT))
    x = counts_axis("labelled pairs trained on", (run.size or 1 for run in runs))
    x["range"] = [math.log10(each) for each in ends]
    y = {"title": titled("error rate"), "tickformat": ".1%"}
    left_out = len(counted) - len(kept)
    caption = "Bars: 95 % intervals of a single trial with the pairs taken as independent." + shown(
        runs, most
    )
    if left_out:
        caption += f" {left_out} dimensions with fewer trials have no line."
    drawing = figure([trace for trace in traces if trace["x"]], x, y, wide=False)
    basis = measured_on(run.measures for run in runs)
    return Drawing(f"hpo-error-{place + 1}", f"Error rate: {title}", basis, caption, drawing)


def _ends(runs: Sequence[Run]) -> tuple[float, float]:
    sizes = [run.size or 1 for run in runs]
    # At least so much that what is set apart from the largest size is not cut off.
    room = max(1.15, (max(sizes) / min(sizes)) ** 0.08) if max(sizes) > min(sizes) else 1.5
    return min(sizes) / room, max(sizes) * room


def _cloud(runs: Sequence[Run], most: int) -> Trace:
    drawn = thinned(runs, most)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "every completed trial",
        "x": [run.size for run in drawn],
        "y": [_rounded(run.measures.error) for run in drawn],
        "customdata": [run.number for run in drawn],
        "marker": {"color": FAINT, "size": 5},
        "hovertemplate": "trial %{customdata}: %{x:,} pairs, %{y:.2%}<extra></extra>",
    }


def _line(facts: Facts, runs: Sequence[Run], dimension: int | None, place: int, of: int) -> Trace:
    """Return the best trial at each number of pairs."""
    best = []
    for size in sorted({run.size or 1 for run in runs}):
        found = facts.best(run for run in runs if run.size == size)
        if found is not None:
            best.append(found)
    # Set apart a little, or the bars of one number of pairs would cover each other.
    shift = 1 + 0.025 * (place - (of - 1) / 2)
    errors = [run.measures.error or 0.0 for run in best]
    bars = [_bar(error, run.measures.pairs) for error, run in zip(errors, best, strict=True)]
    name = f"{dimension:,} dimensions" if dimension else "dimension unknown"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [round((run.size or 1) * shift, 2) for run in best],
        "y": [_rounded(error) for error in errors],
        "customdata": [[run.number, run.size, bar] for run, bar in zip(best, bars, strict=True)],
        "error_y": {"type": "data", "array": bars, "thickness": 1, "width": 3},
        "line": {"color": COLOURS[place % len(COLOURS)], "width": 2},
        "marker": markers(place),
        "hovertemplate": (
            f"{name}<br>trial %{{customdata[0]}}: %{{customdata[1]:,}} pairs, %{{y:.2%}} "
            "± %{customdata[2]:.2%}<extra></extra>"
        ),
    }


def _bar(error: float, pairs: int | None) -> float:
    return round(Z * math.sqrt(error * (1 - error) / pairs), 6) if pairs else 0.0


def _seeds(facts: Facts, runs: Sequence[Run], dimensions: Sequence[int | None]) -> list[Trace]:
    by_number = {run.number: run for run in runs}
    found = [
        (each, by_number[each.trial])
        for each in facts.finalists
        if each.trial in by_number and each.measures.error is not None
    ]
    places = [
        dimensions.index(run.measures.dimension) if run.measures.dimension in dimensions else 0
        for _, run in found
    ]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "finalists, a point a seed",
            "x": [run.size for _, run in found],
            "y": [_rounded(each.measures.error) for each, _ in found],
            "customdata": [[each.trial, each.run] for each, _ in found],
            "marker": {
                "color": [COLOURS[place] for place in places],
                "symbol": "diamond-open",
                "size": 9,
                "line": {"width": 1.5},
            },
            "hovertemplate": (
                "finalist %{customdata[0]}, run %{customdata[1]}: %{x:,} pairs, %{y:.2%}"
                "<extra></extra>"
            ),
        }
    ]


def _tested(facts: Facts, runs: Sequence[Run]) -> list[Trace]:
    """Return the winner's error on the test split, where it is one of ``runs``."""
    winner = next((run for run in runs if run.number == facts.winner.get("trial")), None)
    measures = facts.evaluation.get("measures")
    value, low, high = ends(mapping(measures).get("accuracy"))
    if winner is None or value is None:
        return []
    above = value - low if low is not None else 0.0
    below = high - value if high is not None else 0.0
    pairs = whole(facts.evaluation.get("pairs"))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "the winner on the test split",
            "x": [round((winner.size or 1) * 1.06, 2)],
            "y": [_rounded(1 - value)],
            "error_y": {
                "type": "data",
                "array": [_rounded(above)],
                "arrayminus": [_rounded(below)],
                "thickness": 2,
                "width": 5,
            },
            "marker": {"color": INK, "symbol": "star", "size": 13},
            "hovertemplate": (
                f"winner, {pairs or 0:,} test pairs: %{{y:.2%}} (95 %: {1 - (high or value):.2%} "
                f"to {1 - (low or value):.2%})<extra></extra>"
            ),
        }
    ]


def law_figure(curve: Curve, law: ScalingLaw, place: int) -> Drawing:
    """Return a law, its band and its points."""
    sizes = [point.n for point in law.points]
    most = max(sizes)
    tried = [float(n) for n in np.geomspace(min(sizes), most, 40)]
    ahead = [float(n) for n in np.geomspace(most, law.furthest, 20)]
    # Rounding must not lead outside of what the law is for.
    tried[0], tried[-1], ahead[0], ahead[-1] = min(sizes), most, most, law.furthest
    points: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": f"the best of {plural(curve.draws, 'draw')}",
        "x": sizes,
        "y": [_rounded(point.error) for point in law.points],
        "marker": markers(place, 8),
        "hovertemplate": "%{x:,} pairs: %{y:.2%}<extra></extra>",
    }
    formula = f"{law.a:.3g} · n<sup>−{law.b:.3g}</sup> + {law.c:.3g}"
    traces = [
        _band(law, [*tried, *ahead[1:]], place),
        _law_line(law, tried, place, formula),
        {**_law_line(law, ahead, place, "forecast"), "showlegend": False},
        points,
    ]
    traces[2]["line"]["dash"] = "dash"
    x = counts_axis("labelled pairs trained on", [*sizes, 2 * most, 4 * most, law.furthest])
    x["range"] = [math.log10(min(sizes) / 1.15), math.log10(law.furthest * 1.15)]
    y = {"title": titled("error rate"), "tickformat": ".1%"}
    caption = (
        f"Fitted by least squares to {len(law.points)} points: "
        f"error = {law.a:.4g} · n^−{law.b:.3g} + {law.c:.4g}. Dashed: beyond {most:,.0f} pairs it "
        "is a forecast."
    )
    drawing = figure(traces, x, y, wide=False)
    title, basis = f"Scaling law: {curve.title}", measured_on(curve.measures)
    return Drawing(f"hpo-scaling-{place + 1}", title, basis, caption, drawing)


def _band(law: ScalingLaw, across: Sequence[float], place: int) -> Trace:
    predicted = [law.predict(n) for n in across]
    colour = COLOURS[place % len(COLOURS)]
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "where a new run lies (95 %)",
        "x": [round(n, 1) for n in (*across, *reversed(across))],
        "y": [_rounded(each.high) for each in predicted]
        + [_rounded(each.low) for each in reversed(predicted)],
        "fill": "toself",
        "fillcolor": f"rgba({red}, {green}, {blue}, 0.15)",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _law_line(law: ScalingLaw, across: Sequence[float], place: int, name: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [round(n, 1) for n in across],
        "y": [_rounded(law.predict(n).error) for n in across],
        "line": {"color": COLOURS[place % len(COLOURS)], "width": 2},
        "hovertemplate": "%{x:,.0f} pairs: %{y:.2%}<extra></extra>",
    }


def _rounded(value: float | None) -> float:
    """Return what a figure needs of a number: digits are what its page weighs."""
    return round(value or 0.0, 5)
