"""What the figures of a report have in common: their looks, and how many points they may have.

Figures are plain data in plotly's own form (``{"data": […], "layout": {…}}``): the page carries
them as JSON, and optuna-dashboard takes them as plotly objects. Plotly reads some HTML in every
text, so that each name goes through :func:`text`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.report.facts import Baseline, Facts, Run, name_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Told apart by people who see few colours, on white; after Okabe and Ito."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")

INK = "#1f2933"
GREY = "#6b7280"
FAINT = "#c3c9d1"

MOST_SERIES = len(COLOURS)
"""More lines in one figure cannot be told apart."""

MOST_BASELINES = 4
"""So many dashed lines in a figure; the tables list all."""

_PLOT, _ABOVE, _GAP, _ROW = 340, 12, 72, 22
"""Pixels: the height of the axes, above them, below them down to the legend, and of its rows."""

_CARD = 470
"""Pixels of height that a card of optuna-dashboard shows; what is higher is cut off."""

_APART, _MOST_TICKS = 1.35, 9
"""Ticks whose labels do not touch in 400 pixels: how far apart, and how many."""

_DASHES = ("dash", "dot", "dashdot", "longdash")
_LEVELS = ("#111827", "#9a3412", "#4b5563", "#6d28d9")

Z = 1.96
"""Standard errors on either side of a value that an interval of 95 % reaches."""

Trace = dict[str, Any]
Figure = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A figure, and what is said of it.

    Attributes:
        name: Its id in optuna-dashboard.
        title: What it is called.
        basis: What was measured on which split with how many pairs, in a sentence.
        caption: What else there is to know.
        figure: Plotly's data.
    """

    name: str
    title: str
    basis: str
    caption: str
    figure: Figure


def text(name: object) -> str:
    """Return text that plotly draws as it is."""
    return html.escape(str(name), quote=False)


def thinned(runs: Sequence[Run], most: int) -> list[Run]:
    """Return at most ``most`` of ``runs``, at even distances."""
    if len(runs) <= most:
        return list(runs)
    return [runs[int(place * len(runs) / most)] for place in range(most)]


def shown(all_runs: Sequence[Run], most: int) -> str:
    """Say that not all points are drawn, where that is so."""
    if len(all_runs) <= most:
        return ""
    return f" {most:,} of {len(all_runs):,} points are drawn; lines are of all."


def figure(
    traces: list[Trace], x: dict[str, Any], y: dict[str, Any], *, wide: bool = True
) -> Figure:
    """Return a figure with its legend below, where a narrow page has room for it.

    Args:
        traces: What is drawn.
        x: The horizontal axis.
        y: The vertical axis.
        wide: Whether the page gives it all its width, so that its legend has fewer rows.
    """
    named = sum(trace.get("showlegend", True) for trace in traces)
    below = _GAP + _ROW * math.ceil(named / (1.5 if wide else 1))
    axis = {
        "automargin": True,
        "gridcolor": "#e5e7eb",
        "linecolor": "#9ca3af",
        "ticks": "outside",
        "tickcolor": "#9ca3af",
        "zeroline": False,
    }
    layout = {
        "height": _PLOT + _ABOVE + below,
        "margin": {"l": 56, "r": 16, "t": _ABOVE, "b": below},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": -_GAP / _PLOT, "yanchor": "top"},
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
    }
    return {"data": traces, "layout": layout}


def for_dashboard(drawing: Drawing) -> Figure:
    """Return a figure as optuna-dashboard has room for it, whose cards have one height for all."""
    layout = drawing.figure["layout"]
    fitted = {
        "height": min(layout["height"], _CARD),
        "margin": {"l": 56, "r": 16, "t": 60, "b": 56},
        "legend": {**layout["legend"], "y": -0.25, "font": {"size": 10}},
        "title": {
            "text": text(drawing.title),
            "font": {"size": 15},
            "subtitle": {"text": text(drawing.basis), "font": {"size": 11, "color": GREY}},
        },
        "template": {},  # plotly's own would be half of what is saved
    }
    return {**drawing.figure, "layout": {**layout, **fitted}}


def titled(title: str) -> dict[str, Any]:
    """Return the title of an axis."""
    return {"text": text(title), "standoff": 8}


def counts_axis(title: str, values: Iterable[float]) -> dict[str, Any]:
    """Return a logarithmic axis with a tick at each of a few values, which are then readable."""
    axis: dict[str, Any] = {"title": titled(title), "type": "log"}
    ticks: list[float] = []
    for value in sorted(set(values)):
        if not ticks or value >= _APART * ticks[-1]:
            ticks.append(value)
    if ticks and len(ticks) <= _MOST_TICKS:
        axis |= {"tickvals": ticks, "ticktext": [_tick(value) for value in ticks]}
    return axis


def _tick(value: float) -> str:
    """Return a short label: 250, 1.5k, 16k."""
    return f"{value / 1000:,g}k" if value >= 1000 and value % 100 == 0 else f"{value:,.0f}"


def costs_axis(title: str, low: float, high: float, sign: str) -> dict[str, Any]:
    """Return a logarithmic axis with ticks such as $0.01, $0.02 and $0.05.

    Args:
        title: Of the axis.
        low: The lowest cost.
        high: The highest one.
        sign: What stands before each number.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return {
        "title": titled(title),
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{sign}{tick:,.10g}" for tick in ticks],
        "range": [math.log10(low), math.log10(high)],
    }


def lines_to_beat(facts: Facts, model: str | None = None) -> list[Baseline]:
    """Return the baselines that a figure shows, the best first.

    Args:
        facts: The study.
        model: Leave out the untuned base models but this one; ``None`` for all.
    """
    fitting = [
        each
        for each in facts.baselines
        if model is None or each.model == model or each.model not in facts.models
    ]
    fitting.sort(key=lambda each: (each.model != model, -(each.measures.accuracy or 0.0)))
    return fitting[:MOST_BASELINES]


def level(
    facts: Facts, baseline: Baseline, height: float, ends: tuple[float, float], place: int, how: str
) -> Trace:
    """Return a dashed line across a figure.

    Args:
        facts: The study.
        baseline: What it stands for.
        height: Where it is.
        ends: Where it begins and ends.
        place: Its place among the dashed lines, which chooses its looks.
        how: How plotly writes its height (``.4f``).
    """
    name = text(name_of(baseline, facts.models))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(ends),
        "y": [round(height, 6)] * 2,
        "line": {
            "dash": _DASHES[place % len(_DASHES)],
            "color": _LEVELS[place % len(_LEVELS)],
            "width": 1.5,
        },
        "hovertemplate": f"{name}: %{{y:{how}}}<extra></extra>",
    }


def markers(place: int, size: int = 7, **more: Any) -> dict[str, Any]:
    """Return the markers of a series: each has a colour and a form of its own."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "symbol": SYMBOLS[place % len(SYMBOLS)],
        "size": size,
        **more,
    }
