"""The tables of models: one of the test split and one of the validation split, never mixed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from hpo.budget import dollars
from hpo.report.facts import (
    Baseline,
    Facts,
    Finalist,
    Measures,
    Run,
    dollars_of,
    mapping,
    mappings,
    short,
    whole,
)
from hpo.report.words import UNKNOWN, difference, pairs_of, plural, shortly, with_interval

MOST_ROWS = 60
"""Baselines beyond are counted, not listed."""


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        title: What is in it.
        said: What people should know to read it.
        head: Titles of columns.
        rows: As many cells each.
        words: So many columns from the left hold words, the others numbers.
    """

    title: str
    said: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 2


_MEASURES = {
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
    "balanced_accuracy": "balanced accuracy",
}


def test_tables(facts: Facts) -> list[Table]:
    """Return what was measured on the test split; nothing if nothing was."""
    found = facts.evaluation
    if not mapping(found.get("measures")):
        return []
    pairs, positives = whole(found.get("pairs")), whole(found.get("positives"))
    said = (
        f"Measured on {_count(pairs)} pairs of the test split, {_count(positives)} of which mean "
        "the same: pairs that neither trained a model nor chose one. Each model is used with the "
        "threshold that the validation pairs chose. Intervals: 95 %, by bootstrap over groups of "
        "pairs that share texts."
    )
    if found.get("caution"):
        said += f" Caution: {found['caution']}"
    head = ("model", "what", *_MEASURES.values(), "dimension", "dollars")
    tables = [Table("On the test split", said, head, tuple(_tested_rows(facts)))]
    gaps = tuple(
        (
            short(baseline.model),
            _what(facts, baseline),
            *(difference(mapping(each.get("differences")).get(name)) for name in _MEASURES),
        )
        for baseline, each in _tested_baselines(facts)
    )
    if gaps:
        said = (
            "The winner's measure minus this model's, on the same test pairs; 95 % intervals of "
            "the paired difference. One that holds 0 shows no difference beyond chance."
        )
        head = ("model", "what", *_MEASURES.values())
        tables.append(Table("The winner against others, on the test split", said, head, gaps))
    return tables


def _tested_rows(facts: Facts) -> Iterator[tuple[str, ...]]:
    found = facts.evaluation
    run = facts.run(found.get("trial", facts.winner.get("trial")))
    yield (
        short(run.model) if run is not None else "the winner",
        f"winner, {_named(found)}",
        *(with_interval(mapping(found["measures"]).get(name)) for name in _MEASURES),
        _count(run.measures.dimension if run is not None else None),
        _money(_cost_of(facts, run)),
    )
    for baseline, each in _tested_baselines(facts):
        yield (
            short(baseline.model),
            _what(facts, baseline),
            *(with_interval(mapping(each.get("measures")).get(name)) for name in _MEASURES),
            _count(whole(each.get("dimension")) or baseline.measures.dimension),
            _money(baseline.dollars),
        )


def _tested_baselines(facts: Facts) -> list[tuple[Baseline, Mapping[str, Any]]]:
    """Return the baselines that the test split was asked about, with what it said."""
    return [
        (facts.baseline(each.get("params")), each)
        for each in mappings(facts.evaluation.get("baselines"))
    ]


def validation_tables(facts: Facts) -> list[Table]:
    """Return what was measured on the validation split; nothing if nothing was."""
    rows = [
        *_winner_rows(facts),
        *_finalist_rows(facts),
        *_best_rows(facts),
        *_baseline_rows(facts),
    ]
    if not rows:
        return []
    head = ("model", "what", "pairs", *_MEASURES.values(), "dimension", "dollars")
    return [Table("On the validation split", _validation_said(facts), head, tuple(rows))]


def _validation_said(facts: Facts) -> str:
    said = (
        "These pairs chose the parameters and every model's own threshold: what is the best of "
        "many here looks better than it is. A finalist's runs had new seeds after the search, and "
        "show less of that."
    )
    best = facts.best(facts.complete)
    if best is not None and best.measures.accuracy is not None and best.measures.pairs:
        accuracy, pairs = best.measures.accuracy, best.measures.pairs
        half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / pairs)
        said += (
            f" With {pairs:,} pairs, taken as independent, an accuracy of {accuracy:.4f} is known "
            f"to ±{half:.4f} (95 %): smaller differences between rows say little."
        )
    said += (
        " Dollars: of trials what all their attempts cost, of models behind an API what their "
        "vectors for these pairs cost; – where nothing was paid."
    )
    return said


def _winner_rows(facts: Facts) -> Iterator[tuple[str, ...]]:
    for found, label in (
        (facts.winner, "winner"),
        (mapping(facts.comparison.get("cheapest")), "the cheapest that is as good"),
    ):
        run = facts.run(found.get("trial"))
        if run is None:
            continue
        place = found.get("run")
        final = next((f for f in facts.finalists if (f.trial, f.run) == (run.number, place)), None)
        measures = final.measures if final is not None else run.measures
        yield _row(run.model, f"{label}, {_named(found)}", measures, _cost_of(facts, run))


def _finalist_rows(facts: Facts) -> Iterator[tuple[str, ...]]:
    best_first = (each.get("trial") for each in mappings(facts.winner.get("ranking")))
    ran = [each.trial for each in facts.finalists]
    ranked = [number for number in best_first if number in ran]
    for number in dict.fromkeys([*ranked, *ran]):
        runs = [each for each in facts.finalists if each.trial == number]
        trial = facts.run(number)
        if trial is None:
            continue
        yield (
            short(trial.model),
            f"finalist, mean of {plural(len(runs), 'new seed')} (trial {number})",
            pairs_of(each.measures for each in runs).removesuffix(" pairs"),
            *(_mean(runs, name) for name in _MEASURES),
            _count(trial.measures.dimension),
            _money(_cost_of(facts, trial)),
        )


def _mean(runs: Sequence[Finalist], name: str) -> str:
    found = [value for each in runs if (value := getattr(each.measures, name)) is not None]
    if not found:
        return UNKNOWN
    spread = f" ± {stdev(found):.4f}" if len(found) > 1 else ""
    return f"{fmean(found):.4f}{spread}"


def _best_rows(facts: Facts) -> Iterator[tuple[str, ...]]:
    for model in facts.models:
        runs = [run for run in facts.complete if run.model == model]
        best = facts.best(runs)
        if best is not None and best.measures != Measures():
            label = f"best of {plural(len(runs), 'completed trial')} (trial {best.number})"
            yield _row(model, label, best.measures, best.dollars)


def _baseline_rows(facts: Facts) -> Iterator[tuple[str, ...]]:
    for each in facts.baselines[:MOST_ROWS]:
        yield _row(each.model, _what(facts, each), each.measures, each.dollars)
    if len(facts.baselines) > MOST_ROWS:
        yield (f"… {len(facts.baselines) - MOST_ROWS} more", "baselines", *[""] * 6)


def _row(model: str, what: str, measures: Measures, cost: float | None) -> tuple[str, ...]:
    return (
        short(model),
        what,
        _count(measures.pairs),
        *(shortly(getattr(measures, name)) for name in _MEASURES),
        _count(measures.dimension),
        _money(cost),
    )


def _what(facts: Facts, baseline: Baseline) -> str:
    if baseline.source not in ("", "local"):
        return f"API ({baseline.source})"
    return "untuned" if baseline.model in facts.models else "other model, untuned"


def _named(found: Mapping[str, Any]) -> str:
    run = found.get("run")
    return f"trial {found.get('trial', '?')}" + ("" if run is None else f", run {run}")


def _cost_of(facts: Facts, run: Run | None) -> float | None:
    """Return what a trial cost, and what running it again as a finalist did."""
    if run is None:
        return None
    after = dollars_of(each for each in facts.after if each.get("trial") == run.number)
    known = [cost for cost in (run.dollars, after) if cost is not None]
    return math.fsum(known) if known else None


def _money(amount: float | None) -> str:
    return UNKNOWN if amount is None else dollars(amount)


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"
